use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::termios::Winsize;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::console::ConsoleSocket;
use super::copy::{End, OnSinkError, Sink, copy};
use super::logger::Logger;
use super::{Endpoint, IoError, StdioSpec, open};
use crate::oci::ChildStdio;
use crate::process::Reaper;

/// For whom streams are opened.
#[derive(Debug, Clone)]
pub struct IoContext {
    /// containerd's namespace, told to loggers.
    pub namespace: String,
    /// The container, told to loggers.
    pub id: String,
    /// Owner (uid, gid) of the pipes, so that a process of another user may reopen /dev/stdout.
    pub owner: Option<(u32, u32)>,
    /// Where the console socket's private directory is made. Must be short: a socket's path has at most 107 bytes and
    /// the directory's and socket's names take 12 of them.
    pub console_dir: PathBuf,
    /// Starts loggers.
    pub reaper: Reaper,
}

/// The streams of one process, from [`open`](Self::open) until it is dropped or [closed](Self::close).
///
/// Dropping it stops all copies, which loses what is not written yet: wait for [`drained`](Self::drained) before. It
/// has to be dropped on the runtime.
#[derive(Debug)]
pub struct Streams {
    child: ChildStdio,
    /// Until the terminal has come.
    console: Option<(ConsoleSocket, Terminal)>,
    /// The terminal's master, to resize it.
    master: Option<OwnedFd>,
    /// Keeps the stdin fifo from ending. The lock protects this field alone.
    stdin_keeper: Mutex<Option<OwnedFd>>,
    copies: Vec<Copy>,
    /// How many copies of outputs have not ended.
    unfinished: watch::Sender<usize>,
    logger: Option<Logger>,
}

/// What waits for the terminal.
#[derive(Debug)]
struct Terminal {
    stdin: Option<End>,
    stdout: Sink,
}

impl Streams {
    /// Opens fifos and files, starts the logger and waits until it is ready, makes the pipes or the console socket.
    ///
    /// Copies between pipes and fifos start here already, so that hooks that write much don't block `create`. A logger
    /// is given the pipes themselves and nothing is copied, unless there is a terminal.
    ///
    /// # Errors
    /// See [`IoError`]; nothing is left behind. Cancel-safe.
    pub async fn open(spec: &StdioSpec, ctx: &IoContext, deadline: Duration) -> Result<Self, IoError> {
        let mut streams = Self {
            child: ChildStdio::default(),
            console: None,
            master: None,
            stdin_keeper: Mutex::new(None),
            copies: Vec::new(),
            unfinished: watch::Sender::new(0),
            logger: None,
        };
        let stdin = match &spec.stdin {
            Endpoint::Fifo(path) => {
                let (reader, keeper) = open::input_fifo(path)?;
                streams.stdin_keeper = Mutex::new(Some(keeper));
                Some(reader)
            }
            _ => None,
        };
        let logger = match &spec.stdout {
            Endpoint::Binary { program, args } => {
                let (logger, input) = Logger::start(program, args, ctx, deadline).await?;
                streams.logger = Some(logger);
                Some(input)
            }
            _ => None,
        };

        if spec.terminal {
            let stdout = match logger {
                Some(input) => Sink::End(End::writer(input.stdout).map_err(registering)?),
                None => open::output(&spec.stdout)?,
            };
            let console = ConsoleSocket::bind(&ctx.console_dir)?;
            streams.console = Some((console, Terminal { stdin, stdout }));
            return Ok(streams);
        }
        if let Some(source) = stdin {
            let (reader, writer) = open::pipe(ctx.owner)?;
            streams.child.stdin = Some(reader);
            streams.copy_input(source, Sink::End(End::writer(writer).map_err(registering)?));
        }
        if let Some(input) = logger {
            streams.child.stdout = Some(input.stdout);
            streams.child.stderr = Some(input.stderr);
        } else {
            streams.child.stdout = streams.open_output(&spec.stdout, ctx)?;
            streams.child.stderr = streams.open_output(&spec.stderr, ctx)?;
        }
        Ok(streams)
    }

    /// The process's ends, once; they have to be closed here after the backend has returned ([`crate::oci::Backend`]
    /// does so), or there is no end of file. Empty with a terminal.
    pub fn child_stdio(&mut self) -> ChildStdio {
        std::mem::take(&mut self.child)
    }

    /// The socket for the backend's `--console-socket`; with a terminal only, and until it has come.
    #[must_use]
    pub fn console_socket(&self) -> Option<&Path> {
        self.console.as_ref().map(|(socket, _)| socket.path())
    }

    /// To be called once the backend's create or exec has returned: takes the pty, if there is one, and starts its copies.
    ///
    /// # Errors
    /// [`IoError::Console`], [`IoError::ConsoleDeadline`].
    pub async fn start(&mut self, deadline: Duration) -> Result<(), IoError> {
        let Some((console, Terminal { stdin, stdout })) = self.console.take() else {
            return Ok(());
        };
        let master = console.receive(deadline).await?;
        let another = || master.try_clone();
        let source = another().and_then(End::reader).map_err(registering)?;
        self.copy_output(source, stdout);
        if let Some(stdin) = stdin {
            let sink = another().and_then(End::writer).map_err(registering)?;
            self.copy_input(stdin, Sink::End(sink));
        }
        self.master = Some(master);
        Ok(())
    }

    /// Ends the process's stdin as soon as every other writer of the fifo has closed it and all data is copied, as in the
    /// Go shim: clients call this when their own write may still be on its way.
    pub fn close_stdin(&self) {
        drop(self.stdin_keeper.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Sets the terminal's size in columns and rows; without a terminal nothing happens, as in the Go shim.
    ///
    /// # Errors
    /// [`IoError::Resize`].
    pub fn resize(&self, width: u16, height: u16) -> Result<(), IoError> {
        let Some(master) = &self.master else { return Ok(()) };
        let size = Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(master, size).map_err(|e| IoError::Resize {
            width,
            height,
            source: e.into(),
        })
    }

    /// Resolves when stdout and stderr have ended and all of it is written, and a logger has exited.
    ///
    /// A reader that does not read, or a process that left the streams to a child, makes it wait without end: the
    /// caller bounds it. Cancel-safe.
    pub async fn drained(&self) {
        let mut unfinished = self.unfinished.subscribe();
        // The sender is a field of `self`: there is no other end than zero.
        let _ = unfinished.wait_for(|&count| count == 0).await;
        if let Some(logger) = &self.logger {
            logger.ended().await;
        }
    }

    /// Stops the copies, closes everything and ends a logger that still runs (SIGTERM, SIGKILL ten seconds later).
    pub fn close(self) {}

    /// Makes an output's pipe, starts its copy and returns the process's end; `None` for no output.
    fn open_output(&mut self, endpoint: &Endpoint, ctx: &IoContext) -> Result<Option<OwnedFd>, IoError> {
        if *endpoint == Endpoint::Null {
            return Ok(None);
        }
        let sink = open::output(endpoint)?;
        let (reader, writer) = open::pipe(ctx.owner)?;
        self.copy_output(End::reader(reader).map_err(registering)?, sink);
        Ok(Some(writer))
    }

    fn copy_output(&mut self, source: End, sink: Sink) {
        self.unfinished.send_modify(|count| *count += 1);
        let unfinished = Unfinished(self.unfinished.clone());
        self.spawn("output", async move {
            let _unfinished = unfinished;
            copy(source, sink, OnSinkError::Discard).await
        });
    }

    fn copy_input(&mut self, source: End, sink: Sink) {
        self.spawn("input", copy(source, sink, OnSinkError::End));
    }

    fn spawn(&mut self, what: &'static str, copy: impl Future<Output = io::Result<()>> + Send + 'static) {
        self.copies.push(Copy(tokio::spawn(async move {
            match copy.await {
                // A process that does not read its input is none of our worries.
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    log::warn!("copying {what}: {error}")
                }
                _ => {}
            }
        })));
    }
}

fn registering(source: io::Error) -> IoError {
    IoError::Pipe { step: "preparing a stream", source }
}

/// A copy's task, which ends with it.
#[derive(Debug)]
struct Copy(JoinHandle<()>);

impl Drop for Copy {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Counts down when an output's copy ends in whatever way.
struct Unfinished(watch::Sender<usize>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}
