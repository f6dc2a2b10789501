//! What one shim process has: its containers, its pod, the way to containerd.

use std::sync::{Arc, Mutex, PoisonError};

use layout::{BootId, Identifier, LogLevel};
use runtime::process::Reaper;
use tokio::sync::watch;

use crate::{events::Events, pod::Pod, tasks::Tasks};

/// The state of the serving process.
pub struct Shim {
    /// The containerd namespace.
    pub namespace: Identifier,
    /// The boot that the state on disk is marked with.
    pub boot_id: BootId,
    /// The parent of every process that the shim has.
    pub reaper: Reaper,
    /// Events to containerd.
    pub events: Arc<Events>,
    /// The containers.
    pub tasks: Arc<Tasks>,
    /// The pod, once its sandbox has been created. Protects the reference alone.
    pod: Mutex<Option<Arc<Pod>>>,
    shutdown: watch::Sender<bool>,
    /// containerd asked for a debug log.
    debug: bool,
}

impl Shim {
    /// A shim without containers.
    pub fn new(
        namespace: Identifier,
        boot_id: BootId,
        reaper: Reaper,
        events: Arc<Events>,
        debug: bool,
    ) -> Self {
        Shim {
            namespace,
            boot_id,
            reaper,
            events,
            tasks: Arc::default(),
            pod: Mutex::new(None),
            shutdown: watch::Sender::new(false),
            debug,
        }
    }

    /// The pod of this shim.
    pub fn pod(&self) -> Option<Arc<Pod>> {
        self.pod.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets or forgets the pod.
    pub fn set_pod(&self, pod: Option<Arc<Pod>>) {
        *self.pod.lock().unwrap_or_else(PoisonError::into_inner) = pod;
    }

    /// Logs as the config says, unless containerd asked for more.
    pub fn set_log_level(&self, level: LogLevel) {
        let level = level.as_str().parse().unwrap_or(log::LevelFilter::Info);
        log::set_max_level(if self.debug { level.max(log::LevelFilter::Debug) } else { level });
    }

    /// Ends the process once its last answer is sent.
    pub fn shut_down(&self) {
        self.shutdown.send_replace(true);
    }

    /// Waits until the process is to end. Cancel-safe.
    pub async fn shutting_down(&self) {
        let mut shutdown = self.shutdown.subscribe();
        // The sender lives in `self`.
        let _ = shutdown.wait_for(|down| *down).await;
    }
}
