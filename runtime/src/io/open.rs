//! The files that streams are made of.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::pipe::PipeFlags;

use super::copy::{End, Sink};
use super::{Endpoint, IoError};

/// A fifo's reading end, and a writing end of ours that keeps it from ending while no client has it open.
pub(super) fn input_fifo(path: &Path) -> Result<(End, OwnedFd), IoError> {
    let failed = |source| IoError::Open { path: path.to_owned(), source };
    if !is_fifo(path)? {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "not a fifo")));
    }
    let flags = OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = |access| rustix::fs::open(path, access | flags, Mode::empty()).map_err(|e| failed(e.into()));
    // In this order: a nonblocking open for writing fails without a reader.
    let reader = open(OFlags::RDONLY)?;
    let keeper = open(OFlags::WRONLY)?;
    Ok((End::reader(reader).map_err(failed)?, keeper))
}

/// Opens where an output goes to; loggers are none of its business.
pub(super) fn output(endpoint: &Endpoint) -> Result<Sink, IoError> {
    match endpoint {
        Endpoint::Fifo(path) if is_fifo(path)? => {
            // Being its reader as well, we neither wait for one nor get EPIPE when it goes: containerd may restart and
            // read on. The Go shim holds a reading end for that.
            let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let failed = |source| IoError::Open { path: path.clone(), source };
            let fifo = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
            Ok(Sink::End(End::writer(fifo).map_err(failed)?))
        }
        Endpoint::Fifo(path) => append(path, OpenOptions::new().append(true)),
        Endpoint::File(path) => {
            if let Some(dir) = path.parent() {
                std::fs::create_dir_all(dir)
                    .map_err(|source| IoError::Open { path: dir.to_owned(), source })?;
            }
            append(path, OpenOptions::new().append(true).create(true))
        }
        Endpoint::Null | Endpoint::Binary { .. } => Ok(Sink::Null),
    }
}

fn append(path: &Path, options: &OpenOptions) -> Result<Sink, IoError> {
    let file = options.open(path).map_err(|source| IoError::Open { path: path.to_owned(), source })?;
    Ok(Sink::File(tokio::fs::File::from_std(file)))
}

fn is_fifo(path: &Path) -> Result<bool, IoError> {
    let metadata =
        std::fs::metadata(path).map_err(|source| IoError::Open { path: path.to_owned(), source })?;
    Ok(metadata.file_type().is_fifo())
}

/// A pipe (reading end, writing end), owned by the container's user if that is asked for.
pub(super) fn pipe(owner: Option<(u32, u32)>) -> Result<(OwnedFd, OwnedFd), IoError> {
    let failed = |step| move |error: rustix::io::Errno| IoError::Pipe { step, source: error.into() };
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(failed("making a pipe"))?;
    if let Some((uid, gid)) = owner {
        // Both ends are one inode.
        rustix::fs::fchown(&reader, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .map_err(failed("giving a pipe to the container's user"))?;
    }
    Ok((reader, writer))
}
