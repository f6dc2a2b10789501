//! A container and the processes in it: what containerd calls a task.
//!
//! [`Container`] drives the OCI backend and keeps the state of init and execs.
//! What happens is told to an [`Observer`] in the order that containerd relies on:
//! a start before the exit of the same process, the execs' exits before init's,
//! an out-of-memory kill before the exit it causes, each exit once.
//!
//! Locks, in this order: `ops` (one backend call that changes the container at a
//! time), an entry's `lifecycle`, and the short `std` mutexes, which are never held
//! across an await. A hung backend call of one container holds nothing of another,
//! and signals, waits and state reads of the same container take neither of the
//! asynchronous locks.
//!
//! Knows nothing of sandboxes, images or containerd's messages.

mod exec;
mod exit;
mod lifecycle;
mod oom;
mod process;
mod state;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use thiserror::Error;

use self::{lifecycle::Launch, process::Entry};
pub use self::{
    lifecycle::{CheckpointRequest, CreateSpec},
    state::{IllegalStep, State, Step},
};
use crate::{
    cgroup::{Cgroup, CgroupError, Stats},
    io::{IoError, StdioSpec},
    oci::{Backend, KillScope, OciError},
    process::{Exit, Pid, ProcessError},
};

/// What happened to a container, in the order it must be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// Init was started.
    Started(Pid),
    /// An exec was registered.
    ExecAdded(String),
    /// An exec was started.
    ExecStarted(String, Pid),
    /// A process ended; the id is the exec's, `None` for init.
    Exited(Option<String>, Pid, Exit),
    /// The kernel killed a process of the container for want of memory.
    OutOfMemory,
    /// The container was frozen.
    Paused,
    /// The container was thawed.
    Resumed,
    /// A checkpoint was written to the path.
    Checkpointed(PathBuf),
}

/// Told of every [`Fact`] of a container, in order. Must not block.
pub trait Observer: Send + Sync {
    /// Takes note of a fact.
    fn observe(&self, container_id: &str, fact: Fact);
}

/// How long the calls of a container may take.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// `create`, hooks included.
    pub create: Duration,
    /// Every other backend call.
    pub call: Duration,
}

/// Whether the container's processes die with its init.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PidNamespace {
    /// A namespace of its own: the kernel kills what is in it when init ends.
    Own,
    /// Shared with others or the host's: the rest is killed through the backend.
    Shared,
}

/// Why an operation on a container failed.
#[derive(Debug, Error)]
pub enum ContainerError {
    /// The state does not allow the operation.
    #[error("container {id}")]
    Illegal {
        /// The container.
        id: String,
        /// What was refused.
        #[source]
        source: IllegalStep,
    },
    /// The container has no exec of that id.
    #[error("container {id} has no process {exec_id}")]
    NoSuchProcess {
        /// The container.
        id: String,
        /// The exec asked for.
        exec_id: String,
    },
    /// The exec id is taken.
    #[error("container {id} already has a process {exec_id}")]
    ProcessExists {
        /// The container.
        id: String,
        /// The exec id that was to be added.
        exec_id: String,
    },
    /// The process has not been started, or has ended.
    #[error("process of container {id} is not running")]
    NotRunning {
        /// The container.
        id: String,
    },
    /// Init was killed and its end did not come.
    #[error("container {id} did not end within {within:?} of being killed")]
    ExitDeadline {
        /// The container.
        id: String,
        /// The deadline.
        within: Duration,
    },
    /// The OCI backend failed.
    #[error(transparent)]
    Backend(#[from] OciError),
    /// Its stdio could not be set up.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A signal could not be sent, or a process not be followed.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The cgroup could not be read.
    #[error("cgroup of container {id}")]
    Cgroup {
        /// The container.
        id: String,
        /// What failed.
        #[source]
        source: CgroupError,
    },
    /// A file the backend needs could not be written.
    #[error("write {path} for container {id}", path = path.display())]
    Scratch {
        /// The container.
        id: String,
        /// The file.
        path: PathBuf,
        /// What failed.
        #[source]
        source: std::io::Error,
    },
}

/// A process as `State` and `Delete` answer it.
#[derive(Debug, Clone)]
pub struct ProcessView {
    /// `None` for a process that was never started.
    pub pid: Option<Pid>,
    /// Its state.
    pub state: State,
    /// Its stdio.
    pub stdio: StdioSpec,
}

/// A container that exists in the OCI backend. Made by [`Container::create`].
pub struct Container {
    id: String,
    bundle: PathBuf,
    backend: Backend,
    pid_namespace: PidNamespace,
    launch: Launch,
    deadlines: Deadlines,
    observer: Arc<dyn Observer>,
    cgroup: OnceLock<Cgroup>,
    /// The way to the task that watches for out-of-memory kills; see `oom`.
    oom: OnceLock<oom::Flush>,
    /// Serialises backend calls that change the container.
    ops: tokio::sync::Mutex<()>,
    init: Arc<Entry>,
    /// The execs by id. Protects the map alone.
    execs: Mutex<BTreeMap<String, Arc<Entry>>>,
}

impl Container {
    /// The container's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The bundle's directory.
    pub fn bundle(&self) -> &Path {
        &self.bundle
    }

    /// State, pid and stdio of init (`None`) or of an exec.
    ///
    /// # Errors
    /// [`ContainerError::NoSuchProcess`].
    pub fn view(&self, exec_id: Option<&str>) -> Result<ProcessView, ContainerError> {
        let entry = self.entry(exec_id)?;
        Ok(ProcessView {
            pid: entry.process().map(crate::process::Process::pid),
            state: entry.state(),
            stdio: entry.stdio.clone(),
        })
    }

    /// Waits until the exit of a process was announced. Cancel-safe.
    ///
    /// # Errors
    /// [`ContainerError::NoSuchProcess`].
    pub async fn wait(&self, exec_id: Option<&str>) -> Result<(Option<Pid>, Exit), ContainerError> {
        let entry = self.entry(exec_id)?;
        let exit = entry.exited().await;
        Ok((entry.process().map(crate::process::Process::pid), exit))
    }

    /// Sends a signal to a process, or with [`KillScope::All`] to all of the container.
    ///
    /// # Errors
    /// [`ContainerError::NotRunning`] when the process has not been started or has ended.
    pub async fn kill(
        &self,
        exec_id: Option<&str>,
        signal: i32,
        scope: KillScope,
    ) -> Result<(), ContainerError> {
        let entry = self.entry(exec_id)?;
        if scope == KillScope::All && exec_id.is_none() {
            return match self.backend.kill(&self.id, signal, scope, self.deadlines.call).await {
                Err(OciError::NotRunning { .. }) => Err(self.not_running()),
                other => Ok(other?),
            };
        }
        let process = entry.process().ok_or_else(|| self.not_running())?;
        if matches!(entry.state(), State::Stopped(_)) {
            return Err(self.not_running());
        }
        match process.signal(signal) {
            Ok(()) => {}
            Err(ProcessError::NotRunning { .. }) => return Err(self.not_running()),
            Err(error) => return Err(error.into()),
        }
        // In a frozen cgroup of version 1 even SIGKILL waits for the thaw.
        if signal == libc::SIGKILL
            && self.init.state() == State::Paused
            && let Err(error) = self.backend.resume(&self.id, self.deadlines.call).await
        {
            log::warn!("thaw the killed container {}: {error}", self.id);
        }
        Ok(())
    }

    /// Every process of the container, with the exec id where it is one's.
    ///
    /// # Errors
    /// What the backend answers.
    pub async fn pids(&self) -> Result<Vec<(Pid, Option<String>)>, ContainerError> {
        let pids = self.backend.ps(&self.id, self.deadlines.call).await?;
        let execs: BTreeMap<Pid, String> = self
            .lock_execs()
            .iter()
            .filter_map(|(id, entry)| Some((entry.process()?.pid(), id.clone())))
            .collect();
        Ok(pids.into_iter().map(|pid| (pid, execs.get(&pid).cloned())).collect())
    }

    /// Sets the size of a process's terminal, in characters.
    ///
    /// # Errors
    /// [`ContainerError::NotRunning`] before the start; what the kernel answers.
    pub fn resize(&self, exec_id: Option<&str>, width: u16, height: u16) -> Result<(), ContainerError> {
        let streams = self.entry(exec_id)?.streams().ok_or_else(|| self.not_running())?;
        Ok(streams.resize(width, height)?)
    }

    /// Closes the stdin of a process once what was written so far is delivered.
    ///
    /// # Errors
    /// [`ContainerError::NoSuchProcess`].
    pub fn close_stdin(&self, exec_id: Option<&str>) -> Result<(), ContainerError> {
        if let Some(streams) = self.entry(exec_id)?.streams() {
            streams.close_stdin();
        }
        Ok(())
    }

    /// The resources that the container's cgroup has used.
    ///
    /// # Errors
    /// [`ContainerError::Cgroup`], [`ContainerError::NotRunning`].
    pub fn stats(&self) -> Result<Stats, ContainerError> {
        let cgroup = self.cgroup.get().ok_or_else(|| self.not_running())?;
        cgroup.stats().map_err(|source| ContainerError::Cgroup { id: self.id.clone(), source })
    }

    fn entry(&self, exec_id: Option<&str>) -> Result<Arc<Entry>, ContainerError> {
        match exec_id {
            None => Ok(Arc::clone(&self.init)),
            Some(exec_id) => self.lock_execs().get(exec_id).cloned().ok_or_else(|| self.no_such(exec_id)),
        }
    }

    fn lock_execs(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Entry>>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, fact: Fact) {
        self.observer.observe(&self.id, fact);
    }

    fn not_running(&self) -> ContainerError {
        ContainerError::NotRunning { id: self.id.clone() }
    }

    fn no_such(&self, exec_id: &str) -> ContainerError {
        ContainerError::NoSuchProcess { id: self.id.clone(), exec_id: exec_id.to_owned() }
    }

    fn illegal(&self, source: IllegalStep) -> ContainerError {
        ContainerError::Illegal { id: self.id.clone(), source }
    }
}
