use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{IoError, StdioSpec};
use crate::oci::ChildStdio;
use crate::process::Reaper;

/// For whom streams are opened.
#[derive(Debug, Clone)]
pub struct IoContext {
    /// containerd's namespace, told to loggers.
    pub namespace: String,
    /// The container, told to loggers.
    pub id: String,
    /// Owner (uid, gid) of the pipes, so that a process of another user may reopen /dev/stdout.
    pub owner: Option<(u32, u32)>,
    /// Where the console socket's private directory is made. Must be short: a socket's path has at most 107 bytes and
    /// the directory's and socket's names take 12 of them.
    pub console_dir: PathBuf,
    /// Starts loggers.
    pub reaper: Reaper,
}

/// The streams of one process, from [`open`](Self::open) until [`close`](Self::close).
///
/// Dropping it does what `close` does; it has to happen on the runtime.
#[derive(Debug)]
pub struct Streams {}

#[allow(unused_variables, clippy::unimplemented, clippy::unused_async, clippy::unused_self)]
impl Streams {
    /// Opens fifos and files, starts the logger and waits until it is ready, makes the pipes or the console socket.
    ///
    /// Copies between pipes and fifos start here already, so that hooks that write much don't block `create`.
    ///
    /// # Errors
    /// See [`IoError`]; nothing is left behind.
    pub async fn open(spec: &StdioSpec, ctx: &IoContext, deadline: Duration) -> Result<Self, IoError> {
        unimplemented!()
    }

    /// The process's ends, once; they have to be closed here after the backend has returned ([`crate::oci::Backend`]
    /// does so), or there is no end of file. Empty with a terminal.
    pub fn child_stdio(&mut self) -> ChildStdio {
        unimplemented!()
    }

    /// The socket for the backend's `--console-socket`; with a terminal only.
    #[must_use]
    pub fn console_socket(&self) -> Option<&Path> {
        unimplemented!()
    }

    /// To be called once the backend's create or exec has returned: takes the pty, if there is one, and starts its copies.
    ///
    /// # Errors
    /// [`IoError::Console`], [`IoError::ConsoleDeadline`].
    pub async fn start(&mut self, deadline: Duration) -> Result<(), IoError> {
        unimplemented!()
    }

    /// Ends the process's stdin as soon as every other writer of the fifo has closed it and all data is copied.
    pub fn close_stdin(&self) {
        unimplemented!()
    }

    /// Sets the terminal's size in columns and rows; without a terminal nothing happens, as with the Go shim.
    ///
    /// # Errors
    /// [`IoError::Resize`].
    pub fn resize(&self, width: u16, height: u16) -> Result<(), IoError> {
        unimplemented!()
    }

    /// Resolves when stdout and stderr have ended and all of it is written, or, with a logger, when that has exited.
    ///
    /// A reader that does not read, or a process that left the streams to a child, makes it wait without end: the
    /// caller bounds it. Cancel-safe.
    pub async fn drained(&self) {
        unimplemented!()
    }

    /// Stops the copies, closes everything and ends a logger that still runs (SIGTERM, a second later SIGKILL): the
    /// same as dropping it.
    pub fn close(self) {
        drop(self);
    }
}
