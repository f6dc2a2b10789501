//! The socket: handed over by systemd, or made here.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use listenfd::ListenFd;

/// The socket can't be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// What systemd handed over.
    #[error("LISTEN_FDS does not begin with a listening unix socket")]
    Activation(#[source] io::Error),
    /// A file that is no socket, or a socket that answers, is in the way.
    #[error("socket {path} is in the way: {reason}", path = path.display())]
    Occupied {
        /// Where the socket should be.
        path: PathBuf,
        /// What is there.
        reason: &'static str,
    },
    /// It can't be made.
    #[error("cannot make the socket {path}", path = path.display())]
    Bind {
        /// Where the socket should be.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// The socket that was handed over by `LISTEN_FDS`, if any.
///
/// # Errors
/// When what was handed over is something else.
pub fn activated() -> Result<Option<UnixListener>, SocketError> {
    ListenFd::from_env().take_unix_listener(0).map_err(SocketError::Activation)
}

/// Makes the socket, for root only. One that a dead process left is replaced.
///
/// # Errors
/// When something else is there, or it can't be made.
pub fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    let occupied = |reason| SocketError::Occupied { path: path.to_owned(), reason };
    let make = || {
        if let Some(dir) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(occupied("it is no socket")),
        Ok(_) if UnixStream::connect(path).is_ok() => return Err(occupied("another program serves it")),
        Ok(_) => {
            fs::remove_file(path).map_err(|source| SocketError::Bind { path: path.to_owned(), source })?
        }
        Err(_) => {}
    }
    make().map_err(|source| SocketError::Bind { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_socket_is_replaced_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/s");
        let first = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(bind(&path), Err(SocketError::Occupied { .. })));
        drop(first);
        bind(&path).unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        assert!(matches!(bind(&file), Err(SocketError::Occupied { .. })));
    }
}
