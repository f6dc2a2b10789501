//! What one process leaves for another about a sandbox and its containers.
//!
//! `sandbox.json` in the sandbox's state directory is for `status` and the sweep;
//! `enclave-cc.json` in each container's bundle is all that `delete` has to go by. Both are JSON
//! documents with a `version` and a `boot_id`, mode 0600, replaced atomically.
//!
//! A document of a newer version is refused, but its boot id can still be told: these two fields
//! keep their names and meaning in every version.

mod document;

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

pub use document::StateError;
pub(crate) use document::boot_id_of;

use crate::{boot_id::BootId, config::SgxMode, identifier::Identifier, paths::SandboxPaths};

/// Name of a [`BundleState`] in its bundle.
pub const BUNDLE_STATE_FILE: &str = "enclave-cc.json";

/// The version of both documents that this code writes and the newest it reads.
const VERSION: u32 = 1;

/// A sandbox, as its shim last saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxState {
    /// The boot it belongs to.
    pub boot_id: BootId,
    /// The containerd namespace.
    pub namespace: Identifier,
    /// The sandbox's id.
    pub sandbox: Identifier,
    /// The pod as Kubernetes names it.
    pub pod: PodIdentity,
    /// What protects its containers.
    pub sgx_mode: SgxMode,
    /// The pause container's bundle.
    pub bundle: PathBuf,
    /// Process id of the shim.
    pub shim_pid: u32,
    /// The agent; `None` in a namespace that is passed through.
    pub agent: Option<AgentStatus>,
    /// The images that the agent has pulled.
    pub images: Vec<ImageStatus>,
    /// The containers, the pause container included, the agent not.
    pub containers: Vec<ContainerStatus>,
}

/// A pod as Kubernetes names it. The fields are empty if the CRI did not say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodIdentity {
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// The agent of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Its container's id, as the OCI backend knows it.
    pub container_id: Identifier,
    /// What it does.
    pub state: AgentState,
    /// Where it listens.
    pub url: String,
    /// How often it has been started again.
    pub restarts: u32,
    /// How it ended the last time.
    pub last_exit: Option<AgentExit>,
}

/// What an agent does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AgentState {
    /// Started, but it has not answered yet.
    Starting,
    /// It answers.
    Ready,
    /// It has ended and will be started again.
    BackingOff,
    /// It was stopped together with the pod.
    Stopped,
}

/// How an agent ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentExit {
    /// Exit code, or 128 + the signal's number.
    pub code: u8,
    /// When, in seconds since 1970.
    pub at_unix_secs: u64,
    /// The last lines it wrote.
    pub output: String,
}

/// An image in the sandbox's store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageStatus {
    /// The reference that was asked for.
    pub reference: String,
    /// Digest of the platform's manifest.
    pub manifest_digest: String,
    /// Name of its directory below the stores.
    pub store_dir: String,
    /// Size of its files.
    pub unpacked_bytes: u64,
}

/// A container of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Its id.
    pub id: Identifier,
    /// Its name in the pod.
    pub name: Option<String>,
    /// What it is to us.
    pub role: Role,
    /// The image it runs, for an app container.
    pub image: Option<String>,
}

/// What a container is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The pause container of a confidential pod, which owns the agent.
    Sandbox,
    /// A container that is booted from the agent's store.
    App,
    /// A container of a pod in a namespace that is passed through.
    Passthrough,
    /// A container that no CRI made.
    Plain,
}

/// What `delete` needs to tear a container down, in the container's bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleState {
    /// The boot it belongs to.
    pub boot_id: BootId,
    /// What the container is to us.
    pub role: Role,
    /// The containerd namespace.
    pub namespace: Identifier,
    /// The container's id.
    pub container: Identifier,
    /// The id of its sandbox, unless it is [`Role::Plain`].
    pub sandbox: Option<Identifier>,
    /// The OCI backend, as `runtime::oci::BackendConfig` serializes it.
    pub backend: serde_json::Value,
    /// Whether something may be mounted at the bundle's `rootfs`.
    pub rootfs_mounted: bool,
    /// The sandbox's directories, unless it has none.
    pub dirs: Option<SandboxDirs>,
    /// The agent, in a [`Role::Sandbox`]'s bundle.
    pub agent: Option<AgentRecord>,
    /// How long tearing it down may take, in seconds.
    pub cleanup_secs: u64,
}

/// Where a sandbox's state, data and agent overlay are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxDirs {
    /// The sandbox's directory below the state directory.
    pub state: PathBuf,
    /// The sandbox's directory below the data directory.
    pub data: PathBuf,
    /// The directory with the `upper` and `work` of the agent's overlay.
    pub agent_overlay: PathBuf,
}

/// The agent's container, as `delete` needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRecord {
    /// Its id, as the OCI backend knows it.
    pub container_id: Identifier,
    /// The OCI backend, as `runtime::oci::BackendConfig` serializes it.
    pub backend: serde_json::Value,
}

impl SandboxState {
    /// Reads the state of the sandbox at `paths`; `None` if there is none.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn read(paths: &SandboxPaths) -> Result<Option<Self>, StateError> {
        document::read(&paths.state_file(), VERSION)
    }

    /// Replaces the state of the sandbox at `paths`, whose state directory exists.
    ///
    /// # Errors
    /// [`StateError`]; then the former state is still there.
    pub fn write(&self, paths: &SandboxPaths) -> Result<(), StateError> {
        document::write(&paths.state_file(), VERSION, self)
    }
}

impl BundleState {
    /// Reads the state in `bundle`; `None` if there is none, or no bundle.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn read(bundle: &Path) -> Result<Option<Self>, StateError> {
        document::read(&bundle.join(BUNDLE_STATE_FILE), VERSION)
    }

    /// Replaces the state in `bundle`.
    ///
    /// # Errors
    /// [`StateError`]; then the former state is still there.
    pub fn write(&self, bundle: &Path) -> Result<(), StateError> {
        document::write(&bundle.join(BUNDLE_STATE_FILE), VERSION, self)
    }

    /// How long tearing the container down may take.
    pub fn cleanup(&self) -> Duration {
        Duration::from_secs(self.cleanup_secs)
    }

    /// The paths of its sandbox.
    pub fn sandbox_paths(&self) -> Option<SandboxPaths> {
        let (sandbox, dirs) = (self.sandbox.clone()?, self.dirs.clone()?);
        Some(SandboxPaths::from_dirs(self.namespace.clone(), sandbox, dirs))
    }
}

impl AgentExit {
    /// An exit with `code` at `at`, whose last lines were `output`.
    pub fn new(code: u8, at: SystemTime, output: impl Into<String>) -> Self {
        let at_unix_secs = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self { code, at_unix_secs, output: output.into() }
    }
}

#[cfg(test)]
mod tests;
