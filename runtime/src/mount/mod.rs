//! Mounts with an explicit undo: a call either leaves all of its mounts or none of them.
//!
//! Responsible for containerd's mount descriptions (`containerd.types.Mount`), for the few mounts that a shim makes for
//! itself and for taking mount trees down. It does not know what is mounted or for whom.
//!
//! Every function works on the calling thread's mount namespace.

use std::path::{Path, PathBuf};

mod error;

pub use error::MountError;

/// A mount as containerd describes it (`containerd.types.Mount`).
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Mount {
    /// File system type, or `bind`.
    pub kind: String,
    /// Device, directory or any name, depending on the type.
    pub source: String,
    /// Place below the root file system that is being put together; `None` is its root.
    pub target: Option<String>,
    /// Options in the words of `mount(8)` and of the file system.
    pub options: Vec<String>,
}

/// Whether a mount can be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Writes fail with `EROFS`.
    ReadOnly,
    /// Writes pass.
    ReadWrite,
}

/// Mounts all of `mounts`, in order, at `target`, which must exist; or none.
///
/// # Errors
/// An option that this version does not support, or a failing mount; what had been mounted before is unmounted again. When
/// that fails as well the error is [`MountError::Undo`], which carries both.
pub fn mount_rootfs(mounts: &[Mount], target: &Path) -> Result<(), MountError> {
    let _ = (mounts, target);
    unimplemented!()
}

/// Mounts an overlay of `lower` (topmost first), `upper` and `work` at `target`, private to this mount namespace.
///
/// # Errors
/// The mount fails.
pub fn overlay(lower: &[&Path], upper: &Path, work: &Path, target: &Path) -> Result<(), MountError> {
    let _ = (lower, upper, work, target);
    unimplemented!()
}

/// Binds `source` (without what is mounted below it) to `target`, private to this mount namespace.
///
/// # Errors
/// The mount fails; nothing is left mounted.
pub fn bind(source: &Path, target: &Path, access: Access) -> Result<(), MountError> {
    let _ = (source, target, access);
    unimplemented!()
}

/// Mounts an empty tmpfs of at most `size_bytes`, mode 0755, at `target`, private to this mount namespace.
///
/// # Errors
/// The mount fails; nothing is left mounted.
pub fn private_tmpfs(target: &Path, size_bytes: u64) -> Result<(), MountError> {
    let _ = (target, size_bytes);
    unimplemented!()
}

/// Unmounts everything at and below `path`, deepest first, lazily (`MNT_DETACH`).
///
/// Idempotent: nothing mounted and a missing `path` are fine. A symlink as the last component is not followed.
///
/// # Errors
/// `/proc` can't be read, or something stays mounted.
pub fn unmount_tree(path: &Path) -> Result<(), MountError> {
    let _ = path;
    unimplemented!()
}

/// The mount points at and below `path`, in the order in which they were mounted; a path with two mounts on it is there twice.
///
/// # Errors
/// `/proc` can't be read.
pub fn mounts_below(path: &Path) -> Result<Vec<PathBuf>, MountError> {
    let _ = path;
    unimplemented!()
}
