//! One stream's copy: a task that moves bytes between nonblocking descriptors.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::OFlags;
use rustix::io::Errno;
use tokio::io::{AsyncWriteExt, Interest};

use crate::sys::poll::Polled;

/// The capacity of a pipe, so that one read empties it.
const BUFFER_BYTES: usize = 64 * 1024;

/// Our end of a pipe, fifo or terminal.
#[derive(Debug)]
pub(super) struct End(Polled);

impl End {
    /// Registers the descriptor and makes its open file description nonblocking.
    pub fn reader(fd: OwnedFd) -> io::Result<Self> {
        Self::new(fd, Interest::READABLE)
    }

    /// See [`reader`](Self::reader).
    pub fn writer(fd: OwnedFd) -> io::Result<Self> {
        Self::new(fd, Interest::WRITABLE)
    }

    fn new(fd: OwnedFd, interest: Interest) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        Ok(Self(Polled::new(fd, interest)?))
    }

    /// Waits until something can be read, the end of file included.
    pub async fn readable(&self) -> io::Result<()> {
        self.0.readable().await.map(|mut guard| guard.retain_ready())
    }

    /// Reads what is there; `None` when that is nothing, 0 at the end.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let read = self.0.try_io(Interest::READABLE, |fd| match rustix::io::read(fd, &mut *buffer) {
            // A terminal whose last process has closed it.
            Err(Errno::IO) => Ok(0),
            result => result.map_err(io::Error::from),
        });
        match read {
            Ok(read) => Ok(Some(read)),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn write_all(&self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let written = self
                .0
                .async_io(Interest::WRITABLE, |fd| rustix::io::write(fd, data).map_err(io::Error::from))
                .await;
            match written {
                Ok(written) => data = &data[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Where a copy goes to.
#[derive(Debug)]
pub(super) enum Sink {
    /// A descriptor that can be waited for.
    End(End),
    /// A file, which the kernel never reports as busy: written on a thread for blocking work.
    File(tokio::fs::File),
    /// Nowhere.
    Null,
}

impl Sink {
    async fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        match self {
            Self::End(end) => end.write_all(data).await,
            Self::File(file) => {
                file.write_all(data).await?;
                // Without it, the error of this write would come with the next one.
                file.flush().await
            }
            Self::Null => Ok(()),
        }
    }
}

/// What to do when the sink fails.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum OnSinkError {
    /// Read on and discard, for the writer is a container that shall not be blocked by a full disk or a dead logger.
    Discard,
    /// End the copy.
    End,
}

/// Copies until the source ends. The buffer exists only while there is something to copy.
pub(super) async fn copy(source: End, mut sink: Sink, on_sink_error: OnSinkError) -> io::Result<()> {
    loop {
        source.readable().await?;
        let mut buffer = vec![0; BUFFER_BYTES];
        while let Some(read) = source.try_read(&mut buffer)? {
            if read == 0 {
                return Ok(());
            }
            if let Err(error) = sink.write_all(&buffer[..read]).await {
                if on_sink_error == OnSinkError::End {
                    return Err(error);
                }
                log::warn!("output of a container is lost from here on: {error}");
                sink = Sink::Null;
            }
            // Two busy ends are ready all the time: give the other tasks their turn.
            tokio::task::coop::consume_budget().await;
        }
    }
}
