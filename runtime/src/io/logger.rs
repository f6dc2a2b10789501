//! containerd's logging programs (`binary://`): they read a container's output from descriptors 3 and 4 and say on 5 when
//! they are ready, by a byte or by closing it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::copy::End;
use super::{IoContext, IoError, open};
use crate::process::{Pid, Process};
use crate::sys::child;

/// How long a logger may take to end after SIGTERM, near to the Go shim's 12 s.
const TERM_GRACE: Duration = Duration::from_secs(10);

/// A logger; dropping it asks it to end.
#[derive(Debug)]
pub(super) struct Logger {
    process: Process,
}

/// The writing ends of a logger's streams.
pub(super) struct LoggerInput {
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

impl Logger {
    /// Starts a logger and waits until it is ready.
    pub async fn start(
        program: &PathBuf,
        args: &[String],
        ctx: &IoContext,
        deadline: Duration,
    ) -> Result<(Self, LoggerInput), IoError> {
        let (out_reader, stdout) = open::pipe(ctx.owner)?;
        let (err_reader, stderr) = open::pipe(ctx.owner)?;
        let (ready, ready_writer) = open::pipe(None)?;

        let mut command = Command::new(program);
        // The environment is these two alone, as loggers know it from the Go shim.
        command
            .args(args)
            .env_clear()
            .env("CONTAINER_ID", &ctx.id)
            .env("CONTAINER_NAMESPACE", &ctx.namespace);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        child::inherit_fds(&mut command, 3, vec![out_reader, err_reader, ready_writer]);
        let spawned = ctx.reaper.spawn(&mut command);
        // With it go our copies of the logger's ends.
        drop(command);
        let logger = Self { process: spawned.map_err(IoError::LoggerSpawn)? };

        let pipe = |step| move |source| IoError::Pipe { step, source };
        let ready = End::reader(ready).map_err(pipe("watching a logger's ready pipe"))?;
        let become_ready = async {
            let mut byte = [0];
            loop {
                ready.readable().await.map_err(pipe("waiting for a logger"))?;
                match ready.try_read(&mut byte).map_err(pipe("waiting for a logger"))? {
                    None => {}
                    Some(1..) => return Ok(()),
                    // It closed the pipe, on purpose or by dying.
                    Some(0) if !is_exiting(logger.process.pid()) => return Ok(()),
                    Some(0) => {
                        let code = logger.process.wait().await.code.as_u8();
                        return Err(IoError::LoggerExited { program: program.clone(), code });
                    }
                }
            }
        };
        match tokio::time::timeout(deadline, become_ready).await {
            Ok(Ok(())) => Ok((logger, LoggerInput { stdout, stderr })),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(IoError::LoggerDeadline { program: program.clone(), after: deadline }),
        }
    }

    /// Waits until it has ended, which it does after the end of its streams.
    pub async fn ended(&self) {
        self.process.wait().await;
    }
}

impl Drop for Logger {
    fn drop(&mut self) {
        if self.process.signal(libc::SIGTERM).is_err() {
            return;
        }
        let process = self.process.clone();
        let kill = async move {
            if tokio::time::timeout(TERM_GRACE, process.wait()).await.is_err() {
                log::warn!("logger {} does not heed SIGTERM and is killed", process.pid());
                // It may end by itself at this moment.
                let _ = process.signal(libc::SIGKILL);
            }
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // Ends with the process, after the grace at the latest.
            runtime.spawn(kill);
        }
    }
}

/// Whether the process is on its way out: flag `PF_EXITING` (4) of `/proc/<pid>/stat`, set before its files are closed.
/// A zombie has it as well, and for one that was reaped there is no file.
fn is_exiting(pid: Pid) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| exiting_flag(&stat))
}

fn exiting_flag(stat: &str) -> bool {
    // The name, second and in parentheses, may hold anything; after it come state, ppid, pgrp, session, tty, tpgid, flags.
    let flags =
        stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(6)?.parse::<u32>().ok());
    flags.is_some_and(|flags| flags & 4 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exiting_flag_is_found_behind_any_name() {
        let stat =
            |flags: u32| format!("17 (a) b (4 4) S 1 17 17 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 1 0 5 0 0");
        assert!(!exiting_flag(&stat(0x0040_0000)));
        assert!(exiting_flag(&stat(0x0040_0004)));
        assert!(!exiting_flag("garbage"));
    }
}
