//! The node's containerd: configuration, process, log.

use std::{
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{daemon::Daemon, handlers::Handler};

/// The socket of CRI and of containerd's own API.
pub const SOCKET: &str = "/run/containerd/containerd.sock";
/// Where containerd keeps the bundles of CRI's tasks.
pub const TASKS: &str = "/run/containerd/io.containerd.runtime.v2.task/k8s.io";
/// The CNI configuration of ordinary pods.
pub const CNI_CONF_DIR: &str = "/etc/cni/net.d";

/// What containerd needs to know of the node.
#[derive(Debug)]
pub struct Config<'a> {
    /// Runtime handlers.
    pub handlers: &'a [Handler],
    /// Reference of the pause image.
    pub sandbox_image: &'a str,
    /// `host:port` of registries spoken to in plain http.
    pub insecure: &'a [String],
    /// A directory to look for shims in, before `PATH`.
    pub bin_dir: Option<&'a Path>,
}

/// Writes the configuration and starts containerd, with its log in `log`.
///
/// # Errors
/// When a file can't be written or the program not be started.
pub fn start(config: &Config<'_>, log: &Path) -> Result<Daemon> {
    fs::create_dir_all("/etc/containerd")?;
    let file = PathBuf::from("/etc/containerd/test.toml");
    fs::write(&file, render(config)?).with_context(|| format!("writing {}", file.display()))?;
    for authority in config.insecure {
        let dir = Path::new("/etc/containerd/certs.d").join(authority);
        fs::create_dir_all(&dir)?;
        fs::write(
            dir.join("hosts.toml"),
            format!(
                "server = \"http://{authority}\"\n[host.\"http://{authority}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"
            ),
        )?;
    }
    let mut path: Vec<PathBuf> = config.bin_dir.map(Path::to_owned).into_iter().collect();
    path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    Daemon::start(
        "containerd",
        Command::new("containerd").arg("--config").arg(&file).env("PATH", env::join_paths(path)?),
        log,
    )
}

fn render(config: &Config<'_>) -> Result<String> {
    // No capability CAP_SYS_RESOURCE and no AppArmor on machines that are themselves containers.
    let mut text = format!(
        r#"version = 2
[debug]
level = "debug"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = {:?}
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = {CNI_CONF_DIR:?}
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "/etc/containerd/certs.d"
[plugins."io.containerd.grpc.v1.cri".containerd]
default_runtime_name = "runc"
"#,
        config.sandbox_image
    );
    for handler in config.handlers {
        let section = format!("plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.{}", handler.name);
        writeln!(text, "[{section}]\nruntime_type = {:?}", handler.runtime_type)?;
        if let Some(file) = &handler.config {
            writeln!(text, "[{section}.options]\nConfigPath = {file:?}")?;
        }
        if let Some(program) = handler.binary_name {
            writeln!(text, "[{section}.options]\nBinaryName = {program:?}")?;
        }
    }
    Ok(text)
}
