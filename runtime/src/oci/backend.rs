use std::path::PathBuf;
use std::time::Duration;

use super::{BackendConfig, BackendState, Checkpoint, Create, Exec, Force, KillScope, OciError};
use crate::process::{Pid, Process, Reaper};

/// An OCI runtime's command line. Every call is one process of it, bounded by a deadline.
///
/// Cancel safety: dropping the future of a call kills the backend's process group; the reaper takes the rest. A
/// `create` that was dropped, or failed, may leave parts of a container: `delete` with [`Force::Yes`] removes them.
#[derive(Debug, Clone)]
pub struct Backend {
    config: BackendConfig,
    reaper: Reaper,
    scratch: PathBuf,
}

#[allow(unused_variables, clippy::unimplemented, clippy::unused_async)]
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
    /// See [`OciError`].
    pub async fn create(
        &self,
        id: &str,
        create: Create<'_>,
        deadline: Duration,
    ) -> Result<Process, OciError> {
        unimplemented!()
    }

    /// Starts the created container's program.
    ///
    /// # Errors
    /// See [`OciError`].
    pub async fn start(&self, id: &str, deadline: Duration) -> Result<(), OciError> {
        unimplemented!()
    }

    /// Runs another process in the container, detached.
    ///
    /// # Errors
    /// See [`OciError`].
    pub async fn exec(&self, id: &str, exec: Exec<'_>, deadline: Duration) -> Result<Process, OciError> {
        unimplemented!()
    }

    /// Sends a signal by number.
    ///
    /// # Errors
    /// [`OciError::NotRunning`] and the others of [`OciError`].
    pub async fn kill(
        &self,
        id: &str,
        signal: i32,
        scope: KillScope,
        deadline: Duration,
    ) -> Result<(), OciError> {
        unimplemented!()
    }

    /// Removes the container, its cgroup and the backend's state of it.
    ///
    /// # Errors
    /// See [`OciError`].
    pub async fn delete(&self, id: &str, force: Force, deadline: Duration) -> Result<(), OciError> {
        unimplemented!()
    }

    /// Freezes the container.
    ///
    /// # Errors
    /// See [`OciError`].
    pub async fn pause(&self, id: &str, deadline: Duration) -> Result<(), OciError> {
        unimplemented!()
    }

    /// Thaws the container.
    ///
    /// # Errors
    /// See [`OciError`].
    pub async fn resume(&self, id: &str, deadline: Duration) -> Result<(), OciError> {
        unimplemented!()
    }

    /// Changes the container's limits to an OCI `LinuxResources` in JSON.
    ///
    /// # Errors
    /// See [`OciError`].
    pub async fn update(&self, id: &str, resources_json: &[u8], deadline: Duration) -> Result<(), OciError> {
        unimplemented!()
    }

    /// The pids, on the host, of all processes in the container.
    ///
    /// # Errors
    /// See [`OciError`].
    pub async fn ps(&self, id: &str, deadline: Duration) -> Result<Vec<Pid>, OciError> {
        unimplemented!()
    }

    /// What the backend knows of the container.
    ///
    /// # Errors
    /// [`OciError::NotFound`] and the others of [`OciError`].
    pub async fn state(&self, id: &str, deadline: Duration) -> Result<BackendState, OciError> {
        unimplemented!()
    }

    /// The backend's OCI `Features`.
    ///
    /// # Errors
    /// [`OciError::Unsupported`] for backends that have no such verb.
    pub async fn features(&self, deadline: Duration) -> Result<serde_json::Value, OciError> {
        unimplemented!()
    }

    /// Writes the container's processes to disk with criu.
    ///
    /// # Errors
    /// See [`OciError`].
    pub async fn checkpoint(
        &self,
        id: &str,
        checkpoint: &Checkpoint,
        deadline: Duration,
    ) -> Result<(), OciError> {
        unimplemented!()
    }
}
