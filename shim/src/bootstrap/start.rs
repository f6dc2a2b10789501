//! `start`: finds or starts the shim of the container's group and prints its address.
//!
//! The socket is bound here and handed down, so the address is good the moment it is printed.
//! containerd reads stdout and stderr to their end: the server inherits neither.

use std::{
    fs,
    io::{ErrorKind, Write},
    os::{
        fd::OwnedFd,
        unix::{
            net::{UnixListener, UnixStream},
            process::CommandExt,
        },
    },
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, anyhow};
use containerd_shim::bootstrap::BootstrapParams;
use containerd_shim_protos::protobuf::{Message, well_known_types::any::Any};
use runtime::bundle::{Bundle, BundlePath};

use super::{Caller, TTRPC_ADDRESS};
use crate::service::options::Options;

/// The annotations that group containers under one shim, in the order in which they count.
const GROUP_ANNOTATIONS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];
/// File in the bundle that tells containerd the address after a restart.
pub const ADDRESS_FILE: &str = "address";

/// Runs the action.
///
/// # Errors
/// The bundle cannot be read, the socket not be bound, the server not be started.
pub fn run(caller: &Caller) -> anyhow::Result<()> {
    let input = Input::read(caller)?;
    let bundle = BundlePath::new(&caller.bundle)?;
    let bundle = Bundle::open(&bundle)?;
    let group = GROUP_ANNOTATIONS
        .iter()
        .find_map(|key| bundle.annotation(key).filter(|group| !group.is_empty()))
        .unwrap_or(caller.id.as_str());

    let address = containerd_shim::socket_address(&caller.address, caller.namespace.as_str(), group);
    let socket = address.strip_prefix("unix://").ok_or_else(|| anyhow!("address {address} is no socket"))?;
    if let Some(listener) = listen(Path::new(socket))? {
        let mut server = spawn(caller, group, listener, &input)?;
        if let Err(error) = place(&server, &input) {
            let _ = server.kill();
            let _ = fs::remove_file(socket);
            return Err(error);
        }
    }
    let file = caller.bundle.join(ADDRESS_FILE);
    // containerd reads it untrimmed.
    fs::write(&file, &address).with_context(|| format!("write {}", file.display()))?;
    let mut stdout = std::io::stdout();
    stdout.write_all(address.as_bytes()).and_then(|()| stdout.flush()).context("write the address")
}

/// What containerd writes to stdin: the runtime options (up to 2.2), or bootstrap parameters (since 2.3).
struct Input {
    options: Options,
    /// Where events go, when the environment does not say.
    ttrpc_address: Option<String>,
}

impl Input {
    fn read(caller: &Caller) -> anyhow::Result<Self> {
        let bytes = super::read_stdin()?;
        let params = BootstrapParams::parse_from_bytes(&bytes).ok().filter(|params| {
            params.instance_id == caller.id.as_str() && params.namespace == caller.namespace.as_str()
        });
        let Some(params) = params else {
            let options = Any::parse_from_bytes(&bytes).context("runtime options on stdin")?;
            return Ok(Input { options: shim_options(&options), ttrpc_address: None });
        };
        let options = params.extensions.iter().map(|extension| shim_options(&extension.value));
        Ok(Input {
            options: options.into_iter().find(|options| *options != Options::default()).unwrap_or_default(),
            ttrpc_address: Some(params.containerd_ttrpc_address).filter(|address| !address.is_empty()),
        })
    }
}

/// Options that cannot be used are told when the container is created, where the error reaches the user.
fn shim_options(any: &Any) -> Options {
    Options::decode(Some(any)).unwrap_or_default()
}

/// Binds the socket; `None` when the group's shim answers on it already.
fn listen(socket: &Path) -> anyhow::Result<Option<UnixListener>> {
    if let Some(dir) = socket.parent() {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    }
    let bind = || UnixListener::bind(socket);
    let listener = match bind() {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            if UnixStream::connect(socket).is_ok() {
                return Ok(None);
            }
            // A shim that died left it behind.
            fs::remove_file(socket).with_context(|| format!("remove {}", socket.display()))?;
            bind()
        }
        result => result,
    };
    Ok(Some(listener.with_context(|| format!("listen on {}", socket.display()))?))
}

/// Starts the server, with the listening socket as its stdin.
fn spawn(caller: &Caller, group: &str, listener: UnixListener, input: &Input) -> anyhow::Result<Child> {
    let program = std::env::current_exe().context("this program's path")?;
    let mut command = Command::new(program);
    command.args(["-namespace", caller.namespace.as_str(), "-id", group, "-address", &caller.address]);
    if !caller.publish_binary.is_empty() {
        command.args(["-publish-binary", &caller.publish_binary]);
    }
    if caller.debug {
        command.arg("-debug");
    }
    if let Some(address) = &input.ttrpc_address {
        command.env(TTRPC_ADDRESS, address);
    }
    command
        .current_dir(&caller.bundle)
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Signals to containerd's group are not for the shim.
        .process_group(0);
    command.spawn().context("start the shim's server")
}

/// Puts the server into its cgroup and makes it a likelier victim than containerd when memory is short.
fn place(server: &Child, input: &Input) -> anyhow::Result<()> {
    let cgroup = input.options.shim_cgroup.as_deref().map(Path::to_string_lossy).unwrap_or_default();
    containerd_shim::cgroup::set_cgroup_and_oom_score(server.id(), &cgroup)
        .map_err(|e| anyhow!("shim cgroup {cgroup:?} and OOM score: {e}"))
}
