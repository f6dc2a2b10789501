//! Out-of-memory kills of a container, told before the exit they cause.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};

use super::{Container, Fact};
use crate::cgroup::OomEvents;

/// Asks the watching task to tell what has happened so far, and to answer then.
pub(super) type Flush = mpsc::Sender<oneshot::Sender<()>>;

/// How long an exit waits for the watching task.
const FLUSH: Duration = Duration::from_secs(1);

impl Container {
    /// Starts to watch. Ends when the cgroup or the container is gone.
    pub(super) fn watch_oom(self: &Arc<Self>) {
        let Some(cgroup) = self.cgroup.get() else { return };
        let events = match cgroup.oom_events() {
            Ok(events) => events,
            Err(error) => {
                log::warn!("container {}: out-of-memory kills are not reported: {error}", self.id);
                return;
            }
        };
        let (sender, requests) = mpsc::channel(1);
        if self.oom.set(sender).is_ok() {
            tokio::spawn(watch(Arc::downgrade(self), events, requests));
        }
    }

    /// Tells the kills that have happened until now.
    pub(super) async fn tell_oom(&self) {
        let Some(flush) = self.oom.get() else { return };
        let (done, answer) = oneshot::channel();
        if flush.try_send(done).is_ok() {
            let _ = tokio::time::timeout(FLUSH, answer).await;
        }
    }
}

async fn watch(
    container: Weak<Container>,
    mut events: OomEvents,
    mut requests: mpsc::Receiver<oneshot::Sender<()>>,
) {
    let tell = |container: &Weak<Container>| {
        if let Some(container) = container.upgrade() {
            container.tell(Fact::OutOfMemory);
        }
    };
    loop {
        tokio::select! {
            event = events.next() => match event {
                Ok(Some(_)) => tell(&container),
                Ok(None) => return,
                Err(error) => {
                    log::warn!("watch for out-of-memory kills: {error}");
                    return;
                }
            },
            request = requests.recv() => {
                // The sender lives in the container.
                let Some(done) = request else { return };
                if events.pending().is_some() {
                    tell(&container);
                }
                let _ = done.send(());
            }
        }
    }
}
