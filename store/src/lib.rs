//! The store of one image as the agent leaves it and the boot hook finds it, in SGX mode NONE.
//!
//! Knows the format and nothing of who writes or reads it: no registry, no container, no mount.
//! In mode NONE the seal key lies in a file of the host, so the format shows the flow of the Occlum
//! modes and detects damage and mix-ups; it keeps nothing from the host's root.
//!
//! # Format, version 1
//!
//! ```text
//! <images>/sha256-<hex>/            0700, named after the manifest digest; complete iff `sealed` exists
//!     sealed                        0600, written last
//!     layers/0000, 0001, …          0600, in apply order
//! <images>/.tmp-<32 hex>/           a writer at work, or what an interrupted one left behind
//! ```
//! Integers are big endian. `digest` is the manifest digest as text, `sha256:<hex>`, taken from the
//! directory's name, so a store under another digest's name does not open.
//!
//! `sealed` = header ‖ AES-256-GCM ciphertext and tag, where
//! - header = `"ENCCSEAL"` ‖ version u16 ‖ nonce (12 random bytes),
//! - key = HKDF-SHA256(seal key, info = `"enclave-cc/store/v1/sealed"`),
//! - associated data = header ‖ digest,
//! - plaintext = image key (32 random bytes) ‖ [`ImageRecord`] as JSON.
//!
//! `layers/<index>` = header ‖ chunks: the uncompressed layer tar in the STREAM construction
//! (Hoang, Reyhanitabar, Rogaway, Vizár 2015; crate `aead-stream`, `StreamBE32` over AES-256-GCM), where
//! - header = `"ENCCLAYR"` ‖ version u16 ‖ nonce prefix (7 random bytes),
//! - key = HKDF-SHA256(image key, info = `"enclave-cc/store/v1/layer"` ‖ index u32),
//! - associated data of each chunk = header ‖ index u32 ‖ digest,
//! - each chunk is 64 KiB of plaintext and a 16-byte tag; only the last is shorter, it is empty only in an
//!   empty layer and it is marked as the last, so truncation is noticed at every place.

#![forbid(unsafe_code)]

mod error;
mod key;
mod layer;
mod reader;
mod seal;
mod writer;

use serde::{Deserialize, Serialize};

pub use error::StoreError;
pub use key::SealKey;
pub use layer::{LayerReader, LayerWriter};
pub use reader::StoreReader;
pub use writer::{StoreWriter, sweep};

/// The version of the format that this crate writes, and the only one it reads.
pub const FORMAT_VERSION: u16 = 1;

/// What the agent knows of an image and the boot needs, sealed together with the image key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The reference that was pulled.
    pub reference: String,
    /// Digest of the manifest, `sha256:<hex>`; the store's identity.
    pub manifest_digest: String,
    /// The image's config blob as it came (OCI image spec, `application/vnd.oci.image.config.v1+json`).
    pub image_config: String,
    /// What the unpacked layers take, in bytes: the sum over layers, as `unpack` counts them.
    pub unpacked_bytes: u64,
    /// The layers in apply order.
    pub layers: Vec<LayerRecord>,
}

/// One layer of an [`ImageRecord`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Digest of the uncompressed tar, as the image's config lists it.
    pub diff_id: String,
    /// Length of the uncompressed tar in bytes.
    pub tar_bytes: u64,
}

/// The directory name of the store of the image with this manifest digest: `sha256-<hex>`.
///
/// # Errors
/// [`StoreError::Digest`] unless the digest is `sha256:`, `sha384:` or `sha512:` with as many lower-case
/// hexadecimal digits as that hash has.
pub fn store_dir_name(manifest_digest: &str) -> Result<String, StoreError> {
    let refused = || StoreError::Digest { digest: manifest_digest.to_owned() };
    let (algorithm, hex) = manifest_digest.split_once(':').ok_or_else(refused)?;
    let digits = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err(refused()),
    };
    if hex.len() != digits || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(refused());
    }
    Ok(format!("{algorithm}-{hex}"))
}

/// The digest in a directory name that [`store_dir_name`] made.
fn digest_of_dir_name(name: &str) -> Result<String, StoreError> {
    let digest = name.replacen('-', ":", 1);
    store_dir_name(&digest)?;
    Ok(digest)
}

fn layer_file_name(index: u32) -> String {
    format!("{index:04}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_names_are_made_of_valid_digests_only() {
        let hex = "0123456789abcdef".repeat(4);
        let good = format!("sha256:{hex}");
        let name = store_dir_name(&good).unwrap();
        assert_eq!(name, format!("sha256-{hex}"));
        assert_eq!(digest_of_dir_name(&name).unwrap(), good);
        for bad in [
            String::new(),
            "sha256:".to_owned(),
            format!("sha256-{hex}"),
            format!("sha256:{}", &hex[1..]),
            format!("sha256:{hex}0"),
            format!("sha256:{}", hex.to_uppercase()),
            format!("sha256:../{}", &hex[3..]),
            format!("md5:{hex}"),
            format!("sha512:{hex}"),
        ] {
            assert!(matches!(store_dir_name(&bad), Err(StoreError::Digest { .. })), "{bad}");
        }
    }
}
