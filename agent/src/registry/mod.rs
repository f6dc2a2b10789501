//! Speaks the distribution protocol (Docker registry v2, OCI) with the registry of one reference.
//!
//! References and manifests are those of `oci-client`. Its client is not used, because it reads manifests and
//! tokens of any size into memory, swallows failed token requests and keeps the first credentials of a registry; the
//! transport here is the one it is built on (reqwest, rustls), bounded in size and time.
//!
//! A registry is not trusted: what it sends is limited, checked against digests, and never followed to a
//! URL of its own choice with credentials, nor from https to http.

mod auth;
mod fetch;
mod manifest;
mod reference;

use std::{collections::HashSet, path::PathBuf};

use reqwest::{Certificate, redirect};

pub use auth::{AuthFile, Credentials};
pub use fetch::Session;
pub use manifest::{Compression, ImageConfig, Layer, Resolved};
pub use reference::ImageRef;

use crate::{cli::Limits, config::ConfigError};

/// How registries are reached; one for the process.
pub struct Registry {
    http: reqwest::Client,
    insecure: HashSet<String>,
    auth_file: AuthFile,
    attempts: u32,
}

/// The agent cannot speak to registries.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A CA file or the auth file is no good.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A CA file holds no certificate.
    #[error("{} holds no PEM certificate", .0.display())]
    NoCertificate(PathBuf),
    /// A certificate or a proxy setting is no good.
    #[error("cannot set up TLS and proxies")]
    Client(#[source] reqwest::Error),
}

impl Registry {
    /// Reads CA and auth files and sets up the client. Trusted are Mozilla's roots, which are built in
    /// because an enclave must not take them from the host, and those of `ca_files`.
    ///
    /// # Errors
    /// [`RegistryError`], with the file's name.
    pub fn new(
        insecure: &[String],
        ca_files: &[PathBuf],
        auth_file: AuthFile,
        limits: &Limits,
    ) -> Result<Self, RegistryError> {
        // Fails only when a provider is there already, which then is this one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut roots = Vec::new();
        for root in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
            roots.push(Certificate::from_der(root).map_err(RegistryError::Client)?);
        }
        for path in ca_files {
            let certificates =
                Certificate::from_pem_bundle(&crate::config::read(path)?).map_err(RegistryError::Client)?;
            if certificates.is_empty() {
                return Err(RegistryError::NoCertificate(path.clone()));
            }
            roots.extend(certificates);
        }
        let http = reqwest::Client::builder()
            .user_agent(concat!("enclave-agent/", env!("CARGO_PKG_VERSION")))
            .tls_certs_only(roots)
            .connect_timeout(limits.connect_timeout())
            .read_timeout(limits.stall_timeout())
            .redirect(redirect::Policy::custom(follow))
            .build()
            .map_err(RegistryError::Client)?;
        Ok(Self { http, insecure: insecure.iter().cloned().collect(), auth_file, attempts: limits.attempts })
    }

    /// `http` for a registry that is configured to be insecure, else `https`.
    fn scheme(&self, registry: &str) -> &'static str {
        if self.insecure.contains(registry) { "http" } else { "https" }
    }
}

/// Few redirects, and none that leaves TLS; reqwest drops the credentials when the host changes.
fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    const MAX_REDIRECTS: usize = 5;
    let leaves_tls =
        attempt.previous().iter().any(|url| url.scheme() == "https") && attempt.url().scheme() != "https";
    if leaves_tls {
        attempt.error("redirected from https to http")
    } else if attempt.previous().len() > MAX_REDIRECTS {
        attempt.error("too many redirects")
    } else {
        attempt.follow()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn limits() -> Limits {
        #[derive(Parser)]
        struct Only {
            #[command(flatten)]
            limits: Limits,
        }
        Only::parse_from(["x"]).limits
    }

    #[test]
    fn http_is_spoken_to_configured_registries_only() {
        let insecure = ["registry.test:5000".to_owned()];
        let registry = Registry::new(&insecure, &[], AuthFile::default(), &limits()).unwrap();
        assert_eq!(registry.scheme("registry.test:5000"), "http");
        for other in ["registry.test", "registry.test:5001", "sub.registry.test:5000", "localhost:5000"] {
            assert_eq!(registry.scheme(other), "https", "{other}");
        }
    }

    #[test]
    fn a_ca_file_without_certificate_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let ca_files = [file.path().to_owned()];
        let refused = Registry::new(&[], &ca_files, AuthFile::default(), &limits()).map(|_| ());
        assert!(matches!(refused, Err(RegistryError::NoCertificate(_))), "{refused:?}");
        let missing = [PathBuf::from("/nonexistent/ca.pem")];
        assert!(Registry::new(&[], &missing, AuthFile::default(), &limits()).is_err());
    }
}
