//! Mode NONE: the layers' tars, each encrypted by crate `store` while it is checked by crate `unpack`.
//! No plaintext reaches the disk; memory does not grow with the image.

use std::{
    io::{self, BufReader, Read, Write},
    path::PathBuf,
    sync::Arc,
};

use store::{ImageRecord, SealKey, StoreError, StoreReader, StoreWriter};
use unpack::LayerStats;

use super::{Failure, ImageStore, StoreInProgress, store_dir, store_error};
use crate::{digest::Digest, error::Error};

/// Stores under a seal key that is a file.
pub struct None {
    images: PathBuf,
    seal: Arc<SealKey>,
}

struct InProgress {
    images: PathBuf,
    seal: Arc<SealKey>,
    writer: StoreWriter,
}

impl None {
    /// Stores below `images`.
    #[must_use]
    pub fn new(images: PathBuf, seal: SealKey) -> Self {
        Self { images, seal: Arc::new(seal) }
    }
}

impl ImageStore for None {
    fn find(&self, digest: &Digest) -> Result<Option<ImageRecord>, Error> {
        let dir = store_dir(&self.images, digest)?;
        match StoreReader::open(&dir, &self.seal) {
            Ok(reader) => Ok(Some(reader.record().clone())),
            Err(StoreError::Missing { .. }) => Ok(Option::None),
            Err(error) => {
                let reason = crate::error::chain(&error);
                tracing::warn!(%digest, reason, "the store cannot be opened and is pulled again");
                Ok(Option::None)
            }
        }
    }

    fn begin(&self, digest: &Digest) -> Result<Box<dyn StoreInProgress>, Error> {
        let writer = StoreWriter::create(&self.images, digest.as_str())
            .map_err(|error| store_error(&self.images, error))?;
        Ok(Box::new(InProgress { images: self.images.clone(), seal: self.seal.clone(), writer }))
    }

    fn sweep(&self) -> Result<usize, Error> {
        store::sweep(&self.images).map_err(|error| store_error(&self.images, error))
    }
}

impl StoreInProgress for InProgress {
    fn takes_layers_in_parallel(&self) -> bool {
        true
    }

    fn layer(&self, index: usize, tar: &mut dyn Read) -> Result<LayerStats, Failure> {
        let failed = |error| Failure::Store(store_error(&self.images, error));
        let mut writer = self.writer.layer(index).map_err(failed)?;
        let mut tee = Tee { tar, copy: &mut writer, failure: Option::None };
        let inspected = unpack::inspect(BufReader::with_capacity(64 << 10, &mut tee));
        if let Some(failure) = tee.failure {
            return Err(Failure::Store(self.written(failure)));
        }
        let stats = inspected?;
        writer.finish().map_err(failed)?;
        Ok(stats)
    }

    fn commit(self: Box<Self>, record: &ImageRecord) -> Result<(), Error> {
        let images = self.images;
        self.writer.commit(record, &self.seal).map(drop).map_err(|error| store_error(&images, error))
    }
}

impl InProgress {
    /// The store's error behind one of `io::Write`.
    fn written(&self, failure: io::Error) -> Error {
        match failure.downcast::<StoreError>() {
            Ok(error) => store_error(&self.images, error),
            Err(error) => Error::io("write below", &self.images)(error),
        }
    }
}

/// Copies what is read.
struct Tee<'a, W> {
    tar: &'a mut dyn Read,
    copy: &'a mut W,
    failure: Option<io::Error>,
}

impl<W: Write> Read for Tee<'_, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.tar.read(buffer)?;
        if let Err(failure) = self.copy.write_all(&buffer[..length]) {
            let kind = failure.kind();
            self.failure = Some(failure);
            return Err(kind.into());
        }
        Ok(length)
    }
}
