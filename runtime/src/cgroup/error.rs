//! What can go wrong with a cgroup.

use std::{io, path::PathBuf};

use crate::{mount::MountError, process::Pid};

/// A cgroup that can't be found, read or changed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A file can't be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file can't be written.
    #[error("write {value:?} to {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What was to be written.
        value: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A line is not of the form that the kernel documents.
    #[error("{path} has the unexpected line {line:?}")]
    Format {
        /// The file.
        path: PathBuf,
        /// The line.
        line: String,
    },
    /// It is unknown where hierarchies are mounted.
    #[error("find the cgroup hierarchies")]
    Mounts(#[source] MountError),
    /// No cgroup hierarchy is mounted that has this cgroup.
    #[error("no cgroup {path} in any mounted hierarchy")]
    NotFound {
        /// The cgroup's path or the file that names it.
        path: PathBuf,
    },
    /// The path would leave the hierarchy.
    #[error("cgroup path {path} has '..' in it")]
    Outside {
        /// The path.
        path: PathBuf,
    },
    /// The process is gone.
    #[error("process {pid} does not exist")]
    NoProcess {
        /// Its number.
        pid: Pid,
    },
    /// Out-of-memory events can't be watched.
    #[error("watch out-of-memory events of {path}: {step}")]
    Watch {
        /// The cgroup.
        path: PathBuf,
        /// Which step.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A directory can't be removed.
    #[error("remove cgroup {path}")]
    Remove {
        /// The directory.
        path: PathBuf,
        /// Why; `EBUSY` when processes are in it.
        #[source]
        source: io::Error,
    },
}
