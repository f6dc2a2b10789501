//! Writes a store in a temporary directory and puts it in place by a rename.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::PoisonError,
};

use crate::{
    ImageRecord, LayerWriter, SealKey, StoreError, StoreReader,
    key::{Key, random_hex},
    layer::Finished,
    layer_file_name,
    seal::seal,
    store_dir_name,
};

const TEMP_PREFIX: &str = ".tmp-";

/// A store being written. Dropped before [`StoreWriter::commit`] it leaves nothing; what a killed process
/// leaves is for [`sweep`].
pub struct StoreWriter {
    images_dir: PathBuf,
    temp: PathBuf,
    name: String,
    digest: String,
    image_key: Key,
    finished: Finished,
}

impl StoreWriter {
    /// Begins the store of the image with this manifest digest below `images_dir`, which is made (0700) if missing.
    ///
    /// # Errors
    /// [`StoreError::Digest`], or [`StoreError::Io`] with the directory's path.
    pub fn create(images_dir: &Path, manifest_digest: &str) -> Result<Self, StoreError> {
        let name = store_dir_name(manifest_digest)?;
        let writer = Self {
            temp: images_dir.join(format!("{TEMP_PREFIX}{}", random_hex()?)),
            images_dir: images_dir.to_owned(),
            name,
            digest: manifest_digest.to_owned(),
            image_key: Key::random()?,
            finished: Finished::default(),
        };
        let layers = writer.temp.join("layers");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&layers)
            .map_err(StoreError::io("create", &layers))?;
        Ok(writer)
    }

    /// Begins layer `index`, in apply order from 0. Several may be written at once, by several threads; a layer
    /// that is begun again starts anew (not while its earlier writer is still at work).
    ///
    /// # Errors
    /// [`StoreError::Io`] with the file's path.
    pub fn layer(&self, index: usize) -> Result<LayerWriter, StoreError> {
        let number =
            u32::try_from(index).map_err(|_| StoreError::NoLayer { path: self.temp.clone(), index })?;
        self.finished.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        let path = self.temp.join("layers").join(layer_file_name(number));
        LayerWriter::create(path, &self.image_key, &self.digest, number, self.finished.clone())
    }

    /// Seals key and record and moves the store to its name; returns its path. If a complete store that opens under
    /// this seal key is there already, it stays and this one is removed. Durable when it returns.
    ///
    /// # Errors
    /// [`StoreError::Record`] when the record is of another image or does not list exactly the layers that were
    /// finished; [`StoreError::Io`] with the path. The temporary directory is removed.
    pub fn commit(self, record: &ImageRecord, key: &SealKey) -> Result<PathBuf, StoreError> {
        let path = self.temp.join("sealed");
        self.check(record, &path)?;
        let sealed = seal(&path, &self.digest, &self.image_key, record, key)?;
        let layers = self.temp.join("layers");
        sync_dir(&layers)?;
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(&sealed).and_then(|()| file.sync_all()))
            .map_err(StoreError::io("write", &path))?;
        sync_dir(&self.temp)?;

        let place = self.images_dir.join(&self.name);
        // Another writer may commit between our look and our rename; the second round then sees its store.
        for _ in 0..8 {
            match fs::rename(&self.temp, &place) {
                Ok(()) => {
                    sync_dir(&self.images_dir)?;
                    return Ok(place);
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::DirectoryNotEmpty
                            | io::ErrorKind::AlreadyExists
                            | io::ErrorKind::NotADirectory
                    ) => {}
                Err(error) => return Err(StoreError::io("rename a store to", place)(error)),
            }
            match StoreReader::open(&place, key) {
                Ok(_) => return Ok(place),
                Err(_) => self.set_aside(&place)?,
            }
        }
        Err(StoreError::io("rename a store to", place)(io::ErrorKind::AlreadyExists.into()))
    }

    fn check(&self, record: &ImageRecord, path: &Path) -> Result<(), StoreError> {
        let refused = |reason| Err(StoreError::Record { path: path.to_owned(), reason });
        if record.manifest_digest != self.digest {
            return refused("is of another image");
        }
        let finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner);
        let written: Vec<(u64, u64)> = finished.iter().map(|(&i, &bytes)| (u64::from(i), bytes)).collect();
        let listed: Vec<(u64, u64)> = (0..).zip(record.layers.iter().map(|l| l.tar_bytes)).collect();
        if written != listed {
            return refused("does not list the layers that were written");
        }
        Ok(())
    }

    /// Takes away what is at `place` and cannot be opened.
    fn set_aside(&self, place: &Path) -> Result<(), StoreError> {
        let aside = self.images_dir.join(format!("{TEMP_PREFIX}{}", random_hex()?));
        match fs::rename(place, &aside) {
            Ok(()) => remove(&aside).map_err(StoreError::io("remove", &aside)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(StoreError::io("replace", place)(error)),
        }
    }
}

impl Drop for StoreWriter {
    fn drop(&mut self) {
        // Gone after a commit. What cannot be removed now is for the next sweep.
        let _ = remove(&self.temp);
    }
}

/// Removes what interrupted writers left in `images_dir` and returns how many leftovers that were. For the only writer,
/// when it starts: the stores of living writers look the same.
///
/// # Errors
/// [`StoreError::Io`] with the path; a missing `images_dir` is none.
pub fn sweep(images_dir: &Path) -> Result<usize, StoreError> {
    let entries = match fs::read_dir(images_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries.map_err(StoreError::io("list", images_dir))?,
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry.map_err(StoreError::io("list", images_dir))?;
        if entry.file_name().as_encoded_bytes().starts_with(TEMP_PREFIX.as_bytes()) {
            remove(&entry.path()).map_err(StoreError::io("remove", entry.path()))?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn sync_dir(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(StoreError::io("sync", path))
}
