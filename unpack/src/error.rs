//! What can go wrong with a layer.

use std::{io, path::PathBuf};

use crate::EntryPath;

/// An error of this crate. Paths are those of the archive's entries, below the root.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The reader that gives the tar failed: not the layer's fault.
    #[error("cannot read the layer")]
    Read(#[source] io::Error),
    /// The bytes are no tar.
    #[error("the layer is not a valid tar: {reason} at byte {offset}")]
    Malformed {
        /// What is wrong.
        reason: &'static str,
        /// Where the entry's header begins.
        offset: u64,
    },
    /// A well-formed entry that must not be applied.
    #[error("layer entry {path}: {reason}")]
    Refused {
        /// The entry.
        path: EntryPath,
        /// Why.
        reason: &'static str,
    },
    /// A limit of [`crate::Limits`] was passed.
    #[error("the layer has more than {limit} {what}")]
    Limit {
        /// "entries" or "bytes".
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The kernel refused an operation on an entry.
    #[error("layer entry {path}: cannot {operation}")]
    Apply {
        /// What was tried, as a verb.
        operation: &'static str,
        /// The entry.
        path: EntryPath,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The root directory cannot be opened.
    #[error("cannot open the root directory {}", path.display())]
    Root {
        /// The directory.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl UnpackError {
    /// Whether the target file system is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, UnpackError::Apply { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}
