//! The runtime handlers of the node: runc, and enclave-cc in the configurations that scenarios need.

use std::{
    env, fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{daemon::run, namespace::tmpfs};

/// The handler under test.
pub const ENCLAVE_CC: &str = "enclave-cc";
/// Stock runc, by which the suite is proved.
pub const RUNC: &str = "runc";
/// crun under runc's shim, with which enclave-cc with crun is compared.
pub const PLAIN_CRUN: &str = "crun";
/// As [`ENCLAVE_CC`], with `agent_network = "host"`.
pub const HOST_NETWORK: &str = "enclave-cc-host";
/// The agent bundle does not exist.
pub const NO_AGENT: &str = "enclave-cc-no-agent";
/// The agent exits at once, with 3 and [`BAD_AGENT_WORDS`] on its standard error.
pub const BAD_AGENT: &str = "enclave-cc-bad-agent";
/// What the agent of [`BAD_AGENT`] says before it exits.
pub const BAD_AGENT_WORDS: &str = "no enclave today";
/// Stores are on a file system of [`FULL_BYTES`].
pub const FULL: &str = "enclave-cc-full";
/// The size of the file system below the stores of [`FULL`].
pub const FULL_BYTES: u64 = 3 << 20;
/// Short deadlines for pulls.
pub const SHORT: &str = "enclave-cc-short";
/// State and data directories of its own, for the reboot.
pub const REBOOT: &str = "enclave-cc-reboot";
/// A scenario breaks its configuration file.
pub const BREAKABLE: &str = "enclave-cc-breakable";
/// The pods of the Kubernetes namespace `default` run without enclaves.
pub const PASSTHROUGH: &str = "enclave-cc-passthrough";
/// crun is the OCI backend.
pub const CRUN: &str = "enclave-cc-crun";

/// Where the product's programs and bundles are.
#[derive(Clone, Debug)]
pub struct Product {
    /// Holds `containerd-shim-rune-v2`.
    pub bin_dir: PathBuf,
    /// Holds `agent` and `boot-instance`.
    pub bundles: PathBuf,
}

impl Product {
    /// From `ENCLAVE_CC_BIN_DIR` and `ENCLAVE_CC_BUNDLES`, or below the workspace's `target`.
    ///
    /// # Errors
    /// When a program or bundle is missing; the message says how to build it.
    pub fn locate() -> Result<Self> {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target");
        let dir =
            |variable: &str, default: &str| env::var_os(variable).map_or(target.join(default), PathBuf::from);
        let product = Self {
            bin_dir: dir("ENCLAVE_CC_BIN_DIR", "x86_64-unknown-linux-musl/release"),
            bundles: dir("ENCLAVE_CC_BUNDLES", "bundles"),
        };
        for (path, help) in [
            (product.bin_dir.join("containerd-shim-rune-v2"), "ENCLAVE_CC_BIN_DIR"),
            (product.bundles.join("agent/config.json"), "ENCLAVE_CC_BUNDLES"),
            (product.bundles.join("boot-instance/hook"), "ENCLAVE_CC_BUNDLES"),
        ] {
            ensure!(path.exists(), "{} is missing: run `make bundles`, or set {help}", path.display());
        }
        Ok(product)
    }
}

/// One runtime handler of containerd's configuration.
#[derive(Clone, Debug)]
pub struct Handler {
    /// Its name in CRI requests.
    pub name: String,
    /// containerd's runtime type.
    pub runtime_type: &'static str,
    /// Our configuration file, for enclave-cc.
    pub config: Option<PathBuf>,
    /// The program that runc's shim calls, when it is not runc.
    pub binary_name: Option<&'static str>,
    /// Where its pods' small state is.
    pub state_dir: PathBuf,
    /// Where its pods' stores are.
    pub data_dir: PathBuf,
}

impl Handler {
    fn of_runcs_shim(name: &str, binary_name: Option<&'static str>) -> Self {
        Self {
            name: name.into(),
            runtime_type: "io.containerd.runc.v2",
            config: None,
            binary_name,
            state_dir: "/run/no-state".into(),
            data_dir: "/var/lib/no-data".into(),
        }
    }
}

/// What one enclave-cc handler has differently.
#[derive(Default)]
struct Difference {
    own_dirs: bool,
    agent_bundle: Option<PathBuf>,
    top_level: &'static str,
    timeouts: &'static str,
}

/// Writes the configuration files below `/etc/enclave-cc` and makes the bundles that scenarios break.
///
/// Without `product` there are only the handlers of runc's shim. `insecure` are the registries spoken to in plain http.
///
/// # Errors
/// When a file can't be written.
pub fn prepare(product: Option<&Product>, scratch: &Path, insecure: &[String]) -> Result<Vec<Handler>> {
    let mut handlers =
        vec![Handler::of_runcs_shim(RUNC, None), Handler::of_runcs_shim(PLAIN_CRUN, Some("crun"))];
    let Some(product) = product else { return Ok(handlers) };
    fs::create_dir_all("/etc/enclave-cc")?;
    tmpfs(&data_dir(FULL), &format!("mode=700,size={FULL_BYTES}"))?;
    let bad_agent = bad_agent_bundle(&product.bundles.join("agent"), &scratch.join("bad-agent"))?;
    let differences = [
        (ENCLAVE_CC, Difference::default()),
        (HOST_NETWORK, Difference { top_level: "agent_network = \"host\"\n", ..Difference::default() }),
        (NO_AGENT, Difference { agent_bundle: Some("/nonexistent/agent".into()), ..Difference::default() }),
        (
            BAD_AGENT,
            Difference {
                agent_bundle: Some(bad_agent),
                timeouts: "agent_ready_secs = 5\n",
                ..Difference::default()
            },
        ),
        (FULL, Difference { own_dirs: true, ..Difference::default() }),
        (SHORT, Difference { timeouts: "agent_ready_secs = 10\npull_secs = 5\n", ..Difference::default() }),
        (REBOOT, Difference { own_dirs: true, ..Difference::default() }),
        (BREAKABLE, Difference::default()),
        (
            PASSTHROUGH,
            Difference { top_level: "passthrough_namespaces = [\"default\"]\n", ..Difference::default() },
        ),
        (CRUN, Difference { top_level: "backend = \"crun\"\n", ..Difference::default() }),
    ];
    for (name, difference) in differences {
        handlers.push(write_handler(name, &difference, product, insecure)?);
    }
    Ok(handlers)
}

fn data_dir(name: &str) -> String {
    format!("/var/lib/{name}")
}

fn write_handler(
    name: &str,
    difference: &Difference,
    product: &Product,
    insecure: &[String],
) -> Result<Handler> {
    let dirs = if difference.own_dirs { name } else { ENCLAVE_CC };
    let (state_dir, data_dir) = (format!("/run/{dirs}"), data_dir(dirs));
    let agent = difference.agent_bundle.clone().unwrap_or_else(|| product.bundles.join("agent"));
    let boot = product.bundles.join("boot-instance");
    let text = format!(
        "sgx_mode = \"NONE\"\nlog_level = \"debug\"\nstate_dir = {state_dir:?}\ndata_dir = {data_dir:?}\n{}\
         [containerd]\nagent_container_instance = {agent:?}\nboot_container_instance = {boot:?}\n\
         [agent]\ninsecure_registries = {insecure:?}\n[timeouts]\n{}",
        difference.top_level, difference.timeouts
    );
    // The first is where the shim looks when nothing names a file.
    let file = if name == ENCLAVE_CC { "config.toml".to_owned() } else { format!("{name}.toml") };
    let config = Path::new("/etc/enclave-cc").join(file);
    fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
    Ok(Handler {
        name: name.into(),
        runtime_type: "io.containerd.rune.v2",
        config: Some(config),
        binary_name: None,
        state_dir: state_dir.into(),
        data_dir: data_dir.into(),
    })
}

/// The agent bundle at `original` with an agent that says [`BAD_AGENT_WORDS`] and exits with 3.
fn bad_agent_bundle(original: &Path, copy: &Path) -> Result<PathBuf> {
    run(Command::new("cp").arg("-a").arg(original).arg(copy))?;
    let root = copy.join("rootfs");
    fs::create_dir_all(root.join("bin"))?;
    let busybox = crate::prerequisites::find("busybox").context("busybox is a prerequisite")?;
    fs::copy(busybox, root.join("bin/busybox"))?;
    symlink("busybox", root.join("bin/sh"))?;
    let agent = root.join("usr/bin/enclave-agent");
    fs::write(&agent, format!("#!/bin/sh\necho '{BAD_AGENT_WORDS}' >&2\nexit 3\n"))?;
    fs::set_permissions(&agent, fs::Permissions::from_mode(0o755))?;
    Ok(copy.to_owned())
}
