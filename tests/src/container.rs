//! A pod's container: what it is made from, and what one does with it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use k8s_cri::v1;
use tonic::Status;

use crate::{
    cri::{Cri, DEADLINE},
    stream::Stream,
    wait,
};

/// Paths that kubelet masks in every unprivileged container.
const MASKED: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
/// Paths that kubelet makes read-only there.
const READONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// A container to be.
#[derive(Clone, Debug)]
pub struct ContainerSpec {
    config: v1::ContainerConfig,
}

impl ContainerSpec {
    /// A container `name` of the image `reference`, confined as kubelet does by default.
    #[must_use]
    pub fn new(name: &str, reference: &str) -> Self {
        let paths = |list: &[&str]| list.iter().map(|path| (*path).to_owned()).collect();
        let security = v1::LinuxContainerSecurityContext {
            masked_paths: paths(MASKED),
            readonly_paths: paths(READONLY),
            ..Default::default()
        };
        Self {
            config: v1::ContainerConfig {
                metadata: Some(v1::ContainerMetadata { name: name.into(), attempt: 0 }),
                image: Some(v1::ImageSpec { image: reference.into(), ..Default::default() }),
                log_path: format!("{name}.log"),
                linux: Some(v1::LinuxContainerConfig {
                    resources: Some(v1::LinuxContainerResources::default()),
                    security_context: Some(security),
                }),
                ..Default::default()
            },
        }
    }

    /// The image's reference.
    #[must_use]
    pub fn image(&self) -> &str {
        self.config.image.as_ref().map_or("", |image| image.image.as_str())
    }

    /// Replaces the image's entry point.
    #[must_use]
    pub fn command<const N: usize>(mut self, command: [&str; N]) -> Self {
        self.config.command = command.map(str::to_owned).to_vec();
        self
    }

    /// A shell script, for the image of [`crate::images::shell`].
    #[must_use]
    pub fn script(mut self, script: &str) -> Self {
        self.config.args = vec![script.into()];
        self
    }

    /// Changes anything else.
    #[must_use]
    pub fn edit(mut self, change: impl FnOnce(&mut v1::ContainerConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// Changes the security context.
    #[must_use]
    pub fn security(mut self, change: impl FnOnce(&mut v1::LinuxContainerSecurityContext)) -> Self {
        if let Some(context) = self.config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()) {
            change(context);
        }
        self
    }

    /// Limits its memory.
    #[must_use]
    pub fn memory_limit(mut self, bytes: i64) -> Self {
        if let Some(resources) = self.config.linux.as_mut().and_then(|linux| linux.resources.as_mut()) {
            resources.memory_limit_in_bytes = bytes;
        }
        self
    }

    /// Mounts a directory of the node.
    #[must_use]
    pub fn mount(mut self, host: &str, container: &str, propagation: v1::MountPropagation) -> Self {
        self.config.mounts.push(v1::Mount {
            host_path: host.into(),
            container_path: container.into(),
            propagation: propagation.into(),
            ..Default::default()
        });
        self
    }

    pub(crate) fn into_config(self) -> v1::ContainerConfig {
        self.config
    }
}

/// What a command in a container did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its exit code.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// A created container.
#[derive(Clone, Debug)]
pub struct Container {
    cri: Cri,
    /// Its id.
    pub id: String,
    /// Its name in the pod.
    pub name: String,
    log: PathBuf,
}

impl Container {
    pub(crate) fn new(cri: Cri, id: String, name: String, log: PathBuf) -> Self {
        Self { cri, id, name, log }
    }

    /// Starts it.
    ///
    /// # Errors
    /// What containerd answers.
    pub fn start(&self) -> Result<()> {
        self.try_start(DEADLINE).with_context(|| format!("starting container {} ({})", self.name, self.id))
    }

    /// The same, with the bare answer and a deadline.
    ///
    /// # Errors
    /// What containerd answers, or that the deadline passed.
    pub fn try_start(&self, deadline: Duration) -> Result<(), Status> {
        let request = v1::StartContainerRequest { container_id: self.id.clone() };
        self.cri.start_container(request, deadline).map(drop)
    }

    /// Runs a command in it.
    ///
    /// # Errors
    /// When it can't be run; a failing command is no error.
    pub fn exec<const N: usize>(&self, command: [&str; N]) -> Result<Output> {
        self.try_exec(&command).with_context(|| format!("exec {command:?} in container {}", self.id))
    }

    /// The same, with the bare answer.
    ///
    /// # Errors
    /// What containerd answers.
    pub fn try_exec(&self, command: &[&str]) -> Result<Output, Status> {
        let request = v1::ExecSyncRequest {
            container_id: self.id.clone(),
            cmd: command.iter().map(|&word| word.to_owned()).collect(),
            timeout: 30,
        };
        let answer = self.cri.exec_sync(request, DEADLINE)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Output { code: answer.exit_code, stdout: text(&answer.stdout), stderr: text(&answer.stderr) })
    }

    /// Opens an interactive command in it.
    ///
    /// # Errors
    /// When containerd or its stream server refuses.
    pub fn open_exec(&self, command: &[&str], tty: bool) -> Result<Stream> {
        let request = v1::ExecRequest {
            container_id: self.id.clone(),
            cmd: command.iter().map(|&word| word.to_owned()).collect(),
            tty,
            stdin: true,
            stdout: true,
            stderr: !tty,
        };
        Stream::connect(&self.cri.exec(request, DEADLINE)?.url)
    }

    /// Attaches to its first process.
    ///
    /// # Errors
    /// When containerd or its stream server refuses.
    pub fn attach(&self, tty: bool) -> Result<Stream> {
        let request =
            v1::AttachRequest { container_id: self.id.clone(), stdin: true, tty, stdout: true, stderr: !tty };
        Stream::connect(&self.cri.attach(request, DEADLINE)?.url)
    }

    /// What a shell script prints in it.
    ///
    /// # Errors
    /// When the script can't be run or fails.
    pub fn sh(&self, script: &str) -> Result<String> {
        let output = self.exec(["/bin/sh", "-c", script])?;
        ensure!(output.code == 0, "{script:?} in container {}: {output:?}", self.id);
        Ok(output.stdout)
    }

    /// Its status.
    ///
    /// # Errors
    /// What containerd answers.
    pub fn status(&self) -> Result<v1::ContainerStatus> {
        let request = v1::ContainerStatusRequest { container_id: self.id.clone(), verbose: false };
        let answer = self.cri.container_status(request, DEADLINE)?;
        answer.status.with_context(|| format!("containerd has no status of container {}", self.id))
    }

    /// The same with containerd's verbose information, as JSON.
    ///
    /// # Errors
    /// What containerd answers.
    pub fn info(&self) -> Result<serde_json::Value> {
        let request = v1::ContainerStatusRequest { container_id: self.id.clone(), verbose: true };
        let answer = self.cri.container_status(request, DEADLINE)?;
        let text = answer.info.get("info").context("the container's verbose status has no info")?;
        Ok(serde_json::from_str(text)?)
    }

    /// The pid of its first process, in the node's pid namespace.
    ///
    /// # Errors
    /// When containerd does not tell.
    pub fn pid(&self) -> Result<u32> {
        let pid = self.info()?["pid"].as_u64().context("no pid in the container's status")?;
        Ok(u32::try_from(pid)?)
    }

    /// Waits until it has exited.
    ///
    /// # Errors
    /// When `deadline` passes first.
    pub fn wait_exit(&self, deadline: Duration) -> Result<v1::ContainerStatus> {
        wait::until(&format!("container {} to exit", self.name), deadline, || {
            let status = self.status()?;
            Ok((status.state() == v1::ContainerState::ContainerExited).then_some(status))
        })
    }

    /// Stops it: SIGTERM, and SIGKILL `grace_secs` later.
    ///
    /// # Errors
    /// What containerd answers.
    pub fn stop(&self, grace_secs: i64) -> Result<()> {
        let request = v1::StopContainerRequest { container_id: self.id.clone(), timeout: grace_secs };
        self.cri
            .stop_container(request, DEADLINE)
            .with_context(|| format!("stopping container {}", self.id))?;
        Ok(())
    }

    /// Removes it.
    ///
    /// # Errors
    /// What containerd answers.
    pub fn remove(&self) -> Result<()> {
        let request = v1::RemoveContainerRequest { container_id: self.id.clone() };
        self.cri
            .remove_container(request, DEADLINE)
            .with_context(|| format!("removing container {}", self.id))?;
        Ok(())
    }

    /// What it has written so far, without the log format's prefixes.
    ///
    /// # Errors
    /// When the log is there and can't be read.
    pub fn log(&self) -> Result<String> {
        read_log(&self.log)
    }

    /// Waits until its log contains `text`.
    ///
    /// # Errors
    /// When it does not within 20 s; the message holds the log.
    pub fn wait_log(&self, text: &str) -> Result<String> {
        let found = wait::until(&format!("{text:?} in the log"), Duration::from_secs(20), || {
            Ok(Some(self.log()?).filter(|log| log.contains(text)))
        });
        found.with_context(|| format!("log of container {}: {:?}", self.name, self.log().unwrap_or_default()))
    }
}

fn read_log(path: &Path) -> Result<String> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(e).with_context(|| format!("reading {}", path.display())),
    };
    // "<time> stdout F <line>"
    Ok(text
        .lines()
        .filter_map(|line| line.splitn(4, ' ').nth(3))
        .fold(String::new(), |all, line| all + line + "\n"))
}
