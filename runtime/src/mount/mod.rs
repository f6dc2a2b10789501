//! Mounts with an explicit undo: a call either leaves all of its mounts or none of them.
//!
//! Responsible for containerd's mount descriptions (`containerd.types.Mount`), for the few mounts that a shim makes for
//! itself and for taking mount trees down. It does not know what is mounted or for whom.
//!
//! Every function works on the calling thread's mount namespace.

use std::path::{Path, PathBuf};

mod attach;
mod error;
mod options;
mod overlay;
mod place;
mod table;
mod unmount;

#[cfg(test)]
mod tests;

pub use error::MountError;
pub use table::{MountPoint, mount_points};

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
    let mut done = Vec::new();
    for mount in mounts {
        if let Err(error) = attach::attach(mount, target, &mut done) {
            return Err(match unmount::undo(&done) {
                Ok(()) => error,
                Err(undo) => MountError::Undo { mount: Box::new(error), undo: Box::new(undo) },
            });
        }
    }
    Ok(())
}

/// Mounts an overlay of `lower` (topmost first), `upper` and `work` at `target`, private to this mount namespace.
///
/// # Errors
/// The mount fails.
pub fn overlay(lower: &[&Path], upper: &Path, work: &Path, target: &Path) -> Result<(), MountError> {
    let escaped = |path: &Path| text("overlay", path, target).map(overlay::escape);
    let lower = lower.iter().map(|path| escaped(path)).collect::<Result<Vec<_>, _>>()?.join(":");
    let options = vec![
        format!("lowerdir={lower}"),
        format!("upperdir={}", escaped(upper)?),
        format!("workdir={}", escaped(work)?),
        "private".into(),
    ];
    one("overlay", "overlay", options, target)
}

/// Binds `source` (without what is mounted below it) to `target`, private to this mount namespace.
///
/// # Errors
/// The mount fails; nothing is left mounted.
pub fn bind(source: &Path, target: &Path, access: Access) -> Result<(), MountError> {
    let access = match access {
        Access::ReadOnly => "ro",
        Access::ReadWrite => "rw",
    };
    one("bind", text("bind", source, target)?, vec![access.into(), "private".into()], target)
}

/// Mounts an empty tmpfs of at most `size_bytes`, mode 0755, at `target`, private to this mount namespace.
///
/// # Errors
/// The mount fails; nothing is left mounted.
pub fn private_tmpfs(target: &Path, size_bytes: u64) -> Result<(), MountError> {
    let options = vec!["mode=0755".into(), format!("size={size_bytes}"), "private".into()];
    one("tmpfs", "tmpfs", options, target)
}

/// Unmounts everything at and below `path`, deepest first, lazily (`MNT_DETACH`).
///
/// Idempotent: nothing mounted and a missing `path` are fine. A symlink as the last component is not followed.
///
/// # Errors
/// `/proc` can't be read, or something stays mounted.
pub fn unmount_tree(path: &Path) -> Result<(), MountError> {
    unmount::unmount_tree(path)
}

/// The mount points at and below `path`, in the order in which they were mounted; a path with two mounts on it is there twice.
///
/// # Errors
/// `/proc` can't be read.
pub fn mounts_below(path: &Path) -> Result<Vec<PathBuf>, MountError> {
    unmount::mounts_below(path)
}

fn one(kind: &str, source: &str, options: Vec<String>, target: &Path) -> Result<(), MountError> {
    mount_rootfs(&[Mount { kind: kind.into(), source: source.into(), target: None, options }], target)
}

/// A path as an option's text.
fn text<'a>(kind: &str, path: &'a Path, target: &Path) -> Result<&'a str, MountError> {
    path.to_str().ok_or_else(|| MountError::Unsupported {
        kind: kind.into(),
        target: target.to_owned(),
        option: path.to_string_lossy().into_owned(),
        reason: "the path is not UTF-8",
    })
}
