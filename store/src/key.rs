//! The seal key of mode NONE and the keys derived from it and from the image key.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

use aes_gcm::{Aes256Gcm, KeyInit};
use hkdf::Hkdf;
use rustix::fs::OFlags;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::StoreError;

const KEY_BYTES: usize = 32;

/// Stands in for the CPU's seal key: 32 random bytes in a file that only its owner can read.
/// Wiped from memory when dropped.
pub struct SealKey(Key);

/// A key of 32 bytes, wiped when dropped.
pub(crate) struct Key(Zeroizing<[u8; KEY_BYTES]>);

impl SealKey {
    /// Reads the key.
    ///
    /// # Errors
    /// [`StoreError::SealKey`] unless the file is a regular one of exactly 32 bytes that belongs to the
    /// caller and that nobody else may read or write; a final symlink is not followed.
    pub fn read(path: &Path) -> Result<Self, StoreError> {
        let refused = |reason| StoreError::SealKey { path: path.to_owned(), reason };
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(path)
            .map_err(StoreError::io("open the seal key", path))?;
        let meta = file.metadata().map_err(StoreError::io("stat the seal key", path))?;
        if !meta.is_file() {
            return Err(refused("not a regular file"));
        }
        if meta.mode() & 0o077 != 0 {
            return Err(refused("others than its owner have access to it"));
        }
        if meta.uid() != rustix::process::geteuid().as_raw() {
            return Err(refused("it belongs to another user"));
        }
        if meta.len() != KEY_BYTES as u64 {
            return Err(refused("not 32 bytes long"));
        }
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        file.read_exact(&mut *key).map_err(StoreError::io("read the seal key", path))?;
        Ok(Self(Key(key)))
    }

    /// Reads the key, or makes it, and its directory (0700), when there is none. When several processes do this at once,
    /// all get the same key.
    ///
    /// # Errors
    /// As [`SealKey::read`], and [`StoreError::Io`] when the key cannot be written.
    pub fn read_or_create(path: &Path) -> Result<Self, StoreError> {
        match fs::symlink_metadata(path) {
            Ok(_) => return Self::read(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::io("stat the seal key", path)(error)),
        }
        create(path)?;
        Self::read(path)
    }

    pub(crate) fn sealed_cipher(&self) -> Aes256Gcm {
        self.0.cipher(&[b"enclave-cc/store/v1/sealed"])
    }
}

/// Writes a key beside `path` and links it there, which never replaces a key that another process made first.
fn create(path: &Path) -> Result<(), StoreError> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(StoreError::io("create the directory", dir))?;
    let temp = dir.join(format!(".tmp-{}", random_hex()?));
    let key = Key::random()?;
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temp)
        .and_then(|mut file| file.write_all(key.bytes()).and_then(|()| file.sync_all()))
        .map_err(StoreError::io("write the seal key", &temp))
        .and_then(|()| match fs::hard_link(&temp, path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(StoreError::io("create the seal key", path)(error))
            }
            _ => Ok(()),
        });
    let removed = fs::remove_file(&temp).map_err(StoreError::io("remove", &temp));
    written?;
    removed?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(StoreError::io("sync", dir))
}

impl Key {
    pub(crate) fn random() -> Result<Self, StoreError> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        getrandom::fill(&mut *key).map_err(StoreError::Random)?;
        Ok(Self(key))
    }

    /// The key at the start of `bytes`, and what follows it.
    pub(crate) fn split_from(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (head, rest) = bytes.split_first_chunk::<KEY_BYTES>()?;
        Some((Self(Zeroizing::new(*head)), rest))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &*self.0
    }

    pub(crate) fn layer_cipher(&self, index: u32) -> Aes256Gcm {
        self.cipher(&[b"enclave-cc/store/v1/layer", &index.to_be_bytes()])
    }

    fn cipher(&self, info: &[&[u8]]) -> Aes256Gcm {
        let mut derived = Zeroizing::new([0; KEY_BYTES]);
        Hkdf::<Sha256>::new(None, self.bytes())
            .expand_multi_info(info, &mut *derived)
            .expect("HKDF-SHA256 expands to 32 bytes, as its limit is 255 hashes");
        Aes256Gcm::new((&*derived).into())
    }
}

/// 32 hexadecimal digits that nobody else draws.
pub(crate) fn random_hex() -> Result<String, StoreError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(StoreError::Random)?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

/// A fresh random nonce.
pub(crate) fn random_nonce<const N: usize>() -> Result<[u8; N], StoreError> {
    let mut nonce = [0; N];
    getrandom::fill(&mut nonce).map_err(StoreError::Random)?;
    Ok(nonce)
}
