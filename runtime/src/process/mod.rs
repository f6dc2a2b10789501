//! Processes and their exits: one reaper for everything this process is the parent of.
//!
//! A shim is the parent of the OCI backends it runs, of loggers, and, as child subreaper, of every container process
//! and of whatever else loses its parent below it. [`Reaper`] is the only place that waits for any of them; nothing
//! else in the process may call `waitpid` or `std`'s `wait`/`output`/`status`, which would steal an exit or lose one.
//!
//! ```text
//!                spawn, adopt                     SIGCHLD, consumed
//!   (unknown) ───────────────▶ tracked ───────────────────────────▶ exited ──▶ Process::wait
//!       │ SIGCHLD, consumed
//!       ├─ an OrphanHold is open ─▶ kept until adopt, or until the holds of that time are closed
//!       └─ none is open ─────────▶ discarded
//! ```
//!
//! The loop peeks with `waitid(P_ALL, WNOWAIT)` and consumes by pid, under the lock of the table, so a pid is never free
//! for reuse between being seen and being looked up. The lock covers the table only and is never held across an await.
//!
//! It must not know what a process is for: containers, execs and loggers are all the same here.

mod error;
mod reaper;

#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

pub use error::ProcessError;
pub use reaper::{OrphanHold, Process, Reaper};

/// The id of a process in this process's PID namespace: above zero, so that no signal goes to a process group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Pid(i32);

impl Pid {
    /// Takes a pid as backends and the kernel write it.
    ///
    /// # Errors
    /// [`ProcessError::BadPid`] for zero, negative and too large numbers.
    pub fn new(pid: i64) -> Result<Self, ProcessError> {
        match i32::try_from(pid) {
            Ok(pid) if pid > 0 => Ok(Self(pid)),
            _ => Err(ProcessError::BadPid(pid)),
        }
    }

    /// The number as system calls take it.
    #[must_use]
    pub fn as_raw(self) -> i32 {
        self.0
    }

    /// The number as containerd's messages carry it.
    #[must_use]
    pub fn as_u32(self) -> u32 {
        self.0.unsigned_abs()
    }
}

impl TryFrom<i64> for Pid {
    type Error = ProcessError;

    fn try_from(pid: i64) -> Result<Self, Self::Error> {
        Self::new(pid)
    }
}

impl From<Pid> for i64 {
    fn from(pid: Pid) -> Self {
        Self::from(pid.0)
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The code that a shell or containerd shows for an exit: the status, or 128 + the signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ExitCode(u8);

impl ExitCode {
    /// The process ended by itself with this status.
    #[must_use]
    pub fn new(status: u8) -> Self {
        Self(status)
    }

    /// The signal killed the process. Signals go up to 64, so this never overflows for a real one.
    #[must_use]
    pub fn signalled(signal: u8) -> Self {
        Self(signal.saturating_add(128))
    }

    /// The number, 0 to 255.
    #[must_use]
    pub fn as_u8(self) -> u8 {
        self.0
    }

    /// Whether the code is 0.
    #[must_use]
    pub fn is_success(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for ExitCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How and when a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Status or 128 + signal.
    pub code: ExitCode,
    /// When the reaper saw it.
    pub at: SystemTime,
}
