//! Events to containerd: one queue, in order, each retried until containerd has it.
//!
//! The only place that knows containerd's event messages and topics.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use containerd_shim_protos::{
    api::ForwardRequest,
    events::task::{
        TaskCheckpointed, TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskOOM,
        TaskPaused, TaskResumed, TaskStart,
    },
    protobuf::{MessageField, MessageFull, well_known_types::any::Any},
    shim::event::Envelope,
    shim_async::{Client, EventsClient},
};
use runtime::{
    container::{Fact, Observer},
    process::{Exit, Pid},
};
use tokio::{sync::mpsc, task::JoinHandle};
use ttrpc::context;

use crate::service::translate::timestamp;

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(5);
/// The pause after a failed attempt doubles from the first to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// An event that containerd answers with an error (it does not when it is away) is given up after so many attempts.
const REFUSALS: u32 = 5;

/// The queue of events. Dropping it lets the sending task end.
pub struct Events {
    namespace: String,
    queue: Mutex<Option<mpsc::UnboundedSender<Envelope>>>,
    sender: Mutex<Option<JoinHandle<()>>>,
}

impl Events {
    /// Sends to the ttrpc socket of containerd at `address`, within a tokio runtime.
    pub fn start(namespace: &str, address: &str) -> Self {
        let (queue, receiver) = mpsc::unbounded_channel();
        let address = if address.contains("://") { address.to_owned() } else { format!("unix://{address}") };
        Events {
            namespace: namespace.to_owned(),
            queue: Mutex::new(Some(queue)),
            sender: Mutex::new(Some(tokio::spawn(send_all(address, receiver)))),
        }
    }

    /// A container was created.
    pub fn created(&self, event: TaskCreate) {
        self.push("/tasks/create", &event);
    }

    /// A container was deleted.
    pub fn deleted(&self, container_id: &str, pid: Option<Pid>, exit: Exit) {
        let mut event = TaskDelete::new();
        event.container_id = container_id.to_owned();
        event.pid = pid.map_or(0, Pid::as_u32);
        event.exit_status = u32::from(exit.code.as_u8());
        event.exited_at = MessageField::some(timestamp(exit.at));
        self.push("/tasks/delete", &event);
    }

    /// Waits until all that was queued is sent, for `deadline` at most. Nothing can be queued afterwards.
    pub async fn finish(&self, deadline: Duration) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut sender) = sender
            && tokio::time::timeout(deadline, &mut sender).await.is_err()
        {
            log::error!("events were not taken by containerd within {deadline:?}");
            sender.abort();
        }
    }

    fn push<M: MessageFull>(&self, topic: &str, event: &M) {
        let mut any = Any::new();
        // containerd looks types up by their bare name.
        any.type_url = M::descriptor().full_name().to_owned();
        match event.write_to_bytes() {
            Ok(bytes) => any.value = bytes,
            Err(error) => {
                log::error!("encode event {topic}: {error}");
                return;
            }
        }
        let mut envelope = Envelope::new();
        envelope.timestamp = MessageField::some(timestamp(SystemTime::now()));
        envelope.namespace.clone_from(&self.namespace);
        envelope.topic = topic.to_owned();
        envelope.event = MessageField::some(any);
        if let Some(queue) = &*self.queue.lock().unwrap_or_else(PoisonError::into_inner) {
            // The receiver lives as long as the sending task, which ends with this sender only.
            let _ = queue.send(envelope);
        }
    }
}

impl Observer for Events {
    fn observe(&self, container_id: &str, fact: Fact) {
        let id = container_id.to_owned();
        match fact {
            Fact::Started(pid) => {
                let event = TaskStart { container_id: id, pid: pid.as_u32(), ..Default::default() };
                self.push("/tasks/start", &event);
            }
            Fact::ExecAdded(exec_id) => {
                let event = TaskExecAdded { container_id: id, exec_id, ..Default::default() };
                self.push("/tasks/exec-added", &event);
            }
            Fact::ExecStarted(exec_id, pid) => {
                let event =
                    TaskExecStarted { container_id: id, exec_id, pid: pid.as_u32(), ..Default::default() };
                self.push("/tasks/exec-started", &event);
            }
            Fact::Exited(exec_id, pid, exit) => {
                let event = TaskExit {
                    id: exec_id.unwrap_or_else(|| id.clone()),
                    container_id: id,
                    pid: pid.as_u32(),
                    exit_status: u32::from(exit.code.as_u8()),
                    exited_at: MessageField::some(timestamp(exit.at)),
                    ..Default::default()
                };
                self.push("/tasks/exit", &event);
            }
            Fact::OutOfMemory => {
                self.push("/tasks/oom", &TaskOOM { container_id: id, ..Default::default() });
            }
            Fact::Paused => {
                self.push("/tasks/paused", &TaskPaused { container_id: id, ..Default::default() });
            }
            Fact::Resumed => {
                self.push("/tasks/resumed", &TaskResumed { container_id: id, ..Default::default() });
            }
            Fact::Checkpointed(path) => {
                let checkpoint = path.to_string_lossy().into_owned();
                let event = TaskCheckpointed { container_id: id, checkpoint, ..Default::default() };
                self.push("/tasks/checkpointed", &event);
            }
        }
    }
}

async fn send_all(address: String, mut queue: mpsc::UnboundedReceiver<Envelope>) {
    let mut connection: Option<EventsClient> = None;
    while let Some(envelope) = queue.recv().await {
        let mut pause = RETRY.0;
        let mut refusals = 0;
        while let Err(error) = send(&mut connection, &address, &envelope).await {
            connection = None;
            if let ttrpc::Error::RpcStatus(_) = error {
                refusals += 1;
                if refusals >= REFUSALS {
                    log::error!("containerd refused event {}: {error}", envelope.topic);
                    break;
                }
            }
            if pause == RETRY.0 {
                log::warn!("event {} is sent again: {error}", envelope.topic);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }
}

async fn send(
    connection: &mut Option<EventsClient>,
    address: &str,
    envelope: &Envelope,
) -> Result<(), ttrpc::Error> {
    let client = match connection {
        Some(client) => client,
        None => connection.insert(EventsClient::new(Client::connect(address).await?)),
    };
    let mut request = ForwardRequest::new();
    request.envelope = MessageField::some(envelope.clone());
    let deadline = i64::try_from(ATTEMPT.as_nanos()).unwrap_or(i64::MAX);
    client.forward(context::with_timeout(deadline), &request).await.map(drop)
}
