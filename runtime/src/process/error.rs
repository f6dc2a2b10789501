use std::io;
use std::path::PathBuf;

use super::Pid;

/// What can go wrong with a process.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The reaper could not be set up; nothing can be spawned.
    #[error("setting up the reaper: {step}")]
    Setup {
        /// What was tried.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The program could not be started; there is no process.
    #[error("starting {}", program.display())]
    Spawn {
        /// The program as it was named.
        program: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Another `Process` stands for this pid already.
    #[error("process {pid} is tracked already")]
    AlreadyTracked {
        /// The pid.
        pid: Pid,
    },
    /// The pid is no child of this process, and no exit of such a child is remembered.
    #[error("process {pid} is not a child of this process")]
    NotAChild {
        /// The pid.
        pid: Pid,
    },
    /// The process has exited, so it takes no signal.
    #[error("process {pid} is not running")]
    NotRunning {
        /// The pid.
        pid: Pid,
    },
    /// No process has a pid like that.
    #[error("{0} is not a process id")]
    BadPid(i64),
    /// A system call about the process failed.
    #[error("{step} process {pid}")]
    System {
        /// What was tried.
        step: &'static str,
        /// The pid.
        pid: Pid,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}
