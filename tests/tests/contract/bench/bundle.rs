//! Bundles of plain OCI containers on one shared, read-only busybox root.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context, Result, anyhow};
use containerd_shim_protos::api;
use serde_json::{Value, json};
use tests::{daemon::run, prerequisites};

const ROOT: &str = "/run/node/contract-root";

/// The root file system of all containers: busybox with its applets, a user.
pub fn shared_root() -> Result<&'static Path> {
    static MADE: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    MADE.get_or_init(|| make_root().map_err(|e| format!("{e:#}"))).as_ref().map_err(|e| anyhow!("{e}"))?;
    Ok(Path::new(ROOT))
}

fn make_root() -> Result<()> {
    let root = Path::new(ROOT);
    for dir in ["bin", "dev", "etc", "home", "proc", "root", "run", "sys", "tmp", "data"] {
        fs::create_dir_all(root.join(dir))?;
    }
    let busybox = prerequisites::find("busybox").context("busybox is missing")?;
    fs::copy(&busybox, root.join("bin/busybox"))?;
    for applet in run(Command::new(&busybox).arg("--list"))?.lines().filter(|name| *name != "busybox") {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\nuser:x:1000:\nextra:x:2000:user\n")?;
    Ok(())
}

/// The mounts of a Create request that make up that root.
pub fn rootfs() -> Result<Vec<api::Mount>> {
    Ok(vec![api::Mount {
        type_: "bind".into(),
        source: shared_root()?.display().to_string(),
        options: vec!["rbind".into(), "ro".into()],
        ..Default::default()
    }])
}

/// The `process` that runs `args`.
pub fn process(args: &[&str]) -> Value {
    let caps = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_SETUID", "CAP_SETGID"];
    json!({
        "terminal": false,
        "user": { "uid": 0, "gid": 0 },
        "args": args,
        "env": ["PATH=/bin", "HOME=/root"],
        "cwd": "/",
        "capabilities": { "bounding": caps, "effective": caps, "permitted": caps },
    })
}

/// The configuration of a container in the cgroup `cgroup` that runs `args`.
pub fn config(args: &[&str], cgroup: &str) -> Value {
    let namespaces = ["pid", "ipc", "uts", "mount", "network"].map(|kind| json!({ "type": kind }));
    json!({
        "ociVersion": "1.0.2",
        "process": process(args),
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "contract",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666", "mode=0620"] },
            { "destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"] },
        ],
        "linux": { "namespaces": namespaces, "cgroupsPath": cgroup },
    })
}

/// Writes a bundle as containerd does: configuration, empty root, the fifo of the shim's log.
pub fn write(dir: &Path, config: &Value) -> Result<()> {
    fs::create_dir_all(dir.join("rootfs")).with_context(|| format!("creating {}", dir.display()))?;
    fs::write(dir.join("config.json"), serde_json::to_vec(config)?)?;
    let log = dir.join("log");
    if !log.exists() {
        fifo(&log)?;
    }
    Ok(())
}

/// Makes a fifo.
pub fn fifo(path: &Path) -> Result<()> {
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::from_bits_truncate(0o600))
        .with_context(|| format!("making the fifo {}", path.display()))
}

/// What is in a bundle beside the files that it is known to hold.
pub fn leftovers(dir: &Path) -> Vec<PathBuf> {
    // containerd's, the Go shim's (address … work), and ours (enclave-cc.json).
    const KNOWN: &[&str] = &[
        "config.json",
        "rootfs",
        "log",
        "address",
        "init.pid",
        "options.json",
        "runtime",
        "shim-binary-path",
        "log.json",
        "work",
        "enclave-cc.json",
    ];
    let entries = fs::read_dir(dir).map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
    let known = |path: &Path| path.file_name().is_some_and(|name| KNOWN.iter().any(|known| *known == name));
    entries.into_iter().map(|entry| entry.path()).filter(|path| !known(path)).collect()
}
