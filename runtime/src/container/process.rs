//! One process of a container: its state, its stdio, and its exit as others wait for it.

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::SystemTime,
};

use tokio::sync::watch;

use super::state::{IllegalStep, State, Step};
use crate::{
    io::{StdioSpec, Streams},
    process::{Exit, ExitCode, Process},
};

/// A process of a container as its owner sees it.
#[derive(Debug)]
pub(super) struct Entry {
    /// `None` for the container's init.
    pub exec_id: Option<String>,
    /// The `process` of an exec as JSON; empty for init, which the bundle describes.
    pub exec_process: Vec<u8>,
    pub stdio: StdioSpec,
    /// Serialises the start of this process and the announcement of its exit, so
    /// that the former always comes first. Taken after the container's `ops`.
    pub lifecycle: tokio::sync::Mutex<()>,
    /// Protects the state alone; never held across an await.
    state: Mutex<State>,
    process: OnceLock<Process>,
    streams: Mutex<Option<Arc<Streams>>>,
    announced: watch::Sender<Option<Exit>>,
}

impl Entry {
    /// The container's init, which exists.
    pub fn init(stdio: StdioSpec) -> Self {
        Self::new(None, Vec::new(), stdio, State::Created)
    }

    /// An exec that was registered.
    pub fn exec(exec_id: &str, process: Vec<u8>, stdio: StdioSpec) -> Self {
        Self::new(Some(exec_id.to_owned()), process, stdio, State::Added)
    }

    fn new(exec_id: Option<String>, exec_process: Vec<u8>, stdio: StdioSpec, state: State) -> Self {
        Entry {
            exec_id,
            exec_process,
            stdio,
            lifecycle: tokio::sync::Mutex::new(()),
            state: Mutex::new(state),
            process: OnceLock::new(),
            streams: Mutex::new(None),
            announced: watch::Sender::new(None),
        }
    }

    pub fn state(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `step` is legal now, without taking it.
    pub fn allows(&self, step: Step) -> Result<(), IllegalStep> {
        self.state().after(step).map(drop)
    }

    pub fn step(&self, step: Step) -> Result<(), IllegalStep> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = state.after(step)?;
        Ok(())
    }

    pub fn set_process(&self, process: Process) {
        // A process is started once: `Step::Start` is legal in one state only.
        let _ = self.process.set(process);
    }

    pub fn process(&self) -> Option<&Process> {
        self.process.get()
    }

    pub fn set_streams(&self, streams: Streams) {
        *self.streams.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(streams));
    }

    pub fn streams(&self) -> Option<Arc<Streams>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn close_streams(&self) {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Makes the exit known to everyone who waits.
    pub fn announce(&self, exit: Exit) {
        self.announced.send_replace(Some(exit));
    }

    /// Ends a process that never came to be, as if it had been killed.
    pub fn give_up(&self) {
        let exit = Exit { code: ExitCode::signalled(9), at: SystemTime::now() };
        if self.step(Step::Exit(exit)).is_ok() {
            self.announce(exit);
        }
    }

    /// The exit, once it was announced. Cancel-safe.
    pub async fn exited(&self) -> Exit {
        let mut receiver = self.announced.subscribe();
        let result = receiver.wait_for(Option::is_some).await.map(|exit| *exit);
        match result {
            Ok(Some(exit)) => exit,
            // The sender lives in `self`, and `wait_for` returns only a value that is some.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}
