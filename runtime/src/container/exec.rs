//! Processes that are added to a container that exists.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    Container, ContainerError, Entry, Fact, State, Step, exit,
    lifecycle::{DRAIN_BEFORE_DELETE, Scratch, drain},
};
use crate::{
    io::{IoContext, StdioSpec, Streams},
    oci::Exec,
    process::{Exit, ExitCode, Pid},
};

/// Exit code of an exec that could not be started.
const NOT_STARTED: u8 = 255;

impl Container {
    /// Registers an exec; [`Container::start_exec`] starts it. `process` is the runtime
    /// specification's `process` as JSON.
    ///
    /// # Errors
    /// [`ContainerError::ProcessExists`]; [`ContainerError::Illegal`] unless the container is
    /// created or running.
    pub fn add_exec(&self, exec_id: &str, process: Vec<u8>, stdio: StdioSpec) -> Result<(), ContainerError> {
        self.init.allows(Step::Exec).map_err(|e| self.illegal(e))?;
        let mut execs = self.lock_execs();
        if execs.contains_key(exec_id) {
            return Err(ContainerError::ProcessExists { id: self.id.clone(), exec_id: exec_id.to_owned() });
        }
        let entry = Entry::exec(exec_id, process, stdio);
        execs.insert(exec_id.to_owned(), Arc::new(entry));
        drop(execs);
        self.tell(Fact::ExecAdded(exec_id.to_owned()));
        Ok(())
    }

    /// Starts an exec that was registered.
    ///
    /// A failure leaves the exec stopped, with exit code 255 and no exit announced, as it
    /// never ran; it waits to be deleted.
    ///
    /// # Errors
    /// [`ContainerError::Illegal`] when it was started before; what the backend answers.
    pub async fn start_exec(self: &Arc<Self>, exec_id: &str, io: &IoContext) -> Result<Pid, ContainerError> {
        let entry = self.entry(Some(exec_id))?;
        let _lifecycle = entry.lifecycle.lock().await;
        entry.allows(Step::Start).map_err(|e| self.illegal(e))?;
        self.init.allows(Step::Exec).map_err(|e| self.illegal(e))?;
        match self.run_exec(&entry, exec_id, io).await {
            Ok(pid) => {
                entry.step(Step::Start).map_err(|e| self.illegal(e))?;
                self.tell(Fact::ExecStarted(exec_id.to_owned(), pid));
                exit::watch(Arc::clone(self), Arc::clone(&entry));
                Ok(pid)
            }
            Err(error) => {
                let exit = Exit { code: ExitCode::new(NOT_STARTED), at: SystemTime::now() };
                entry.step(Step::Exit(exit)).map_err(|e| self.illegal(e))?;
                entry.announce(exit);
                Err(error)
            }
        }
    }

    async fn run_exec(&self, entry: &Entry, exec_id: &str, io: &IoContext) -> Result<Pid, ContainerError> {
        let mut streams = Streams::open(&entry.stdio, io, self.deadlines.call).await?;
        let process_json =
            Scratch::write(&self.id, &self.bundle, &format!("exec-{}.json", exec_id), &entry.exec_process)?;
        let pid_file = Scratch::write(&self.id, &self.bundle, &format!("exec-{}.pid", exec_id), b"")?;
        let child = streams.child_stdio();
        let process = self
            .backend
            .exec(
                &self.id,
                Exec {
                    process_json: process_json.path(),
                    pid_file: pid_file.path(),
                    console_socket: streams.console_socket(),
                    stdio: child,
                },
                self.deadlines.call,
            )
            .await?;
        let pid = process.pid();
        if let Err(error) = streams.start(self.deadlines.call).await {
            // Its terminal never came: a process that nobody can see must not go on.
            let _ = process.signal(libc::SIGKILL);
            return Err(error.into());
        }
        entry.set_process(process);
        entry.set_streams(streams);
        Ok(pid)
    }

    /// Forgets an exec that has ended or was never started.
    ///
    /// # Errors
    /// [`ContainerError::Illegal`] while it runs.
    pub async fn delete_exec(&self, exec_id: &str) -> Result<(Option<Pid>, Exit), ContainerError> {
        let entry = self.entry(Some(exec_id))?;
        let _lifecycle = entry.lifecycle.lock().await;
        entry.allows(Step::Delete).map_err(|e| self.illegal(e))?;
        if entry.state() == State::Added {
            // It can not be started any more, and whoever waits for it waits no longer.
            entry.give_up();
        }
        let exit = entry.exited().await;
        drain(&entry, DRAIN_BEFORE_DELETE).await;
        entry.close_streams();
        self.lock_execs().remove(exec_id);
        Ok((entry.process().map(crate::process::Process::pid), exit))
    }

    /// Waits until every exec that was started has been announced as ended, for `bound` at most.
    pub(super) async fn execs_ended(&self, bound: Duration) {
        let execs: Vec<_> = self.lock_execs().values().cloned().collect();
        let all = async {
            for exec in execs {
                // One that is being started is told of first.
                drop(exec.lifecycle.lock().await);
                if exec.state() == State::Running {
                    exec.exited().await;
                }
            }
        };
        if tokio::time::timeout(bound, all).await.is_err() {
            log::warn!("container {}: an exec outlived its init", self.id);
        }
    }
}
