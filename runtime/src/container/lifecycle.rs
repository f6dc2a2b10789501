//! Create, start, delete and the other calls that change a whole container.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use super::{Container, ContainerError, Deadlines, Entry, Fact, Observer, PidNamespace, State, Step, exit};
use crate::{
    cgroup::Cgroup,
    io::{IoContext, StdioSpec, Streams},
    oci::{Backend, Checkpoint, Create, Force, OciError, Restore},
    process::{Exit, ExitCode, Pid},
};

/// What a container is made from.
pub struct CreateSpec {
    /// Its id.
    pub id: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// The program that makes it.
    pub backend: Backend,
    /// Its stdio.
    pub stdio: StdioSpec,
    /// What the stdio needs to know.
    pub io: IoContext,
    /// Whether init has a pid namespace of its own.
    pub pid_namespace: PidNamespace,
    /// Do not pivot into the root file system.
    pub no_pivot: bool,
    /// Keep the session keyring of the caller.
    pub no_new_keyring: bool,
    /// The checkpoint to restore from: the container's init then exists from its start on only.
    pub restore: Option<Restore>,
    /// How long the calls may take.
    pub deadlines: Deadlines,
    /// Who is told what happens.
    pub observer: Arc<dyn Observer>,
}

/// Where and how a checkpoint is written.
#[derive(Debug, Clone)]
pub struct CheckpointRequest {
    /// What the backend needs.
    pub options: Checkpoint,
    /// The path that the event names.
    pub path: PathBuf,
}

impl Container {
    /// Creates a container: its init exists afterwards and waits for [`Container::start`].
    ///
    /// Not cancel-safe in the sense that a dropped call may leave a container in the
    /// backend; `delete --force` of the same id undoes that.
    ///
    /// # Errors
    /// Stdio that cannot be opened, or what the backend answers.
    pub async fn create(spec: CreateSpec) -> Result<Arc<Container>, ContainerError> {
        let container = Container {
            init: Arc::new(Entry::init(spec.stdio)),
            id: spec.id,
            bundle: spec.bundle,
            backend: spec.backend,
            pid_namespace: spec.pid_namespace,
            launch: Launch {
                io: spec.io,
                no_pivot: spec.no_pivot,
                no_new_keyring: spec.no_new_keyring,
                restore: spec.restore,
            },
            deadlines: spec.deadlines,
            observer: spec.observer,
            cgroup: OnceLock::new(),
            oom: OnceLock::new(),
            ops: tokio::sync::Mutex::new(()),
            execs: Mutex::new(BTreeMap::new()),
        };
        if container.launch.restore.is_none() {
            container.launch().await?;
        }
        Ok(Arc::new(container))
    }

    /// Has the backend make the container's init.
    async fn launch(&self) -> Result<Pid, ContainerError> {
        let Launch { io, no_pivot, no_new_keyring, restore } = &self.launch;
        let mut streams = Streams::open(&self.init.stdio, io, self.deadlines.call).await?;
        let stdio = streams.child_stdio();
        let create = Create {
            bundle: &self.bundle,
            pid_file: &self.bundle.join(PID_FILE),
            console_socket: streams.console_socket(),
            stdio,
            no_pivot: *no_pivot,
            no_new_keyring: *no_new_keyring,
            restore: restore.as_ref(),
        };
        let process = self.backend.create(&self.id, create, self.deadlines.create).await?;
        streams.start(self.deadlines.call).await?;
        let pid = process.pid();
        match Cgroup::of(pid) {
            Ok(found) => drop(self.cgroup.set(found)),
            // It has exited already, or has none: no statistics then.
            Err(error) => log::warn!("container {}: {error}", self.id),
        }
        self.init.set_process(process);
        self.init.set_streams(streams);
        Ok(pid)
    }

    /// Begins to announce what happens to the container by itself: its init's exit and
    /// kills for want of memory. Called once, after the creation was told; a container that is
    /// still to be restored has nothing to announce and begins when it is started.
    pub fn watch(self: &Arc<Self>) {
        self.watch_oom();
        exit::watch(Arc::clone(self), Arc::clone(&self.init));
    }

    /// Pid of init; `None` while it is still to be restored.
    pub fn init_pid(&self) -> Option<Pid> {
        self.init.process().map(crate::process::Process::pid)
    }

    /// Starts the program of the container.
    ///
    /// # Errors
    /// [`ContainerError::Illegal`] unless the container is only created; what the backend answers.
    pub async fn start(self: &Arc<Self>) -> Result<Pid, ContainerError> {
        let _ops = self.ops.lock().await;
        let _lifecycle = self.init.lifecycle.lock().await;
        self.init.allows(Step::Start).map_err(|e| self.illegal(e))?;
        let pid = match self.init_pid() {
            Some(pid) => {
                self.backend.start(&self.id, self.deadlines.call).await?;
                pid
            }
            None => {
                let pid = self.launch().await?;
                self.watch();
                pid
            }
        };
        self.init.step(Step::Start).map_err(|e| self.illegal(e))?;
        self.tell(Fact::Started(pid));
        Ok(pid)
    }

    /// Freezes all processes of the container.
    ///
    /// # Errors
    /// [`ContainerError::Illegal`] unless it runs; what the backend answers.
    pub async fn pause(&self) -> Result<(), ContainerError> {
        let _ops = self.ops.lock().await;
        self.init.allows(Step::Pause).map_err(|e| self.illegal(e))?;
        self.backend.pause(&self.id, self.deadlines.call).await?;
        self.init.step(Step::Pause).map_err(|e| self.illegal(e))?;
        self.tell(Fact::Paused);
        Ok(())
    }

    /// Thaws all processes of the container.
    ///
    /// # Errors
    /// [`ContainerError::Illegal`] unless it is paused; what the backend answers.
    pub async fn resume(&self) -> Result<(), ContainerError> {
        let _ops = self.ops.lock().await;
        self.init.allows(Step::Resume).map_err(|e| self.illegal(e))?;
        self.backend.resume(&self.id, self.deadlines.call).await?;
        self.init.step(Step::Resume).map_err(|e| self.illegal(e))?;
        self.tell(Fact::Resumed);
        Ok(())
    }

    /// Changes the resources of the container; `resources` is the runtime specification's
    /// `linux.resources` as JSON.
    ///
    /// # Errors
    /// [`ContainerError::Illegal`] once it has stopped; what the backend answers.
    pub async fn update(&self, resources: &[u8]) -> Result<(), ContainerError> {
        let _ops = self.ops.lock().await;
        self.init.allows(Step::Update).map_err(|e| self.illegal(e))?;
        Ok(self.backend.update(&self.id, resources, self.deadlines.call).await?)
    }

    /// Writes a checkpoint of the container.
    ///
    /// # Errors
    /// [`ContainerError::Illegal`] unless it runs; what the backend answers, a missing criu included.
    pub async fn checkpoint(&self, request: &CheckpointRequest) -> Result<(), ContainerError> {
        let _ops = self.ops.lock().await;
        self.init.allows(Step::Checkpoint).map_err(|e| self.illegal(e))?;
        self.backend.checkpoint(&self.id, &request.options, self.deadlines.create).await?;
        self.tell(Fact::Checkpointed(request.path.clone()));
        Ok(())
    }

    /// Removes the container from the backend: one that has stopped, or one that was never
    /// started, which is killed first. The bundle stays.
    ///
    /// # Errors
    /// [`ContainerError::Illegal`] while it runs; what the backend answers.
    pub async fn delete(&self) -> Result<(Option<Pid>, Exit), ContainerError> {
        let _ops = self.ops.lock().await;
        self.init.allows(Step::Delete).map_err(|e| self.illegal(e))?;
        if self.init.state() == State::Created {
            match self.init.process() {
                // It may end by itself at the same moment: that is as good.
                Some(process) => drop(process.signal(libc::SIGKILL)),
                // It was never restored.
                None => self.init.give_up(),
            }
        }
        let exit = tokio::time::timeout(self.deadlines.call, self.init.exited())
            .await
            .map_err(|_| ContainerError::ExitDeadline { id: self.id.clone(), within: self.deadlines.call })?;
        drain(&self.init, DRAIN_BEFORE_DELETE).await;
        match self.backend.delete(&self.id, Force::Yes, self.deadlines.call).await {
            Ok(()) | Err(OciError::NotFound { .. }) => {}
            // Said of a deletion it would mean to the caller that there is nothing left to delete.
            Err(OciError::NotRunning { operation, id, message }) => {
                return Err(OciError::Failed { operation, id, code: ExitCode::new(1), message }.into());
            }
            Err(error) => return Err(error.into()),
        }
        // Whoever waits for an exec that was never started waits no longer.
        self.lock_execs()
            .values()
            .filter(|exec| exec.state() == State::Added)
            .for_each(|exec| exec.give_up());
        self.init.close_streams();
        Ok((self.init_pid(), exit))
    }
}

/// What is needed to make the container's init.
pub(super) struct Launch {
    io: IoContext,
    no_pivot: bool,
    no_new_keyring: bool,
    restore: Option<Restore>,
}

/// File in the bundle with the pid of init, as the Go shim names it.
const PID_FILE: &str = "init.pid";

/// How long a deletion waits for output that nobody has read yet.
pub(super) const DRAIN_BEFORE_DELETE: Duration = Duration::from_secs(1);

/// Waits until the output of a process was delivered, for `bound` at most: a reader that
/// is gone, or a grandchild that holds the pipe, must not hold up the rest.
pub(super) async fn drain(entry: &Entry, bound: Duration) {
    if let Some(streams) = entry.streams() {
        let _ = tokio::time::timeout(bound, streams.drained()).await;
    }
}

/// A file in the bundle that exists for one backend call.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub fn write(id: &str, bundle: &Path, name: &str, content: &[u8]) -> Result<Scratch, ContainerError> {
        let path = bundle.join(name);
        let scratch = Scratch(path);
        std::fs::write(&scratch.0, content).map_err(|source| ContainerError::Scratch {
            id: id.to_owned(),
            path: scratch.0.clone(),
            source,
        })?;
        Ok(scratch)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The bundle is removed as a whole later.
        let _ = std::fs::remove_file(&self.0);
    }
}
