//! A node: network, resolver, registry, containerd and its handlers, in the namespaces of [`crate::namespace`].

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::runtime::Runtime;

use crate::{
    containerd,
    cri::Cri,
    daemon::{Daemon, run, tail},
    dns,
    gate::Gate,
    handlers::{self, Handler, Product},
    image::{Image, Pushed},
    images, leak,
    namespace::CGROUP_ROOT,
    registry::Registry,
    wait,
};

/// The node's address: registry, gates and resolver listen on it, pods reach it through their gateway.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// The registry's name and port.
pub const REGISTRY: &str = "registry.test:5000";
const REGISTRY_PORT: u16 = 5000;
const GATES: u16 = 4;
const READY: Duration = Duration::from_secs(30);
const SCRATCH: &str = "/run/node";

/// The running node; its daemons end with it.
#[derive(Debug)]
pub struct Node {
    /// What drives the clients.
    pub rt: Runtime,
    /// The registry.
    pub registry: Registry,
    /// The product's programs, unless only runc is asked for.
    pub product: Option<Product>,
    handlers: Vec<Handler>,
    gates: Mutex<Vec<Gate>>,
    containerd: Mutex<Daemon>,
    cri: Cri,
    baseline: leak::Baseline,
}

impl Node {
    /// Starts everything and waits until CRI is ready. To be called once, inside the namespaces.
    ///
    /// # Errors
    /// When a daemon does not start or is not ready in time.
    pub fn start(product: Option<Product>) -> Result<Self> {
        let scratch = Path::new(SCRATCH);
        fs::create_dir_all(scratch)?;
        let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        network()?;
        dns::serve(SocketAddr::from((ADDRESS, 53)), ADDRESS)?;
        fs::write("/etc/resolv.conf", format!("nameserver {ADDRESS}\n"))?;
        let registry_address = SocketAddr::from((ADDRESS, REGISTRY_PORT));
        let registry = Registry::start(&scratch_dir("registry")?, registry_address)?;
        let mut gates = Vec::new();
        for n in 1..=GATES {
            let listen = SocketAddr::from((ADDRESS, REGISTRY_PORT + n));
            gates.push(Gate::open(rt.handle(), &format!("gate{n}.test"), listen, registry_address)?);
        }
        let mut insecure = vec![REGISTRY.to_owned()];
        insecure.extend(gates.iter().map(|gate| gate.authority().to_owned()));
        let handlers = handlers::prepare(product.as_ref(), scratch, &insecure)?;
        let pause = images::pause().push(REGISTRY, "pause", "1")?;
        let config = containerd::Config {
            handlers: &handlers,
            sandbox_image: &pause.reference,
            insecure: &insecure,
            bin_dir: product.as_ref().map(|product| product.bin_dir.as_path()),
        };
        let mut containerd = containerd::start(&config, &scratch.join("containerd.log"))?;
        let cri = wait::until("containerd's CRI to be ready", READY, || {
            containerd.check_alive()?;
            Ok(Cri::connect(rt.handle(), containerd::SOCKET).ok().filter(Cri::ready))
        })?;
        let mut node = Self {
            rt,
            registry,
            product,
            handlers,
            gates: Mutex::new(gates),
            containerd: Mutex::new(containerd),
            cri,
            baseline: leak::Baseline::default(),
        };
        node.baseline = leak::Baseline::take(&node)?;
        Ok(node)
    }

    /// The CRI client.
    #[must_use]
    pub fn cri(&self) -> &Cri {
        &self.cri
    }

    /// The handler `name`.
    ///
    /// # Errors
    /// When the node has none of that name.
    pub fn handler(&self, name: &str) -> Result<&Handler> {
        self.handlers
            .iter()
            .find(|handler| handler.name == name)
            .with_context(|| format!("no handler {name}"))
    }

    /// All handlers.
    #[must_use]
    pub fn handlers(&self) -> &[Handler] {
        &self.handlers
    }

    /// Takes a gate for a scenario; it comes back with [`Node::give_back`].
    ///
    /// # Errors
    /// When none is free in time.
    pub fn take_gate(&self) -> Result<Gate> {
        wait::until("a free gate", Duration::from_secs(300), || Ok(lock(&self.gates).pop()))
    }

    /// Returns a gate, for other scenarios.
    pub fn give_back(&self, gate: Gate) {
        gate.set(crate::gate::Flow::Open);
        lock(&self.gates).push(gate);
    }

    /// Pushes `image` to the registry as `repository:tag`.
    ///
    /// # Errors
    /// When the push fails.
    pub fn push(&self, image: &Image, repository: &str, tag: &str) -> Result<Pushed> {
        image.push(REGISTRY, repository, tag)
    }

    /// containerd's log so far, with what shims wrote to it.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn containerd_log(&self) -> Result<String> {
        lock(&self.containerd).output()
    }

    /// Its last lines, for a failure's report.
    #[must_use]
    pub fn containerd_tail(&self, lines: usize) -> String {
        self.containerd_log().map_or_else(|e| format!("{e:#}"), |log| tail(&log, lines))
    }

    /// Process ids of the daemons, which are no leaks.
    #[must_use]
    pub fn daemons(&self) -> Vec<u32> {
        vec![self.registry.pid(), lock(&self.containerd).pid()]
    }

    /// Fails when anything is there that was not when the node was started.
    ///
    /// # Errors
    /// With the list of what is left.
    pub fn check_nothing_left(&self) -> Result<()> {
        self.baseline.check(self)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        lock(&self.containerd).stop();
        for dir in crate::namespace::cgroup_dirs(&cgroup_parent()) {
            // Not empty after a failure: the next run sweeps it.
            let _ = fs::remove_dir(dir);
        }
    }
}

/// The cgroup of this run.
#[must_use]
pub fn cgroup_parent() -> String {
    // The namespace's inode tells this run from others at the same time: pids repeat in pid namespaces.
    let id = fs::read_link("/proc/self/ns/pid")
        .map(|link| link.to_string_lossy().into_owned())
        .unwrap_or_default();
    let digits: String = id.chars().filter(char::is_ascii_digit).collect();
    format!("{CGROUP_ROOT}/{digits}")
}

/// A directory of this name on the node's scratch file system.
///
/// # Errors
/// When it can't be made.
pub fn scratch_dir(name: &str) -> Result<PathBuf> {
    let dir = Path::new(SCRATCH).join(name);
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    Ok(dir)
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn network() -> Result<()> {
    let address = format!("{ADDRESS}/32");
    run(Command::new("ip").args(["address", "add", &address, "dev", "lo"]))?;
    fs::create_dir_all(containerd::CNI_CONF_DIR)?;
    // The node's own address is reached through the gateway; nothing else exists, so no masquerade.
    let conflist = serde_json::json!({
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [{
            "type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": false,
            "ipam": {
                "type": "host-local", "dataDir": "/run/node/ipam",
                "ranges": [[{ "subnet": "10.88.0.0/16" }]], "routes": [{ "dst": "0.0.0.0/0" }]
            }
        }]
    });
    let file = Path::new(containerd::CNI_CONF_DIR).join("10-pods.conflist");
    fs::write(&file, conflist.to_string()).with_context(|| format!("writing {}", file.display()))
}
