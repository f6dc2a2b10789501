use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::{Exit, ExitCode, Pid, ProcessError};
use crate::sys::wait::{self, ChildEnd, ChildExit};

/// The one reaper of the process; clones are handles to the same one.
///
/// It lives as long as the runtime that it was started on; that has to be a single-threaded one (`die_with_parent` of
/// the backends is bound to the spawning thread), and there may be one reaper in a process at a time.
#[derive(Clone)]
pub struct Reaper {
    shared: Arc<Shared>,
}

impl Reaper {
    /// Becomes child subreaper and starts reaping, beginning with what has exited before.
    ///
    /// # Errors
    /// [`ProcessError::Setup`] when the kernel refuses, or SIGCHLD cannot be watched.
    ///
    /// # Panics
    /// Outside of a tokio runtime with signals enabled.
    pub fn start() -> Result<Self, ProcessError> {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|e| ProcessError::Setup { step: "becoming child subreaper", source: e.into() })?;
        // The stream is registered before the first sweep: an exit in between is in one of the two.
        let mut sigchld = signal(SignalKind::child())
            .map_err(|source| ProcessError::Setup { step: "watching SIGCHLD", source })?;
        let shared = Arc::new(Shared { table: Mutex::new(Table::default()) });
        let reaper = Self { shared: Arc::clone(&shared) };
        reaper.shared.reap();
        // The task ends with the runtime, whose whole life it is needed for.
        tokio::spawn(async move {
            while sigchld.recv().await.is_some() {
                shared.reap();
            }
        });
        Ok(reaper)
    }

    /// Starts a program. Its exit is never lost: the reaper can't run between the start and the registration.
    ///
    /// Descriptors that were given to `command` stay open in it: drop it when an end of file depends on them. Piped
    /// stdio (`Stdio::piped`) is lost; pass the end of a pipe instead.
    ///
    /// # Errors
    /// [`ProcessError::Spawn`] when the program can't be executed.
    pub fn spawn(&self, command: &mut Command) -> Result<Process, ProcessError> {
        let mut table = self.shared.lock();
        let child = command
            .spawn()
            .map_err(|source| ProcessError::Spawn { program: command.get_program().into(), source })?;
        let pid = Pid::new(i64::from(child.id()))?;
        // Nobody consumes the exit while the table is locked, so the pid stands for this child even if it is dead.
        self.shared.track(&mut table, pid)
    }

    /// Keeps the exits of unknown children, as long as the guard lives, for [`adopt`](Self::adopt).
    ///
    /// To be taken before the step that makes the child (an OCI backend's `create`).
    #[must_use]
    pub fn hold(&self) -> OrphanHold {
        let mut table = self.shared.lock();
        let opened_at = table.clock;
        table.clock += 1;
        table.open_holds.insert(opened_at);
        drop(table);
        OrphanHold { shared: Arc::clone(&self.shared), opened_at }
    }

    /// Tracks a child that another process has made and left to us, also when it has exited since `hold` was taken.
    ///
    /// # Errors
    /// [`ProcessError::NotAChild`] for strangers, [`ProcessError::AlreadyTracked`] when it was spawned or adopted before.
    pub fn adopt(&self, pid: Pid, hold: &OrphanHold) -> Result<Process, ProcessError> {
        let mut table = self.shared.lock();
        if table.tracked.contains_key(&pid.0) {
            return Err(ProcessError::AlreadyTracked { pid });
        }
        match wait::peek(pid.0) {
            // The child is there, alive or not yet consumed: an exit that is remembered was that of an earlier one.
            Ok(_) => self.shared.track(&mut table, pid),
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => {
                let of_this_hold = |orphan: &Orphan| orphan.seen_at > hold.opened_at;
                if !table.orphans.get(&pid.0).is_some_and(of_this_hold) {
                    return Err(ProcessError::NotAChild { pid });
                }
                let exit = table.orphans.remove(&pid.0).map(|orphan| orphan.exit);
                let (_, exit) = watch::channel(exit);
                Ok(Process { pid, pidfd: None, exit, shared: Arc::clone(&self.shared) })
            }
            Err(source) => Err(ProcessError::System { step: "looking for", pid, source }),
        }
    }

    /// How many exits of unknown children are kept.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.shared.lock().orphans.len()
    }
}

impl fmt::Debug for Reaper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reaper").finish_non_exhaustive()
    }
}

/// While one is open, exits of unknown children are kept for [`Reaper::adopt`]; closed by dropping it.
pub struct OrphanHold {
    shared: Arc<Shared>,
    opened_at: u64,
}

impl Drop for OrphanHold {
    fn drop(&mut self) {
        let mut table = self.shared.lock();
        table.open_holds.remove(&self.opened_at);
        // An orphan can be asked for by the holds that were open when it was seen, and by no later one.
        let oldest = table.open_holds.first().copied().unwrap_or(u64::MAX);
        table.orphans.retain(|_, orphan| oldest < orphan.seen_at);
    }
}

impl fmt::Debug for OrphanHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OrphanHold").field("opened_at", &self.opened_at).finish_non_exhaustive()
    }
}

/// A child of this process, running or exited; clones stand for the same one. Dropping it neither kills nor forgets.
#[derive(Clone)]
pub struct Process {
    pid: Pid,
    /// `None` for a process that had exited before it was adopted.
    pidfd: Option<Arc<OwnedFd>>,
    exit: watch::Receiver<Option<Exit>>,
    shared: Arc<Shared>,
}

impl Process {
    /// The pid, which another process may bear once this one has exited.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends a signal by number, real-time ones included; 0 only asks whether it could be sent.
    ///
    /// # Errors
    /// [`ProcessError::NotRunning`] after its exit, reaped or not; [`ProcessError::System`] for numbers that are no signal.
    pub fn signal(&self, signal: i32) -> Result<(), ProcessError> {
        // A zombie takes signals without complaint; the caller shall hear of its exit.
        self.shared.reap();
        let not_running = ProcessError::NotRunning { pid: self.pid };
        let Some(pidfd) = self.pidfd.as_ref().filter(|_| self.exit().is_none()) else {
            return Err(not_running);
        };
        wait::pidfd_send_signal(pidfd.as_fd(), signal).map_err(|source| match source.raw_os_error() {
            Some(libc::ESRCH) => not_running,
            _ => ProcessError::System { step: "signalling", pid: self.pid, source },
        })
    }

    /// Kills the process group that the process leads, itself included; nothing happens when it has been reaped.
    pub(crate) fn kill_group(&self) {
        let _table = self.shared.lock();
        // Not reaped, under the lock that reaping needs: the id of the group can't have passed to others.
        if self.exit().is_none()
            && let Some(group) = rustix::process::Pid::from_raw(self.pid.0)
            && let Err(error) = rustix::process::kill_process_group(group, rustix::process::Signal::KILL)
            && error != rustix::io::Errno::SRCH
        {
            log::warn!("killing the process group {}: {error}", self.pid);
        }
    }

    /// The exit, once the reaper has seen it.
    #[must_use]
    pub fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Waits for the exit. Any number of callers may; cancel-safe; at once when it has exited.
    pub async fn wait(&self) -> Exit {
        let mut exit = self.exit.clone();
        loop {
            if let Some(exit) = *exit.borrow_and_update() {
                return exit;
            }
            if exit.changed().await.is_err() {
                // `shared` keeps the sender until the exit is sent, so this is the end of the runtime.
                std::future::pending::<()>().await;
            }
        }
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("pid", &self.pid).field("exit", &self.exit()).finish_non_exhaustive()
    }
}

struct Shared {
    /// Guards the table and the right to consume exits. A leaf lock: nothing else is locked or awaited under it.
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    tracked: HashMap<i32, watch::Sender<Option<Exit>>>,
    /// Exits of unknown children that an open hold may still ask for.
    orphans: HashMap<i32, Orphan>,
    /// Times (of `clock`) at which the open holds were opened.
    open_holds: BTreeSet<u64>,
    /// Counts openings of holds; orders them and the orphans' exits.
    clock: u64,
}

struct Orphan {
    exit: Exit,
    /// The clock when it was reaped: holds with a smaller `opened_at` were open or had been.
    seen_at: u64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Table> {
        // No invariant of the table spans a call that can panic.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn track(self: &Arc<Self>, table: &mut Table, pid: Pid) -> Result<Process, ProcessError> {
        let raw = rustix::process::Pid::from_raw(pid.0).ok_or(ProcessError::BadPid(pid.0.into()))?;
        let pidfd = rustix::process::pidfd_open(raw, rustix::process::PidfdFlags::empty())
            .map_err(|e| ProcessError::System { step: "opening a pidfd of", pid, source: e.into() })?;
        // An exit remembered under this pid was that of an earlier process.
        table.orphans.remove(&pid.0);
        let (sender, exit) = watch::channel(None);
        table.tracked.insert(pid.0, sender);
        Ok(Process { pid, pidfd: Some(Arc::new(pidfd)), exit, shared: Arc::clone(self) })
    }

    /// Consumes every exit there is.
    fn reap(&self) {
        let mut table = self.lock();
        loop {
            let exit = match wait::peek_any() {
                Ok(Some(exit)) => exit,
                Ok(None) => return,
                Err(error) => return log::error!("looking for exited children: {error}"),
            };
            if let Err(error) = wait::consume(exit.pid) {
                return log::error!("reaping process {}: {error}", exit.pid);
            }
            table.deliver(exit);
        }
    }
}

impl Table {
    fn deliver(&mut self, child: ChildExit) {
        let exit = Exit { code: exit_code(child.end), at: SystemTime::now() };
        if let Some(sender) = self.tracked.remove(&child.pid) {
            sender.send_replace(Some(exit));
        } else if !self.open_holds.is_empty() {
            self.orphans.insert(child.pid, Orphan { exit, seen_at: self.clock });
        }
    }
}

fn exit_code(end: ChildEnd) -> ExitCode {
    match end {
        ChildEnd::Exited(status) => ExitCode::new(u8::try_from(status & 0xff).unwrap_or(u8::MAX)),
        ChildEnd::Killed(signal) => ExitCode::signalled(u8::try_from(signal).unwrap_or(u8::MAX)),
    }
}
