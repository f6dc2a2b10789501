//! The part of the OCI runtime specification's `config.json` that a shim reads.
//!
//! Written by hand instead of taken from a crate of the whole specification, because a shim must accept every config that
//! its backend accepts: a capability, seccomp action or namespace that is newer than the crate would make the whole
//! config unreadable. What is not named here is kept in the file untouched.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::{Deserialize, Deserializer};

/// Go writes `null` for a nil slice, map or pointer.
fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// Facts of a `config.json`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Spec {
    /// Version of the specification.
    #[serde(default, deserialize_with = "null_is_default")]
    pub oci_version: String,
    /// Root file system.
    pub root: Option<Root>,
    /// Host name in a new uts namespace.
    pub hostname: Option<String>,
    /// Mounts in the container, in order.
    #[serde(default, deserialize_with = "null_is_default")]
    pub mounts: Vec<SpecMount>,
    /// The container's init process.
    pub process: Option<Process>,
    /// Programs that the backend runs along the way.
    #[serde(default, deserialize_with = "null_is_default")]
    pub hooks: Hooks,
    /// Free key-value pairs.
    #[serde(default, deserialize_with = "null_is_default")]
    pub annotations: BTreeMap<String, String>,
    /// Linux's part.
    #[serde(default, deserialize_with = "null_is_default")]
    pub linux: Linux,
}

/// `root`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[non_exhaustive]
pub struct Root {
    /// Absolute, or relative to the bundle.
    #[serde(default, deserialize_with = "null_is_default")]
    pub path: PathBuf,
    /// Whether the backend makes it read-only.
    #[serde(default, deserialize_with = "null_is_default")]
    pub readonly: bool,
}

/// An entry of `mounts`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct SpecMount {
    /// Place in the container.
    pub destination: PathBuf,
    /// File system type; `bind` or empty for a bind.
    #[serde(rename = "type", default, deserialize_with = "null_is_default")]
    pub kind: String,
    /// Source, a host path for binds.
    #[serde(default, deserialize_with = "null_is_default")]
    pub source: String,
    /// Options.
    #[serde(default, deserialize_with = "null_is_default")]
    pub options: Vec<String>,
}

/// `process`.
#[derive(Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Process {
    /// Whether it gets a pseudo terminal.
    #[serde(default, deserialize_with = "null_is_default")]
    pub terminal: bool,
    /// Program and its arguments.
    #[serde(default, deserialize_with = "null_is_default")]
    pub args: Vec<String>,
    /// Environment, `KEY=value` each.
    #[serde(default, deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    /// Working directory.
    #[serde(default, deserialize_with = "null_is_default")]
    pub cwd: PathBuf,
    /// User and groups.
    #[serde(default, deserialize_with = "null_is_default")]
    pub user: User,
    /// `oom_score_adj` of the process.
    pub oom_score_adj: Option<i64>,
}

/// Without arguments and environment, which may hold secrets and must not get into a log.
impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("terminal", &self.terminal)
            .field("program", &self.args.first())
            .field("cwd", &self.cwd)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// `process.user`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct User {
    /// User id in the container.
    #[serde(default, deserialize_with = "null_is_default")]
    pub uid: u32,
    /// Group id in the container.
    #[serde(default, deserialize_with = "null_is_default")]
    pub gid: u32,
    /// Further groups.
    #[serde(default, deserialize_with = "null_is_default")]
    pub additional_gids: Vec<u32>,
}

/// `hooks`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct Hooks {
    /// Before the root is pivoted (deprecated).
    #[serde(deserialize_with = "null_is_default")]
    pub prestart: Vec<Hook>,
    /// In the runtime's namespaces.
    #[serde(deserialize_with = "null_is_default")]
    pub create_runtime: Vec<Hook>,
    /// In the container's namespaces, before the root is pivoted.
    #[serde(deserialize_with = "null_is_default")]
    pub create_container: Vec<Hook>,
    /// In the container, before the program.
    #[serde(deserialize_with = "null_is_default")]
    pub start_container: Vec<Hook>,
    /// After the program was started.
    #[serde(deserialize_with = "null_is_default")]
    pub poststart: Vec<Hook>,
    /// After the container was deleted.
    #[serde(deserialize_with = "null_is_default")]
    pub poststop: Vec<Hook>,
}

/// A program that the backend runs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct Hook {
    /// Absolute path on the host.
    pub path: PathBuf,
    /// `argv`, the program's name included.
    #[serde(default, deserialize_with = "null_is_default")]
    pub args: Vec<String>,
    /// Its whole environment.
    #[serde(default, deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    /// Whole seconds after which the backend gives up.
    pub timeout: Option<i64>,
}

/// `linux`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct Linux {
    /// Namespaces that are new or joined; what is not listed is the host's.
    #[serde(deserialize_with = "null_is_default")]
    pub namespaces: Vec<Namespace>,
    /// Mapping of user ids.
    #[serde(deserialize_with = "null_is_default")]
    pub uid_mappings: Vec<IdMapping>,
    /// Mapping of group ids.
    #[serde(deserialize_with = "null_is_default")]
    pub gid_mappings: Vec<IdMapping>,
    /// As in the file; [`Bundle::cgroups_path`](super::Bundle::cgroups_path) understands it.
    pub cgroups_path: Option<String>,
    /// Limits.
    #[serde(deserialize_with = "null_is_default")]
    pub resources: Resources,
    /// Device nodes.
    #[serde(deserialize_with = "null_is_default")]
    pub devices: Vec<Device>,
    /// Propagation of the root mount.
    pub rootfs_propagation: Option<String>,
    /// SELinux context of mounts.
    pub mount_label: Option<String>,
}

/// An entry of `linux.namespaces`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Namespace {
    /// `pid`, `network`, `mount`, `ipc`, `uts`, `user`, `cgroup`, `time`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The namespace to join; `None` is a new one.
    pub path: Option<PathBuf>,
}

/// An entry of `linux.devices`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Device {
    /// Place in the container.
    pub path: PathBuf,
    /// `c`, `b`, `u` or `p`.
    #[serde(rename = "type", default, deserialize_with = "null_is_default")]
    pub kind: String,
    /// Device number.
    #[serde(default, deserialize_with = "null_is_default")]
    pub major: i64,
    /// Device number.
    #[serde(default, deserialize_with = "null_is_default")]
    pub minor: i64,
}

/// An entry of `linux.uidMappings` or `linux.gidMappings`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct IdMapping {
    /// First id inside.
    #[serde(rename = "containerID")]
    pub container_id: u32,
    /// First id outside.
    #[serde(rename = "hostID")]
    pub host_id: u32,
    /// How many.
    pub size: u32,
}

/// `linux.resources`, as far as it is read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Resources {
    /// Memory limits.
    #[serde(deserialize_with = "null_is_default")]
    pub memory: Memory,
    /// Rules of device access; the last that applies wins.
    #[serde(deserialize_with = "null_is_default")]
    pub devices: Vec<DeviceRule>,
}

/// An entry of `linux.resources.devices`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct DeviceRule {
    /// Or deny.
    pub allow: bool,
    /// `a` or `None` for all, `b`, `c`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// `None` or -1 for all.
    pub major: Option<i64>,
    /// `None` or -1 for all.
    pub minor: Option<i64>,
    /// Of `r`, `w`, `m`; `None` for all.
    pub access: Option<String>,
}

/// `linux.resources.memory`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Memory {
    /// Bytes; 0 and below mean none.
    pub limit: Option<i64>,
    /// Bytes of memory and swap together.
    pub swap: Option<i64>,
}
