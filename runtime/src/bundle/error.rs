//! What can go wrong with a bundle.

use std::{io, path::PathBuf};

/// A bundle that can't be read, understood, changed or written.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The directory is not there.
    #[error("bundle {path} does not exist")]
    NoBundle {
        /// The bundle.
        path: PathBuf,
    },
    /// The directory has no `config.json`.
    #[error("bundle has no {path}")]
    NoConfig {
        /// The file.
        path: PathBuf,
    },
    /// `config.json` is something else than a regular file.
    #[error("{path} is not a regular file")]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// `config.json` is too large to be one.
    #[error("{path} is larger than {limit} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
    /// Reading failed.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not JSON, or a value of the wrong type.
    #[error("{path} is not an OCI config, at {at}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Place in the JSON, such as `process.args[1]`.
        at: String,
        /// What and where (line and column).
        #[source]
        source: serde_json::Error,
    },
    /// A value can't be written in JSON or means something else there.
    #[error("{what} {value:?} can't be put into the config of bundle {path}")]
    Value {
        /// The bundle.
        path: PathBuf,
        /// What it was to be.
        what: &'static str,
        /// The value.
        value: String,
    },
    /// A device node can't be looked at, or is none.
    #[error("device {device}")]
    Device {
        /// Path on the host.
        device: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Writing failed; the file is as it was.
    #[error("write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}
