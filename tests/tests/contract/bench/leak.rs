//! What a scenario has left: by its names, its directory and its cgroup everything of it can be told.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, umount2};
use tests::{namespace::cgroup_dirs, processes, wait};

use super::{Bench, events::Event, signal};

const SETTLE: Duration = Duration::from_secs(10);

/// Fails when a process, mount, cgroup, backend state or temporary file of the bench is left.
pub fn check(bench: &Bench<'_>) -> Result<()> {
    let mut left = Vec::new();
    let settled = wait::holds("a clean bench", SETTLE, || {
        left = find(bench)?;
        Ok(left.is_empty())
    });
    if settled.is_err() && !left.is_empty() {
        bail!("left behind:\n  {}", left.join("\n  "));
    }
    settled?;
    for dir in cgroup_dirs(&bench.cgroup()) {
        fs::remove_dir(&dir).with_context(|| format!("removing {}", dir.display()))?;
    }
    Ok(())
}

fn find(bench: &Bench<'_>) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for process in of(bench)? {
        left.push(format!("process: {} {}", process.pid, process.command_line));
    }
    left.extend(mounts_below(&bench.dir)?.into_iter().map(|path| format!("mount: {}", path.display())));
    for dir in cgroup_dirs(&bench.cgroup()) {
        left.extend(
            children(&dir).into_iter().filter(|path| path.is_dir()).map(|path| show("cgroup", &path)),
        );
    }
    let places = [
        bench.dir.join("tmp"),
        bench.dir.join("root").join(&bench.namespace),
        Path::new("/run/containerd/runc").join(&bench.namespace),
        Path::new("/run/enclave-cc").join(&bench.namespace),
        Path::new("/var/lib/enclave-cc").join(&bench.namespace),
    ];
    for place in places {
        left.extend(children(&place).iter().map(|path| show("file", path)));
    }
    Ok(left)
}

fn show(what: &str, path: &Path) -> String {
    format!("{what}: {}", path.display())
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
    entries.into_iter().map(|entry| entry.path()).collect()
}

/// The bench's processes: in its cgroup, or with its directory in command line or environment.
fn of(bench: &Bench<'_>) -> Result<Vec<processes::Process>> {
    let cgroup = format!("{}/", bench.cgroup());
    let dir = format!("{}/", bench.dir.display());
    let in_environment = |pid: u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.windows(dir.len()).any(|window| window == dir.as_bytes())
    };
    let own = |process: &processes::Process| {
        process.cgroups.contains(&cgroup)
            || process.command_line.contains(&dir)
            || in_environment(process.pid)
    };
    Ok(processes::all()?.into_iter().filter(own).filter(|process| super::alive(process.pid)).collect())
}

fn mounts_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    Ok(points.filter(|point| point.starts_with(dir)).collect())
}

/// Fails when something is mounted at or below `dir`.
pub fn no_mounts_below(dir: &Path) -> Result<()> {
    let mounts = mounts_below(dir)?;
    ensure!(mounts.is_empty(), "still mounted: {mounts:?}");
    Ok(())
}

/// No event came twice, none is in the wrong place, and what has begun has ended.
pub fn check_events(events: &[Event]) -> Result<()> {
    let mut containers: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for event in events {
        containers.entry((&event.namespace, &event.container)).or_default().push(&event.line);
    }
    for ((_, id), lines) in containers {
        let count = |wanted: &str| lines.iter().filter(|line| **line == wanted).count();
        let ends = |prefix: &str| lines.iter().filter(|line| line.starts_with(prefix)).count();
        let inits: usize =
            lines.iter().filter(|line| line.split(' ').count() == 2 && line.starts_with("exit ")).count();
        ensure!(
            count("create") <= 1 && count("start") <= 1 && ends("delete ") <= 1 && inits <= 1,
            "doubled events of {id}: {lines:?}"
        );
        let at = |prefix: &str| lines.iter().position(|line| line.starts_with(prefix));
        if let (Some(create), Some(start)) = (at("create"), at("start")) {
            ensure!(create < start, "start before create of {id}: {lines:?}");
        }
        for exec in lines.iter().filter_map(|line| line.strip_prefix("exec-started ")) {
            let started = lines.iter().filter(|line| **line == format!("exec-started {exec}")).count();
            let added = lines.iter().filter(|line| **line == format!("exec-added {exec}")).count();
            let ended = ends(&format!("exit {exec} "));
            ensure!(started == ended && started <= added, "events of exec {exec} of {id}: {lines:?}");
        }
        ensure!(at("create").is_none() || inits == 1, "no exit of {id}: {lines:?}");
    }
    Ok(())
}

/// Removes whatever is left after a failure.
pub fn sweep(bench: &Bench<'_>) {
    for _ in 0..5 {
        for process in of(bench).unwrap_or_default() {
            let _ = signal(process.pid, nix::sys::signal::Signal::SIGKILL);
        }
        if wait::holds("the processes to end", Duration::from_secs(1), || Ok(of(bench)?.is_empty())).is_ok() {
            break;
        }
    }
    let mut mounts = mounts_below(&bench.dir).unwrap_or_default();
    mounts.reverse();
    for mount in mounts {
        let _ = umount2(&mount, MntFlags::MNT_DETACH);
    }
    for dir in cgroup_dirs(&bench.cgroup()) {
        for child in children(&dir).into_iter().filter(|path| path.is_dir()) {
            let _ = fs::remove_dir(child);
        }
        let _ = fs::remove_dir(dir);
    }
    let _ = fs::remove_dir_all(Path::new("/run/containerd/runc").join(&bench.namespace));
    let _ = fs::remove_dir_all(&bench.dir);
}
