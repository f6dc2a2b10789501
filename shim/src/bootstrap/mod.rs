//! The command line of containerd's shim protocol, and what each action does.

mod delete;
mod info;
mod serve;
mod start;

use std::{
    ffi::OsString,
    io::{Read, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use containerd_shim::Flags;
use layout::Identifier;

use crate::pod::teardown;

/// Where containerd's event socket is, in the environment that containerd gives to `start`.
const TTRPC_ADDRESS: &str = "TTRPC_ADDRESS";
/// Most that is read from stdin, as containerd's own shims do.
const MAX_STDIN_BYTES: u64 = 10 << 20;

/// What the process was started for.
pub enum Invocation {
    /// `-v`.
    Version,
    /// `-info`.
    Info,
    /// `start`.
    Start(Caller),
    /// `delete`.
    Delete(Caller),
    /// No action: serve.
    Serve(Caller),
    /// Ours: remove a tree that was set aside.
    RemoveTrash(PathBuf),
}

/// What containerd says about the container.
pub struct Caller {
    /// The containerd namespace.
    pub namespace: Identifier,
    /// The container, or the group.
    pub id: Identifier,
    /// The bundle.
    pub bundle: PathBuf,
    /// containerd's socket.
    pub address: String,
    /// containerd's program.
    pub publish_binary: String,
    /// Log more.
    pub debug: bool,
}

impl Invocation {
    /// Reads the command line, the program's name left out.
    ///
    /// # Errors
    /// It is none of containerd's shim protocol.
    pub fn parse(args: &[OsString]) -> anyhow::Result<Self> {
        if let [action, path] = args
            && action == teardown::REMOVE_TRASH
        {
            return Ok(Invocation::RemoveTrash(path.into()));
        }
        let flags = containerd_shim::parse(args).context("command line")?;
        if flags.version {
            return Ok(Invocation::Version);
        }
        if flags.info {
            return Ok(Invocation::Info);
        }
        match flags.action.as_str() {
            "start" => Ok(Invocation::Start(Caller::new(flags)?)),
            "delete" => Ok(Invocation::Delete(Caller::new(flags)?)),
            "" => Ok(Invocation::Serve(Caller::new(flags)?)),
            other => bail!("unknown action {other:?}: it is start, delete or none"),
        }
    }
}

impl Caller {
    fn new(flags: Flags) -> anyhow::Result<Self> {
        // `start` and serve run in the bundle; `delete` of old versions is told it.
        let bundle = match flags.bundle.as_str() {
            "" => std::env::current_dir().context("working directory")?,
            bundle => Path::new(bundle).to_owned(),
        };
        Ok(Caller {
            namespace: Identifier::new(flags.namespace).context("-namespace")?,
            id: Identifier::new(flags.id).context("-id")?,
            bundle,
            address: flags.address,
            publish_binary: flags.publish_binary,
            debug: flags.debug,
        })
    }
}

/// Does what the process was started for.
///
/// # Errors
/// Shown to containerd.
pub fn run(invocation: Invocation) -> anyhow::Result<()> {
    match invocation {
        Invocation::Version => {
            let mut stdout = std::io::stdout();
            writeln!(stdout, "containerd-shim-rune-v2 {}", env!("CARGO_PKG_VERSION")).context("stdout")
        }
        Invocation::Info => info::run(),
        Invocation::Start(context) => start::run(&context),
        Invocation::Delete(context) => delete::run(&context),
        Invocation::Serve(context) => serve::run(&context),
        Invocation::RemoveTrash(path) => Ok(teardown::remove_trash(&path)?),
    }
}

fn read_stdin() -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::io::stdin().take(MAX_STDIN_BYTES).read_to_end(&mut bytes).context("read stdin")?;
    Ok(bytes)
}
