//! The directories of snapshots.
//!
//! ```text
//! <root>/snapshots/<id>/fs     the files
//!                      /work   overlay's, if the snapshot is based on directories
//! ```
//! A directory is made before its snapshot is noted and removed after it is forgotten: what a crash leaves is a
//! directory too many, which the check at the start finds by [`Disk::ids`].

use std::{
    collections::HashSet,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use crate::{error::SnapshotError, snapshot::Usage};

/// `st_blocks` counts in these, whatever the file system's block is.
const BLOCK_BYTES: u64 = 512;

/// The directory with the directories.
#[derive(Debug)]
pub struct Disk {
    snapshots: PathBuf,
    /// The kernel's overlay has the option `index`.
    pub index_option: bool,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> SnapshotError {
    move |source| SnapshotError::Disk { path: path.to_owned(), source }
}

fn unless_missing(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

impl Disk {
    /// Opens or makes the directory below `root`.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn open(root: &Path) -> Result<Self, SnapshotError> {
        let snapshots = root.join("snapshots");
        DirBuilder::new().recursive(true).mode(0o700).create(&snapshots).map_err(at(&snapshots))?;
        let index_option = Path::new("/sys/module/overlay/parameters/index").exists();
        Ok(Self { snapshots, index_option })
    }

    fn dir(&self, id: u64) -> PathBuf {
        self.snapshots.join(id.to_string())
    }

    /// The files of a snapshot.
    #[must_use]
    pub fn files(&self, id: u64) -> PathBuf {
        self.dir(id).join("fs")
    }

    /// Overlay's work directory of a snapshot.
    #[must_use]
    pub fn work(&self, id: u64) -> PathBuf {
        self.dir(id).join("work")
    }

    /// Makes a snapshot's directories; those that exist are left as they are. The owner of the files is that of
    /// `lower`, as containerd's overlay snapshotter has it for remapped users.
    ///
    /// # Errors
    /// When one can't be made.
    pub fn make(&self, id: u64, lower: Option<u64>) -> Result<(), SnapshotError> {
        let files = self.files(id);
        DirBuilder::new().recursive(true).mode(0o755).create(&files).map_err(at(&files))?;
        if let Some(lower) = lower {
            let work = self.work(id);
            DirBuilder::new().recursive(true).mode(0o711).create(&work).map_err(at(&work))?;
            let below = self.files(lower);
            let owner = fs::metadata(&below).map_err(at(&below))?;
            std::os::unix::fs::chown(&files, Some(owner.uid()), Some(owner.gid())).map_err(at(&files))?;
        }
        Ok(())
    }

    /// Removes a snapshot's directories, if it has any.
    ///
    /// # Errors
    /// When something in there can't be removed.
    pub fn remove(&self, id: u64) -> Result<(), SnapshotError> {
        let dir = self.dir(id);
        unless_missing(fs::remove_dir_all(&dir)).map_err(at(&dir))
    }

    /// Whether a snapshot's files are there.
    #[must_use]
    pub fn has(&self, id: u64) -> bool {
        self.files(id).is_dir()
    }

    /// The ids that have a directory.
    ///
    /// # Errors
    /// When the directory can't be read.
    pub fn ids(&self) -> Result<Vec<u64>, SnapshotError> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.snapshots).map_err(at(&self.snapshots))? {
            let entry = entry.map_err(at(&self.snapshots))?;
            ids.extend(entry.file_name().to_str().and_then(|name| name.parse::<u64>().ok()));
        }
        Ok(ids)
    }

    /// What a snapshot's files take: each inode once, sparse files as they are.
    ///
    /// # Errors
    /// When a directory can't be read.
    pub fn usage(&self, id: u64) -> Result<Usage, SnapshotError> {
        let mut seen = HashSet::new();
        let mut blocks: u64 = 0;
        let mut todo = vec![self.files(id)];
        while let Some(path) = todo.pop() {
            // A running container removes files meanwhile.
            let metadata = match fs::symlink_metadata(&path) {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(at(&path)(error)),
            };
            if seen.insert((metadata.dev(), metadata.ino())) {
                blocks += metadata.blocks();
            }
            if metadata.is_dir() {
                match fs::read_dir(&path) {
                    Ok(entries) => todo.extend(entries.flatten().map(|entry| entry.path())),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(at(&path)(error)),
                }
            }
        }
        Ok(Usage {
            size_bytes: i64::try_from(blocks * BLOCK_BYTES).unwrap_or(i64::MAX),
            inodes: i64::try_from(seen.len()).unwrap_or(i64::MAX),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_counts_a_hard_link_once_and_follows_no_symlink() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::open(root.path()).unwrap();
        disk.make(1, None).unwrap();
        let empty = disk.usage(1).unwrap();
        assert_eq!(empty.inodes, 1);
        let file = disk.files(1).join("f");
        fs::write(&file, vec![1; 8192]).unwrap();
        fs::hard_link(&file, disk.files(1).join("g")).unwrap();
        std::os::unix::fs::symlink("/usr", disk.files(1).join("l")).unwrap();
        let full = disk.usage(1).unwrap();
        assert_eq!(full.inodes, 3);
        assert_eq!(full.size_bytes - empty.size_bytes, 8192);
    }

    #[test]
    fn removal_is_idempotent() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::open(root.path()).unwrap();
        disk.make(1, None).unwrap();
        disk.make(2, Some(1)).unwrap();
        assert!(disk.has(2) && disk.work(2).is_dir());
        disk.remove(2).unwrap();
        disk.remove(2).unwrap();
        assert_eq!(disk.ids().unwrap(), [1]);
    }
}
