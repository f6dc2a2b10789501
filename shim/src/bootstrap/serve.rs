//! The server: one process a pod, one thread.

use std::{
    fs,
    os::{fd::AsFd, unix::net::UnixListener},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, anyhow};
use layout::BootId;
use log::LevelFilter;
use runtime::process::Reaper;
use tokio::signal::unix::{SignalKind, signal};
use ttrpc::{r#async::Server, asynchronous::transport::Listener};

use super::{Caller, TTRPC_ADDRESS};
use crate::{events::Events, logging, service, shim::Shim};

/// How long the end of the process waits until containerd has the last events.
const LAST_EVENTS: Duration = Duration::from_secs(2);

/// Serves until containerd shuts the shim down.
///
/// # Errors
/// The process was not started by `start`, or its surroundings lack something.
pub fn run(caller: &Caller) -> anyhow::Result<()> {
    logging::init(Path::new("log"), if caller.debug { LevelFilter::Debug } else { LevelFilter::Info })
        .context("open the log")?;
    let result = inherited_listener().and_then(|listener| {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
        runtime.block_on(serve(caller, listener))
    });
    if let Err(error) = &result {
        log::error!("shim: {error:#}");
    }
    result
}

/// The listening socket, which `start` put in the place of stdin.
fn inherited_listener() -> anyhow::Result<UnixListener> {
    let stdin = std::io::stdin();
    let listener = UnixListener::from(stdin.as_fd().try_clone_to_owned().context("inherit the socket")?);
    listener
        .local_addr()
        .context("stdin is not the shim's socket; containerd starts the shim with `start`")?;
    let null = fs::File::open("/dev/null").context("open /dev/null")?;
    nix::unistd::dup2_stdin(&null).context("detach stdin")?;
    Ok(listener)
}

async fn serve(caller: &Caller, listener: UnixListener) -> anyhow::Result<()> {
    let socket = listener.local_addr().ok().and_then(|address| address.as_pathname().map(PathBuf::from));
    listener.set_nonblocking(true).context("socket")?;
    let listener = tokio::net::UnixListener::from_std(listener).context("socket")?;

    let events_address = std::env::var(TTRPC_ADDRESS).unwrap_or_else(|_| format!("{}.ttrpc", caller.address));
    let events = Arc::new(Events::start(caller.namespace.as_str(), &events_address));
    let shim = Arc::new(Shim::new(
        caller.namespace.clone(),
        BootId::current()?,
        Reaper::start()?,
        Arc::clone(&events),
        caller.debug,
    ));
    let mut server =
        Server::new().add_listener(Listener::from(listener)).register_service(service::services(&shim));
    server.start().await.map_err(|e| anyhow!("serve: {e}"))?;
    // The bundle that `start` ran in is removed before the process ends.
    std::env::set_current_dir("/").context("change to /")?;
    log::info!("shim of {} in namespace {} serves", caller.id, caller.namespace);

    let mut terminate = signal(SignalKind::terminate()).context("signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("signals")?;
    tokio::select! {
        () = shim.shutting_down() => {}
        // As the Go shim: it ends, its containers go on, and containerd cleans up.
        _ = terminate.recv() => log::warn!("shim ends on SIGTERM"),
        _ = interrupt.recv() => log::warn!("shim ends on SIGINT"),
    }
    if let Some(socket) = socket {
        // A shim that nobody can reach any more must not be found.
        let _ = fs::remove_file(socket);
    }
    server.stop_listen().await;
    events.finish(LAST_EVENTS).await;
    Ok(())
}
