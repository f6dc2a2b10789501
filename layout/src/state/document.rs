//! A versioned JSON document in a file of its own.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::boot_id::BootId;

/// A state file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Reading failed.
    #[error("reading the state file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The content is no state of the version it claims.
    #[error("the state file {} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A newer program wrote it.
    #[error("the state file {} has version {found}, this program knows versions up to {known}", path.display())]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest that can be read.
        known: u32,
    },
    /// Writing failed.
    #[error("writing the state file {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What every version has.
#[derive(Deserialize)]
struct Header {
    version: u32,
    boot_id: BootId,
}

#[derive(Serialize)]
struct Versioned<'a, T> {
    version: u32,
    #[serde(flatten)]
    state: &'a T,
}

/// The boot id in the document at `path`, of whatever version; `None` if there is no file.
pub(crate) fn boot_id_of(path: &Path) -> Result<Option<BootId>, StateError> {
    Ok(bytes(path)?.map(|bytes| header(path, &bytes)).transpose()?.map(|header| header.boot_id))
}

/// Reads the document at `path`; `None` if there is no file.
pub(super) fn read<T: DeserializeOwned>(path: &Path, known: u32) -> Result<Option<T>, StateError> {
    let Some(bytes) = bytes(path)? else { return Ok(None) };
    let found = header(path, &bytes)?.version;
    if found == 0 || found > known {
        return Err(StateError::UnknownVersion { path: path.into(), found, known });
    }
    let state = serde_json::from_slice(&bytes);
    state.map(Some).map_err(|source| StateError::Damaged { path: path.into(), source })
}

/// Replaces the document at `path`. Readers see the old or the new one, whole.
pub(super) fn write<T: Serialize>(path: &Path, version: u32, state: &T) -> Result<(), StateError> {
    let failed = |source| StateError::Write { path: path.into(), source };
    let json = serde_json::to_vec_pretty(&Versioned { version, state }).map_err(|e| failed(e.into()))?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    // No fsync: the state does not outlive the boot, and a rename is atomic for every process of it.
    let mut file = tempfile::Builder::new()
        .prefix(".tmp-")
        .permissions(fs::Permissions::from_mode(0o600))
        .tempfile_in(dir)
        .map_err(failed)?;
    file.write_all(&json).map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// The content of `path`; `None` if it is missing.
fn bytes(path: &Path) -> Result<Option<Vec<u8>>, StateError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StateError::Read { path: path.into(), source }),
    }
}

fn header(path: &Path, bytes: &[u8]) -> Result<Header, StateError> {
    serde_json::from_slice(bytes).map_err(|source| StateError::Damaged { path: path.into(), source })
}
