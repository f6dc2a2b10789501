//! What the programs of a node share about the node: the config's schema, the paths below the
//! state and data directories, and the state files that one process leaves for another.
//!
//! It reads its own files and writes state files atomically; it mounts nothing, starts nothing
//! and knows neither containerd nor the backends.

#![forbid(unsafe_code)]

mod boot_id;
pub mod config;
mod identifier;
mod paths;
pub mod state;

pub use boot_id::{BootId, BootIdError};
pub use config::{
    AgentNetwork, AgentUrl, BackendChoice, Config, ConfigError, DEFAULT_CONFIG_FILE, ENV_CONFIG_FILE,
    LogLevel, SgxMode,
};
pub use identifier::{Identifier, IdentifierError};
pub use paths::{NodePaths, Orphan, PathsError, SandboxPaths};
pub use state::{
    AgentExit, AgentRecord, AgentState, AgentStatus, BUNDLE_STATE_FILE, BundleState, ContainerStatus,
    ImageStatus, PodIdentity, Role, SandboxDirs, SandboxState, StateError,
};
