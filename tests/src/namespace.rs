//! The node's namespaces: network, mounts and processes of its own, so that nothing touches the host.
//!
//! ```text
//! cargo test ─▶ outside ─▶ setpriv/unshare ─▶ init (pid 1, reaps) ─▶ inside: daemons, scenarios
//! ```
//! The program executes itself once for each stage. When any of them dies, also by SIGKILL, the kernel ends
//! the pid namespace and with it every daemon, shim and container; mounts and interfaces go with the last
//! process. Only cgroups outlive a run that was killed: the next run removes them.

use std::{
    env, fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

use anyhow::{Context, Result, bail};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::wait::{WaitStatus, wait},
    unistd::Pid,
};

use crate::prerequisites;

const CGROUPS: &str = "/sys/fs/cgroup";
const UNIFIED: &str = "/sys/fs/cgroup/unified";
const STAGE: &str = "ENCLAVE_CC_TEST_STAGE";

/// The cgroup, in every hierarchy, below which all cgroups of all runs are.
pub const CGROUP_ROOT: &str = "/enclave-cc-test";

/// Whether the node keeps the unified hierarchy of a hybrid cgroup setup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unified {
    /// As the machine has it.
    Keep,
    /// Unmounted: crun refuses hybrid setups.
    Hide,
}

/// Returns in the new namespaces; in the calling process it does not return but exits as the inner one did.
///
/// # Errors
/// When a prerequisite is missing or a namespace or mount can't be made.
pub fn enter(unified: Unified) -> Result<()> {
    match env::var(STAGE).as_deref() {
        Err(_) => outside(),
        Ok("init") => init(),
        Ok("inside") => inside(unified),
        Ok(other) => bail!("{STAGE}={other} is set in the environment; unset it"),
    }
}

fn outside() -> Result<()> {
    prerequisites::check()?;
    sweep_cgroups();
    let status = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "unshare", "--net", "--mount", "--propagation", "private"])
        .args(["--pid", "--fork", "--kill-child=KILL", "--mount-proc"])
        .arg(env::current_exe()?)
        .args(env::args_os().skip(1))
        .env(STAGE, "init")
        .status()
        .context("starting unshare")?;
    sweep_cgroups();
    std::process::exit(exit_code(status));
}

/// Pid 1 of the namespace: starts the run and reaps whatever is left to it, until the run ends.
fn init() -> Result<()> {
    let child = Command::new(env::current_exe()?)
        .args(env::args_os().skip(1))
        .env(STAGE, "inside")
        .spawn()
        .context("starting the run")?;
    let run = Pid::from_raw(i32::try_from(child.id())?);
    loop {
        match wait()? {
            WaitStatus::Exited(pid, code) if pid == run => std::process::exit(code),
            WaitStatus::Signaled(pid, signal, _) if pid == run => std::process::exit(128 + signal as i32),
            _ => {}
        }
    }
}

fn inside(unified: Unified) -> Result<()> {
    // A node's root is shared (systemd makes it so): what propagates there has to propagate here.
    set("/", MsFlags::MS_SHARED | MsFlags::MS_REC)?;
    tmpfs("/run", "mode=755")?;
    tmpfs("/var/lib", "mode=755")?;
    let etc = PathBuf::from("/run/node/etc");
    for dir in ["upper", "work"] {
        fs::create_dir_all(etc.join(dir))?;
    }
    let options = format!("lowerdir=/etc,upperdir={0}/upper,workdir={0}/work", etc.display());
    mount(Some("overlay"), "/etc", Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .context("mounting an overlay on /etc")?;
    if unified == Unified::Hide && Path::new(UNIFIED).join("cgroup.procs").exists() {
        hide_unified()?;
    }
    crate::daemon::run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    Ok(())
}

/// Leaves out the unified hierarchy of a hybrid setup: crun refuses those, and makes directories in the
/// place of the hierarchy when that is only unmounted, so the directory goes too.
fn hide_unified() -> Result<()> {
    let rest = Path::new("/run/node/cgroup");
    tmpfs("/run/node/cgroup", "mode=755")?;
    for entry in fs::read_dir(CGROUPS).with_context(|| format!("reading {CGROUPS}"))?.flatten() {
        let (from, to) = (entry.path(), rest.join(entry.file_name()));
        if from == Path::new(UNIFIED) {
            continue;
        }
        if let Ok(target) = fs::read_link(&from) {
            std::os::unix::fs::symlink(target, &to)?;
        } else {
            fs::create_dir(&to)?;
            mount(Some(&from), &to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .with_context(|| format!("binding {}", from.display()))?;
        }
    }
    // Shared, the two places would lose their mounts together.
    set("/run/node/cgroup", MsFlags::MS_PRIVATE | MsFlags::MS_REC)?;
    mount(Some(rest), CGROUPS, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .with_context(|| format!("binding {} to {CGROUPS}", rest.display()))?;
    umount2(rest, MntFlags::MNT_DETACH).context("unmounting the cgroups' first place")?;
    set(CGROUPS, MsFlags::MS_SHARED | MsFlags::MS_REC)
}

/// Mounts a tmpfs with `options` on `target`, which is made when missing.
///
/// # Errors
/// When that fails.
pub fn tmpfs(target: &str, options: &str) -> Result<()> {
    fs::create_dir_all(target).with_context(|| format!("creating {target}"))?;
    mount(Some("tmpfs"), target, Some("tmpfs"), MsFlags::empty(), Some(options))
        .with_context(|| format!("mounting a tmpfs on {target}"))
}

fn set(target: &str, flags: MsFlags) -> Result<()> {
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
        .with_context(|| format!("changing the propagation of {target}"))
}

/// The directories of the cgroup `path` (absolute) in all mounted hierarchies.
#[must_use]
pub fn cgroup_dirs(path: &str) -> Vec<PathBuf> {
    let relative = path.trim_start_matches('/');
    let root = Path::new(CGROUPS);
    let mut hierarchies = vec![root.to_owned()];
    // Version 2 has one hierarchy and is it; the directories below are its cgroups.
    if !root.join("cgroup.procs").exists()
        && let Ok(entries) = fs::read_dir(root)
    {
        // `cpu,cpuacct` is there under its parts' names as well, as links.
        let own = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
        hierarchies.extend(entries.flatten().filter(own).map(|entry| entry.path()));
    }
    let mounted = hierarchies.into_iter().filter(|dir| dir.join("cgroup.procs").exists());
    mounted.map(|base| base.join(relative)).filter(|dir| dir.is_dir()).collect()
}

/// Removes what runs that were killed left of their cgroups; those of living runs are busy and stay.
fn sweep_cgroups() {
    for dir in cgroup_dirs(CGROUP_ROOT) {
        remove_tree(&dir);
    }
}

fn remove_tree(dir: &Path) {
    if let Ok(entries) = fs::read_dir(dir) {
        for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
            remove_tree(&entry.path());
        }
    }
    // Fails when a process is in it: it is another run's.
    let _ = fs::remove_dir(dir);
}

fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
