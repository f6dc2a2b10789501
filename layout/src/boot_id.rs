//! Which boot of the machine a state file belongs to.

use std::{fmt, fs, io, path::PathBuf};

use serde::{Deserialize, Serialize};

/// Where the kernel says which boot this is (random(4)).
const BOOT_ID_FILE: &str = "/proc/sys/kernel/random/boot_id";

/// The kernel's id of one boot. What carries another boot's id describes mounts and processes
/// that no longer exist.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootId(String);

/// The boot id cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("reading the boot id from {}", path.display())]
pub struct BootIdError {
    /// The file of the kernel.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

impl BootId {
    /// The id of the running boot.
    ///
    /// # Errors
    /// [`BootIdError`] if /proc is not mounted or not readable.
    pub fn current() -> Result<Self, BootIdError> {
        match fs::read_to_string(BOOT_ID_FILE) {
            Ok(id) => Ok(Self(id.trim().to_owned())),
            Err(source) => Err(BootIdError { path: BOOT_ID_FILE.into(), source }),
        }
    }

    /// Any id; for tests and for what was read from elsewhere.
    pub fn from_text(id: impl Into<String>) -> Self {
        Self(id.into())
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_id_is_stable_and_has_no_newline() {
        let id = BootId::current().unwrap();
        assert_eq!(id, BootId::current().unwrap());
        assert_eq!(id.to_string().len(), 36, "a UUID: {id}");
    }
}
