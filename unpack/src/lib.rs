//! Applies OCI image layers below a directory and nowhere else.
//!
//! A layer is a tar of changes to the layers below it ("Image Layer Filesystem Changeset" of the OCI image
//! specification): entries replace what is there, directories merge, `.wh.<name>` hides a name and `.wh..wh..opq`
//! what lower layers have in its directory, neither hides what its own layer brings. Where the specification is silent, containerd's
//! `archive` package is the model.
//!
//! Nothing escapes the root: names with `..` are refused, and the directories on the way are resolved inside the root,
//! so that `lib -> /usr/lib` in an image leads to its own `/usr/lib` and never to the host's. The last name of an entry is never
//! followed. Device nodes and set-user-ID files are made as asked for: that they can do no harm is for whoever mounts the
//! root. Keeping owners takes root, device nodes `CAP_MKNOD`.
//!
//! Left out: `trusted.overlay.*`, `user.overlay.*` and `security.selinux` attributes; attributes that the file
//! system cannot hold, except `security.capability`; the metadata on hard links, as it is that of their target.
#![forbid(unsafe_code)]

mod archive;
mod entry;
mod error;
mod layer;
mod path;
mod pax;
mod remove;
pub mod root;
mod sparse;

use std::{
    io::Read,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use archive::Archive;
use entry::Change;
use layer::Layer;
use rustix::fs::{Mode, OFlags};

pub use error::UnpackError;
pub use path::EntryPath;

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
    /// About what the entries take in a tmpfs: data in whole pages of 4 KiB without the holes, and 1 KiB for
    /// each inode. Files that a later entry replaces count too.
    pub unpacked_bytes: u64,
}

/// Applies the layers of one image, in order, below one directory.
pub struct Unpacker {
    root: OwnedFd,
    limits: Limits,
}

impl Unpacker {
    /// Unpacks below the open directory `root`, which may be `O_PATH` and a detached mount.
    ///
    /// # Errors
    /// [`UnpackError::Root`].
    pub fn new(root: impl AsFd, limits: Limits) -> Result<Self, UnpackError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(root, ".", flags, Mode::empty())
            .map_err(|error| UnpackError::Root { path: ".".into(), source: error.into() })?;
        Ok(Self { root, limits })
    }

    /// Unpacks below the directory `root`.
    ///
    /// # Errors
    /// [`UnpackError::Root`].
    pub fn open(root: &Path, limits: Limits) -> Result<Self, UnpackError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, Mode::empty())
            .map_err(|error| UnpackError::Root { path: root.to_owned(), source: error.into() })?;
        Ok(Self { root, limits })
    }

    /// Applies one layer; reads `tar` to its end.
    ///
    /// # Errors
    /// [`UnpackError`]; what was applied until then stays.
    pub fn apply(&mut self, tar: impl Read) -> Result<LayerStats, UnpackError> {
        let mut layer = Layer::new(self.root.as_fd());
        let stats = each(tar, &self.limits, |change, archive| layer.apply(change, archive))?;
        layer.finish()?;
        Ok(stats)
    }
}

/// Checks a layer as [`Unpacker::apply`] does and writes nothing; reads `tar` to its end, padding included, so
/// that a reader which hashes or copies what passes through it has seen everything.
///
/// # Errors
/// As [`Unpacker::apply`], less those of the file system.
pub fn inspect(tar: impl Read) -> Result<LayerStats, UnpackError> {
    inspect_limited(tar, &Limits::default())
}

/// [`inspect`] with limits.
///
/// # Errors
/// As [`inspect`], and [`UnpackError::Limit`] as soon as a limit is passed; `tar` is then not read to its end.
pub fn inspect_limited(tar: impl Read, limits: &Limits) -> Result<LayerStats, UnpackError> {
    each(tar, limits, |_, _| Ok(()))
}

fn each<R: Read>(
    tar: R,
    limits: &Limits,
    mut step: impl FnMut(Change, &mut Archive<R>) -> Result<(), UnpackError>,
) -> Result<LayerStats, UnpackError> {
    let exceeds = |what, count: u64, limit: Option<u64>| match limit {
        Some(limit) if count > limit => Err(UnpackError::Limit { what, limit }),
        _ => Ok(()),
    };
    let mut archive = Archive::new(tar);
    let mut stats = LayerStats::default();
    while let Some(raw) = archive.next_entry()? {
        let change = Change::check(raw)?;
        stats.entries += 1;
        stats.unpacked_bytes = stats.unpacked_bytes.saturating_add(change.unpacked_bytes());
        exceeds("entries", stats.entries, limits.max_entries)?;
        exceeds("unpacked bytes", stats.unpacked_bytes, limits.max_unpacked_bytes)?;
        step(change, &mut archive)?;
    }
    Ok(stats)
}
