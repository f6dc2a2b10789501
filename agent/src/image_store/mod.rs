//! Where the agent leaves images: one trait, a store of mode NONE and one of Occlum.
//!
//! Everything here blocks and is called from blocking threads. A store in progress is in a temporary
//! directory beside its final place; dropped without commit it leaves nothing.

mod none;
mod occlum;
mod sefs;

use std::{
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::statvfs;
use store::ImageRecord;
use unpack::{LayerStats, UnpackError};

pub use none::None;
pub use occlum::Occlum;
pub use sefs::{Kernel, Mounts, SefsMount};

use crate::{digest::Digest, error::Error};

/// A directory of stores.
pub trait ImageStore: Send + Sync {
    /// The record of a complete store, or none. A store that cannot be opened counts as none: the pull replaces it.
    ///
    /// # Errors
    /// [`Error`] when it cannot be known.
    fn find(&self, digest: &Digest) -> Result<Option<ImageRecord>, Error>;

    /// Begins the store of an image.
    ///
    /// # Errors
    /// [`Error`], nothing is left.
    fn begin(&self, digest: &Digest) -> Result<Box<dyn StoreInProgress>, Error>;

    /// Removes what interrupted pulls left. Not while one runs.
    ///
    /// # Errors
    /// [`Error`] with the path.
    fn sweep(&self) -> Result<usize, Error>;
}

/// A store being written.
pub trait StoreInProgress: Send + Sync {
    /// Whether layers can be written in any order and several at once.
    fn takes_layers_in_parallel(&self) -> bool;

    /// Takes one layer's tar, read to its end. May be called again for a layer that failed.
    ///
    /// # Errors
    /// [`Failure`]; the reader's own errors are [`Failure::Read`].
    fn layer(&self, index: usize, tar: &mut dyn Read) -> Result<LayerStats, Failure>;

    /// Completes the store and puts it in place.
    ///
    /// # Errors
    /// [`Error`], nothing is left.
    fn commit(self: Box<Self>, record: &ImageRecord) -> Result<(), Error>;
}

/// Why a layer could not be taken.
#[derive(Debug)]
pub enum Failure {
    /// The reader failed; it knows why.
    Read,
    /// The archive is bad.
    Archive(UnpackError),
    /// The store failed.
    Store(Error),
}

impl From<UnpackError> for Failure {
    fn from(error: UnpackError) -> Self {
        match error {
            UnpackError::Read(_) => Failure::Read,
            other => Failure::Archive(other),
        }
    }
}

/// The error for a full disk below `path`, with its sizes.
fn disk_full(path: &Path, source: crate::error::Shared) -> Error {
    let (available_bytes, total_bytes) = match statvfs(path) {
        Ok(stat) => (stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize),
        Err(_) => (0, 0),
    };
    Error::DiskFull { path: path.to_owned(), available_bytes, total_bytes, source }
}

/// A store's error, with a full disk told apart.
fn store_error(images: &Path, error: store::StoreError) -> Error {
    if error.is_disk_full() { disk_full(images, Arc::new(error)) } else { Error::Store(Arc::new(error)) }
}

/// The directory of the image's store.
///
/// # Errors
/// Never for a [`Digest`], which is canonical.
pub fn store_dir(images: &Path, digest: &Digest) -> Result<PathBuf, Error> {
    store::store_dir_name(digest.as_str())
        .map(|name| images.join(name))
        .map_err(|error| Error::Store(Arc::new(error)))
}
