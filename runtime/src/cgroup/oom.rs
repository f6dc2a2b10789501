//! Out-of-memory kills of a cgroup as they happen.
//!
//! Version 2 says so in `memory.events`, whose changes inotify reports. Version 1 signals an eventfd when memory is
//! short, *before* the kernel chooses and kills, and to all cgroups below the one that is short; so the count of kills in
//! `memory.oom_control` is looked at until it rises, for a moment. Without that count (before Linux 4.13) each signal
//! is taken for a kill, as the Go shim does.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    event::{EventfdFlags, eventfd},
    fs::inotify::{self, CreateFlags, WatchFlags},
    io::read,
};
use tokio::{io::Interest, time::sleep};

use super::{
    CgroupError,
    files::{is_absent, keyed},
    tree::visit,
};
use crate::sys::poll::Polled;

/// Looks after a signal of version 1, 1 ms after it and then after twice the time each: half a second in all.
const LOOKS: u32 = 9;

/// One or more out-of-memory kills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OomEvent {
    /// Processes killed since the last event; 0 when the cgroup is out of memory and killing is switched off.
    pub kills: u64,
}

/// Watches one cgroup. Dropping it ends the watch.
#[derive(Debug)]
pub struct OomEvents {
    directory: PathBuf,
    source: Source,
    notified: Polled,
    /// Kills that were returned, or had happened before the watch.
    reported: u64,
    /// How often was looked after the last signal; `None` when it is dealt with.
    looked: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    V1,
    V2,
}

/// What the files say.
enum State {
    Gone,
    /// Version 1 of an old kernel.
    Uncounted,
    Counted {
        kills: u64,
        /// Tasks wait for memory as killing is switched off.
        stuck: bool,
        /// No process is left.
        empty: bool,
    },
}

impl OomEvents {
    pub(super) fn v1(directory: &Path) -> Result<Self, CgroupError> {
        let failed = |step| move |source| watch_error(directory, step, source);
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| failed("eventfd")(e.into()))?;
        let control = std::fs::File::open(directory.join("memory.oom_control"))
            .map_err(failed("memory.oom_control"))?;
        let registration = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
        std::fs::write(directory.join("cgroup.event_control"), registration)
            .map_err(failed("cgroup.event_control"))?;
        Self::new(directory, Source::V1, event)
    }

    pub(super) fn v2(directory: &Path) -> Result<Self, CgroupError> {
        let failed = |step| move |e: rustix::io::Errno| watch_error(directory, step, e.into());
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(failed("inotify"))?;
        let changes = WatchFlags::MODIFY | WatchFlags::DELETE_SELF;
        inotify::add_watch(&watch, directory.join("memory.events"), changes)
            .map_err(failed("memory.events"))?;
        // This one tells that the last process has gone; removal of the files themselves is told late or not at all.
        inotify::add_watch(&watch, directory.join("cgroup.events"), changes)
            .map_err(failed("cgroup.events"))?;
        Self::new(directory, Source::V2, watch)
    }

    fn new(directory: &Path, source: Source, notified: OwnedFd) -> Result<Self, CgroupError> {
        let notified =
            Polled::new(notified, Interest::READABLE).map_err(|e| watch_error(directory, "poll", e))?;
        let mut events =
            Self { directory: directory.to_owned(), source, notified, reported: 0, looked: None };
        if let State::Counted { kills, .. } = events.look()? {
            events.reported = kills;
        }
        Ok(events)
    }

    /// Waits for the next out-of-memory kill in the cgroup or below it; `None` when the cgroup is gone, or (version 2) has no
    /// process any more.
    ///
    /// Cancel safe: an event is not lost when the future is dropped. Needs a tokio runtime with time and I/O.
    ///
    /// # Errors
    /// The kernel's notification fails or its files have an unknown form; there is nothing more to wait for.
    pub async fn next(&mut self) -> Result<Option<OomEvent>, CgroupError> {
        loop {
            match self.looked {
                None => {
                    self.notification().await?;
                    self.looked = Some(0);
                }
                Some(LOOKS) => {
                    self.looked = None;
                    continue;
                }
                Some(0) => {}
                Some(looks) => sleep(Duration::from_millis(1 << (looks - 1))).await,
            }
            match self.look()? {
                State::Gone => return Ok(None),
                State::Uncounted => {
                    self.looked = None;
                    return Ok(Some(OomEvent { kills: 1 }));
                }
                State::Counted { kills, stuck, empty } => {
                    if let Some(event) = self.account(kills) {
                        self.looked = None;
                        return Ok(Some(event));
                    }
                    if empty {
                        return Ok(None);
                    }
                    if stuck {
                        self.looked = None;
                        return Ok(Some(OomEvent { kills: 0 }));
                    }
                }
            }
            self.looked = match self.source {
                // The signal came before the kill.
                Source::V1 => self.looked.map(|looks| looks + 1),
                Source::V2 => None,
            };
        }
    }

    /// What has happened and was not yet returned, without waiting. To be asked before a process' exit is reported, so that
    /// the kill is reported first.
    pub fn pending(&mut self) -> Option<OomEvent> {
        // An error here is one of next() as well, which is where it is reported.
        match self.look() {
            Ok(State::Counted { kills, .. }) => self.account(kills),
            _ => None,
        }
    }

    fn account(&mut self, kills: u64) -> Option<OomEvent> {
        let new = kills.saturating_sub(self.reported);
        // It falls when a cgroup below, whose kills were in the sum, is removed.
        self.reported = kills;
        (new > 0).then_some(OomEvent { kills: new })
    }

    /// Waits until the kernel has something to say, and takes it.
    async fn notification(&self) -> Result<(), CgroupError> {
        let failed = |source| watch_error(&self.directory, "wait", source);
        let mut buffer = [0; 4096];
        loop {
            let mut ready = self.notified.readable().await.map_err(failed)?;
            match ready.try_io(|fd| Ok(read(fd, &mut buffer)?)) {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(e)) => return Err(failed(e)),
                Err(_would_block) => {}
            }
        }
    }

    fn look(&self) -> Result<State, CgroupError> {
        match self.source {
            Source::V1 => look_v1(&self.directory),
            Source::V2 => look_v2(&self.directory),
        }
    }
}

fn look_v1(directory: &Path) -> Result<State, CgroupError> {
    let Some(control) = keyed(directory, "memory.oom_control")? else { return Ok(State::Gone) };
    if control.find("oom_kill").is_none() {
        return Ok(State::Uncounted);
    }
    // The count is of a cgroup itself, without those below it.
    let mut kills = 0;
    visit(directory, &mut |below| {
        kills += keyed(below, "memory.oom_control")?.map_or(0, |control| control.get("oom_kill"));
        Ok(())
    })?;
    let stuck = control.get("oom_kill_disable") == 1 && control.get("under_oom") == 1;
    Ok(State::Counted { kills, stuck, empty: false })
}

fn look_v2(directory: &Path) -> Result<State, CgroupError> {
    // Populated first: the count that is read afterwards has all kills of processes that were gone then.
    let populated = keyed(directory, "cgroup.events")?;
    let Some(events) = keyed(directory, "memory.events")? else { return Ok(State::Gone) };
    let empty = populated.is_none_or(|events| events.get("populated") == 0);
    Ok(State::Counted { kills: events.get("oom_kill"), stuck: false, empty })
}

fn watch_error(directory: &Path, step: &'static str, source: io::Error) -> CgroupError {
    if is_absent(&source) && !directory.exists() {
        return CgroupError::NotFound { path: directory.to_owned() };
    }
    CgroupError::Watch { path: directory.to_owned(), step, source }
}
