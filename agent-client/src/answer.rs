//! The checks of what an agent answers. The host does not trust it: a store's name becomes a path
//! on the host, a config is parsed there.

use protos::agent::PullImageResponse;

use crate::error::BadAnswer;

/// Largest image config that is accepted. It also has to fit into one ttrpc message of 4 MiB.
pub const MAX_IMAGE_CONFIG_BYTES: usize = 4 << 20;

/// Longest part of what an agent said that is repeated in an error.
const SHOWN_CHARS: usize = 500;

/// An image in the agent's store, after the checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PulledImage {
    /// Digest of the platform's manifest, `sha256:<hex>`.
    pub manifest_digest: String,
    /// Name of its directory below the stores, `sha256-<hex>`; a single path component.
    pub store_dir: String,
    /// The OCI image config: a JSON object.
    pub image_config: String,
    /// Size of the image's files, as the agent says.
    pub unpacked_bytes: u64,
}

impl PulledImage {
    /// Checks `answer` to the request for `image`.
    pub(crate) fn checked(image: &str, answer: PullImageResponse) -> Result<Self, BadAnswer> {
        let PullImageResponse { image_ref, manifest_digest, store_dir, image_config, unpacked_bytes, .. } =
            answer;
        if image_ref != image {
            return Err(BadAnswer::OtherImage { answered: shortened(&image_ref) });
        }
        let (algorithm, hex) = digest_parts(&manifest_digest)
            .ok_or_else(|| BadAnswer::Digest { digest: shortened(&manifest_digest) })?;
        if store_dir != format!("{algorithm}-{hex}") {
            return Err(BadAnswer::StoreDir { store_dir: shortened(&store_dir), digest: manifest_digest });
        }
        let image_config = checked_config(image_config)?;
        Ok(Self { manifest_digest, store_dir, image_config, unpacked_bytes })
    }
}

/// Algorithm and lower case hex digits of `digest`, if it is one that the OCI image spec registers.
fn digest_parts(digest: &str) -> Option<(&str, &str)> {
    let (algorithm, hex) = digest.split_once(':')?;
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return None,
    };
    let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (hex.len() == length && hex.bytes().all(is_hex)).then_some((algorithm, hex))
}

fn checked_config(config: Vec<u8>) -> Result<String, BadAnswer> {
    if config.len() > MAX_IMAGE_CONFIG_BYTES {
        return Err(BadAnswer::ConfigTooLarge { bytes: config.len(), limit: MAX_IMAGE_CONFIG_BYTES });
    }
    let not_json = |problem: String| BadAnswer::ConfigNotJson { problem };
    let config = String::from_utf8(config).map_err(|error| not_json(error.to_string()))?;
    match serde_json::from_str::<serde::de::IgnoredAny>(&config) {
        Err(error) => Err(not_json(error.to_string())),
        Ok(_) if !config.trim_start().starts_with('{') => {
            Err(not_json("it is another kind of value".to_owned()))
        }
        Ok(_) => Ok(config),
    }
}

/// What an agent said, as it may stand in an error and in a log: bounded, and on one line.
pub(crate) fn shortened(text: &str) -> String {
    text.chars().take(SHOWN_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests;
