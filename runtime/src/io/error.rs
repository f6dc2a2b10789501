use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::process::ProcessError;

/// What can go wrong with a process's stdio.
#[derive(Debug, thiserror::Error)]
pub enum IoError {
    /// The URI of a stream names no kind of stream that is known.
    #[error("stdio {uri:?} is not understood: {reason}")]
    BadUri {
        /// As it came.
        uri: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A fifo, file or directory could not be opened.
    #[error("opening {}", path.display())]
    Open {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A pipe or its registration with the runtime failed.
    #[error("{step}")]
    Pipe {
        /// What was tried.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The console socket's path does not fit into a socket address (107 bytes).
    #[error("the console socket {} has a path of more than 107 bytes", path.display())]
    ConsolePathTooLong {
        /// The path.
        path: PathBuf,
    },
    /// The console socket could not be made, or brought no pty.
    #[error("console socket {}: {step}", path.display())]
    Console {
        /// The socket.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The backend did not send the pty's master in time.
    #[error("no terminal came over the console socket {} within {}s", path.display(), after.as_secs_f32())]
    ConsoleDeadline {
        /// The socket.
        path: PathBuf,
        /// The deadline that passed.
        after: Duration,
    },
    /// The logger could not be started.
    #[error("logger")]
    LoggerSpawn(#[source] ProcessError),
    /// The logger ended before it was ready.
    #[error("logger {} exited with {code} before it was ready", program.display())]
    LoggerExited {
        /// The program.
        program: PathBuf,
        /// Its exit code.
        code: u8,
    },
    /// The logger did not say that it is ready.
    #[error("logger {} was not ready within {}s", program.display(), after.as_secs_f32())]
    LoggerDeadline {
        /// The program.
        program: PathBuf,
        /// The deadline that passed.
        after: Duration,
    },
    /// The terminal's size could not be set.
    #[error("resizing the terminal to {width}x{height}")]
    Resize {
        /// Columns.
        width: u16,
        /// Rows.
        height: u16,
        /// Why.
        #[source]
        source: io::Error,
    },
}
