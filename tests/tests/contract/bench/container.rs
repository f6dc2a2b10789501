//! A plain container: what it is made from, and the calls that tests make again and again.

use std::{fs, path::PathBuf};

use anyhow::{Result, ensure};
use containerd_shim_protos::{
    api,
    protobuf::{Message, MessageField, well_known_types::any::Any},
    shim::oci::Options,
};
use serde_json::{Value, json};

use super::{
    Bench, bundle,
    shim::{Answer, Pending, Shim},
};

/// What keeps a container running until it is killed.
pub const SLEEP: &[&str] = &["sleep", "100000"];

/// A container to be.
pub struct ContainerSpec<'a> {
    bench: &'a Bench<'a>,
    /// Its id.
    pub id: String,
    /// Its `config.json`.
    pub config: Value,
    /// The Create request, without bundle and options.
    pub request: api::CreateTaskRequest,
    options: Any,
    shim: Option<Shim>,
}

impl<'a> ContainerSpec<'a> {
    pub(super) fn new(bench: &'a Bench<'a>, name: &str) -> Self {
        let id = bench.id(name);
        let config = bundle::config(SLEEP, &format!("{}/{id}", bench.cgroup()));
        let request = api::CreateTaskRequest { id: id.clone(), ..Default::default() };
        Self { bench, id, config, request, options: Any::new(), shim: None }
    }

    /// Runs these words.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.config["process"]["args"] = json!(args);
        self
    }

    /// The streams of the request.
    pub fn stdio(mut self, stdin: &str, stdout: &str, stderr: &str) -> Self {
        self.request.stdin = stdin.into();
        self.request.stdout = stdout.into();
        self.request.stderr = stderr.into();
        self
    }

    /// With a terminal.
    pub fn terminal(mut self) -> Self {
        self.request.terminal = true;
        self.config["process"]["terminal"] = json!(true);
        self
    }

    /// Changes the configuration.
    pub fn edit(mut self, edit: impl FnOnce(&mut Value)) -> Self {
        edit(&mut self.config);
        self
    }

    /// `containerd.runc.v1.Options`.
    pub fn options(self, edit: impl FnOnce(&mut Options)) -> Self {
        let mut options = Options::new();
        edit(&mut options);
        let value = options.write_to_bytes().expect("a message without required fields");
        self.any_options("containerd.runc.v1.Options", value)
    }

    /// Options of any type.
    pub fn any_options(mut self, type_url: &str, value: Vec<u8>) -> Self {
        self.options = Any { type_url: type_url.into(), value, ..Default::default() };
        self
    }

    /// In the group `group`, whose shim is found by `start`.
    pub fn group(self, group: &str) -> Self {
        self.edit(|config| config["annotations"] = json!({ "io.containerd.runc.v2.group": group }))
    }

    /// In the shim of another container.
    pub fn beside(mut self, other: &Container<'_>) -> Self {
        self.shim = Some(other.shim.clone());
        self
    }

    /// Writes the bundle and starts its shim.
    pub fn prepare(self) -> Result<(Container<'a>, api::CreateTaskRequest)> {
        let Self { bench, id, config, mut request, options, shim } = self;
        let dir = bench.bundle_dir(&id);
        bundle::write(&dir, &config)?;
        let shim = match shim {
            Some(shim) => {
                let started = super::Started { id: id.clone(), bundle: dir.clone(), shim: shim.clone() };
                bench.started.borrow_mut().push(started);
                shim
            }
            None => bench.start_shim(&id, &dir, &options)?,
        };
        request.bundle = dir.display().to_string();
        request.rootfs = bundle::rootfs()?;
        request.options = MessageField::some(options).filter_set();
        Ok((Container { bench, id, bundle: dir, shim }, request))
    }

    /// Starts the shim and sends Create.
    pub fn begin(self) -> Result<(Container<'a>, Pending<api::CreateTaskResponse>)> {
        let (container, request) = self.prepare()?;
        let pending = container.shim.begin("Create", &request);
        Ok((container, pending))
    }

    /// Starts the shim and creates: the container, and what Create answered.
    pub fn try_create(self) -> Result<(Container<'a>, Answer<u32>)> {
        let (container, pending) = self.begin()?;
        let answer = pending.answer()?.map(|answer| answer.pid);
        Ok((container, answer))
    }

    /// Starts the shim and creates.
    pub fn create(self) -> Result<Container<'a>> {
        let (container, answer) = self.try_create()?;
        answer?;
        Ok(container)
    }

    /// Starts the shim, creates and starts.
    pub fn run(self) -> Result<Container<'a>> {
        let container = self.create()?;
        container.start()?;
        Ok(container)
    }
}

trait FilterSet {
    fn filter_set(self) -> Self;
}

impl FilterSet for MessageField<Any> {
    /// No options at all rather than options of no type, as containerd does it.
    fn filter_set(self) -> Self {
        if self.type_url.is_empty() { MessageField::none() } else { self }
    }
}

/// A container, and the shim that has it.
pub struct Container<'a> {
    bench: &'a Bench<'a>,
    /// Its id.
    pub id: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// Its shim.
    pub shim: Shim,
}

impl Container<'_> {
    /// `Start`.
    pub fn start(&self) -> Answer<u32> {
        self.shim.start(&self.id, "")
    }

    /// The status and the exit status that `State` tells.
    pub fn status(&self, exec: &str) -> Result<(api::Status, u32)> {
        let state = self.shim.state(&self.id, exec)?;
        Ok((state.status.enum_value_or(api::Status::UNKNOWN), state.exit_status))
    }

    /// `Kill` of init.
    pub fn kill(&self, signal: u32) -> Answer<()> {
        self.shim.kill(&self.id, "", signal)
    }

    /// `Wait` for init.
    pub fn wait(&self) -> Answer<u32> {
        self.shim.wait(&self.id, "")
    }

    /// `Delete`.
    pub fn delete(&self) -> Answer<u32> {
        self.shim.delete(&self.id, "")
    }

    /// Kills, waits and deletes.
    pub fn destroy(&self) -> Result<u32> {
        destroy(&self.shim, &self.id)
    }

    /// Checks the events of this container, all of them.
    pub fn expect_events(&self, lines: &[&str]) -> Result<()> {
        self.bench.events.expect(&self.id, lines)
    }

    /// The request of an exec of `process`, without stdio.
    pub fn exec_request(&self, exec: &str, process: &Value) -> api::ExecProcessRequest {
        let spec = Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
            value: process.to_string().into_bytes(),
            ..Default::default()
        };
        api::ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec.into(),
            spec: MessageField::some(spec),
            ..Default::default()
        }
    }

    /// `Exec` of `args` without stdio.
    pub fn add_exec(&self, exec: &str, args: &[&str]) -> Answer<()> {
        self.shim.order("Exec", &self.exec_request(exec, &bundle::process(args)))
    }

    /// Runs an exec of `process` to its end and deletes it: exit status and output.
    pub fn exec(&self, exec: &str, process: &Value) -> Result<(u32, String)> {
        let file = self.bench.dir.join(format!("{}-{exec}.out", self.id));
        let mut request = self.exec_request(exec, process);
        request.terminal = process["terminal"] == json!(true);
        request.stdout = format!("file://{}", file.display());
        if !request.terminal {
            request.stderr.clone_from(&request.stdout);
        }
        self.shim.order("Exec", &request)?;
        self.shim.start(&self.id, exec)?;
        let status = self.shim.wait(&self.id, exec)?;
        let deleted = self.shim.delete(&self.id, exec)?;
        ensure!(deleted == status, "Wait says {status}, Delete {deleted}");
        let output = fs::read_to_string(&file).unwrap_or_default();
        // Gone for the next exec of this id.
        let _ = fs::remove_file(&file);
        Ok((status, output))
    }

    /// Runs a shell script in the container: its output, when it succeeds.
    pub fn sh(&self, script: &str) -> Result<String> {
        let (status, output) = self.exec("sh", &bundle::process(&["sh", "-c", script]))?;
        ensure!(status == 0, "{script:?} ended with {status}: {output}");
        Ok(output)
    }
}

/// Kills, waits and deletes.
pub fn destroy(shim: &Shim, id: &str) -> Result<u32> {
    let state = shim.state(id, "")?;
    if state.status.enum_value_or(api::Status::UNKNOWN) == api::Status::PAUSED {
        shim.resume(id)?;
    }
    // Stopped already, or never started: Delete sees to that.
    if shim.kill(id, "", 9).is_ok() {
        shim.wait(id, "")?;
    }
    Ok(shim.delete(id, "")?)
}
