//! Sockets that belong to another network namespace.
//!
//! A socket keeps the namespace of the thread that made it (network_namespaces(7)), so a thread
//! enters the namespace, makes the socket and ends; the socket is then used from anywhere. The
//! thread is one of its own: a namespace entered by a thread of a pool would stay with the pool.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    thread,
};

use nix::sched::{CloneFlags, setns};
use tokio::sync::oneshot;

/// Runs `make` in a short-lived thread inside the network namespace `netns`. `make` must not block.
///
/// Cancel safety: when the future is dropped, the thread still ends by itself and its result is
/// dropped.
pub(crate) async fn inside<T: Send + 'static>(
    netns: PathBuf,
    make: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (sender, receiver) = oneshot::channel();
    let work = move || {
        let result = enter(&netns).and_then(|()| make());
        // Nobody waits any more if the receiver is gone.
        let _ = sender.send(result);
    };
    thread::Builder::new().name("agent-netns".into()).spawn(work)?;
    receiver.await.unwrap_or_else(|_| Err(io::Error::other("the thread in the network namespace panicked")))
}

/// A TCP port that was free on 127.0.0.1, in the network namespace `netns` or in the caller's, when it
/// was asked for. Nothing reserves it: whoever listens there later is told apart by the token only.
///
/// # Errors
/// The namespace cannot be entered or has no loopback interface that is up.
pub async fn free_port(netns: Option<&Path>) -> io::Result<u16> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr();
    let address = match netns {
        Some(netns) => inside(netns.to_path_buf(), bind).await?,
        None => bind()?,
    };
    Ok(address.port())
}

fn enter(netns: &Path) -> io::Result<()> {
    let failed = |error: io::Error| {
        io::Error::new(error.kind(), format!("entering the network namespace {}: {error}", netns.display()))
    };
    let namespace = File::open(netns).map_err(failed)?;
    setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| failed(errno.into()))
}
