use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::process::Pid;

/// Which command line a backend speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// runc 1.0 and later, and what imitates it.
    Runc,
    /// crun.
    Crun,
    /// rune, a fork of runc 1.0.3 with enclaves: no `features`.
    Rune,
}

impl Dialect {
    /// The program's usual name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Runc => "runc",
            Self::Crun => "crun",
            Self::Rune => "rune",
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// All that is needed to speak to a container's backend again later, so it is kept in the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendConfig {
    /// The command line it speaks.
    pub dialect: Dialect,
    /// The program: absolute, or a name looked up in PATH.
    pub program: PathBuf,
    /// `--root`: where it keeps its state. Always given, so the defaults of the dialects don't matter.
    pub root: PathBuf,
    /// `--systemd-cgroup`: the cgroups path is `slice:prefix:name`, systemd makes the cgroup.
    pub systemd_cgroup: bool,
    /// A criu elsewhere than in PATH.
    #[serde(default)]
    pub criu_path: Option<PathBuf>,
}

/// The stdio of a container's process; `None` is /dev/null.
#[derive(Debug, Default)]
pub struct ChildStdio {
    /// Standard input.
    pub stdin: Option<OwnedFd>,
    /// Standard output.
    pub stdout: Option<OwnedFd>,
    /// Standard error.
    pub stderr: Option<OwnedFd>,
}

/// How to create a container.
#[derive(Debug)]
pub struct Create<'a> {
    /// The bundle's directory.
    pub bundle: &'a Path,
    /// Where the backend shall write init's pid.
    pub pid_file: &'a Path,
    /// The socket that takes the pty's master; needed exactly when the spec asks for a terminal.
    pub console_socket: Option<&'a Path>,
    /// Inherited by init; empty with a terminal.
    pub stdio: ChildStdio,
    /// `--no-pivot`.
    pub no_pivot: bool,
    /// `--no-new-keyring`.
    pub no_new_keyring: bool,
    /// Restore from a checkpoint instead; the container runs when the call returns, and `start` must not follow.
    pub restore: Option<&'a Restore>,
}

/// Where a checkpoint is and how it was made.
#[derive(Debug, Clone)]
pub struct Restore {
    /// criu's images.
    pub image_path: PathBuf,
    /// criu's logs and temporary files; `None` is criu's own choice.
    pub work_path: Option<PathBuf>,
    /// Options that criu needs at both ends.
    pub options: CriuOptions,
}

/// Options of criu for checkpoint and restore alike.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CriuOptions {
    /// `--tcp-established`.
    pub tcp_established: bool,
    /// `--ext-unix-sk`.
    pub external_unix_sockets: bool,
    /// `--shell-job`.
    pub shell_job: bool,
    /// `--file-locks`.
    pub file_locks: bool,
}

/// How to checkpoint a container.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// Where the images go.
    pub image_path: PathBuf,
    /// criu's logs and temporary files; `None` is criu's own choice.
    pub work_path: Option<PathBuf>,
    /// Whether the container goes on.
    pub after: AfterCheckpoint,
    /// Options that criu needs at both ends.
    pub options: CriuOptions,
    /// `--empty-ns`, each.
    pub empty_namespaces: Vec<String>,
    /// `--manage-cgroups-mode`: soft, full, strict or ignore.
    pub cgroups_mode: Option<String>,
}

/// What becomes of a container that was checkpointed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterCheckpoint {
    /// It ends.
    Stop,
    /// It goes on (`--leave-running`).
    Run,
}

/// How to run another process in a container.
#[derive(Debug)]
pub struct Exec<'a> {
    /// The OCI process as JSON, in a file.
    pub process_json: &'a Path,
    /// Where the backend shall write its pid.
    pub pid_file: &'a Path,
    /// The socket that takes the pty's master; needed exactly when the process asks for a terminal.
    pub console_socket: Option<&'a Path>,
    /// Inherited by the process; empty with a terminal.
    pub stdio: ChildStdio,
}

/// Whom a signal goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KillScope {
    /// The container's first process.
    Init,
    /// Every process in the container's cgroup.
    All,
}

/// Whether a container that runs is deleted too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// Only a stopped container is deleted.
    No,
    /// It is killed first.
    Yes,
}

/// A container as its backend sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendState {
    /// Its state.
    pub status: Status,
    /// Init, unless stopped.
    pub pid: Option<Pid>,
    /// The bundle's directory.
    pub bundle: PathBuf,
}

/// The states of the OCI runtime specification, and paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Being created.
    Creating,
    /// Created, not started.
    Created,
    /// Running.
    Running,
    /// Frozen.
    Paused,
    /// Init has ended.
    Stopped,
}
