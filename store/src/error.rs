//! What can go wrong with a store; every error names the file.

use std::{io, path::PathBuf};

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A digest that names no store.
    #[error("{digest:?} is not a manifest digest")]
    Digest {
        /// The text given.
        digest: String,
    },
    /// The seal key's file is no seal key, or others can read it.
    #[error("seal key {}: {reason}", path.display())]
    SealKey {
        /// The key's file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An operation on a file or directory failed.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried, as a verb: "read", "create", …
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// There is no complete store at this path.
    #[error("{} holds no complete store", path.display())]
    Missing {
        /// The store's directory.
        path: PathBuf,
    },
    /// A file that this version does not know.
    #[error("{} is not a store file of format version {}", path.display(), crate::FORMAT_VERSION)]
    Format {
        /// The file.
        path: PathBuf,
    },
    /// Damaged, exchanged, or made under another key.
    #[error("{} does not verify: it was changed, moved here from another place, or made with another key", path.display())]
    Forged {
        /// The file.
        path: PathBuf,
    },
    /// The sealed record contradicts the store it is in.
    #[error("{}: the record {reason}", path.display())]
    Record {
        /// The store's `sealed`.
        path: PathBuf,
        /// In what.
        reason: &'static str,
    },
    /// A layer that the image has not got.
    #[error("{} has no layer {index}", path.display())]
    NoLayer {
        /// The store's directory.
        path: PathBuf,
        /// The index asked for.
        index: usize,
    },
    /// More data than the format can hold.
    #[error("{} is larger than the format allows", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The kernel gives no random numbers.
    #[error("cannot get random numbers: {0}")]
    Random(getrandom::Error),
}

impl StoreError {
    pub(crate) fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> StoreError {
        let path = path.into();
        move |source| StoreError::Io { operation, path, source }
    }

    /// Whether the disk or a quota is full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(self, StoreError::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}

impl From<StoreError> for io::Error {
    /// Keeps the kind, so that a full disk stays recognisable behind `io::Write`.
    fn from(error: StoreError) -> io::Error {
        let kind = match &error {
            StoreError::Io { source, .. } => source.kind(),
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, error)
    }
}
