//! Mount points, opened: what was checked is what is mounted on.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags, open, openat2, statx};

use super::MountError;

/// A directory or file to mount on, or the root of what is mounted there.
#[derive(Debug)]
pub(super) struct Place {
    fd: OwnedFd,
    /// Without symlinks, as in the kernel's table.
    pub path: PathBuf,
}

impl Place {
    /// Opens `path`; symlinks are followed, and of stacked mounts it is the topmost.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Self::named(open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Opens a `path` that has no symlink in it, as those in the kernel's table have none.
    pub(super) fn exactly(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = openat2(
            CWD,
            path,
            flags,
            Mode::empty(),
            ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        )?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// Opens `target` as a process would see it whose root directory is `root`: the content of `root` may come from an image, and
    /// its symlinks must not lead outside.
    pub(super) fn below(root: &Path, target: &str) -> Result<Self, MountError> {
        let failed = |source| MountError::Target { root: root.to_owned(), target: target.into(), source };
        let directory = Self::open(root).map_err(failed)?;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let fd = openat2(&directory, target, flags, Mode::empty(), resolve).map_err(|e| failed(e.into()))?;
        Self::named(fd).map_err(failed)
    }

    fn named(fd: OwnedFd) -> io::Result<Self> {
        let path = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
        Ok(Self { fd, path })
    }

    /// Number of the mount that it is on, as in the kernel's table.
    pub(super) fn mount_id(&self) -> io::Result<u64> {
        Ok(statx(&self.fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id)
    }

    /// A path for system calls that take no file descriptor.
    pub(super) fn for_syscalls(&self) -> String {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd())
    }
}

impl AsFd for Place {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
