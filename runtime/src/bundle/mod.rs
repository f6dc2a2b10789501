//! An OCI bundle: facts of its `config.json` and changes to it.
//!
//! Facts come from the part of the specification that a shim reads ([`Spec`]). Changes are made to the raw JSON, so that
//! fields which this program does not know survive; facts read after a change see the change. Nothing reaches the disk
//! before [`Bundle::save`] or [`Bundle::save_to`].
//!
//! It knows nothing of why a bundle is changed.

use std::path::{Path, PathBuf};

mod error;
mod spec;

pub use error::BundleError;
pub use spec::{
    Hook, Hooks, IdMapping, Linux, Memory, Namespace, Process, Resources, Root, Spec, SpecMount, User,
};

use crate::ids::BundlePath;

/// Largest `config.json` that is read.
pub const MAX_CONFIG_BYTES: u64 = 16 << 20;

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

/// `linux.cgroupsPath`, in one of its two forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupsPath {
    /// A path below the cgroup hierarchies.
    Fs(PathBuf),
    /// `slice:prefix:name`, for backends with `--systemd-cgroup`.
    Systemd {
        /// Slice unit; may be empty.
        slice: String,
        /// Prefix of the scope unit; may be empty.
        prefix: String,
        /// Name of the scope unit.
        name: String,
    },
}

/// What a container may do with a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceAccess {
    /// `r`
    Read,
    /// `rw`
    ReadWrite,
    /// `rwm`
    ReadWriteMknod,
}

/// A bundle whose config has been read.
#[derive(Debug, Clone)]
pub struct Bundle {
    path: BundlePath,
    config: serde_json::Value,
    spec: Spec,
    mode: u32,
}

impl Bundle {
    /// Reads the bundle in directory `path`.
    ///
    /// # Errors
    /// The directory or its `config.json` is missing, the file is no regular file, larger than [`MAX_CONFIG_BYTES`], not
    /// JSON, or has a value of the wrong type.
    pub fn open(path: &BundlePath) -> Result<Self, BundleError> {
        let _ = path;
        unimplemented!()
    }

    /// Writes the changes back: a new file beside the old one, renamed over it, with the old one's mode.
    ///
    /// # Errors
    /// Writing fails; the file is as it was.
    pub fn save(&self) -> Result<(), BundleError> {
        self.save_to(&self.path)
    }

    /// Writes the config into another bundle directory, which must exist.
    ///
    /// # Errors
    /// Writing fails; a file that was there is as it was.
    pub fn save_to(&self, bundle: &BundlePath) -> Result<(), BundleError> {
        let _ = (bundle, self.mode, &self.config);
        unimplemented!()
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
        self.spec.root.as_ref().map(|root| self.path.join(&root.path))
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
        unimplemented!()
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

/// Changes. All of them are in memory until [`Bundle::save`].
#[allow(unused_variables)]
impl Bundle {
    /// Sets `root.path`, absolute or relative to the bundle.
    ///
    /// # Errors
    /// The path is not UTF-8.
    pub fn set_root_path(&mut self, path: &Path) -> Result<(), BundleError> {
        unimplemented!()
    }

    /// Sets `root.readonly`.
    pub fn set_root_readonly(&mut self, readonly: bool) {
        unimplemented!()
    }

    /// Puts a hook in front of all other `createContainer` hooks.
    ///
    /// # Errors
    /// The path is not UTF-8.
    pub fn prepend_create_container_hook(&mut self, hook: &Hook) -> Result<(), BundleError> {
        unimplemented!()
    }

    /// Sets `process.args`.
    pub fn set_args(&mut self, args: &[String]) {
        unimplemented!()
    }

    /// Sets `process.cwd`.
    ///
    /// # Errors
    /// The path is not UTF-8.
    pub fn set_cwd(&mut self, cwd: &Path) -> Result<(), BundleError> {
        unimplemented!()
    }

    /// Sets a variable of the init process' environment, replacing what it was.
    ///
    /// # Errors
    /// `key` is empty or has a `=` or NUL in it, `value` has a NUL in it.
    pub fn set_env(&mut self, key: &str, value: &str) -> Result<(), BundleError> {
        unimplemented!()
    }

    /// Sets `process.terminal`.
    pub fn set_terminal(&mut self, terminal: bool) {
        unimplemented!()
    }

    /// Sets or, with `None`, removes `process.oomScoreAdj`.
    pub fn set_oom_score_adj(&mut self, value: Option<i64>) {
        unimplemented!()
    }

    /// Sets `hostname`.
    pub fn set_hostname(&mut self, hostname: &str) {
        unimplemented!()
    }

    /// Adds a mount after all others.
    ///
    /// # Errors
    /// The destination is not UTF-8 or relative.
    pub fn add_mount(&mut self, mount: &SpecMount) -> Result<(), BundleError> {
        unimplemented!()
    }

    /// Gives the container the host's device node `host`, at the same path or at `inside`, and allows its use. Numbers, type,
    /// mode and owner are those of the host's node at this moment.
    ///
    /// # Errors
    /// `host` is no device node, or a path is not UTF-8.
    pub fn add_device(
        &mut self,
        host: &Path,
        inside: Option<&Path>,
        access: DeviceAccess,
    ) -> Result<(), BundleError> {
        unimplemented!()
    }

    /// Makes the container join the namespace at `path`.
    ///
    /// # Errors
    /// The path is not UTF-8.
    pub fn set_namespace_path(&mut self, kind: NamespaceKind, path: &Path) -> Result<(), BundleError> {
        unimplemented!()
    }

    /// Gives the container a new namespace of this kind.
    pub fn set_namespace_new(&mut self, kind: NamespaceKind) {
        unimplemented!()
    }

    /// Leaves the container in the host's namespace of this kind.
    pub fn set_namespace_host(&mut self, kind: NamespaceKind) {
        unimplemented!()
    }

    /// Sets `linux.cgroupsPath`, in either form.
    pub fn set_cgroups_path(&mut self, path: &str) {
        unimplemented!()
    }

    /// Sets an annotation.
    pub fn set_annotation(&mut self, key: &str, value: &str) {
        unimplemented!()
    }

    /// Removes an annotation.
    pub fn remove_annotation(&mut self, key: &str) {
        unimplemented!()
    }

    /// Removes `linux.seccomp`.
    pub fn remove_seccomp(&mut self) {
        unimplemented!()
    }
}
