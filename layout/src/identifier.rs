//! Ids that become names in the host's file system.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Longest id that containerd accepts (`identifiers.maxLength`).
const MAX_LENGTH: usize = 76;

/// An id by containerd's rule (package `identifiers`): runs of ASCII letters and digits, joined by
/// single `.`, `_` or `-`, at most 76 bytes. So it is a single path component and never `.` or `..`.
///
/// Names of containerd namespaces, sandboxes and containers are such ids.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Identifier(String);

/// Why a string is no [`Identifier`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentifierError {
    /// The empty string.
    #[error("the id is empty")]
    Empty,
    /// More than 76 bytes.
    #[error("the id of {length} bytes is longer than the {MAX_LENGTH} that containerd allows")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// Anything but letters and digits joined by single separators.
    #[error("the id {id:?} is not made of letters and digits joined by single '.', '_' or '-'")]
    Malformed {
        /// The string.
        id: String,
    },
}

impl Identifier {
    /// Checks `id`.
    ///
    /// # Errors
    /// [`IdentifierError`] says which part of the rule it breaks.
    pub fn new(id: impl Into<String>) -> Result<Self, IdentifierError> {
        let id = id.into();
        if id.is_empty() {
            return Err(IdentifierError::Empty);
        }
        if id.len() > MAX_LENGTH {
            return Err(IdentifierError::TooLong { length: id.len() });
        }
        let is_run = |run: &str| !run.is_empty() && run.bytes().all(|b| b.is_ascii_alphanumeric());
        if !id.split(['.', '_', '-']).all(is_run) {
            return Err(IdentifierError::Malformed { id });
        }
        Ok(Self(id))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Identifier {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for Identifier {
    type Err = IdentifierError;

    fn from_str(id: &str) -> Result<Self, Self::Err> {
        Self::new(id)
    }
}

impl TryFrom<String> for Identifier {
    type Error = IdentifierError;

    fn try_from(id: String) -> Result<Self, Self::Error> {
        Self::new(id)
    }
}

impl From<Identifier> for String {
    fn from(id: Identifier) -> Self {
        id.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_containerd_are_accepted() {
        for id in ["k8s.io", "default", "a", "0", "moby", "app-1_x.y", &"f".repeat(64), &"f".repeat(76)] {
            assert_eq!(Identifier::new(id).map(String::from), Ok(id.to_owned()));
        }
    }

    #[test]
    fn nothing_that_leaves_its_directory_is_an_id() {
        for id in
            [".", "..", "../x", "a/b", "/etc", "a..b", "a--b", "-a", "a-", ".a", "a b", "a\0b", "a\nb", "ä"]
        {
            let refused = IdentifierError::Malformed { id: id.to_owned() };
            assert_eq!(Identifier::new(id), Err(refused));
        }
        assert_eq!(Identifier::new(""), Err(IdentifierError::Empty));
        assert_eq!(Identifier::new("f".repeat(77)), Err(IdentifierError::TooLong { length: 77 }));
    }

    #[test]
    fn deserializing_checks_too() {
        assert!(serde_json::from_str::<Identifier>("\"../x\"").is_err());
        assert_eq!(serde_json::from_str::<Identifier>("\"k8s.io\"").unwrap().as_str(), "k8s.io");
    }
}
