//! The agent of a pod: started beside the pod, followed, restarted with backoff while the pod lives.
//!
//! ```text
//!   Starting ──answers──▶ Ready
//!      ▲  └──fails──┐       │ ends
//!      │            ▼       ▼
//!      └─backoff── Down ◀───┘        any ──stop──▶ Stopped
//! ```
//! Pulls wait for `Ready`. Its container is in no task table and has a backend root of its own.

use std::{
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use agent_client::{AgentClient, AgentError, Endpoint, PullRequest, PulledImage, free_port};
use layout::{AgentExit, AgentState, AgentUrl, Config, SandboxPaths};
use runtime::{
    mount,
    oci::{Backend, ChildStdio, Create, Force, OciError},
    process::Process,
};
use tokio::{sync::watch, task::JoinHandle, time};

use super::{
    PodError,
    agent_bundle::{self, PodEnvironment},
    agent_output::Output,
};

/// The pause before a restart doubles from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// An agent that ran so long is restarted as if it were the first time.
const SETTLED: Duration = Duration::from_secs(60);
/// After so many failures in a row a pull is told at once instead of waiting.
const HOPELESS: u32 = 3;

/// What an agent is made from.
#[derive(Clone)]
pub struct AgentSpec {
    /// The node's config.
    pub config: Arc<Config>,
    /// The sandbox's directories.
    pub paths: SandboxPaths,
    /// Id of the agent's container.
    pub container_id: String,
    /// What creates it.
    pub backend: Backend,
    /// What the pod gives to it.
    pub pod: PodEnvironment,
}

/// Told of every change, for the sandbox's state file.
pub type OnChange = Box<dyn Fn(Change) + Send + Sync>;

/// What the state file is to say.
#[derive(Debug, Clone)]
pub struct Change {
    /// What the agent does.
    pub state: AgentState,
    /// Where it listens.
    pub url: String,
    /// How often it has been started again.
    pub restarts: u32,
    /// How it ended the last time, when that is what changed.
    pub exit: Option<AgentExit>,
}

#[derive(Clone)]
enum Status {
    Starting,
    Ready(Arc<AgentClient>),
    Down { failures: u32, reason: Arc<str> },
    Stopped,
}

/// A pod's agent.
pub struct AgentEnclave {
    sandbox: String,
    on_change: OnChange,
    ready_within: Duration,
    status: watch::Sender<Status>,
    supervisor: Mutex<Option<JoinHandle<()>>>,
    process: Mutex<Option<Process>>,
}

impl AgentEnclave {
    /// An agent that [`AgentEnclave::start`] starts.
    pub fn new(config: &Config, sandbox: &str, on_change: OnChange) -> Arc<Self> {
        Arc::new(AgentEnclave {
            sandbox: sandbox.to_owned(),
            on_change,
            ready_within: config.timeouts.agent_ready,
            status: watch::Sender::new(Status::Starting),
            supervisor: Mutex::new(None),
            process: Mutex::new(None),
        })
    }

    /// Starts the agent and keeps it running. Returns at once.
    pub fn start(self: &Arc<Self>, spec: AgentSpec) {
        let mut supervisor = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner);
        if supervisor.is_none() && !matches!(&*self.status.borrow(), Status::Stopped) {
            *supervisor = Some(tokio::spawn(supervise(Arc::clone(self), spec)));
        }
    }

    /// Ends the agent for good: no restart, its process killed. Its container is still to be deleted.
    pub async fn stop(&self) {
        self.status.send_replace(Status::Stopped);
        let supervisor = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(supervisor) = supervisor {
            supervisor.abort();
            // Aborted or not, it is over afterwards.
            let _ = supervisor.await;
        }
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(process) = process {
            // It may have ended by itself at the same moment.
            let _ = process.signal(nix::libc::SIGKILL);
        }
    }

    /// Has the agent pull an image, waiting for the agent first.
    ///
    /// Cancel-safe: the agent goes on with the pull, and the next call for the image attaches to it.
    ///
    /// # Errors
    /// The agent is down or not ready in time; what it answers.
    pub async fn pull(&self, request: PullRequest, deadline: Duration) -> Result<PulledImage, PodError> {
        let begun = Instant::now();
        let client = self.ready(deadline).await?;
        client.pull(request, deadline.saturating_sub(begun.elapsed())).await.map_err(|error| match error {
            AgentError::Deadline { .. } => PodError::PullDeadline { within: deadline, source: error },
            error => error.into(),
        })
    }

    async fn ready(&self, deadline: Duration) -> Result<Arc<AgentClient>, PodError> {
        let down =
            |reason: &str| PodError::AgentDown { sandbox: self.sandbox.clone(), reason: reason.to_owned() };
        let mut status = self.status.subscribe();
        let decided = status.wait_for(|status| match status {
            Status::Ready(_) | Status::Stopped => true,
            Status::Down { failures, .. } => *failures >= HOPELESS,
            Status::Starting => false,
        });
        let within = deadline.min(self.ready_within);
        let decided = time::timeout(within, decided).await.map(|status| status.map(|status| status.clone()));
        match decided {
            Ok(Ok(Status::Ready(client))) => Ok(client),
            Ok(Ok(Status::Down { reason, .. })) => Err(down(&reason)),
            Ok(_) => Err(down("it was stopped with the pod")),
            Err(_) => match &*self.status.borrow() {
                Status::Down { reason, .. } => Err(down(reason)),
                _ => Err(PodError::AgentDeadline { sandbox: self.sandbox.clone(), within }),
            },
        }
    }

    fn set(&self, status: Status) {
        self.status.send_if_modified(|current| {
            let stopped = matches!(current, Status::Stopped);
            if !stopped {
                *current = status;
            }
            !stopped
        });
    }
}

/// How one life of the agent ended.
struct End {
    reason: String,
    exit: Option<AgentExit>,
}

async fn supervise(agent: Arc<AgentEnclave>, spec: AgentSpec) {
    let mut failures = 0;
    let mut restarts = 0;
    let mut pause = BACKOFF.0;
    loop {
        let begun = Instant::now();
        let end = match live(&agent, &spec, restarts).await {
            Ok(end) => end,
            Err(error) => End { reason: crate::service::chain(&error), exit: None },
        };
        if begun.elapsed() >= SETTLED {
            (failures, pause) = (0, BACKOFF.0);
        }
        failures += 1;
        log::error!("agent of sandbox {}: {}; it is started again in {pause:?}", agent.sandbox, end.reason);
        agent.set(Status::Down { failures, reason: end.reason.into() });
        (agent.on_change)(Change {
            state: AgentState::BackingOff,
            url: String::new(),
            restarts,
            exit: end.exit,
        });
        time::sleep(pause).await;
        pause = (pause * 2).min(BACKOFF.1);
        restarts += 1;
    }
}

/// Starts the agent once and follows it to its end.
async fn live(agent: &AgentEnclave, spec: &AgentSpec, restarts: u32) -> Result<End, PodError> {
    let url = listen_url(spec).await?;
    let change = |state| Change { state, url: url.to_string(), restarts, exit: None };
    if mount::mounts_below(&spec.paths.agent_rootfs())?.is_empty() {
        agent_bundle::mount_root(&spec.config, &spec.paths)?;
    }
    let token = agent_bundle::token(&spec.paths)?;
    agent_bundle::write(&spec.config, &spec.paths, &spec.pod, &url)?;
    (agent.on_change)(change(AgentState::Starting));

    let (process, output) = run(spec).await?;
    *agent.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(process.clone());
    let client = Arc::new(AgentClient::new(endpoint(&url), spec.pod.network.clone(), token));
    tokio::select! {
        exit = process.wait() => return Ok(ended(output, exit).await),
        ready = client.wait_ready(spec.config.timeouts.agent_ready) => match ready {
            Ok(()) => {}
            Err(error) => {
                // It may have ended by itself at the same moment.
                let _ = process.signal(nix::libc::SIGKILL);
                let end = ended(output, process.wait().await).await;
                let reason = format!("{}; {}", crate::service::chain(&error), end.reason);
                return Ok(End { reason, ..end });
            }
        },
    }
    log::info!("agent of sandbox {} is ready at {url}", agent.sandbox);
    agent.set(Status::Ready(client));
    (agent.on_change)(change(AgentState::Ready));
    Ok(ended(output, process.wait().await).await)
}

async fn listen_url(spec: &AgentSpec) -> Result<AgentUrl, PodError> {
    match &spec.config.containerd.agent_url {
        AgentUrl::Tcp(address) if address.port() == 0 => {
            let port = free_port(spec.pod.network.as_deref())
                .await
                .map_err(|e| PodError::Setup(format!("choose a port for the agent: {e}")))?;
            Ok(AgentUrl::Tcp((address.ip(), port).into()))
        }
        url => Ok(url.clone()),
    }
}

fn endpoint(url: &AgentUrl) -> Endpoint {
    match url {
        AgentUrl::Tcp(address) => Endpoint::Tcp(*address),
        AgentUrl::Unix(path) => Endpoint::Unix(path.clone()),
    }
}

async fn run(spec: &AgentSpec) -> Result<(Process, Output), PodError> {
    let (call, start) = (spec.config.timeouts.backend, spec.config.timeouts.agent_ready);
    let id = spec.container_id.as_str();
    match spec.backend.delete(id, Force::Yes, call).await {
        Ok(()) | Err(OciError::NotFound { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let pipe = |e: io::Error| PodError::Setup(format!("a pipe for the agent's output: {e}"));
    let (reader, writer) = io::pipe().map_err(pipe)?;
    let stdout = OwnedFd::from(writer.try_clone().map_err(pipe)?);
    let output = Output::follow(OwnedFd::from(reader), format!("agent of sandbox {}", spec.paths.sandbox()))
        .map_err(pipe)?;
    let create = Create {
        bundle: &spec.paths.agent_bundle(),
        pid_file: &spec.paths.agent_pid_file(),
        console_socket: None,
        stdio: ChildStdio { stdin: None, stdout: Some(stdout), stderr: Some(writer.into()) },
        no_pivot: false,
        no_new_keyring: false,
        restore: None,
    };
    let process = spec.backend.create(id, create, start).await?;
    spec.backend.start(id, call).await?;
    Ok((process, output))
}

async fn ended(output: Output, exit: runtime::process::Exit) -> End {
    let tail = output.tail().await;
    let shown =
        if tail.is_empty() { "it wrote nothing".to_owned() } else { format!("its last lines: {tail}") };
    let code = exit.code.as_u8();
    End {
        reason: format!("the agent exited with {code}; {shown}"),
        exit: Some(AgentExit::new(code, exit.at, tail)),
    }
}

/// Where the network namespace of the process is.
pub fn network_of(pid: runtime::process::Pid) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns/net"))
}
