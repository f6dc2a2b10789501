//! Cgroups of containers: where they are, what they use, when they ran out of memory. Version 1, version 2, and hybrid set-ups,
//! which count as version 1 as they do for the OCI backends.
//!
//! It does not create cgroups; the OCI backend does.

use std::path::Path;

use crate::process::Pid;

mod error;
mod files;
mod oom;
pub mod v1;
pub mod v2;

pub use error::CgroupError;
pub use oom::{OomEvent, OomEvents};

/// Which interface the host's controllers have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hierarchy {
    /// One hierarchy per controller; also with an additional, empty cgroup2 mount (hybrid).
    V1,
    /// One hierarchy.
    V2,
}

/// A cgroup's statistics.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Stats {
    V1(Box<v1::Metrics>),
    V2(Box<v2::Metrics>),
}

/// A cgroup: one directory on version 2, one per hierarchy on version 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup(());

#[allow(unused_variables)]
impl Cgroup {
    /// The cgroup that process `pid` is in.
    ///
    /// # Errors
    /// The process is gone, `/proc` can't be read, or no hierarchy is mounted.
    pub fn of(pid: Pid) -> Result<Self, CgroupError> {
        unimplemented!()
    }

    /// The cgroup at `path` below the hierarchies' roots, in those hierarchies that have it.
    ///
    /// # Errors
    /// No hierarchy has it ([`CgroupError::NotFound`]), or the path has `..` in it.
    pub fn at(path: &Path) -> Result<Self, CgroupError> {
        unimplemented!()
    }

    /// Which interface it has.
    #[must_use]
    pub fn hierarchy(&self) -> Hierarchy {
        unimplemented!()
    }

    /// What the cgroup uses now. A controller or file that is missing is an absent or zero value, not an error.
    ///
    /// # Errors
    /// A file has another format than the kernel documents, or can't be read.
    pub fn stats(&self) -> Result<Stats, CgroupError> {
        unimplemented!()
    }

    /// All processes in the cgroup and below it, in ascending order.
    ///
    /// # Errors
    /// A list can't be read. A cgroup that is gone has no processes.
    pub fn procs(&self) -> Result<Vec<Pid>, CgroupError> {
        unimplemented!()
    }

    /// Moves process `pid` into the cgroup, in each hierarchy that has it.
    ///
    /// # Errors
    /// The process is gone, or the kernel refuses.
    pub fn add_process(&self, pid: Pid) -> Result<(), CgroupError> {
        unimplemented!()
    }

    /// Removes the cgroup and those below it. Idempotent. Never touches a hierarchy's root. Blocks for at most 200 ms when
    /// processes are on their way out.
    ///
    /// # Errors
    /// A directory stays, because processes are in it.
    pub fn remove(&self) -> Result<(), CgroupError> {
        unimplemented!()
    }

    /// Starts to watch for out-of-memory kills. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// There is no memory controller, or the kernel refuses.
    pub fn oom_events(&self) -> Result<OomEvents, CgroupError> {
        unimplemented!()
    }
}
