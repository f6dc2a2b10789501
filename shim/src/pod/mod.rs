//! The confidential policy: what a container is to us, and what is done about it.
//!
//! `plan` decides, `create` executes. The undo of every step is `teardown`, which knows
//! nothing but the state that was written into the bundle before the first step.

mod agent_bundle;
mod agent_enclave;
mod agent_output;
mod app;
mod create;
mod libos;
mod plan;
mod sandbox;
pub mod sweep;
pub mod teardown;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use agent_client::AgentError;
use layout::{PathsError, Role, StateError};
use runtime::{
    bundle::BundleError,
    cgroup::CgroupError,
    container::ContainerError,
    mount::MountError,
    oci::OciError,
    process::{Exit, Pid},
};
use thiserror::Error;

pub use self::{
    create::{backend_program, create},
    sandbox::Pod,
};
use crate::{
    service::Error,
    shim::Shim,
    tasks::{TableError, Task},
};

/// How long the deletion of a sandbox waits for creations in its pod; containerd gives up after 5 s.
const CANCEL: Duration = Duration::from_secs(2);

/// Why the policy could not be carried out.
#[derive(Debug, Error)]
pub enum PodError {
    /// The container cannot be run as it is asked for.
    #[error(transparent)]
    Plan(#[from] plan::PlanError),
    /// The creation was cancelled: by a deletion, or because its caller is gone.
    #[error("the creation of container {id} was cancelled")]
    Cancelled {
        /// The container.
        id: String,
    },
    /// The shim has no confidential pod.
    #[error("this shim has no sandbox with an agent")]
    NoSandbox,
    /// A call of the agent failed.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// A pull took too long.
    #[error("the pull took longer than {within:?} (pull_secs)")]
    PullDeadline {
        /// The deadline.
        within: Duration,
        /// What was waited for.
        #[source]
        source: AgentError,
    },
    /// The agent does not run.
    #[error("the agent of sandbox {sandbox} does not run: {reason}")]
    AgentDown {
        /// The sandbox.
        sandbox: String,
        /// Why.
        reason: String,
    },
    /// The agent was not ready in time.
    #[error("the agent of sandbox {sandbox} was not ready within {within:?} (agent_ready_secs)")]
    AgentDeadline {
        /// The sandbox.
        sandbox: String,
        /// The deadline.
        within: Duration,
    },
    /// A container operation failed.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// An OCI backend call failed.
    #[error(transparent)]
    Backend(#[from] OciError),
    /// A bundle cannot be used.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The node's agent bundle cannot be used.
    #[error("use the agent bundle {path} (agent_container_instance)", path = path.display())]
    AgentBundle {
        /// The bundle.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<PodError>,
    },
    /// A mount failed.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// A cgroup cannot be removed.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A state file cannot be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// A directory cannot be made or listed.
    #[error(transparent)]
    Paths(#[from] PathsError),
    /// The image's config cannot be used.
    #[error("the image's config: {reason}")]
    Image {
        /// What is wrong with it.
        reason: String,
    },
    /// The app could not be booted.
    #[error("{report}")]
    Boot {
        /// What the boot side says.
        report: String,
        /// What the backend says about it.
        #[source]
        source: ContainerError,
    },
    /// Something that would break what confidential containers promise, or how they are put together.
    #[error("{0} is not supported for containers of a confidential pod")]
    NotConfidential(&'static str),
    /// A file operation failed.
    #[error("{action} {path}", path = path.display())]
    File {
        /// What was done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Something that has no type of its own.
    #[error("{0}")]
    Setup(String),
}

impl PodError {
    fn file(action: &'static str, path: &Path, source: io::Error) -> Self {
        PodError::File { action, path: path.to_owned(), source }
    }
}

/// Starts a container, and with a sandbox its agent.
///
/// # Errors
/// What the container answers.
pub async fn start(shim: &Shim, id: &str) -> Result<Pid, Error> {
    let task = shim.tasks.get(id)?;
    let pid = task.container.start().await?;
    if task.state.role == Role::Sandbox
        && let Some(pod) = shim.pod()
    {
        pod.start_agent();
        // The agent's life is the pod's: it ends with the pause container.
        tokio::spawn(async move {
            if task.container.wait(None).await.is_ok() {
                pod.stop_agent().await;
            }
        });
    }
    Ok(pid)
}

/// Deletes a container that has stopped or was never started, and all that belongs to it.
///
/// # Errors
/// It runs, or something could not be taken down; then it can be tried again.
pub async fn delete(shim: &Shim, task: &Arc<Task>) -> Result<(Option<Pid>, Exit), Error> {
    let id = &task.state.container;
    let mut deleted = task.deleted.lock().await;
    if *deleted {
        // The id may be another container's by now.
        return Err(TableError::NotFound(id.to_string()).into());
    }
    if task.state.role == Role::Sandbox {
        // Nothing of the pod may come to be in what is about to be removed.
        shim.tasks.cancel_creations(CANCEL).await;
    }
    let (pid, exit) = task.container.delete().await?;
    let pod = shim.pod();
    if let Some(pod) = &pod {
        if task.state.role == Role::Sandbox {
            pod.stop_agent().await;
        } else {
            pod.forget_container(id);
        }
    }
    teardown::leftovers(&task.state, task.container.bundle(), &shim.reaper).await?;
    *deleted = true;
    shim.tasks.remove(id.as_str());
    if task.state.sandbox.as_ref() == Some(id) {
        shim.set_pod(None);
    }
    shim.events.deleted(id.as_str(), pid, exit);
    Ok((pid, exit))
}
