//! File descriptors that tokio waits on.

use std::{io, ops::Deref, os::fd::OwnedFd};

use tokio::io::{Interest, unix::AsyncFd};

/// A file descriptor that is registered with a tokio runtime. There is shared access to the [`AsyncFd`] only, so that the
/// descriptor can't be exchanged under it.
#[derive(Debug)]
pub(crate) struct Polled(AsyncFd<OwnedFd>);

impl Polled {
    /// Registers `fd`, which should be non-blocking, with the runtime of the calling task.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O.
    pub(crate) fn new(fd: OwnedFd, interest: Interest) -> io::Result<Self> {
        // SAFETY: an OwnedFd is open for as long as it lives and always names the same descriptor. Nothing can put
        // another OwnedFd in its place, as that takes a `&mut AsyncFd`, which this type never hands out.
        let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
        Ok(Self(registered?))
    }
}

impl Deref for Polled {
    type Target = AsyncFd<OwnedFd>;

    fn deref(&self) -> &AsyncFd<OwnedFd> {
        &self.0
    }
}
