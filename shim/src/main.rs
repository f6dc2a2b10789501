//! `containerd-shim-rune-v2`: the shim of runtime type `io.containerd.rune.v2`.
//!
//! Parses the command line of containerd's shim protocol and runs the action; see
//! `docs/architecture.md` for the rooms of this crate.

#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

mod bootstrap;
mod events;
mod logging;
mod pod;
mod service;
mod shim;
mod tasks;

use std::{io::Write, process::ExitCode};

use bootstrap::Invocation;

fn main() -> ExitCode {
    logging::install_panic_hook();
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    match Invocation::parse(&args).and_then(bootstrap::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // containerd shows what the process wrote; nothing else is ever written there.
            let _ = writeln!(std::io::stderr(), "containerd-shim-rune-v2: {error:#}");
            ExitCode::FAILURE
        }
    }
}
