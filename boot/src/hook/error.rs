//! Why a container's root could not be built.

use std::{io, path::PathBuf};

use store::StoreError;
use unpack::UnpackError;

/// An error of the hook.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// Wrong arguments.
    #[error(
        "usage: enclave-boot-hook --store DIR --seal-key FILE [--memory-limit BYTES] [--report FILE] < state.json"
    )]
    Usage,
    /// The process could not be protected.
    #[error("cannot switch off core dumps and tracing of this process")]
    Harden(#[source] io::Error),
    /// The OCI state on stdin is none.
    #[error("stdin is not the OCI state of a container")]
    State(#[source] serde_json::Error),
    /// The bundle's config is none.
    #[error("{} is not an OCI runtime config", path.display())]
    Config {
        /// The config's file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The image does not fit.
    #[error(
        "the image takes {image_bytes} bytes of memory when unpacked, more than the container's memory limit of {limit_bytes} bytes: raise the limit or use a smaller image"
    )]
    Memory {
        /// What the unpacked image takes.
        image_bytes: u64,
        /// The container's limit.
        limit_bytes: u64,
    },
    /// A layer does not verify or cannot be applied.
    #[error("cannot unpack layer {index}")]
    Layer {
        /// In apply order from 0.
        index: usize,
        /// Why.
        #[source]
        source: UnpackError,
    },
    /// The new root cannot be written to.
    #[error("cannot use the new root")]
    Root(#[from] UnpackError),
    /// An operation failed.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// The image leads a mount to a place where it must not be.
    #[error("the mount at {} is refused: {reason}", path.display())]
    Target {
        /// The mount's destination in the container.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
}

impl HookError {
    pub(super) fn io<E: Into<io::Error>>(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> HookError {
        let path = path.into();
        move |source| HookError::Io { operation, path, source: source.into() }
    }
}
