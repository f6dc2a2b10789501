//! containerd's end of the events: a server that keeps every event, and can be away for a while.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use containerd_shim_protos::{
    api::{Empty, ForwardRequest},
    events::task::{
        TaskCheckpointed, TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskOOM,
        TaskPaused, TaskResumed, TaskStart,
    },
    protobuf::Message,
    shim::event::Envelope,
    shim_async::{Events as Service, create_events},
};
use tests::wait;
use tokio::runtime::Handle;
use ttrpc::r#async::{Server, TtrpcContext};

const PATIENCE: Duration = Duration::from_secs(20);

/// One event as a line: what happened, the exec's id where there is one, the exit status.
#[derive(Clone, Debug)]
pub struct Event {
    /// The containerd namespace that the envelope names.
    pub namespace: String,
    /// The container.
    pub container: String,
    /// Such as `exit e1 7`, `start`, `exec-added e1`.
    pub line: String,
}

#[derive(Clone, Default)]
struct Record(Arc<Mutex<Vec<Event>>>);

#[async_trait]
impl Service for Record {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let event = decode(&request.envelope).map_err(|e| ttrpc::Error::Others(format!("{e:#}")))?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        Ok(Empty::new())
    }
}

/// The server, listening from its construction on.
pub struct EventServer {
    rt: Handle,
    socket: PathBuf,
    record: Record,
    server: Mutex<Option<Server>>,
}

impl EventServer {
    /// Listens on `socket`.
    pub fn start(rt: &Handle, socket: &Path) -> Result<Self> {
        let server = Self {
            rt: rt.clone(),
            socket: socket.to_owned(),
            record: Record::default(),
            server: Mutex::new(None),
        };
        server.come_back()?;
        Ok(server)
    }

    /// Stops to listen and cuts all connections, as a containerd that ends.
    pub fn go_away(&self) -> Result<()> {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut server = server.context("the events server is away already")?;
        self.rt.block_on(server.shutdown())?;
        if self.socket.exists() {
            std::fs::remove_file(&self.socket)?;
        }
        Ok(())
    }

    /// Listens again.
    pub fn come_back(&self) -> Result<()> {
        let start = async {
            let mut server = Server::new()
                .bind(&format!("unix://{}", self.socket.display()))?
                .register_service(create_events(Arc::new(self.record.clone())));
            server.start().await?;
            ttrpc::Result::Ok(server)
        };
        let server = self.rt.block_on(start).context("starting the events server")?;
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = Some(server);
        Ok(())
    }

    /// All events so far.
    pub fn all(&self) -> Vec<Event> {
        self.record.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets what came of a container, for a test that uses its id again.
    pub fn forget(&self, container: &str) {
        let mut record = self.record.0.lock().unwrap_or_else(PoisonError::into_inner);
        record.retain(|event| event.container != container);
    }

    /// The lines of one container, in the order in which they came.
    pub fn of(&self, container: &str) -> Vec<String> {
        self.all().into_iter().filter(|event| event.container == container).map(|event| event.line).collect()
    }

    /// Waits until the container's events are exactly `lines`.
    pub fn expect(&self, container: &str, lines: &[&str]) -> Result<()> {
        let waited = wait::holds("the last event", PATIENCE, || Ok(self.of(container).len() >= lines.len()));
        let seen = self.of(container);
        if seen != lines {
            bail!("events of {container}: expected {lines:?}, seen {seen:?} ({waited:?})");
        }
        Ok(())
    }

    /// Waits for an event of the container with this line.
    pub fn wait_for(&self, container: &str, line: &str) -> Result<()> {
        let seen = || self.of(container).iter().any(|seen| seen == line);
        wait::holds(&format!("event {line:?} of {container}"), PATIENCE, || Ok(seen()))
            .with_context(|| format!("seen so far: {:?}", self.of(container)))
    }
}

impl Drop for EventServer {
    fn drop(&mut self) {
        // Away already is as good.
        let _ = self.go_away();
    }
}

fn decode(envelope: &Envelope) -> Result<Event> {
    let bytes = &envelope.event.value;
    let (container, line) = match envelope.topic.as_str() {
        "/tasks/create" => {
            let event = TaskCreate::parse_from_bytes(bytes)?;
            (event.container_id, "create".to_owned())
        }
        "/tasks/start" => {
            let event = TaskStart::parse_from_bytes(bytes)?;
            (event.container_id, "start".to_owned())
        }
        "/tasks/exec-added" => {
            let event = TaskExecAdded::parse_from_bytes(bytes)?;
            (event.container_id, format!("exec-added {}", event.exec_id))
        }
        "/tasks/exec-started" => {
            let event = TaskExecStarted::parse_from_bytes(bytes)?;
            (event.container_id, format!("exec-started {}", event.exec_id))
        }
        "/tasks/exit" => {
            let event = TaskExit::parse_from_bytes(bytes)?;
            let who = if event.id == event.container_id { String::new() } else { format!("{} ", event.id) };
            (event.container_id, format!("exit {who}{}", event.exit_status))
        }
        "/tasks/delete" => {
            let event = TaskDelete::parse_from_bytes(bytes)?;
            (event.container_id, format!("delete {}", event.exit_status))
        }
        "/tasks/oom" => (TaskOOM::parse_from_bytes(bytes)?.container_id, "oom".to_owned()),
        "/tasks/paused" => (TaskPaused::parse_from_bytes(bytes)?.container_id, "paused".to_owned()),
        "/tasks/resumed" => (TaskResumed::parse_from_bytes(bytes)?.container_id, "resumed".to_owned()),
        "/tasks/checkpointed" => {
            (TaskCheckpointed::parse_from_bytes(bytes)?.container_id, "checkpointed".to_owned())
        }
        other => bail!("an event of topic {other:?}"),
    };
    Ok(Event { namespace: envelope.namespace.clone(), container, line })
}
