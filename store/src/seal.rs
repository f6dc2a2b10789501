//! The file `sealed`: image key and record under the seal key.

use std::path::Path;

use aes_gcm::{
    Nonce,
    aead::{Aead, Payload},
};
use zeroize::Zeroizing;

use crate::{
    FORMAT_VERSION, ImageRecord, SealKey, StoreError,
    key::{Key, random_nonce},
};

const MAGIC: &[u8; 8] = b"ENCCSEAL";
const NONCE_BYTES: usize = 12;
const HEADER_BYTES: usize = MAGIC.len() + 2 + NONCE_BYTES;

/// Largest `sealed` that is read: registries limit a config blob to 4 MiB, JSON in JSON can double it.
pub(crate) const MAX_SEALED_BYTES: u64 = 16 << 20;

/// The content of `path`, a `sealed` in the store of the image with manifest `digest`.
pub(crate) fn seal(
    path: &Path,
    digest: &str,
    image_key: &Key,
    record: &ImageRecord,
    seal: &SealKey,
) -> Result<Vec<u8>, StoreError> {
    let mut plain = Zeroizing::new(image_key.bytes().to_vec());
    let json = serde_json::to_vec(record)
        .map_err(|error| StoreError::io("encode the record of", path)(error.into()))?;
    plain.reserve_exact(json.len());
    plain.extend_from_slice(&json);

    let nonce: [u8; NONCE_BYTES] = random_nonce()?;
    let mut file = Vec::with_capacity(HEADER_BYTES + plain.len() + 16);
    file.extend_from_slice(MAGIC);
    file.extend_from_slice(&FORMAT_VERSION.to_be_bytes());
    file.extend_from_slice(&nonce);
    let aad = [&file, digest.as_bytes()].concat();
    let sealed = seal
        .sealed_cipher()
        .encrypt(&Nonce::from(nonce), Payload { msg: &plain, aad: &aad })
        .map_err(|_| StoreError::TooLarge { path: path.to_owned() })?;
    file.extend_from_slice(&sealed);
    if file.len() as u64 > MAX_SEALED_BYTES {
        return Err(StoreError::TooLarge { path: path.to_owned() });
    }
    Ok(file)
}

/// The reverse of [`seal`].
pub(crate) fn unseal(
    path: &Path,
    digest: &str,
    file: &[u8],
    seal: &SealKey,
) -> Result<(Key, ImageRecord), StoreError> {
    let format = || StoreError::Format { path: path.to_owned() };
    let (header, sealed) = file.split_at_checked(HEADER_BYTES).ok_or_else(format)?;
    let (known, nonce) = header.split_at(HEADER_BYTES - NONCE_BYTES);
    if known != [&MAGIC[..], &FORMAT_VERSION.to_be_bytes()].concat() {
        return Err(format());
    }
    let nonce = Nonce::try_from(nonce).map_err(|_| format())?;
    let aad = [header, digest.as_bytes()].concat();
    let plain = seal
        .sealed_cipher()
        .decrypt(&nonce, Payload { msg: sealed, aad: &aad })
        .map(Zeroizing::new)
        .map_err(|_| StoreError::Forged { path: path.to_owned() })?;
    let (key, json) = Key::split_from(&plain).ok_or_else(format)?;
    let record: ImageRecord = serde_json::from_slice(json).map_err(|_| format())?;
    if record.manifest_digest != digest {
        return Err(StoreError::Record { path: path.to_owned(), reason: "is of another image" });
    }
    Ok((key, record))
}
