//! `enclave-cc-snapshotter`: opens its directory, serves containerd's snapshots API, ends at SIGTERM.
//!
//! Exit codes: 0 after SIGTERM or SIGINT, 1 for an error, 2 for a wrong command line. The last line on stderr says why.

#![forbid(unsafe_code)]

use std::{os::unix::net::UnixListener, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use clap::Parser;
use snapshotter::{
    api::snapshots::snapshots_server::SnapshotsServer, service::Service, snapshots::Snapshotter, socket,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

/// How long calls that are running may take when the end was asked for.
const DRAIN: Duration = Duration::from_secs(5);

/// containerd proxy snapshotter that leaves image layers to the enclave.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Where names, labels and directories are kept.
    #[arg(long, default_value = "/var/lib/enclave-cc-snapshotter")]
    root: PathBuf,
    /// The unix socket to serve on, unless systemd hands one over.
    #[arg(long, default_value = "/run/enclave-cc-snapshotter/snapshotter.sock")]
    socket: PathBuf,
    /// error, warn, info, debug or trace.
    #[arg(long, default_value = "info")]
    log_level: tracing::Level,
}

fn main() -> ExitCode {
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .with_max_level(args.log_level)
        .init();
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let activated = socket::activated()?;
    // First the lock of the directory: who has it may replace a socket that nobody serves.
    let snapshotter = Arc::new(Snapshotter::open(&args.root)?);
    let (listener, own_socket) = match activated {
        Some(listener) => (listener, None),
        None => (socket::bind(&args.socket)?, Some(&args.socket)),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let served = runtime.block_on(serve(listener, snapshotter.clone()));
    if let Some(path) = own_socket {
        // Nobody can connect any more; the next start would replace it as well.
        let _ = std::fs::remove_file(path);
    }
    runtime.shutdown_timeout(DRAIN);
    drop(snapshotter);
    served
}

async fn serve(listener: UnixListener, snapshotter: Arc<Snapshotter>) -> anyhow::Result<()> {
    listener.set_nonblocking(true).context("socket")?;
    let listener = tokio::net::UnixListener::from_std(listener).context("socket")?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let service = SnapshotsServer::new(Service::new(snapshotter));
    let server =
        Server::builder().serve_with_incoming_shutdown(service, UnixListenerStream::new(listener), async {
            let _ = stopped.await;
        });
    tokio::pin!(server);
    tracing::info!("serving");
    tokio::select! {
        served = &mut server => return served.context("cannot serve"),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("ending");
    let _ = stop.send(());
    match tokio::time::timeout(DRAIN, server).await {
        Ok(served) => served.context("cannot serve"),
        // containerd keeps its connection open; calls that are still running end with the runtime.
        Err(_) => Ok(()),
    }
}
