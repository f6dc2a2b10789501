//! The agent's configuration files: token, decrypt config, ocicrypt config.
//!
//! Formats: those of the agents that exist (`key_provider`, `security_validate`; ocicrypt's `key-providers`).

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::DeserializeOwned};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

const MAX_FILE_BYTES: u64 = 1 << 20;

/// A configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// It is not the JSON it should be.
    #[error("{} is not valid", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, column and key.
        #[source]
        source: serde_json::Error,
    },
    /// A value is wrong.
    #[error("{}: {reason}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl ConfigError {
    fn value(path: &Path, reason: impl Into<String>) -> Self {
        Self::Value { path: path.to_owned(), reason: reason.into() }
    }
}

/// The token that each call must carry. Not printable.
pub struct Token(Zeroizing<Vec<u8>>);

impl Token {
    /// Reads the token; white space around it does not count.
    ///
    /// # Errors
    /// [`ConfigError`], also for an empty token.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = Zeroizing::new(read(path)?);
        let token = Zeroizing::new(text.trim_ascii().to_vec());
        if token.is_empty() {
            return Err(ConfigError::value(path, "the token is empty"));
        }
        Ok(Self(token))
    }

    /// Whether `given` is the token, in time that does not depend on where they differ.
    #[must_use]
    pub fn admits(&self, given: &str) -> bool {
        self.0.as_slice().ct_eq(given.as_bytes()).into()
    }
}

/// The decrypt config (`-c`).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecryptConfig {
    /// `provider:<name of a provider in the ocicrypt config>:<key broker>::<address>`.
    pub key_provider: Option<String>,
    /// Whether an image without a valid signature is refused.
    #[serde(default = "yes")]
    pub security_validate: bool,
}

fn yes() -> bool {
    true
}

impl DecryptConfig {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// [`ConfigError`] with the file's name.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let config: Self = json(path)?;
        if let Some(provider) = &config.key_provider {
            let refused = || {
                ConfigError::value(
                    path,
                    format!("key_provider {provider:?} is not provider:NAME:KEY-BROKER::ADDRESS"),
                )
            };
            let rest = provider.strip_prefix("provider:").ok_or_else(refused)?;
            let (name, rest) = rest.split_once(':').ok_or_else(refused)?;
            let (broker, _address) = rest.split_once("::").ok_or_else(refused)?;
            if name.is_empty() || broker.is_empty() || broker.contains(':') {
                return Err(refused());
            }
        }
        Ok(config)
    }
}

/// The ocicrypt config (`-o`).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OcicryptConfig {
    /// Providers by name.
    #[serde(rename = "key-providers")]
    pub key_providers: BTreeMap<String, KeyProvider>,
}

/// How a key provider is reached: exactly one of these.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum KeyProvider {
    /// Built in, by name.
    Native(String),
    /// Over gRPC, `host:port`.
    Grpc(String),
    /// Over ttrpc, an address.
    Ttrpc(String),
    /// A program.
    Cmd(KeyProviderCommand),
}

/// A program that unwraps keys.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyProviderCommand {
    /// The program.
    pub path: PathBuf,
    /// Its arguments.
    #[serde(default)]
    pub args: Vec<String>,
}

impl OcicryptConfig {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// [`ConfigError`] with the file's name.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        json(path)
    }
}

/// What is asked of an image's signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignaturePolicy {
    /// Nothing.
    Unchecked,
    /// A valid one, by this file; the agent has no policy engine yet and refuses.
    Required(PathBuf),
}

impl SignaturePolicy {
    /// The policy that follows from the decrypt config, if there is one.
    #[must_use]
    pub fn of(decrypt_config: Option<(&Path, &DecryptConfig)>) -> Self {
        match decrypt_config {
            Some((path, config)) if config.security_validate => Self::Required(path.to_owned()),
            _ => Self::Unchecked,
        }
    }
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let read = |source| ConfigError::Read { path: path.to_owned(), source };
    let mut content = Vec::new();
    File::open(path).map_err(read)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut content).map_err(read)?;
    if content.len() as u64 > MAX_FILE_BYTES {
        return Err(ConfigError::value(path, "larger than 1 MiB"));
    }
    Ok(content)
}

pub(crate) fn json<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    serde_json::from_slice(&read(path)?).map_err(|source| ConfigError::Json { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(content: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content.as_bytes()).unwrap();
        file
    }

    #[test]
    fn upstreams_files_parse() {
        let decrypt = DecryptConfig::read(
            file(r#"{"key_provider":"provider:attestation-agent:cc_kbc::http://127.0.0.1:8080","security_validate":true}"#)
                .path(),
        )
        .unwrap();
        assert!(decrypt.security_validate);
        let ocicrypt = OcicryptConfig::read(
            file(r#"{"key-providers":{"attestation-agent":{"native":"attestation-agent"}}}"#).path(),
        )
        .unwrap();
        assert_eq!(
            ocicrypt.key_providers["attestation-agent"],
            KeyProvider::Native("attestation-agent".to_owned())
        );
        assert!(DecryptConfig::read(file("{}").path()).unwrap().security_validate, "true is the default");
    }

    #[test]
    fn bad_files_are_refused_by_name() {
        for bad in [
            "",
            "[]",
            r#"{"security_validate":"yes"}"#,
            r#"{"securty_validate":false}"#,
            r#"{"key_provider":"attestation-agent:cc_kbc::http://x"}"#,
            r#"{"key_provider":"provider::cc_kbc::http://x"}"#,
            r#"{"key_provider":"provider:attestation-agent:cc_kbc"}"#,
        ] {
            let file = file(bad);
            let error = DecryptConfig::read(file.path()).unwrap_err();
            assert!(error.to_string().contains(file.path().to_str().unwrap()), "{bad}: {error}");
        }
        for bad in
            ["{}", r#"{"key-providers":{"a":{}}}"#, r#"{"key-providers":{"a":{"native":"x","grpc":"y"}}}"#]
        {
            assert!(OcicryptConfig::read(file(bad).path()).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_empty_token_is_refused_and_another_does_not_pass() {
        assert!(Token::read(file(" \n").path()).is_err());
        let token = Token::read(file("abc\n").path()).unwrap();
        assert!(token.admits("abc"));
        for wrong in ["", "ab", "abcd", "abd", "abc\n"] {
            assert!(!token.admits(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn validation_is_demanded_only_by_a_decrypt_config() {
        let path = Path::new("/c");
        let config = |security_validate| DecryptConfig { key_provider: None, security_validate };
        assert_eq!(SignaturePolicy::of(None), SignaturePolicy::Unchecked);
        assert_eq!(SignaturePolicy::of(Some((path, &config(false)))), SignaturePolicy::Unchecked);
        assert_eq!(
            SignaturePolicy::of(Some((path, &config(true)))),
            SignaturePolicy::Required(path.to_owned())
        );
    }
}
