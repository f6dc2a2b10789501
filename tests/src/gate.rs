//! A way to the registry that a scenario can hold or cut: a TCP forwarder with its own name and port.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Handle,
    sync::watch,
};

/// What happens to bytes on the way to and from the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// They pass.
    Open,
    /// Connections are taken and then hang.
    Held,
    /// Nothing listens; connections that exist are closed.
    Cut,
}

/// One forwarder.
#[derive(Clone, Debug)]
pub struct Gate {
    authority: String,
    flow: Arc<watch::Sender<Flow>>,
    held: Arc<AtomicUsize>,
}

impl Gate {
    /// Listens on `listen` and forwards to `registry`; `host` is the name that clients use.
    ///
    /// # Errors
    /// When the port can't be bound.
    pub fn open(rt: &Handle, host: &str, listen: SocketAddr, registry: SocketAddr) -> Result<Self> {
        let (flow, changes) = watch::channel(Flow::Open);
        let listener = rt.block_on(bind(listen))?;
        let held = Arc::new(AtomicUsize::new(0));
        rt.spawn(serve(listener, listen, registry, Passage { changes, held: Arc::clone(&held) }));
        Ok(Self { authority: format!("{host}:{}", listen.port()), flow: Arc::new(flow), held })
    }

    /// `host:port`, the registry part of references that go through this gate.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// How many connections have bytes that are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Switches what happens from now on.
    pub fn set(&self, flow: Flow) {
        self.flow.send_replace(flow);
    }
}

async fn bind(listen: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(listen).await.with_context(|| format!("binding {listen}"))
}

/// What the connections of a gate share.
#[derive(Clone)]
struct Passage {
    changes: watch::Receiver<Flow>,
    held: Arc<AtomicUsize>,
}

async fn serve(first: TcpListener, listen: SocketAddr, registry: SocketAddr, mut passage: Passage) {
    let mut listener = Some(first);
    loop {
        if *passage.changes.borrow_and_update() == Flow::Cut {
            listener = None;
        } else if listener.is_none() {
            listener = bind(listen).await.ok();
        }
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = passage.changes.changed() => if changed.is_err() { return },
            Ok((client, _)) = accepted => {
                tokio::spawn(forward(client, registry, passage.clone()));
            }
        }
    }
}

async fn forward(mut client: TcpStream, registry: SocketAddr, mut passage: Passage) {
    let Ok(mut server) = TcpStream::connect(registry).await else { return };
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let there = copy(from_client, to_server, passage.clone());
    let back = copy(from_server, to_client, passage.clone());
    tokio::select! {
        _ = passage.changes.wait_for(|flow| *flow == Flow::Cut) => {}
        _ = async { tokio::join!(there, back) } => {}
    }
}

async fn copy(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin, mut passage: Passage) {
    let mut buffer = vec![0_u8; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        passage.held.fetch_add(1, Ordering::Relaxed);
        let goes_on = passage.changes.wait_for(|flow| *flow != Flow::Held).await.is_ok();
        passage.held.fetch_sub(1, Ordering::Relaxed);
        if !goes_on || to.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
    // The other side may have gone first.
    let _ = to.shutdown().await;
}
