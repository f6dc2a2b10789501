//! Facts of a bundle's config.

use std::path::{Path, PathBuf};

use super::BundlePath;
use super::{Bundle, CgroupsPath, Spec};

/// Whose PID namespace a container lives in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PidNamespace {
    /// Its own, a new one: its end kills every process in it.
    Own,
    /// The host's.
    Host,
    /// Another one's, by path.
    Shared(PathBuf),
}

/// A namespace kind of `linux.namespaces`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum NamespaceKind {
    Pid,
    Network,
    Mount,
    Ipc,
    Uts,
    User,
    Cgroup,
    Time,
}

impl NamespaceKind {
    /// The specification's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pid => "pid",
            Self::Network => "network",
            Self::Mount => "mount",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::User => "user",
            Self::Cgroup => "cgroup",
            Self::Time => "time",
        }
    }
}

/// Facts.
impl Bundle {
    /// The bundle's directory.
    #[must_use]
    pub fn path(&self) -> &BundlePath {
        &self.path
    }

    /// The config as far as it is read.
    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The config as it is, with everything in it.
    #[must_use]
    pub fn raw(&self) -> &serde_json::Value {
        &self.config
    }

    /// An annotation's value.
    #[must_use]
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.spec.annotations.get(key).map(String::as_str)
    }

    /// The root file system's directory: `root.path`, resolved against the bundle.
    #[must_use]
    pub fn rootfs(&self) -> Option<PathBuf> {
        let root = self.spec.root.as_ref().filter(|root| !root.path.as_os_str().is_empty())?;
        Some(self.path.join(&root.path))
    }

    /// Whether the backend is to make the root read-only.
    #[must_use]
    pub fn root_is_readonly(&self) -> bool {
        self.spec.root.as_ref().is_some_and(|root| root.readonly)
    }

    /// Whether the init process gets a pseudo terminal.
    #[must_use]
    pub fn terminal(&self) -> bool {
        self.spec.process.as_ref().is_some_and(|process| process.terminal)
    }

    /// The init process' program and arguments.
    #[must_use]
    pub fn args(&self) -> &[String] {
        self.spec.process.as_ref().map_or(&[], |process| &process.args)
    }

    /// The init process' environment, `KEY=value` each.
    #[must_use]
    pub fn env(&self) -> &[String] {
        self.spec.process.as_ref().map_or(&[], |process| &process.env)
    }

    /// The init process' working directory.
    #[must_use]
    pub fn cwd(&self) -> Option<&Path> {
        self.spec.process.as_ref().map(|process| process.cwd.as_path())
    }

    /// Memory limit in bytes, if there is one.
    #[must_use]
    pub fn memory_limit(&self) -> Option<u64> {
        self.spec
            .linux
            .resources
            .memory
            .limit
            .and_then(|limit| u64::try_from(limit).ok())
            .filter(|limit| *limit > 0)
    }

    /// The cgroup that the config asks for.
    #[must_use]
    pub fn cgroups_path(&self) -> Option<CgroupsPath> {
        self.spec.linux.cgroups_path.as_deref().and_then(CgroupsPath::parse)
    }

    /// The path of a joined namespace; `Some(None)` is a new one, `None` the host's.
    #[must_use]
    pub fn namespace(&self, kind: NamespaceKind) -> Option<Option<&Path>> {
        let entry = self.spec.linux.namespaces.iter().find(|ns| ns.kind == kind.as_str())?;
        Some(entry.path.as_deref().filter(|path| !path.as_os_str().is_empty()))
    }

    /// Whose PID namespace the container lives in.
    #[must_use]
    pub fn pid_namespace(&self) -> PidNamespace {
        match self.namespace(NamespaceKind::Pid) {
            None => PidNamespace::Host,
            Some(None) => PidNamespace::Own,
            Some(Some(path)) => PidNamespace::Shared(path.to_owned()),
        }
    }

    /// Whether the container has a user namespace other than the host's.
    #[must_use]
    pub fn has_user_namespace(&self) -> bool {
        self.namespace(NamespaceKind::User).is_some() || !self.spec.linux.uid_mappings.is_empty()
    }
}
