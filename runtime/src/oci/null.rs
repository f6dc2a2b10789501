//! A null device that is nobody else's.

use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

/// Opens a null device on a tmpfs of its own, which is mounted nowhere and goes with the last descriptor.
///
/// crun 1.8 gives its stdio to the container's user: `crun exec` as user 1000 with /dev/null for stdin leaves the
/// machine's /dev/null to user 1000. runc leaves null devices alone.
pub(super) fn private() -> rustix::io::Result<OwnedFd> {
    let fs = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&fs)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let root = rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    // The mode is subject to the umask.
    let mode = Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(&root, "null", FileType::CharacterDevice, mode, rustix::fs::makedev(1, 3))?;
    rustix::fs::chmodat(&root, "null", mode, rustix::fs::AtFlags::empty())?;
    rustix::fs::openat(&root, "null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}
