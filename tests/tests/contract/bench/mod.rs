//! A scenario's own corner of the node: a directory, a namespace, an events server, and the shims it starts.
//!
//! The shims are started as containerd does it, without a containerd: what they write and send is all seen here.
//! At the end everything that still runs is taken down through the Task service, and then nothing may be left.

pub mod backend;
pub mod bundle;
pub mod container;
pub mod events;
mod leak;
pub mod shim;

use std::{
    cell::RefCell,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tests::{
    handlers::RUNC,
    suite::{Scenario, Scene, under},
    wait,
};
use tokio::{net::unix::pipe, task::JoinHandle};

use self::events::EventServer;
pub use self::{
    container::{Container, ContainerSpec},
    shim::{Answer, Program, Shim, refused},
};

/// The handler name under which our shim is tested.
pub const RUNE: &str = "rune";
const RUNC_SHIM: &str = "/usr/bin/containerd-shim-runc-v2";
/// How long the end of a shim may take.
const GONE: Duration = Duration::from_secs(15);

/// A claim about both shims.
pub const fn both(name: &'static str, body: tests::suite::Body) -> Scenario {
    under(&[RUNC, RUNE], name, body)
}

/// A claim about ours.
pub const fn ours(name: &'static str, body: tests::suite::Body) -> Scenario {
    under(&[RUNE], name, body)
}

/// A table of scenarios: `both` or `ours`, the claim, the function of a [`Bench`].
macro_rules! scenarios {
    ($($who:ident $name:literal => $body:path;)*) => {
        pub const SCENARIOS: &[tests::suite::Scenario] =
            &[$(crate::bench::$who($name, |scene| crate::bench::run(scene, $body))),*];
    };
}
pub(crate) use scenarios;

/// What a scenario has.
pub struct Bench<'a> {
    /// The scenario's name and node.
    pub scene: &'a Scene,
    /// Everything of the scenario is below it.
    pub dir: PathBuf,
    /// The containerd namespace of its shims.
    pub namespace: String,
    /// The first part of its ids.
    prefix: String,
    /// Takes the events of all its shims.
    pub events: EventServer,
    program: PathBuf,
    started: RefCell<Vec<Started>>,
    log: Arc<Mutex<Vec<u8>>>,
    logs: RefCell<Vec<JoinHandle<()>>>,
}

/// A container that the teardown has to look after.
#[derive(Clone)]
struct Started {
    id: String,
    bundle: PathBuf,
    shim: Shim,
}

/// Runs a scenario's body on a bench, and checks what it leaves.
pub fn run(scene: &Scene, body: fn(&Bench<'_>) -> Result<()>) -> Result<()> {
    let bench = Bench::new(scene)?;
    let outcome = body(&bench);
    let finished = match &outcome {
        Ok(()) => bench.finish(),
        Err(_) => bench.give_up(),
    };
    let log = bench.log();
    for task in bench.logs.borrow_mut().drain(..) {
        task.abort();
    }
    let tail = tests::daemon::tail(&log, 15);
    outcome.and(finished).with_context(|| format!("the shims' log ends with:\n{tail}\n"))
}

impl<'a> Bench<'a> {
    fn new(scene: &'a Scene) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Short: sockets are below it, and their paths are limited.
        let dir = PathBuf::from(format!("/run/bench{number}"));
        fs::create_dir_all(dir.join("tmp"))?;
        let program = if scene.is_runc() {
            PathBuf::from(RUNC_SHIM)
        } else {
            let product = scene.node().product.as_ref().context("the product was not located")?;
            product.bin_dir.join("containerd-shim-rune-v2")
        };
        Ok(Self {
            scene,
            events: EventServer::start(scene.node().rt.handle(), &dir.join("events"))?,
            namespace: format!("bench{number}"),
            prefix: format!("b{number}"),
            dir,
            program,
            started: RefCell::default(),
            log: Arc::default(),
            logs: RefCell::default(),
        })
    }

    /// Whether the reference is tested.
    pub fn is_runc(&self) -> bool {
        self.scene.is_runc()
    }

    /// A container id of the scenario's own.
    pub fn id(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    /// The cgroup below which the scenario's containers are.
    pub fn cgroup(&self) -> String {
        format!("{}/{}", tests::node::cgroup_parent(), self.namespace)
    }

    /// Where the bundle `id` is.
    pub fn bundle_dir(&self, id: &str) -> PathBuf {
        self.dir.join("bundles").join(id)
    }

    /// The shim's command line.
    pub fn program(&self) -> Program<'_> {
        self.program_in(&self.namespace)
    }

    /// The shim's command line in another containerd namespace.
    pub fn program_in<'b>(&'b self, namespace: &'b str) -> Program<'b> {
        Program { path: &self.program, namespace, dir: &self.dir }
    }

    /// Starts (or finds) the shim for a bundle that was written, and connects to it.
    pub fn start_shim(&self, id: &str, bundle: &Path, options: &Any) -> Result<Shim> {
        self.start_shim_in(&self.namespace, id, bundle, options)
    }

    /// The same in another containerd namespace.
    pub fn start_shim_in(&self, namespace: &str, id: &str, bundle: &Path, options: &Any) -> Result<Shim> {
        self.follow_log(&bundle.join("log"))?;
        let output = self.program_in(namespace).start(id, bundle, options)?;
        ensure!(output.status.success(), "start of {id}: {output:?}");
        let address = String::from_utf8(output.stdout).context("the address")?;
        let mut shim = Shim::connect(self.scene.node().rt.handle(), address.trim())?;
        shim.pid = serving(&shim.socket(), namespace)?;
        self.started.borrow_mut().push(Started {
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            shim: shim.clone(),
        });
        Ok(shim)
    }

    /// Reads what shims write to the fifo, as containerd does.
    pub fn follow_log(&self, fifo: &Path) -> Result<()> {
        let _runtime = self.scene.node().rt.enter();
        // Opened for writing as well, so that it does not end with each process that has it.
        let fifo = pipe::OpenOptions::new().read_write(true).open_receiver(fifo).context("the log's fifo")?;
        let log = Arc::clone(&self.log);
        let read = async move {
            let mut buffer = [0; 8192];
            while fifo.readable().await.is_ok() {
                if let Ok(read) = fifo.try_read(&mut buffer) {
                    log.lock().expect("no panic while it is held").extend_from_slice(&buffer[..read]);
                }
            }
        };
        self.logs.borrow_mut().push(self.scene.node().rt.spawn(read));
        Ok(())
    }

    /// What the shims have logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&self.log.lock().expect("no panic while it is held")).into_owned()
    }

    /// A plain container to be.
    pub fn container(&self, name: &str) -> ContainerSpec<'_> {
        ContainerSpec::new(self, name)
    }

    /// Kills a shim with SIGKILL and waits until it is gone.
    pub fn kill_shim(&self, shim: &Shim) -> Result<()> {
        signal(shim.pid, Signal::SIGKILL)?;
        wait_gone(shim.pid)
    }

    /// Takes everything down through the shims, and checks that nothing is left and no event is missing.
    fn finish(&self) -> Result<()> {
        let started = self.started.borrow().clone();
        for Started { id, shim, .. } in &started {
            if alive(shim.pid) && shim.state(id, "").is_ok() {
                container::destroy(shim, id)?;
            }
        }
        for Started { id, shim, .. } in &started {
            if alive(shim.pid) {
                // The connection ends with the shim, maybe before the answer.
                let _ = shim.shutdown(id);
            }
        }
        for Started { shim, .. } in &started {
            wait_gone(shim.pid)?;
        }
        for Started { bundle, shim, .. } in &started {
            let left = bundle::leftovers(bundle);
            ensure!(left.is_empty(), "left in the bundle: {left:?}");
            leak::no_mounts_below(bundle)?;
            if shim.socket().exists() {
                ensure!(crate::differences::KILLED_SHIMS_SOCKET.of(self), "{} is left", shim.address);
                fs::remove_file(shim.socket())?;
            }
            if bundle.exists() {
                fs::remove_dir_all(bundle)?;
            }
        }
        leak::check(self)?;
        leak::check_events(&self.events.all())?;
        fs::remove_dir_all(&self.dir).context("removing the bench's directory")
    }

    /// After a failure: leaves the node clean for the others, and reports nothing of it.
    fn give_up(&self) -> Result<()> {
        let started = self.started.borrow().clone();
        for Started { shim, .. } in &started {
            let _ = signal(shim.pid, Signal::SIGKILL);
        }
        for Started { id, bundle, shim } in &started {
            let _ = self.program().delete(id, bundle);
            let _ = fs::remove_file(shim.socket());
        }
        leak::sweep(self);
        Ok(())
    }
}

/// The pid of the process that serves on `socket`: asked from the kernel, as the shim has no container yet.
fn serving(socket: &Path, namespace: &str) -> Result<u32> {
    let stream = std::os::unix::net::UnixStream::connect(socket)?;
    let peer = nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::PeerCredentials)?;
    let listener = u32::try_from(peer.pid())?;
    // That is who has bound the socket, which a short-lived `start` may have done for the server.
    if tests::processes::all()?.iter().any(|process| process.pid == listener)
        && is_server(listener, namespace)
    {
        return Ok(listener);
    }
    wait::until("the serving process", GONE, || {
        let inode = inode_of(socket)?;
        let holds = |pid: u32| {
            let fds = fs::read_dir(format!("/proc/{pid}/fd")).ok();
            fds.is_some_and(|mut fds| {
                fds.any(|fd| {
                    let link = fd.ok().and_then(|fd| fs::read_link(fd.path()).ok()).unwrap_or_default();
                    link.to_str() == Some(&format!("socket:[{inode}]"))
                })
            })
        };
        let servers = tests::processes::all()?;
        Ok(servers
            .iter()
            .find(|process| is_server(process.pid, namespace) && holds(process.pid))
            .map(|p| p.pid))
    })
}

fn is_server(pid: u32, namespace: &str) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|&byte| byte == 0).collect();
    words.contains(&namespace.as_bytes()) && !words.contains(&b"start".as_slice())
}

fn inode_of(socket: &Path) -> Result<u64> {
    let table = fs::read_to_string("/proc/net/unix")?;
    let path = socket.to_string_lossy();
    let listening =
        |line: &&str| line.ends_with(&*path) && line.split_whitespace().nth(3) == Some("00010000");
    let line = table.lines().find(listening).with_context(|| format!("nobody listens on {path}"))?;
    Ok(line.split_whitespace().nth(6).context("no inode")?.parse()?)
}

/// Whether the process exists and is no zombie.
pub fn alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Waits until the process is gone.
pub fn wait_gone(pid: u32) -> Result<()> {
    wait::holds(&format!("process {pid} to end"), GONE, || Ok(!alive(pid)))
}

/// Sends a signal.
pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    kill(Pid::from_raw(i32::try_from(pid)?), signal).with_context(|| format!("{signal} to process {pid}"))
}
