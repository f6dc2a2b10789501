//! The life of one backend process: stdio, deadline, cancellation, and what it left behind.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::net::unix::pipe;

use super::{BackendConfig, ChildStdio, Dialect, OciError, null, words};
use crate::process::{Process, Reaper};
use crate::sys::child;

/// The most that is kept of a backend's stderr, and read of its log, from the end.
const MESSAGE_LIMIT_BYTES: usize = 64 * 1024;
/// The most that is kept of a backend's stdout: a state or a list of some hundred thousand pids.
const OUTPUT_LIMIT_BYTES: usize = 4 * 1024 * 1024;
/// How long a backend that was killed may take to die; only uninterruptible sleep makes it long.
const KILLED_WAIT: Duration = Duration::from_secs(1);
/// Variables that are meant for the shim; a backend would pass them on to the container.
const NOT_FOR_BACKENDS: [&str; 4] = ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

/// One call: which verb, for whom, with which arguments.
pub(super) struct Call<'a> {
    pub operation: &'static str,
    pub id: &'a str,
    pub args: Vec<OsString>,
    pub stdio: CallStdio,
    pub deadline: Duration,
}

/// The backend's stdio.
pub(super) enum CallStdio {
    /// stdout is the answer, stderr the fallback for a message.
    Captured,
    /// The container's process inherits it, so neither can be read here.
    Inherited(ChildStdio),
}

/// A directory for the files of one call, removed with it.
pub(super) struct Scratch(tempfile::TempDir);

impl Scratch {
    pub fn new(parent: &Path, operation: &'static str, id: &str) -> Result<Self, OciError> {
        tempfile::Builder::new().prefix(".oci-").tempdir_in(parent).map(Self).map_err(|source| {
            OciError::Prepare { operation, id: id.to_owned(), path: parent.to_owned(), source }
        })
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// Runs the backend to its end and returns its stdout.
pub(super) async fn run(
    config: &BackendConfig,
    reaper: &Reaper,
    scratch: &Scratch,
    call: Call<'_>,
) -> Result<Vec<u8>, OciError> {
    let Call { operation, id, args, stdio, deadline } = call;
    let log = scratch.file("log.json");
    let mut command = command(config, &log, args);

    let prepare = |source| OciError::Prepare { operation, id: id.to_owned(), path: "pipe".into(), source };
    let mut stdout = Capture::none(OUTPUT_LIMIT_BYTES);
    let mut stderr = Capture::none(MESSAGE_LIMIT_BYTES);
    match stdio {
        CallStdio::Captured => {
            command.stdin(Stdio::null());
            command.stdout(stdout.pipe().map_err(prepare)?);
            command.stderr(stderr.pipe().map_err(prepare)?);
        }
        CallStdio::Inherited(ChildStdio { stdin, stdout, stderr }) => {
            let null = || match config.dialect {
                // Without the privilege to make it crun can't chown the real one either.
                Dialect::Crun => null::private().map_or_else(|_| Stdio::null(), Stdio::from),
                Dialect::Runc | Dialect::Rune => Stdio::null(),
            };
            let or_null = |fd: Option<OwnedFd>| fd.map_or_else(null, Stdio::from);
            command.stdin(or_null(stdin)).stdout(or_null(stdout)).stderr(or_null(stderr));
        }
    }

    let spawned = reaper.spawn(&mut command);
    // The command owns our copies of the child's ends; with them open there would be no end of file.
    drop(command);
    let backend =
        KillOnDrop(spawned.map_err(|source| OciError::Spawn { operation, id: id.to_owned(), source })?);

    let ended = async {
        tokio::select! {
            exit = backend.0.wait() => exit,
            never = stdout.fill() => match never {},
            never = stderr.fill() => match never {},
        }
    };
    let Ok(exit) = tokio::time::timeout(deadline, ended).await else {
        backend.0.kill_group();
        // Whoever undoes the call next must not meet the backend still at work.
        if tokio::time::timeout(KILLED_WAIT, backend.0.wait()).await.is_err() {
            log::warn!("{operation} of container {id}: the OCI backend {} does not die", backend.0.pid());
        }
        return Err(OciError::Deadline { operation, id: id.to_owned(), after: deadline });
    };
    stdout.read_available();
    stderr.read_available();
    if exit.code.is_success() {
        return Ok(stdout.kept);
    }
    let log = read_end(&log).unwrap_or_default();
    let message = words::message(&log, &stderr.kept, exit.code);
    Err(words::classify(config.dialect, operation, id, exit.code, message))
}

fn command(config: &BackendConfig, log: &Path, args: Vec<OsString>) -> Command {
    let mut command = Command::new(&config.program);
    command.arg("--root").arg(&config.root).arg("--log").arg(log).args(["--log-format", "json"]);
    if config.systemd_cgroup {
        command.arg("--systemd-cgroup");
    }
    command.args(args);
    for name in NOT_FOR_BACKENDS {
        command.env_remove(name);
    }
    if let Some(dir) = config.criu_path.as_deref().and_then(Path::parent) {
        // runc dropped its `--criu` in 1.1 and looks in PATH, as crun's library does.
        let mut path = dir.as_os_str().to_owned();
        if let Some(rest) = std::env::var_os("PATH") {
            path.push(":");
            path.push(rest);
        }
        command.env("PATH", path);
    }
    command.process_group(0);
    child::die_with_parent(&mut command);
    command
}

/// Kills the backend and what it runs when the call is dropped before its end.
struct KillOnDrop(Process);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if self.0.exit().is_none() {
            self.0.kill_group();
        }
    }
}

/// Reads a pipe as it fills, keeps the beginning, and never blocks the writer.
struct Capture {
    receiver: Option<pipe::Receiver>,
    kept: Vec<u8>,
    limit: usize,
}

impl Capture {
    fn none(limit: usize) -> Self {
        Self { receiver: None, kept: Vec::new(), limit }
    }

    /// Makes the pipe and returns the writer's end.
    fn pipe(&mut self) -> io::Result<Stdio> {
        let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        self.receiver = Some(pipe::Receiver::from_owned_fd(ours)?);
        Ok(theirs.into())
    }

    /// Reads until cancelled; after the end of file it just waits.
    async fn fill(&mut self) -> Infallible {
        while let Some(receiver) = &self.receiver {
            if receiver.readable().await.is_err() {
                self.receiver = None;
            } else {
                self.read_available();
            }
        }
        std::future::pending().await
    }

    /// Reads what is there. Bounded, because a child that the backend left behind may never stop writing.
    fn read_available(&mut self) {
        let mut chunk = [0; 8192];
        for _ in 0..OUTPUT_LIMIT_BYTES / chunk.len() {
            let Some(receiver) = &self.receiver else { return };
            match receiver.try_read(&mut chunk) {
                Ok(0) => self.receiver = None,
                Ok(read) => {
                    let room = self.limit - self.kept.len();
                    self.kept.extend_from_slice(&chunk[..read.min(room)]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    log::debug!("reading the OCI backend's output: {error}");
                    self.receiver = None;
                }
            }
        }
    }
}

/// The end of a log file, where the reason is.
fn read_end(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let limit = MESSAGE_LIMIT_BYTES as u64;
    let skipped = file.metadata()?.len().saturating_sub(limit);
    file.seek(SeekFrom::Start(skipped))?;
    let mut end = Vec::new();
    file.take(limit).read_to_end(&mut end)?;
    Ok(end)
}
