//! Opens a complete store.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use crate::{
    ImageRecord, LayerReader, SealKey, StoreError, digest_of_dir_name,
    key::Key,
    layer_file_name,
    seal::{MAX_SEALED_BYTES, unseal},
};

/// An opened store: the record is verified, the layers verify while they are read.
pub struct StoreReader {
    dir: PathBuf,
    image_key: Key,
    record: ImageRecord,
}

impl StoreReader {
    /// Opens the store in directory `store`, whose name must be that of the image's digest.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is none or it is incomplete; [`StoreError::Forged`] when it was
    /// changed, moved from another name or sealed with another key.
    pub fn open(store: &Path, seal: &SealKey) -> Result<Self, StoreError> {
        let name = store.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let digest = digest_of_dir_name(name)?;
        let path = store.join("sealed");
        let mut file = Vec::new();
        File::open(&path)
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => StoreError::Missing { path: store.to_owned() },
                _ => StoreError::io("open", &path)(error),
            })?
            .take(MAX_SEALED_BYTES + 1)
            .read_to_end(&mut file)
            .map_err(StoreError::io("read", &path))?;
        if file.len() as u64 > MAX_SEALED_BYTES {
            return Err(StoreError::TooLarge { path });
        }
        let (image_key, record) = unseal(&path, &digest, &file, seal)?;
        Ok(Self { dir: store.to_owned(), image_key, record })
    }

    /// What the agent recorded of the image.
    #[must_use]
    pub fn record(&self) -> &ImageRecord {
        &self.record
    }

    /// The tar of layer `index`, in apply order from 0.
    ///
    /// # Errors
    /// [`StoreError::NoLayer`], or [`StoreError::Io`] and [`StoreError::Format`] with the file's path.
    pub fn layer(&self, index: usize) -> Result<LayerReader, StoreError> {
        let known = (index < self.record.layers.len()).then_some(index);
        let Some(number) = known.and_then(|index| u32::try_from(index).ok()) else {
            return Err(StoreError::NoLayer { path: self.dir.clone(), index });
        };
        let path = self.dir.join("layers").join(layer_file_name(number));
        LayerReader::open(path, &self.image_key, &self.record.manifest_digest, number)
    }
}
