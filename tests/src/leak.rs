//! What scenarios and runs leave behind: mounts, processes, cgroups, sockets, directories, interfaces.
//!
//! After a scenario everything is a leak that names one of its ids or is in one of its cgroups; scenarios
//! run side by side, so no more can be told. After a run everything is a leak that was not there before.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{namespace::cgroup_dirs, node::Node, processes, wait};

/// Tear-down is asynchronous here and there: containerd removes directories after it has answered.
const SETTLE: Duration = Duration::from_secs(12);
/// Directories whose names may hold ids. Images are content of containerd, not a pod's.
const ROOTS: &[&str] = &["/run", "/var/lib"];
const SKIP: &[&str] = &[
    "/run/node",
    "/var/lib/containerd/io.containerd.content.v1.content",
    "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots",
];

/// Fails when something of the sandboxes and containers `ids` or in the `cgroups` is left.
///
/// # Errors
/// With the list of it.
pub fn check_scenario(ids: &[String], cgroups: &[String]) -> Result<()> {
    settle("the scenario", || find(ids, cgroups))?;
    for dir in cgroups.iter().flat_map(|cgroup| cgroup_dirs(cgroup)) {
        // kubelet's task, done for it: a pod's own cgroup.
        fs::remove_dir(&dir).with_context(|| format!("removing the pod's cgroup {}", dir.display()))?;
    }
    Ok(())
}

/// All that names one of `ids` or is in one of the `cgroups`, at this moment.
///
/// # Errors
/// When something can't be read.
pub fn find(ids: &[String], cgroups: &[String]) -> Result<Vec<String>> {
    let named = |text: &str| ids.iter().any(|id| text.contains(id.as_str()));
    let mut left = Vec::new();
    left.extend(mounts()?.into_iter().filter(|line| named(line)).map(|line| format!("mount: {line}")));
    for process in processes::all()? {
        let inside = cgroups.iter().any(|cgroup| process.cgroups.contains(cgroup.as_str()));
        if named(&process.command_line) || inside {
            left.push(format!("process: {} {}", process.pid, process.command_line));
        }
    }
    left.extend(sockets()?.into_iter().filter(|line| named(line)).map(|line| format!("socket: {line}")));
    left.extend(directories()?.into_iter().filter(|path| named(path)).map(|path| format!("path: {path}")));
    for cgroup in cgroups.iter().flat_map(|cgroup| cgroup_dirs(cgroup)) {
        left.extend(subdirectories(&cgroup).into_iter().map(|dir| format!("cgroup: {}", dir.display())));
    }
    Ok(left)
}

/// The state of the node before the first scenario.
#[derive(Debug, Default)]
pub struct Baseline {
    seen: BTreeSet<String>,
}

impl Baseline {
    /// Looks at `node` as it is now.
    ///
    /// # Errors
    /// When something can't be read.
    pub fn take(node: &Node) -> Result<Self> {
        Ok(Self { seen: survey(node)? })
    }

    /// Fails when there is more on `node` than there was.
    ///
    /// # Errors
    /// With the list of it.
    pub fn check(&self, node: &Node) -> Result<()> {
        settle("the run", || Ok(survey(node)?.difference(&self.seen).cloned().collect()))
    }
}

fn settle(whose: &str, mut left: impl FnMut() -> Result<Vec<String>>) -> Result<()> {
    let mut last = Vec::new();
    let settled = wait::holds("a clean node", SETTLE, || {
        last = left()?;
        Ok(last.is_empty())
    });
    if settled.is_err() && !last.is_empty() {
        bail!("{whose} left behind:\n  {}", last.join("\n  "));
    }
    settled
}

/// One line for each thing that a run could leave.
fn survey(node: &Node) -> Result<BTreeSet<String>> {
    let mut seen = BTreeSet::new();
    seen.extend(mounts()?.into_iter().map(|line| format!("mount: {line}")));
    let own = [1, std::process::id()];
    let daemons = node.daemons();
    for process in processes::all()? {
        if !own.contains(&process.pid) && !daemons.contains(&process.pid) {
            seen.insert(format!("process: {} {}", process.pid, process.command_line));
        }
    }
    seen.extend(list("/run/netns", "network namespace"));
    seen.extend(list("/run/containerd/s", "shim socket"));
    seen.extend(list("/run/containerd/runc/k8s.io", "runc state"));
    seen.extend(list(crate::containerd::TASKS, "bundle"));
    seen.extend(list("/sys/class/net", "interface"));
    for handler in node.handlers() {
        for dir in [&handler.state_dir, &handler.data_dir] {
            for path in tree(dir) {
                let keeps = path.extension().is_some_and(|extension| extension == "key");
                // A seal key is made once for a node, the namespace's directory may stay empty.
                if !keeps && path.is_file() {
                    seen.insert(format!("file: {}", path.display()));
                }
            }
        }
    }
    for dir in cgroup_dirs(&crate::node::cgroup_parent()) {
        seen.extend(subdirectories(&dir).into_iter().map(|dir| format!("cgroup: {}", dir.display())));
    }
    Ok(seen)
}

/// Lines of the mount table, without the ids that the kernel gives.
fn mounts() -> Result<Vec<String>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("reading mountinfo")?;
    Ok(table.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).map(str::to_owned).collect())
}

fn sockets() -> Result<Vec<String>> {
    let table = fs::read_to_string("/proc/net/unix").context("reading /proc/net/unix")?;
    Ok(table.lines().filter_map(|line| line.split_whitespace().nth(7)).map(str::to_owned).collect())
}

fn directories() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for root in ROOTS {
        walk(Path::new(root), &mut |path| found.push(path.to_string_lossy().into_owned()));
    }
    Ok(found)
}

fn tree(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(root, &mut |path| found.push(path.to_owned()));
    found
}

/// Visits everything below `dir`; what vanishes meanwhile is no leak.
fn walk(dir: &Path, visit: &mut impl FnMut(&Path)) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if SKIP.iter().any(|skip| Path::new(skip) == path) {
            continue;
        }
        visit(&path);
        // The trees below mounted roots are images, reported as mounts.
        let is_rootfs = path.file_name().is_some_and(|name| name == "rootfs");
        if !is_rootfs && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&path, visit);
        }
    }
}

fn subdirectories(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
    entries.into_iter().map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

fn list(dir: &str, what: &str) -> Vec<String> {
    let entries = fs::read_dir(dir).map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
    entries.into_iter().map(|entry| format!("{what}: {}", entry.path().display())).collect()
}
