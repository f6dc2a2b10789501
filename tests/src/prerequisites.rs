//! What a machine needs for a run. A missing piece fails the run and names what to install.

use std::{env, path::Path};

use anyhow::{Context, Result, bail, ensure};

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

/// The beginning of the loader's name in programs that are not static.
const LOADER: &[u8] = b"/lib64/ld-linux";

/// Checks that a run can start on this machine.
///
/// # Errors
/// Without root, or when a program is missing; the message is the `apt-get` line that helps.
pub fn check() -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "system tests need root: they make namespaces, mounts and cgroups"
    );
    let mut missing: Vec<&str> =
        PROGRAMS.iter().filter(|(program, _)| find(program).is_none()).map(|(_, package)| *package).collect();
    missing.dedup();
    if !missing.is_empty() {
        bail!(
            "missing on this machine; run: apt-get install -y --no-install-recommends {}",
            missing.join(" ")
        );
    }
    let busybox = find("busybox").unwrap_or_default();
    let program = std::fs::read(&busybox).with_context(|| format!("reading {}", busybox.display()))?;
    // It becomes the base of images that hold no libraries.
    let dynamic = program.windows(LOADER.len()).any(|window| window == LOADER);
    ensure!(!dynamic, "{} is not static; run: apt-get install -y busybox-static", busybox.display());
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
