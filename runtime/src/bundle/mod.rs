//! An OCI bundle: facts of its `config.json` and changes to it.
//!
//! Facts come from the part of the specification that a shim reads ([`Spec`]). Changes are made to the raw JSON, so that
//! fields which this program does not know survive; facts read after a change see the change. Nothing reaches the disk
//! before [`Bundle::save`] or [`Bundle::save_to`].
//!
//! It knows nothing of why a bundle is changed.

use std::{
    fmt,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use serde::Deserialize;
use serde_json::Value;

mod cgroups_path;
mod edit;
mod error;
mod facts;
mod path;
mod spec;

#[cfg(test)]
mod tests;

pub use cgroups_path::CgroupsPath;
pub use edit::DeviceAccess;
pub use error::BundleError;
pub use facts::{NamespaceKind, PidNamespace};
pub use path::{BundlePath, BundlePathError};
pub use spec::{
    Device, DeviceRule, Hook, Hooks, IdMapping, Linux, Memory, Namespace, Process, Resources, Root, Spec,
    SpecMount, User,
};

const CONFIG: &str = "config.json";

/// Largest `config.json` that is read.
pub const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// A bundle whose config has been read.
#[derive(Clone)]
pub struct Bundle {
    path: BundlePath,
    config: Value,
    spec: Spec,
    mode: u32,
}

impl Bundle {
    /// Reads the bundle in directory `path`.
    ///
    /// # Errors
    /// The directory or its `config.json` is missing, the file is no regular file, larger than [`MAX_CONFIG_BYTES`], not
    /// JSON, or has a value of the wrong type.
    pub fn open(path: &BundlePath) -> Result<Self, BundleError> {
        let file = path.join(CONFIG);
        let (bytes, mode) = read(path.as_path(), &file)?;
        let config = parse(&file, &bytes)?;
        let spec = Spec::deserialize(&config).map_err(|source| BundleError::Parse {
            path: file,
            at: "the top".into(),
            source,
        })?;
        Ok(Self { path: path.clone(), config, spec, mode })
    }

    /// Writes the changes back: a new file beside the old one, renamed over it, with the old one's mode.
    ///
    /// # Errors
    /// Writing fails; the file is as it was.
    pub fn save(&self) -> Result<(), BundleError> {
        self.save_to(&self.path)
    }

    /// Writes the config into another bundle directory, which must exist.
    ///
    /// # Errors
    /// Writing fails; a file that was there is as it was.
    pub fn save_to(&self, bundle: &BundlePath) -> Result<(), BundleError> {
        let file = bundle.join(CONFIG);
        self.write(bundle.as_path(), &file).map_err(|source| BundleError::Write { path: file, source })
    }

    fn write(&self, directory: &Path, file: &Path) -> io::Result<()> {
        let mut written = tempfile::Builder::new().prefix(".config.json.").tempfile_in(directory)?;
        written.write_all(&serde_json::to_vec(&self.config)?)?;
        written.as_file().set_permissions(Permissions::from_mode(self.mode))?;
        written.persist(file)?;
        Ok(())
    }
}

/// Names the bundle only: a config has the container's environment in it, which must not get into a log.
impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Reads the config and its permissions, without trusting what the name leads to.
fn read(bundle: &Path, path: &Path) -> Result<(Vec<u8>, u32), BundleError> {
    let failed = |source| BundleError::Read { path: path.to_owned(), source };
    // Without O_NONBLOCK a fifo would hold the open forever.
    let mut file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(match fs::symlink_metadata(bundle) {
                Ok(_) => BundleError::NoConfig { path: path.to_owned() },
                Err(_) => BundleError::NoBundle { path: bundle.to_owned() },
            });
        }
        Err(e) => return Err(failed(e)),
    };
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(BundleError::NotAFile { path: path.to_owned() });
    }
    let bytes = read_bounded(&mut file).map_err(failed)?;
    let bytes =
        bytes.ok_or_else(|| BundleError::TooLarge { path: path.to_owned(), limit: MAX_CONFIG_BYTES })?;
    Ok((bytes, metadata.permissions().mode() & 0o7777))
}

fn read_bounded(file: &mut File) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let length = file.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut bytes)?;
    Ok((u64::try_from(length).is_ok_and(|length| length <= MAX_CONFIG_BYTES)).then_some(bytes))
}

/// Parses the config as a whole, after a check of the part that is understood, whose errors name the place.
fn parse(path: &Path, bytes: &[u8]) -> Result<Value, BundleError> {
    let failed = |at: String, source| BundleError::Parse { path: path.to_owned(), at, source };
    let config: Value = serde_json::from_slice(bytes).map_err(|e| failed("the text".into(), e))?;
    if !config.is_object() {
        let source =
            serde::de::Error::invalid_type(serde::de::Unexpected::Other("another value"), &"an object");
        return Err(failed("the top".into(), source));
    }
    let mut text = serde_json::Deserializer::from_slice(bytes);
    let checked: Result<Spec, _> = serde_path_to_error::deserialize(&mut text);
    checked.map_err(|e| failed(e.path().to_string(), e.into_inner()))?;
    Ok(config)
}
