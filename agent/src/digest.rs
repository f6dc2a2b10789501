//! Content digests: `sha256:<hex>`, also sha384 and sha512.

use std::{fmt, str::FromStr};

use sha2::{Digest as _, Sha256, Sha384, Sha512};

/// A digest in canonical form: known algorithm, lower-case hexadecimal of the right length.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Digest(String);

/// The text is no digest of a known algorithm.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a sha256, sha384 or sha512 digest")]
pub struct DigestError(String);

impl Digest {
    /// The sha256 digest of `data`.
    #[must_use]
    pub fn sha256(data: &[u8]) -> Self {
        let mut hasher = Hasher::Sha256(Sha256::new());
        hasher.update(data);
        hasher.finish()
    }

    /// The digest of `data` by this digest's algorithm.
    #[must_use]
    pub fn same_algorithm(&self, data: &[u8]) -> Self {
        let mut hasher = self.hasher();
        hasher.update(data);
        hasher.finish()
    }

    /// An empty hash of this digest's algorithm.
    #[must_use]
    pub fn hasher(&self) -> Hasher {
        match self.0.as_bytes().get(..6) {
            Some(b"sha512") => Hasher::Sha512(Box::new(Sha512::new())),
            Some(b"sha384") => Hasher::Sha384(Box::new(Sha384::new())),
            _ => Hasher::Sha256(Sha256::new()),
        }
    }

    /// `algorithm:hex`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let digits = match text.split_once(':') {
            Some(("sha256", hex)) if hex.len() == 64 => hex,
            Some(("sha384", hex)) if hex.len() == 96 => hex,
            Some(("sha512", hex)) if hex.len() == 128 => hex,
            _ => "",
        };
        if digits.is_empty() || !digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(DigestError(text.chars().take(160).collect()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A hash in progress.
pub enum Hasher {
    /// SHA-256.
    Sha256(Sha256),
    /// SHA-384.
    Sha384(Box<Sha384>),
    /// SHA-512.
    Sha512(Box<Sha512>),
}

impl Hasher {
    /// Adds data.
    pub fn update(&mut self, data: &[u8]) {
        match self {
            Hasher::Sha256(hash) => hash.update(data),
            Hasher::Sha384(hash) => hash.update(data),
            Hasher::Sha512(hash) => hash.update(data),
        }
    }

    /// The digest of what was added.
    #[must_use]
    pub fn finish(self) -> Digest {
        match self {
            Hasher::Sha256(hash) => canonical("sha256", &hash.finalize()),
            Hasher::Sha384(hash) => canonical("sha384", &hash.finalize()),
            Hasher::Sha512(hash) => canonical("sha512", &hash.finalize()),
        }
    }
}

fn canonical(algorithm: &str, hash: &[u8]) -> Digest {
    use fmt::Write;
    let mut text = format!("{algorithm}:");
    for byte in hash {
        write!(text, "{byte:02x}").expect("writing to a String does not fail");
    }
    Digest(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_the_standard() {
        assert_eq!(
            Digest::sha256(b"").as_str(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        let sha512: Digest = format!("sha512:{}", "0".repeat(128)).parse().unwrap();
        assert!(sha512.same_algorithm(b"abc").as_str().starts_with("sha512:ddaf35a193617aba"));
        let sha384: Digest = format!("sha384:{}", "0".repeat(96)).parse().unwrap();
        assert!(sha384.same_algorithm(b"abc").as_str().starts_with("sha384:cb00753f45a35e8b"));
    }

    #[test]
    fn only_canonical_digests_parse() {
        let hex = "0123456789abcdef".repeat(4);
        assert!(format!("sha256:{hex}").parse::<Digest>().is_ok());
        for bad in [
            String::new(),
            format!("sha256-{hex}"),
            format!("sha256:{}", hex.to_uppercase()),
            format!("sha256:{}", &hex[1..]),
            format!("md5:{}", &hex[..32]),
            format!("sha512:{hex}"),
            format!("sha256:../{}", &hex[3..]),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }
}
