//! What can go wrong with one request, and the gRPC code of each.

use std::{io, path::PathBuf};

use tonic::{Code, Status};

use crate::{filter::FilterError, store::StoreError};

/// Why a request was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// There is no snapshot of that name.
    #[error("snapshot {0:?} does not exist")]
    NotFound(String),
    /// The name is taken, or the layer is the enclave's.
    #[error("snapshot {0:?} already exists")]
    AlreadyExists(String),
    /// The parent is unknown.
    #[error("parent {parent:?} of snapshot {name:?} does not exist")]
    ParentNotFound {
        /// The snapshot to be made.
        name: String,
        /// The parent it names.
        parent: String,
    },
    /// The parent is active or a view.
    #[error("parent {parent:?} of snapshot {name:?} is not committed")]
    ParentNotCommitted {
        /// The snapshot to be made.
        name: String,
        /// The parent it names.
        parent: String,
    },
    /// Only an active snapshot can be committed.
    #[error("snapshot {0:?} is not active")]
    NotActive(String),
    /// A committed snapshot has no mounts.
    #[error("snapshot {0:?} is neither active nor a view")]
    NotMountable(String),
    /// Others are based on it.
    #[error("cannot remove snapshot {name:?}: {children} snapshots have it as parent")]
    HasChildren {
        /// The snapshot to be removed.
        name: String,
        /// How many are based on it.
        children: usize,
    },
    /// Only labels change.
    #[error("cannot update field {field:?} of snapshot {name:?}")]
    Immutable {
        /// The snapshot to be updated.
        name: String,
        /// The field as the request names it.
        field: String,
    },
    /// A name or key is empty.
    #[error("a snapshot without name")]
    NoName,
    /// A label is longer than containerd permits.
    #[error("label {0:?} is longer than 4096 bytes with its value")]
    LabelTooLong(String),
    /// A filter is not understood.
    #[error("a filter is not understood")]
    Filter(#[from] FilterError),
    /// A directory of a snapshot.
    #[error("snapshot directory {path}", path = path.display())]
    Disk {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The change could not be kept.
    #[error("cannot keep the change")]
    Store(#[from] StoreError),
}

impl SnapshotError {
    /// The code that containerd makes its own error of.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::NotFound(_) | Self::ParentNotFound { .. } => Code::NotFound,
            Self::AlreadyExists(_) => Code::AlreadyExists,
            Self::ParentNotCommitted { .. }
            | Self::Immutable { .. }
            | Self::NoName
            | Self::LabelTooLong(_)
            | Self::Filter(_) => Code::InvalidArgument,
            Self::NotActive(_) | Self::NotMountable(_) | Self::HasChildren { .. } => Code::FailedPrecondition,
            Self::Disk { source, .. } if is_full(source) => Code::ResourceExhausted,
            Self::Store(error) if error.io().is_some_and(is_full) => Code::ResourceExhausted,
            Self::Disk { .. } | Self::Store(_) => Code::Internal,
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// An error with its sources, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

impl From<SnapshotError> for Status {
    fn from(error: SnapshotError) -> Self {
        Self::new(error.code(), chain(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(kind: io::ErrorKind) -> SnapshotError {
        SnapshotError::Disk { path: PathBuf::from("/d"), source: kind.into() }
    }

    #[test]
    fn each_error_has_the_code_that_containerd_expects() {
        let name = || "n".to_owned();
        let table = [
            (SnapshotError::NotFound(name()), Code::NotFound),
            (SnapshotError::AlreadyExists(name()), Code::AlreadyExists),
            (SnapshotError::ParentNotFound { name: name(), parent: name() }, Code::NotFound),
            (SnapshotError::ParentNotCommitted { name: name(), parent: name() }, Code::InvalidArgument),
            (SnapshotError::NotActive(name()), Code::FailedPrecondition),
            (SnapshotError::NotMountable(name()), Code::FailedPrecondition),
            (SnapshotError::HasChildren { name: name(), children: 1 }, Code::FailedPrecondition),
            (SnapshotError::Immutable { name: name(), field: name() }, Code::InvalidArgument),
            (SnapshotError::NoName, Code::InvalidArgument),
            (SnapshotError::LabelTooLong(name()), Code::InvalidArgument),
            (disk(io::ErrorKind::StorageFull), Code::ResourceExhausted),
            (disk(io::ErrorKind::PermissionDenied), Code::Internal),
        ];
        for (error, code) in table {
            assert_eq!(error.code(), code, "{error}");
        }
    }

    #[test]
    fn status_says_path_and_cause() {
        let status = Status::from(disk(io::ErrorKind::StorageFull));
        assert!(status.message().starts_with("snapshot directory /d: "), "{}", status.message());
    }
}
