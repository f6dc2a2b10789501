//! Out-of-memory kills of a cgroup as they happen.

use super::CgroupError;

/// One or more out-of-memory kills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OomEvent {
    /// Processes killed since the last event; at least 1.
    pub kills: u64,
}

/// Watches one cgroup. Dropping it ends the watch.
#[derive(Debug)]
pub struct OomEvents(());

impl OomEvents {
    /// Waits for the next out-of-memory kill in the cgroup or below it; `None` when the cgroup is gone, or empty for good.
    ///
    /// Cancel safe: an event is not lost when the future is dropped.
    ///
    /// # Errors
    /// The kernel's notification fails; there is nothing more to wait for.
    pub async fn next(&mut self) -> Result<Option<OomEvent>, CgroupError> {
        std::future::pending().await
    }

    /// What has happened and was not yet returned, without waiting. To be asked before a process' exit is reported, so that
    /// the kill is reported first.
    pub fn pending(&mut self) -> Option<OomEvent> {
        unimplemented!()
    }
}
