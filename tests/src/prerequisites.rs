//! What a machine needs for a run. A missing piece fails the run and names what to install.

use std::{env, path::Path};

use anyhow::{Result, bail, ensure};

/// Program or file, and the Debian package that holds it.
const PROGRAMS: &[(&str, &str)] = &[
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("crun", "crun"),
    ("docker-registry", "docker-registry"),
    ("skopeo", "skopeo"),
    ("busybox", "busybox-static"),
    ("ip", "iproute2"),
    ("unshare", "util-linux"),
    ("setpriv", "util-linux"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("/usr/lib/cni/loopback", "containernetworking-plugins"),
];

/// Checks that a run can start on this machine.
///
/// # Errors
/// Without root, or when a program is missing; the message is the `apt-get` line that helps.
pub fn check() -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "system tests need root: they make namespaces, mounts and cgroups");
    let mut missing: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| find(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    missing.dedup();
    if !missing.is_empty() {
        bail!("missing on this machine; run: apt-get install -y --no-install-recommends {}", missing.join(" "));
    }
    Ok(())
}

/// The path of `program`, looked up in `PATH` when it has no slash.
#[must_use]
pub fn find(program: &str) -> Option<std::path::PathBuf> {
    if program.contains('/') {
        return Path::new(program).exists().then(|| program.into());
    }
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(program)).find(|path| path.is_file())
}
