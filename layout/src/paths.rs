//! The directories and files of a node and of each of its sandboxes.
//!
//! ```text
//! <state_dir>/<namespace>/<sandbox>/sandbox.json        written before anything else of the sandbox
//!                                  /token               of the pod, 0600
//!                                  /agent/              the agent's OCI bundle
//! <data_dir>/seal.key                                   SGX mode NONE only
//! <data_dir>/<namespace>/<sandbox>/images/<alg>-<hex>/  stores
//!                                 /agent/{upper,work}   the agent's overlay
//! ```
//! The state directory is removed after the data directory, so a data directory without a state
//! file belongs to nobody.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use crate::{
    boot_id::BootId,
    config::Config,
    identifier::Identifier,
    state::{self, SandboxDirs, StateError},
};

/// Name of a sandbox's state file.
const SANDBOX_STATE_FILE: &str = "sandbox.json";

/// The directories of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePaths {
    state_dir: PathBuf,
    data_dir: PathBuf,
    agent_root: Option<PathBuf>,
}

/// The directories of one sandbox. They need not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxPaths {
    namespace: Identifier,
    sandbox: Identifier,
    dirs: SandboxDirs,
}

/// What an earlier boot left of a sandbox: nothing in it is mounted or running any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// Its directories.
    pub paths: SandboxPaths,
    /// The boot that its state names; `None` when the state is gone, as after a reboot with the
    /// state directory in memory.
    pub boot_id: Option<BootId>,
}

/// A directory of the node cannot be listed or made.
#[derive(Debug, thiserror::Error)]
pub enum PathsError {
    /// Listing failed.
    #[error("listing the directory {}", path.display())]
    List {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Making a directory failed.
    #[error("making the directory {}", path.display())]
    Create {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A sandbox's state cannot be read.
    #[error("judging the sandbox {namespace}/{sandbox}")]
    State {
        /// Its containerd namespace.
        namespace: Identifier,
        /// Its id.
        sandbox: Identifier,
        /// Why.
        #[source]
        source: StateError,
    },
}

impl NodePaths {
    /// The paths that `config` asks for.
    pub fn new(config: &Config) -> Self {
        Self {
            state_dir: config.state_dir.clone(),
            data_dir: config.data_dir.clone(),
            agent_root: config.containerd.agent_container_root_dir.clone(),
        }
    }

    /// The state directory.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// SGX mode NONE's stand-in for the seal key of a CPU.
    pub fn seal_key(&self) -> PathBuf {
        self.data_dir.join("seal.key")
    }

    /// The directories of `sandbox` in the containerd namespace `namespace`.
    pub fn sandbox(&self, namespace: &Identifier, sandbox: &Identifier) -> SandboxPaths {
        let below = |dir: &Path| dir.join(namespace.as_str()).join(sandbox.as_str());
        let data = below(&self.data_dir);
        let agent_overlay = match &self.agent_root {
            Some(root) => below(root),
            None => data.join("agent"),
        };
        let dirs = SandboxDirs { state: below(&self.state_dir), data, agent_overlay };
        SandboxPaths { namespace: namespace.clone(), sandbox: sandbox.clone(), dirs }
    }

    /// All sandboxes that have a directory of state, data or agent overlay, sorted by namespace
    /// and id. Names that are no ids are not ours and are left out.
    ///
    /// # Errors
    /// [`PathsError::List`]; a missing directory is an empty one.
    pub fn sandboxes(&self) -> Result<Vec<SandboxPaths>, PathsError> {
        let mut ids = Vec::new();
        for dir in
            [Some(&self.data_dir), self.agent_root.as_ref(), Some(&self.state_dir)].into_iter().flatten()
        {
            for namespace in subdirectories(dir)? {
                for sandbox in subdirectories(&dir.join(namespace.as_str()))? {
                    ids.push((namespace.clone(), sandbox));
                }
            }
        }
        ids.sort();
        ids.dedup();
        Ok(ids.iter().map(|(namespace, sandbox)| self.sandbox(namespace, sandbox)).collect())
    }

    /// What other boots than `current` left, for the sweep. A sandbox whose state cannot be judged
    /// is reported as an error and must be left alone.
    ///
    /// # Errors
    /// [`PathsError::List`] if the directories cannot be listed at all.
    pub fn orphans(
        &self,
        current: &BootId,
    ) -> Result<impl Iterator<Item = Result<Orphan, PathsError>> + use<>, PathsError> {
        let current = current.clone();
        // The data directories are seen here, the state files afterwards: since a sandbox's state
        // file is the first to come and the last to go, one that is missing then was not just about
        // to be written.
        let sandboxes: Vec<_> =
            self.sandboxes()?.into_iter().map(|paths| (paths.has_data(), paths)).collect();
        Ok(sandboxes.into_iter().filter_map(move |(has_data, paths)| {
            match state::boot_id_of(&paths.state_file()) {
                Ok(Some(boot_id)) if boot_id == current => None,
                Ok(Some(boot_id)) => Some(Ok(Orphan { paths, boot_id: Some(boot_id) })),
                Ok(None) if has_data => Some(Ok(Orphan { paths, boot_id: None })),
                // A state directory into which no state file has been written yet.
                Ok(None) => None,
                Err(source) => {
                    let SandboxPaths { namespace, sandbox, .. } = paths;
                    Some(Err(PathsError::State { namespace, sandbox, source }))
                }
            }
        }))
    }
}

impl SandboxPaths {
    /// The containerd namespace.
    pub fn namespace(&self) -> &Identifier {
        &self.namespace
    }

    /// The sandbox's id.
    pub fn sandbox(&self) -> &Identifier {
        &self.sandbox
    }

    /// The three directories, as the bundle's state keeps them.
    pub fn dirs(&self) -> &SandboxDirs {
        &self.dirs
    }

    /// The paths that a bundle's state holds.
    pub fn from_dirs(namespace: Identifier, sandbox: Identifier, dirs: SandboxDirs) -> Self {
        Self { namespace, sandbox, dirs }
    }

    /// The directory of its state.
    pub fn state_dir(&self) -> &Path {
        &self.dirs.state
    }

    /// The directory of its data.
    pub fn data_dir(&self) -> &Path {
        &self.dirs.data
    }

    /// The file of its [`SandboxState`](crate::SandboxState).
    pub fn state_file(&self) -> PathBuf {
        self.dirs.state.join(SANDBOX_STATE_FILE)
    }

    /// The secret of the pod that each call of the agent carries.
    pub fn token(&self) -> PathBuf {
        self.dirs.state.join("token")
    }

    /// The agent's OCI bundle.
    pub fn agent_bundle(&self) -> PathBuf {
        self.dirs.state.join("agent")
    }

    /// The agent's root file system: where its overlay is mounted.
    pub fn agent_rootfs(&self) -> PathBuf {
        self.agent_bundle().join("rootfs")
    }

    /// Where the backend writes the agent's pid.
    pub fn agent_pid_file(&self) -> PathBuf {
        self.agent_bundle().join("agent.pid")
    }

    /// A socket of the shim.
    pub fn shim_socket(&self) -> PathBuf {
        self.dirs.state.join("shim.sock")
    }

    /// The directory of the stores, `/images` in the agent.
    pub fn images(&self) -> PathBuf {
        self.dirs.data.join("images")
    }

    /// The directory that holds the agent's overlay.
    pub fn agent_overlay(&self) -> &Path {
        &self.dirs.agent_overlay
    }

    /// The writable layer of the agent's overlay.
    pub fn agent_upper(&self) -> PathBuf {
        self.dirs.agent_overlay.join("upper")
    }

    /// The work directory of the agent's overlay.
    pub fn agent_work(&self) -> PathBuf {
        self.dirs.agent_overlay.join("work")
    }

    /// Makes the state directory, mode 0700. Write the state file next.
    ///
    /// # Errors
    /// [`PathsError::Create`].
    pub fn create_state_dir(&self) -> Result<(), PathsError> {
        create_private_dir(&self.dirs.state)
    }

    /// Makes the directories of the stores and of the agent's overlay, mode 0700. The state file
    /// must have been written before.
    ///
    /// # Errors
    /// [`PathsError::Create`].
    pub fn create_data_dirs(&self) -> Result<(), PathsError> {
        [self.images(), self.agent_upper(), self.agent_work()]
            .iter()
            .try_for_each(|dir| create_private_dir(dir))
    }

    fn has_data(&self) -> bool {
        self.dirs.data.exists() || self.dirs.agent_overlay.exists()
    }
}

/// Makes `dir` and what is missing above it, mode 0700.
fn create_private_dir(dir: &Path) -> Result<(), PathsError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| PathsError::Create { path: dir.into(), source })
}

/// The directories in `dir` whose names are ids; none if `dir` is missing.
fn subdirectories(dir: &Path) -> Result<Vec<Identifier>, PathsError> {
    let failed = |source| PathsError::List { path: dir.into(), source };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        // The type is the entry's own: a symbolic link to a directory is not followed.
        if entry.file_type().is_ok_and(|kind| kind.is_dir())
            && let Some(name) = entry.file_name().to_str().and_then(|name| Identifier::new(name).ok())
        {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests;
