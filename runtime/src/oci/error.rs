use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::Dialect;
use crate::process::{ExitCode, ProcessError};

/// Why a call of the OCI backend failed. Each variant holds the operation and the container.
///
/// What the backend itself says is shown behind the words of the Go shim, which people and tools look for; containerd
/// adds the container there.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// The backend could not be started.
    #[error("{operation} of container {id}")]
    Spawn {
        /// The backend's verb.
        operation: &'static str,
        /// The container.
        id: String,
        /// Why.
        #[source]
        source: ProcessError,
    },
    /// Files or pipes of the call could not be made.
    #[error("{operation} of container {id}: preparing {}", path.display())]
    Prepare {
        /// The backend's verb.
        operation: &'static str,
        /// The container.
        id: String,
        /// What was being made.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The backend took too long and was killed. What it had done so far is to be undone with a forced delete.
    #[error("{operation} of container {id}: the OCI backend did not end within {}s and was killed", after.as_secs_f32())]
    Deadline {
        /// The backend's verb.
        operation: &'static str,
        /// The container.
        id: String,
        /// The deadline that passed.
        after: Duration,
    },
    /// The backend knows no such container.
    #[error("OCI runtime {operation} failed: no such container: {message}")]
    NotFound {
        /// The backend's verb.
        operation: &'static str,
        /// The container.
        id: String,
        /// The backend's words.
        message: String,
    },
    /// The backend has a container of that id already.
    #[error("OCI runtime {operation} failed: it exists already: {message}")]
    AlreadyExists {
        /// The backend's verb.
        operation: &'static str,
        /// The container.
        id: String,
        /// The backend's words.
        message: String,
    },
    /// The container's process has ended.
    #[error("OCI runtime {operation} failed: not running: {message}")]
    NotRunning {
        /// The backend's verb.
        operation: &'static str,
        /// The container.
        id: String,
        /// The backend's words.
        message: String,
    },
    /// The backend failed for another reason, told in its own words.
    #[error("OCI runtime {operation} failed: {message}")]
    Failed {
        /// The backend's verb.
        operation: &'static str,
        /// The container.
        id: String,
        /// The backend's exit code; above 128 a signal ended it.
        code: ExitCode,
        /// The backend's words, or what its exit tells when it had none.
        message: String,
    },
    /// The backend succeeded but what it wrote is not understood.
    #[error("{operation} of container {id}: {what} is not understood")]
    Output {
        /// The backend's verb.
        operation: &'static str,
        /// The container.
        id: String,
        /// Which output: the pid file, the state…
        what: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The backend of this dialect can't do that.
    #[error("{operation} is unknown to the OCI backend {dialect}")]
    Unsupported {
        /// The operation.
        operation: &'static str,
        /// The dialect.
        dialect: Dialect,
    },
}
