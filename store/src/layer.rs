//! One layer file: a tar in chunks, written and read as a stream in constant memory.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use aead_stream::{DecryptorBE32, EncryptorBE32, Nonce, StreamBE32};
use aes_gcm::Aes256Gcm;

use crate::{
    FORMAT_VERSION, StoreError,
    key::{Key, random_nonce},
};

const MAGIC: &[u8; 8] = b"ENCCLAYR";
const NONCE_BYTES: usize = 7;
const HEADER_BYTES: usize = MAGIC.len() + 2 + NONCE_BYTES;
const CHUNK_BYTES: usize = 64 << 10;
const TAG_BYTES: usize = 16;

/// The layers that were written to their end, with their length; the lock is held for one insertion.
pub(crate) type Finished = Arc<Mutex<BTreeMap<u32, u64>>>;

/// Encrypts one layer's tar into its file. Dropped without [`LayerWriter::finish`], the layer does not count.
pub struct LayerWriter {
    path: PathBuf,
    file: File,
    stream: EncryptorBE32<Aes256Gcm>,
    aad: Vec<u8>,
    chunk: Vec<u8>,
    index: u32,
    tar_bytes: u64,
    finished: Finished,
}

impl LayerWriter {
    pub(crate) fn create(
        path: PathBuf,
        image_key: &Key,
        digest: &str,
        index: u32,
        finished: Finished,
    ) -> Result<Self, StoreError> {
        let nonce: [u8; NONCE_BYTES] = random_nonce()?;
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(&FORMAT_VERSION.to_be_bytes());
        header.extend_from_slice(&nonce);
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .map_err(StoreError::io("create", &path))?;
        file.write_all(&header).map_err(StoreError::io("write", &path))?;
        Ok(Self {
            path,
            file,
            stream: EncryptorBE32::from_aead(image_key.layer_cipher(index), &stream_nonce(nonce)),
            aad: associated_data(&header, index, digest),
            chunk: Vec::with_capacity(CHUNK_BYTES + TAG_BYTES),
            index,
            tar_bytes: 0,
            finished,
        })
    }

    /// Writes what is left, syncs the file and returns the tar's length in bytes.
    ///
    /// # Errors
    /// [`StoreError::Io`] with the file's path; the layer then does not count.
    pub fn finish(mut self) -> Result<u64, StoreError> {
        self.stream
            .encrypt_last_in_place(&self.aad, &mut self.chunk)
            .map_err(|_| StoreError::TooLarge { path: self.path.clone() })?;
        self.file.write_all(&self.chunk).map_err(StoreError::io("write", &self.path))?;
        self.file.sync_all().map_err(StoreError::io("sync", &self.path))?;
        let mut finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner);
        finished.insert(self.index, self.tar_bytes);
        Ok(self.tar_bytes)
    }

    fn write_chunk(&mut self) -> Result<(), StoreError> {
        self.stream
            .encrypt_next_in_place(&self.aad, &mut self.chunk)
            .map_err(|_| StoreError::TooLarge { path: self.path.clone() })?;
        self.file.write_all(&self.chunk).map_err(StoreError::io("write", &self.path))?;
        self.chunk.clear();
        Ok(())
    }
}

impl Write for LayerWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        // A full chunk waits for more data, because the last one is sealed differently.
        if self.chunk.len() == CHUNK_BYTES && !data.is_empty() {
            self.write_chunk()?;
        }
        let taken = data.len().min(CHUNK_BYTES - self.chunk.len());
        self.chunk.extend_from_slice(&data[..taken]);
        self.tar_bytes += taken as u64;
        Ok(taken)
    }

    /// Does nothing: a chunk is written when it is full, the rest by [`LayerWriter::finish`].
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Decrypts one layer; gives out only what has been verified. An error, which names the file, is final:
/// each later read repeats it. The data is whole once a read has returned 0.
pub struct LayerReader {
    path: PathBuf,
    file: File,
    /// None after the last chunk.
    stream: Option<DecryptorBE32<Aes256Gcm>>,
    aad: Vec<u8>,
    chunk: Vec<u8>,
    given: usize,
    left_bytes: u64,
    failed: bool,
}

impl LayerReader {
    pub(crate) fn open(path: PathBuf, image_key: &Key, digest: &str, index: u32) -> Result<Self, StoreError> {
        let mut file = File::open(&path).map_err(StoreError::io("open", &path))?;
        let length = file.metadata().map_err(StoreError::io("stat", &path))?.len();
        let (nonce, header) = read_header(&mut file, &path)?;
        Ok(Self {
            stream: Some(DecryptorBE32::from_aead(image_key.layer_cipher(index), &stream_nonce(nonce))),
            aad: associated_data(&header, index, digest),
            chunk: Vec::with_capacity(CHUNK_BYTES + TAG_BYTES),
            given: 0,
            left_bytes: length.saturating_sub(HEADER_BYTES as u64),
            failed: false,
            path,
            file,
        })
    }

    /// Reads and verifies the next chunk; false after the last.
    fn next_chunk(&mut self) -> Result<bool, StoreError> {
        let Some(mut stream) = self.stream.take() else { return Ok(false) };
        let forged = || StoreError::Forged { path: self.path.clone() };
        let length = (CHUNK_BYTES + TAG_BYTES).min(usize::try_from(self.left_bytes).unwrap_or(usize::MAX));
        self.left_bytes -= length as u64;
        self.given = 0;
        self.chunk.resize(length, 0);
        self.file.read_exact(&mut self.chunk).map_err(|error| match error.kind() {
            // It was shortened since it was opened.
            io::ErrorKind::UnexpectedEof => forged(),
            _ => StoreError::io("read", &self.path)(error),
        })?;
        if self.left_bytes > 0 {
            stream.decrypt_next_in_place(&self.aad, &mut self.chunk).map_err(|_| forged())?;
            self.stream = Some(stream);
        } else {
            stream.decrypt_last_in_place(&self.aad, &mut self.chunk).map_err(|_| forged())?;
        }
        Ok(true)
    }
}

impl Read for LayerReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.failed && self.given == self.chunk.len() {
            match self.next_chunk() {
                Ok(true) => {}
                Ok(false) => return Ok(0),
                Err(error) => {
                    self.failed = true;
                    return Err(error.into());
                }
            }
        }
        if self.failed {
            return Err(StoreError::Forged { path: self.path.clone() }.into());
        }
        let length = buffer.len().min(self.chunk.len() - self.given);
        buffer[..length].copy_from_slice(&self.chunk[self.given..self.given + length]);
        self.given += length;
        Ok(length)
    }
}

fn read_header(file: &mut File, path: &Path) -> Result<([u8; NONCE_BYTES], [u8; HEADER_BYTES]), StoreError> {
    let mut header = [0; HEADER_BYTES];
    file.read_exact(&mut header).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => StoreError::Format { path: path.to_owned() },
        _ => StoreError::io("read", path)(error),
    })?;
    let mut nonce = [0; NONCE_BYTES];
    let (known, random) = header.split_at(HEADER_BYTES - NONCE_BYTES);
    if known != [&MAGIC[..], &FORMAT_VERSION.to_be_bytes()].concat() {
        return Err(StoreError::Format { path: path.to_owned() });
    }
    nonce.copy_from_slice(random);
    Ok((nonce, header))
}

fn stream_nonce(nonce: [u8; NONCE_BYTES]) -> Nonce<Aes256Gcm, StreamBE32<Aes256Gcm>> {
    nonce.into()
}

fn associated_data(header: &[u8], index: u32, digest: &str) -> Vec<u8> {
    [header, &index.to_be_bytes(), digest.as_bytes()].concat()
}
