//! Cgroups of containers: where they are, what they use, when they ran out of memory. Version 1, version 2, and hybrid set-ups,
//! which count as version 1 as they do for the OCI backends.
//!
//! It does not create cgroups; the OCI backend does.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::io::Errno;

use crate::{mount::mount_points, process::Pid};

mod error;
mod files;
mod locate;
mod oom;
mod tree;
pub mod v1;
pub mod v2;

#[cfg(test)]
mod live_tests;
#[cfg(test)]
mod tests;

pub use error::CgroupError;
pub use oom::{OomEvent, OomEvents};

/// How long [`Cgroup::remove`] waits for processes that are on their way out.
const REMOVE_WITHIN: Duration = Duration::from_millis(200);

/// Which interface the host's controllers have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hierarchy {
    /// One hierarchy per controller; also with an additional cgroup2 mount (hybrid).
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
///
/// It names a place and holds nothing open: the cgroup may go at any time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    hierarchy: Hierarchy,
    directories: Vec<locate::Directory>,
}

impl Cgroup {
    /// The cgroup that process `pid` is in. A process that has exited and was not yet waited for may have left its
    /// cgroup already, so ask while it lives.
    ///
    /// # Errors
    /// The process is gone, `/proc` can't be read, or no hierarchy is mounted that has its cgroup.
    pub fn of(pid: Pid) -> Result<Self, CgroupError> {
        let path = PathBuf::from(format!("/proc/{pid}/cgroup"));
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if is_no_process(&e) => return Err(CgroupError::NoProcess { pid }),
            Err(source) => return Err(CgroupError::Read { path, source }),
        };
        let hierarchies = mounted()?;
        Self::found(&hierarchies, locate::of(&hierarchies, &text), &path)
    }

    /// The cgroup at `path` below the hierarchies' roots, in those hierarchies that have it.
    ///
    /// # Errors
    /// No hierarchy has it ([`CgroupError::NotFound`]), or the path has `..` in it.
    pub fn at(path: &Path) -> Result<Self, CgroupError> {
        if !locate::is_plain(path) {
            return Err(CgroupError::Outside { path: path.to_owned() });
        }
        let hierarchies = mounted()?;
        Self::found(&hierarchies, locate::at(&hierarchies, path), path)
    }

    fn found(
        hierarchies: &[locate::Hierarchy],
        directories: Vec<locate::Directory>,
        path: &Path,
    ) -> Result<Self, CgroupError> {
        if directories.is_empty() {
            return Err(CgroupError::NotFound { path: path.to_owned() });
        }
        let v1 = hierarchies.iter().any(locate::Hierarchy::has_controllers);
        Ok(Self { hierarchy: if v1 { Hierarchy::V1 } else { Hierarchy::V2 }, directories })
    }

    /// Which interface it has.
    #[must_use]
    pub fn hierarchy(&self) -> Hierarchy {
        self.hierarchy
    }

    /// What the cgroup uses now. A controller or file that is missing is an absent or zero value, not an error.
    ///
    /// # Errors
    /// A file has another format than the kernel documents, or can't be read.
    pub fn stats(&self) -> Result<Stats, CgroupError> {
        match self.hierarchy {
            Hierarchy::V1 => v1::read(|name| self.controller(name), &v1::Devices::of_host())
                .map(|stats| Stats::V1(Box::new(stats))),
            Hierarchy::V2 => v2::read(&self.unified()?.path).map(|stats| Stats::V2(Box::new(stats))),
        }
    }

    /// All processes in the cgroup and below it, in ascending order.
    ///
    /// # Errors
    /// A list can't be read. A cgroup that is gone has no processes.
    pub fn procs(&self) -> Result<Vec<Pid>, CgroupError> {
        const NAME: &str = "cgroup.procs";
        let mut pids = BTreeSet::new();
        tree::visit(self.with_processes()?, &mut |directory| {
            for line in files::text(directory, NAME)?.unwrap_or_default().lines() {
                match line.parse().ok().map(Pid::new) {
                    Some(Ok(pid)) => drop(pids.insert(pid)),
                    // The kernel writes 0 for a process of another PID namespace, which has no name here.
                    _ if line == "0" => {}
                    _ => return Err(files::unexpected(directory, NAME, line)),
                }
            }
            Ok(())
        })?;
        Ok(pids.into_iter().collect())
    }

    /// Moves process `pid` into the cgroup, in each hierarchy that has it.
    ///
    /// # Errors
    /// The process is gone, or the kernel refuses; it may have been moved in some hierarchies then.
    pub fn add_process(&self, pid: Pid) -> Result<(), CgroupError> {
        for directory in &self.directories {
            let path = directory.path.join("cgroup.procs");
            match fs::write(&path, pid.to_string()) {
                Ok(()) => {}
                Err(e) if is_no_process(&e) && path.exists() => return Err(CgroupError::NoProcess { pid }),
                Err(source) => return Err(CgroupError::Write { path, value: pid.to_string(), source }),
            }
        }
        Ok(())
    }

    /// Removes the cgroup and those below it. Idempotent. Never touches a hierarchy's root.
    ///
    /// Blocks the thread for at most 200 ms, while processes are on their way out.
    ///
    /// # Errors
    /// A directory stays, because processes are in it. The others are removed all the same.
    pub fn remove(&self) -> Result<(), CgroupError> {
        let deadline = Instant::now() + REMOVE_WITHIN;
        let ours = self.directories.iter().filter(|directory| !directory.is_root);
        // Not `try_for_each`: all of them are to be tried.
        ours.map(|directory| tree::remove(&directory.path, deadline)).fold(Ok(()), Result::and)
    }

    /// Starts to watch for out-of-memory kills. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// There is no memory controller, the cgroup is a hierarchy's root (whose kills are the whole host's), or the kernel
    /// refuses.
    pub fn oom_events(&self) -> Result<OomEvents, CgroupError> {
        let is_root = |path: &Path| {
            self.directories.iter().any(|directory| directory.is_root && directory.path == path)
        };
        match self.hierarchy {
            Hierarchy::V1 => {
                let memory = self.controller("memory").filter(|path| !is_root(path));
                OomEvents::v1(memory.ok_or_else(|| self.not_found())?)
            }
            Hierarchy::V2 => {
                let unified = &self.unified()?.path;
                if is_root(unified) { Err(self.not_found()) } else { OomEvents::v2(unified) }
            }
        }
    }

    fn controller(&self, name: &str) -> Option<&Path> {
        let has = |directory: &&locate::Directory| {
            directory.controllers.iter().any(|controller| controller == name)
        };
        self.directories.iter().find(has).map(|directory| directory.path.as_path())
    }

    fn unified(&self) -> Result<&locate::Directory, CgroupError> {
        self.directories
            .iter()
            .find(|directory| directory.controllers.is_empty())
            .ok_or_else(|| self.not_found())
    }

    /// A directory whose list of processes is that of the cgroup. On version 1 not every hierarchy needs to have one for the
    /// container, and then the process is in that hierarchy's root.
    fn with_processes(&self) -> Result<&Path, CgroupError> {
        let rank = |directory: &&locate::Directory| {
            let controller = ["pids", "freezer", "devices", "memory", "cpu"]
                .iter()
                .position(|name| directory.controllers.iter().any(|controller| controller == name));
            (directory.is_root, controller.unwrap_or(usize::MAX))
        };
        let best = self.directories.iter().min_by_key(rank);
        best.map(|directory| directory.path.as_path()).ok_or_else(|| self.not_found())
    }

    fn not_found(&self) -> CgroupError {
        CgroupError::NotFound {
            path: self.directories.first().map(|directory| directory.path.clone()).unwrap_or_default(),
        }
    }
}

fn mounted() -> Result<Vec<locate::Hierarchy>, CgroupError> {
    let mounts = mount_points().map_err(CgroupError::Mounts)?;
    Ok(locate::hierarchies(mounts))
}

fn is_no_process(error: &io::Error) -> bool {
    [Errno::NOENT, Errno::SRCH].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
