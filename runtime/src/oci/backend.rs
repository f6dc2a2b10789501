use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::run::{self, Call, CallStdio, Scratch};
use super::{
    AfterCheckpoint, BackendConfig, BackendState, Checkpoint, ChildStdio, Create, CriuOptions, Dialect, Exec,
    Force, KillScope, OciError, Status,
};
use crate::process::{OrphanHold, Pid, Process, Reaper};

/// An OCI runtime's command line. Every call is one process of it, bounded by a deadline.
///
/// Cancel safety: dropping the future of a call kills the backend's process group; the reaper takes the rest. A
/// `create` that was dropped or ran into its deadline leaves parts of a container: `delete` with [`Force::Yes`] removes the
/// backend's state, and the caller the cgroup, which neither runc nor crun remembers at that point.
#[derive(Debug, Clone)]
pub struct Backend {
    pub(super) config: BackendConfig,
    reaper: Reaper,
    scratch: PathBuf,
}

impl Backend {
    /// A backend whose calls keep their log files in directories of their own below `scratch`, which must exist.
    #[must_use]
    pub fn new(config: BackendConfig, reaper: Reaper, scratch: impl Into<PathBuf>) -> Self {
        Self { config, reaper, scratch: scratch.into() }
    }

    /// What was given to [`new`](Self::new).
    #[must_use]
    pub fn config(&self) -> &BackendConfig {
        &self.config
    }

    /// Creates (or restores) a container and returns its init, whose exit is not lost however early it comes.
    ///
    /// # Errors
    /// [`OciError::AlreadyExists`] and the others of [`OciError`]. After every other one the caller deletes by force.
    pub async fn create(
        &self,
        id: &str,
        create: Create<'_>,
        deadline: Duration,
    ) -> Result<Process, OciError> {
        let Create { bundle, pid_file, console_socket, stdio, no_pivot, no_new_keyring, restore } = create;
        let operation = if restore.is_some() { "restore" } else { "create" };
        let mut args = Args::of(operation);
        args.option("--bundle", bundle).option("--pid-file", pid_file);
        args.flag("--no-pivot", no_pivot);
        if let Some(restore) = restore {
            args.flag("--detach", true).criu(
                &restore.image_path,
                restore.work_path.as_deref(),
                restore.options,
            );
        } else {
            args.flag("--no-new-keyring", no_new_keyring);
        }
        self.make_process(operation, id, args, pid_file, Stdio { console_socket, stdio }, deadline).await
    }

    /// Starts the created container's program.
    ///
    /// # Errors
    /// See [`OciError`].
    pub async fn start(&self, id: &str, deadline: Duration) -> Result<(), OciError> {
        self.simple("start", id, deadline).await
    }

    /// Runs another process in the container, detached.
    ///
    /// # Errors
    /// [`OciError::NotRunning`] and the others of [`OciError`].
    pub async fn exec(&self, id: &str, exec: Exec<'_>, deadline: Duration) -> Result<Process, OciError> {
        let Exec { process_json, pid_file, console_socket, stdio } = exec;
        let mut args = Args::of("exec");
        args.flag("--detach", true).option("--process", process_json).option("--pid-file", pid_file);
        self.make_process("exec", id, args, pid_file, Stdio { console_socket, stdio }, deadline).await
    }

    /// Sends a signal by number.
    ///
    /// # Errors
    /// [`OciError::NotRunning`] and the others of [`OciError`]; crun 1.8 does not tell that a process has ended.
    pub async fn kill(
        &self,
        id: &str,
        signal: i32,
        scope: KillScope,
        deadline: Duration,
    ) -> Result<(), OciError> {
        let mut args = Args::of("kill");
        args.flag("--all", scope == KillScope::All).value(id).value(signal.to_string());
        self.capture("kill", id, args, deadline).await.map(drop)
    }

    /// Removes the container, its cgroup and the backend's state of it.
    ///
    /// # Errors
    /// See [`OciError`]. With [`Force::Yes`] a container that isn't there is none.
    pub async fn delete(&self, id: &str, force: Force, deadline: Duration) -> Result<(), OciError> {
        let mut args = Args::of("delete");
        args.flag("--force", force == Force::Yes).value(id);
        match self.capture("delete", id, args, deadline).await {
            Err(OciError::NotFound { .. }) if force == Force::Yes => Ok(()),
            result => result.map(drop),
        }
    }

    /// Freezes the container.
    ///
    /// # Errors
    /// See [`OciError`].
    pub async fn pause(&self, id: &str, deadline: Duration) -> Result<(), OciError> {
        self.simple("pause", id, deadline).await
    }

    /// Thaws the container.
    ///
    /// # Errors
    /// See [`OciError`].
    pub async fn resume(&self, id: &str, deadline: Duration) -> Result<(), OciError> {
        self.simple("resume", id, deadline).await
    }

    /// Changes the container's limits to an OCI `LinuxResources` in JSON.
    ///
    /// # Errors
    /// See [`OciError`].
    pub async fn update(&self, id: &str, resources_json: &[u8], deadline: Duration) -> Result<(), OciError> {
        let operation = "update";
        let scratch = Scratch::new(&self.scratch, operation, id)?;
        let path = scratch.file("resources.json");
        std::fs::write(&path, resources_json).map_err(|source| OciError::Prepare {
            operation,
            id: id.to_owned(),
            path: path.clone(),
            source,
        })?;
        let mut args = Args::of(operation);
        args.option("--resources", &path).value(id);
        let call = Call { operation, id, args: args.0, stdio: CallStdio::Captured, deadline };
        run::run(&self.config, &self.reaper, &scratch, call).await.map(drop)
    }

    /// The pids, on the host, of all processes in the container; none when it has stopped.
    ///
    /// # Errors
    /// See [`OciError`]; crun 1.8 crashes for a stopped container ([`OciError::Failed`]).
    pub async fn ps(&self, id: &str, deadline: Duration) -> Result<Vec<Pid>, OciError> {
        let mut args = Args::of("ps");
        args.option("--format", "json").value(id);
        let json = self.capture("ps", id, args, deadline).await?;
        // runc writes `null` for a container without processes.
        let pids: Option<Vec<Pid>> = parse("ps", id, "the list of pids", &json)?;
        Ok(pids.unwrap_or_default())
    }

    /// What the backend knows of the container.
    ///
    /// # Errors
    /// [`OciError::NotFound`] and the others of [`OciError`].
    pub async fn state(&self, id: &str, deadline: Duration) -> Result<BackendState, OciError> {
        /// The OCI state, of which runc writes pid 0 for a stopped container.
        #[derive(Deserialize)]
        struct State {
            status: Status,
            #[serde(default)]
            pid: i64,
            bundle: PathBuf,
        }
        let mut args = Args::of("state");
        args.value(id);
        let json = self.capture("state", id, args, deadline).await?;
        let state: State = parse("state", id, "the state", &json)?;
        let alive = state.status != Status::Stopped;
        Ok(BackendState {
            status: state.status,
            pid: Pid::new(state.pid).ok().filter(|_| alive),
            bundle: state.bundle,
        })
    }

    /// The backend's OCI `Features`.
    ///
    /// # Errors
    /// [`OciError::Unsupported`] for backends that have no such verb: rune, and crun before 1.8.6.
    pub async fn features(&self, deadline: Duration) -> Result<serde_json::Value, OciError> {
        let (operation, dialect) = ("features", self.config.dialect);
        if dialect == Dialect::Rune {
            return Err(OciError::Unsupported { operation, dialect });
        }
        let json = self.capture(operation, "", Args::of(operation), deadline).await?;
        parse(operation, "", "the list of features", &json)
    }

    /// Writes the container's processes to disk with criu.
    ///
    /// # Errors
    /// [`OciError::Unsupported`] for a crun built without criu; see [`OciError`].
    pub async fn checkpoint(
        &self,
        id: &str,
        checkpoint: &Checkpoint,
        deadline: Duration,
    ) -> Result<(), OciError> {
        let mut args = Args::of("checkpoint");
        args.criu(&checkpoint.image_path, checkpoint.work_path.as_deref(), checkpoint.options);
        args.flag("--leave-running", checkpoint.after == AfterCheckpoint::Run);
        for namespace in &checkpoint.empty_namespaces {
            args.option("--empty-ns", namespace);
        }
        if let Some(mode) = &checkpoint.cgroups_mode {
            args.option("--manage-cgroups-mode", mode);
        }
        args.value(id);
        self.capture("checkpoint", id, args, deadline).await.map(drop)
    }

    async fn simple(&self, operation: &'static str, id: &str, deadline: Duration) -> Result<(), OciError> {
        let mut args = Args::of(operation);
        args.value(id);
        self.capture(operation, id, args, deadline).await.map(drop)
    }

    async fn capture(
        &self,
        operation: &'static str,
        id: &str,
        args: Args,
        deadline: Duration,
    ) -> Result<Vec<u8>, OciError> {
        let scratch = Scratch::new(&self.scratch, operation, id)?;
        let call = Call { operation, id, args: args.0, stdio: CallStdio::Captured, deadline };
        run::run(&self.config, &self.reaper, &scratch, call).await
    }

    /// Runs a verb that leaves a process to us, and takes it over.
    async fn make_process(
        &self,
        operation: &'static str,
        id: &str,
        mut args: Args,
        pid_file: &Path,
        stdio: Stdio<'_>,
        deadline: Duration,
    ) -> Result<Process, OciError> {
        // With a terminal the process's stdio is the pty, so the backend's own is free to be read.
        let stdio = if let Some(socket) = stdio.console_socket {
            args.option("--console-socket", socket);
            CallStdio::Captured
        } else {
            CallStdio::Inherited(stdio.stdio)
        };
        args.value(id);
        let scratch = Scratch::new(&self.scratch, operation, id)?;
        let hold = self.reaper.hold();
        let call = Call { operation, id, args: args.0, stdio, deadline };
        run::run(&self.config, &self.reaper, &scratch, call).await?;
        self.adopt(operation, id, pid_file, &hold)
    }

    fn adopt(
        &self,
        operation: &'static str,
        id: &str,
        pid_file: &Path,
        hold: &OrphanHold,
    ) -> Result<Process, OciError> {
        type Source = Box<dyn std::error::Error + Send + Sync>;
        let adopted = || -> Result<Process, Source> {
            let pid: i64 = std::fs::read_to_string(pid_file)?.trim().parse()?;
            Ok(self.reaper.adopt(Pid::new(pid)?, hold)?)
        };
        adopted().map_err(|source| OciError::Output {
            operation,
            id: id.to_owned(),
            what: "the pid file",
            source,
        })
    }
}

/// How the process that a verb makes talks to the world.
struct Stdio<'a> {
    console_socket: Option<&'a Path>,
    stdio: ChildStdio,
}

fn parse<'de, T: Deserialize<'de>>(
    operation: &'static str,
    id: &str,
    what: &'static str,
    json: &'de [u8],
) -> Result<T, OciError> {
    serde_json::from_slice(json).map_err(|source| OciError::Output {
        operation,
        id: id.to_owned(),
        what,
        source: source.into(),
    })
}

/// The arguments from the verb on.
struct Args(Vec<OsString>);

impl Args {
    fn of(verb: &str) -> Self {
        Self(vec![verb.into()])
    }

    fn value(&mut self, value: impl Into<OsString>) -> &mut Self {
        self.0.push(value.into());
        self
    }

    fn option(&mut self, name: &str, value: impl Into<OsString>) -> &mut Self {
        self.value(name).value(value)
    }

    fn flag(&mut self, name: &str, given: bool) -> &mut Self {
        if given { self.value(name) } else { self }
    }

    fn criu(&mut self, image_path: &Path, work_path: Option<&Path>, options: CriuOptions) -> &mut Self {
        self.option("--image-path", image_path);
        if let Some(work_path) = work_path {
            self.option("--work-path", work_path);
        }
        self.flag("--tcp-established", options.tcp_established)
            .flag("--ext-unix-sk", options.external_unix_sockets)
            .flag("--shell-job", options.shell_job)
            .flag("--file-locks", options.file_locks)
    }
}
