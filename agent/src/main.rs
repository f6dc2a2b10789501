//! `enclave-agent`: reads its settings, binds, serves, and ends at SIGTERM.
//!
//! Exit codes: 0 after SIGTERM or SIGINT, 2 for a wrong command line or configuration, 3 when the address cannot be bound,
//! 1 for anything else. The last line on stderr says why.

#![forbid(unsafe_code)]

use std::{process::ExitCode, sync::Arc, time::Duration};

use agent::{
    cli::{Args, Mode},
    config::{DecryptConfig, OcicryptConfig, SignaturePolicy, Token},
    image_store::{ImageStore, None as NoLibOs, Occlum},
    pull::Puller,
    registry::{AuthFile, Registry},
    service::{self, ImageService},
};
use anyhow::Context;
use clap::Parser;
use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

const EXIT_CONFIG: u8 = 2;
const EXIT_BIND: u8 = 3;
/// How long the end waits for threads that write a store.
const STOP: Duration = Duration::from_secs(2);

/// Each layer in transfer has one, which waits for the network; name look-ups need some too.
const MAX_BLOCKING_THREADS: usize = 64;

/// An error and the exit code that tells it.
struct Exit(u8, anyhow::Error);

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
        Err(Exit(code, error)) => {
            tracing::error!("{error:#}");
            ExitCode::from(code)
        }
    }
}

fn run(args: &Args) -> Result<(), Exit> {
    // Keys and tokens are in this memory.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .context("cannot forbid core dumps")
        .map_err(|error| Exit(1, error))?;
    let (token, store, puller) = prepare(args).map_err(|error| Exit(EXIT_CONFIG, error))?;

    // One thread for the network; the layers' work is on blocking threads.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .thread_keep_alive(Duration::from_secs(1))
        .build()
        .context("cannot start the runtime")
        .map_err(|error| Exit(1, error))?;
    let served = runtime.block_on(serve(args, ImageService::new(token, puller)));
    // Ends the pulls; their stores are removed by the threads that write them, or else here.
    runtime.shutdown_timeout(STOP);
    if let Err(error) = store.sweep() {
        tracing::warn!(error = error.chain(), "cannot remove interrupted pulls");
    }
    served
}

fn prepare(args: &Args) -> anyhow::Result<(Token, Arc<dyn ImageStore>, Puller)> {
    let token = Token::read(&args.token_file)?;
    let decrypt = args.decrypt_config.as_deref().map(DecryptConfig::read).transpose()?;
    if let Some(path) = &args.ocicrypt_config {
        OcicryptConfig::read(path)?;
    }
    let policy = SignaturePolicy::of(args.decrypt_config.as_deref().zip(decrypt.as_ref()));
    match &policy {
        SignaturePolicy::Unchecked => tracing::warn!("image signatures are not verified"),
        SignaturePolicy::Required(path) => tracing::warn!(
            config = %path.display(),
            "signature validation is demanded and not available in this version: every pull will be refused"
        ),
    }
    let store: Arc<dyn ImageStore> = match (args.mode, &args.seal_key_file) {
        (Mode::Occlum, _) => Arc::new(Occlum::new(args.images.clone())),
        (Mode::None, Some(path)) => {
            tracing::warn!("mode none: images have no confidentiality against the host");
            Arc::new(NoLibOs::new(args.images.clone(), store::SealKey::read(path)?))
        }
        (Mode::None, None) => anyhow::bail!("mode none needs --seal-key-file"),
    };
    let auth_file = match &args.auth_file {
        Some(path) => AuthFile::read(path)?,
        None => AuthFile::default(),
    };
    let registry = Registry::new(&args.insecure_registries, &args.ca_files, auth_file, &args.limits)?;
    let swept = store.sweep()?;
    if swept > 0 {
        tracing::info!(swept, "removed what interrupted pulls had left");
    }
    let puller = Puller::new(registry, store.clone(), policy, args.limits.clone());
    Ok((token, store, puller))
}

async fn serve(args: &Args, image_service: ImageService) -> Result<(), Exit> {
    let mut terminate = handler(SignalKind::terminate())?;
    let mut interrupt = handler(SignalKind::interrupt())?;
    let bound = service::bind(&args.listen)
        .with_context(|| format!("cannot listen on {:?}", args.listen))
        .map_err(|error| Exit(EXIT_BIND, error))?;
    let address = bound.address.clone();
    let server =
        service::serve(bound, image_service).await.context("cannot serve").map_err(|error| Exit(1, error))?;
    tracing::info!(address, "listening");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    drop(server);
    Ok(())
}

fn handler(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Exit> {
    signal(kind).context("cannot handle signals").map_err(|error| Exit(1, error))
}
