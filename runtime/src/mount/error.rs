//! What can go wrong with a mount.

use std::{io, path::PathBuf};

/// A failed mount or unmount.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// An option or file system type that would need more than `mount(2)`.
    #[error("mount of {kind} at {target}: {option:?} is not supported: {reason}")]
    Unsupported {
        /// File system type.
        kind: String,
        /// Where it was to be mounted.
        target: PathBuf,
        /// The option or type.
        option: String,
        /// What it would need.
        reason: &'static str,
    },
    /// The place of a mount below the root file system can't be opened.
    #[error("open mount point {target} below {root}")]
    Target {
        /// The root file system.
        root: PathBuf,
        /// The place in it.
        target: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A mount failed.
    #[error("mount {kind} from {from:?} at {target}{detail}")]
    Mount {
        /// File system type.
        kind: String,
        /// Source as given.
        from: String,
        /// Mount point.
        target: PathBuf,
        /// What the file system said about it, `": …"` or empty.
        detail: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The flags or the propagation of a mount could not be set.
    #[error("{operation} of {target}")]
    Change {
        /// `remount` or `set propagation`.
        operation: &'static str,
        /// Mount point.
        target: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The description of a mount is longer than the kernel takes.
    #[error(
        "overlay with {layers} layers at {target}: options of {bytes} bytes do not fit in a page and the kernel takes them in no other form"
    )]
    TooLong {
        /// Mount point.
        target: PathBuf,
        /// Number of lower directories.
        layers: usize,
        /// Length of the options.
        bytes: usize,
    },
    /// An unmount failed.
    #[error("unmount {target}")]
    Unmount {
        /// Mount point.
        target: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Mounts appear faster than they are taken down.
    #[error("{count} mounts are left at {target}")]
    Left {
        /// Top of the tree.
        target: PathBuf,
        /// How many.
        count: usize,
    },
    /// The table of mounts can't be read.
    #[error("read {path}")]
    Table {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A step failed and taking back the steps before it failed as well.
    #[error("a mount failed and its undo failed as well ({undo})")]
    Undo {
        /// What failed first.
        #[source]
        mount: Box<MountError>,
        /// What failed then.
        undo: Box<MountError>,
    },
}
