//! The tmpfs that becomes the container's root.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags};
use unpack::root::{Missing, open_dir};

use super::HookError;

/// A tmpfs that is mounted nowhere, so no other process sees the image while it is unpacked. It has the kernel's
/// size limit for a tmpfs, half of the machine's memory, as the container may write to its root; its memory
/// cgroup bounds it further.
pub(super) fn create(mount_label: Option<&str>) -> Result<OwnedFd, HookError> {
    let failed = |operation| HookError::io(operation, "the new root's tmpfs");
    let fs = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed("open"))?;
    rustix::mount::fsconfig_set_string(&fs, "source", "enclave-cc").map_err(failed("name"))?;
    rustix::mount::fsconfig_set_string(&fs, "mode", "0755").map_err(failed("set the mode of"))?;
    // Linux 6.4 and later; before, plaintext pages can reach the host's swap.
    let _ = rustix::mount::fsconfig_set_flag(&fs, "noswap");
    if let Some(label) = mount_label {
        rustix::mount::fsconfig_set_string(&fs, "context", label).map_err(failed("label"))?;
    }
    rustix::mount::fsconfig_create(&fs).map_err(failed("create"))?;
    rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        .map_err(failed("mount"))
}

/// Mounts it over `rootfs`.
pub(super) fn attach(new_root: &OwnedFd, rootfs: &Path) -> Result<(), HookError> {
    rustix::mount::move_mount(new_root, "", rustix::fs::CWD, rootfs, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(HookError::io("move the new root over", rootfs))
}

/// Makes the container's working directory if the image has none, as runc does, which cannot after the root has become
/// read-only. Whether it can be used is for the backend to report, in its own words.
pub(super) fn create_cwd(new_root: &OwnedFd, cwd: Option<&Path>) {
    if let Some(cwd) = cwd {
        let _ = open_dir(new_root.as_fd(), cwd, Missing::Create);
    }
}
