//! Announces what happens to a container by itself: exits and out-of-memory kills.

use std::{sync::Arc, time::Duration};

use super::{Container, Entry, Fact, PidNamespace, Step, lifecycle::drain};
use crate::oci::{KillScope, OciError};

/// How long the exit of a process is held back while its last output is delivered.
const DRAIN_BEFORE_EXIT: Duration = Duration::from_millis(200);

/// Follows a process to its end and announces it. Ends with the process.
pub(super) fn watch(container: Arc<Container>, entry: Arc<Entry>) {
    tokio::spawn(async move {
        let Some(process) = entry.process() else { return };
        let pid = process.pid();
        let exit = process.wait().await;
        let is_init = entry.exec_id.is_none();
        if is_init && container.pid_namespace == PidNamespace::Shared {
            kill_rest(&container).await;
        }
        drain(&entry, DRAIN_BEFORE_EXIT).await;
        // A start of this very process that is under way is told first.
        let _lifecycle = entry.lifecycle.lock().await;
        if is_init {
            container.execs_ended(container.deadlines.call).await;
            container.tell_oom().await;
        }
        if let Err(error) = entry.step(Step::Exit(exit)) {
            log::error!("container {}: exit announced twice: {error}", container.id);
            return;
        }
        container.tell(Fact::Exited(entry.exec_id.clone(), pid, exit));
        entry.announce(exit);
    });
}

/// Init of a container without a pid namespace of its own has ended: the rest of the
/// container ends with it, as the kernel does it for the others.
async fn kill_rest(container: &Container) {
    let call = container.deadlines.call;
    match container.backend.kill(&container.id, libc::SIGKILL, KillScope::All, call).await {
        Ok(()) | Err(OciError::NotRunning { .. } | OciError::NotFound { .. }) => {}
        Err(error) => log::warn!("kill the rest of container {}: {error}", container.id),
    }
}
