//! The start: one process only, and repair of what a crash left.

use std::{
    collections::HashSet,
    fs::{DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock, atomic::AtomicU64},
};

use super::{Named, Snapshotter, lowers};
use crate::{
    disk::Disk,
    error::SnapshotError,
    snapshot::Content,
    store::{Store, StoreError},
};

/// The snapshotter can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory, or the lock in it.
    #[error("{path}", path = path.display())]
    Root {
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Another process has it.
    #[error("{path} is locked: another snapshotter runs on this directory", path = path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// Names and labels.
    #[error("cannot open the store")]
    Store(#[from] StoreError),
    /// Directories.
    #[error("cannot check the directories")]
    Disk(#[from] SnapshotError),
}

fn lock(root: &Path) -> Result<File, OpenError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Root { path, source }
    };
    DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(at(root))?;
    let path = root.join("lock");
    let file = File::options().write(true).create(true).truncate(false).open(&path).map_err(at(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(OpenError::Locked { path }),
        Err(std::fs::TryLockError::Error(source)) => Err(at(&path)(source)),
    }
}

impl Snapshotter {
    /// Opens or makes the snapshots below `root` and repairs what a crash left: directories without snapshot go,
    /// snapshots without directory get an empty one.
    ///
    /// # Errors
    /// When another process has them, or files can't be read or made.
    pub fn open(root: &Path) -> Result<Self, OpenError> {
        let lock = lock(root)?;
        let store = Store::open(root)?;
        let disk = Disk::open(root)?;
        let used = store.read(|index| index.iter().map(|(_, snapshot)| snapshot.id).max());
        let on_disk = disk.ids()?.into_iter().max();
        let next_id = AtomicU64::new(used.max(on_disk).unwrap_or(0) + 1);
        let this = Self { store, disk, next_id, creating: RwLock::new(()), _lock: lock };
        this.cleanup()?;
        this.repair()?;
        Ok(this)
    }

    fn repair(&self) -> Result<(), SnapshotError> {
        let snapshots: Vec<Named> =
            self.store.read(|index| index.iter().map(|(n, s)| (n.clone(), s.clone())).collect());
        for (name, snapshot) in snapshots {
            if let Some(parent) = &snapshot.parent
                && self.store.read(|index| index.get(parent).is_none())
            {
                tracing::error!(name, parent, "the parent of a snapshot is unknown");
            }
            if snapshot.content == Content::Host && !self.disk.has(snapshot.id) {
                tracing::warn!(
                    name,
                    id = snapshot.id,
                    "a snapshot has lost its directory and gets an empty one"
                );
                let lower = self.store.read(|index| lowers(index, &snapshot).first().copied());
                self.disk.make(snapshot.id, lower.filter(|&lower| self.disk.has(lower)))?;
            }
        }
        Ok(())
    }

    /// Removes directories that belong to no snapshot.
    ///
    /// # Errors
    /// When they can't be listed. One that can't be removed is logged and left.
    pub fn cleanup(&self) -> Result<(), SnapshotError> {
        let strays: Vec<u64> = {
            let _nobody_creates = self.creating.write().unwrap_or_else(PoisonError::into_inner);
            let known: HashSet<u64> =
                self.store.read(|index| index.iter().map(|(_, snapshot)| snapshot.id).collect());
            self.disk.ids()?.into_iter().filter(|id| !known.contains(id)).collect()
        };
        for id in strays {
            tracing::info!(id, "removing a directory without snapshot");
            self.discard(id);
        }
        Ok(())
    }
}
