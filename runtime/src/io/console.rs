//! The socket over which an OCI backend hands us the master of the container's terminal.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};

use super::IoError;

/// `sun_path` without its terminating zero.
const SOCKET_PATH_LIMIT_BYTES: usize = 107;

/// A listening socket in a directory that only root may enter; both are removed with it.
#[derive(Debug)]
pub(super) struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl ConsoleSocket {
    pub fn bind(parent: &Path) -> Result<Self, IoError> {
        let dir = tempfile::Builder::new()
            .prefix("pty")
            .rand_bytes(6)
            .tempdir_in(parent)
            .map_err(|source| IoError::Open { path: parent.to_owned(), source })?;
        let path = dir.path().join("s");
        if path.as_os_str().len() > SOCKET_PATH_LIMIT_BYTES {
            return Err(IoError::ConsolePathTooLong { path });
        }
        let listener = UnixListener::bind(&path).map_err(|source| IoError::Console {
            path: path.clone(),
            step: "listening",
            source,
        })?;
        Ok(Self { listener, path, _dir: dir })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the master. The backend has connected and sent it before it returned; the backlog kept both.
    pub async fn receive(self, deadline: Duration) -> Result<OwnedFd, IoError> {
        let failed = |step, source| IoError::Console { path: self.path.clone(), step, source };
        let receive = async {
            let (stream, _) = self.listener.accept().await.map_err(|e| failed("accepting the backend", e))?;
            receive_fd(&stream).await.map_err(|e| failed("receiving the terminal", e))
        };
        let Ok(received) = tokio::time::timeout(deadline, receive).await else {
            return Err(IoError::ConsoleDeadline { path: self.path, after: deadline });
        };
        let master = received?;
        if !rustix::termios::isatty(&master) {
            return Err(failed("receiving the terminal", io::Error::other("what came is not a terminal")));
        }
        Ok(master)
    }
}

async fn receive_fd(stream: &UnixStream) -> io::Result<OwnedFd> {
    // Room for some, so that a surplus is received and closed here. The data is the terminal's name.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut name = [0; 4096];
    stream
        .async_io(Interest::READABLE, || {
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut data = [io::IoSliceMut::new(&mut name)];
            rustix::net::recvmsg(
                stream,
                &mut data,
                &mut control,
                RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
            )?;
            control
                .drain()
                .find_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                    _ => None,
                })
                .ok_or_else(|| io::Error::other("no descriptor came with the message"))
        })
        .await
}
