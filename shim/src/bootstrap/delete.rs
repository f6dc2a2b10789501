//! `delete`: cleans up after a shim that is gone, in a fresh process with nothing but the bundle.

use std::{fs, io::Write, os::unix::net::UnixStream, path::Path, time::SystemTime};

use anyhow::Context;
use containerd_shim_protos::{
    api::DeleteResponse,
    protobuf::{Message, MessageField},
};
use layout::BundleState;
use runtime::{mount, process::Reaper};

use super::{Caller, start::ADDRESS_FILE};
use crate::{pod::teardown, service::translate::timestamp};

/// What killed a container that nobody waited for.
const KILLED: u32 = 128 + 9;

/// Runs the action. A bundle that is gone is fine.
///
/// # Errors
/// The bundle's state cannot be read, or something could not be taken down; it can be tried again.
pub fn run(caller: &Caller) -> anyhow::Result<()> {
    let bundle = &caller.bundle;
    // The bundle is about to be removed: nothing may run in it.
    std::env::set_current_dir("/").context("change to /")?;
    match BundleState::read(bundle)? {
        Some(state) => {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
            runtime.block_on(async {
                let reaper = Reaper::start()?;
                anyhow::Ok(teardown::container(&state, bundle, &reaper).await?)
            })?;
        }
        // The shim died before its first step, which writes the state.
        None => mount::unmount_tree(&bundle.join("rootfs"))?,
    }
    remove_dead_socket(bundle);

    let mut response = DeleteResponse::new();
    response.pid = pid_of(bundle).unwrap_or_default();
    response.exit_status = KILLED;
    response.exited_at = MessageField::some(timestamp(SystemTime::now()));
    let bytes = response.write_to_bytes().context("encode the answer")?;
    let mut stdout = std::io::stdout();
    stdout.write_all(&bytes).and_then(|()| stdout.flush()).context("write the answer")
}

fn pid_of(bundle: &Path) -> Option<u32> {
    fs::read_to_string(bundle.join("init.pid")).ok()?.trim().parse().ok()
}

/// Removes the socket of a shim that does not answer any more.
fn remove_dead_socket(bundle: &Path) {
    let Ok(address) = fs::read_to_string(bundle.join(ADDRESS_FILE)) else { return };
    let Some(socket) = address.strip_prefix("unix://") else { return };
    if UnixStream::connect(socket).is_err() {
        // It may be gone with an earlier container of the group.
        let _ = fs::remove_file(socket);
    }
}
