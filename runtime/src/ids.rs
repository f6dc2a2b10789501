//! Names that come from outside, checked once: a value of these types is safe in a path, a command line or a log.
//!
//! The identifier rule is containerd's (`pkg/identifiers`): it is what containerd accepts itself, so a refusal here
//! means that the request did not come from containerd.

use std::{
    fmt,
    path::{Component, Path, PathBuf},
};

/// containerd's limit of an identifier's length.
const MAX_ID_LEN: usize = 76;

/// Why a name was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdError {
    /// Nothing was given.
    #[error("{what} is empty")]
    Empty {
        /// What was named.
        what: &'static str,
    },
    /// Longer than containerd allows.
    #[error("{what} {value:?} is longer than {MAX_ID_LEN} characters")]
    TooLong {
        /// What was named.
        what: &'static str,
        /// Its beginning.
        value: String,
    },
    /// Not of the form `^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$`.
    #[error("{what} {value:?} is not made of letters and digits with single '.', '_' or '-' between them")]
    Malformed {
        /// What was named.
        what: &'static str,
        /// As it was given.
        value: String,
    },
    /// A path that could mean another place than it says.
    #[error("bundle path {value:?} is not an absolute path without '..'")]
    BundlePath {
        /// As it was given.
        value: PathBuf,
    },
}

fn check(what: &'static str, value: &str) -> Result<(), IdError> {
    if value.is_empty() {
        return Err(IdError::Empty { what });
    }
    if value.len() > MAX_ID_LEN {
        return Err(IdError::TooLong { what, value: value.chars().take(MAX_ID_LEN).collect() });
    }
    let runs_of_alphanumerics = value
        .split(['.', '_', '-'])
        .all(|run| !run.is_empty() && run.bytes().all(|b| b.is_ascii_alphanumeric()));
    if runs_of_alphanumerics { Ok(()) } else { Err(IdError::Malformed { what, value: value.to_owned() }) }
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks `value` against containerd's identifier rule (letters and digits with single `.`, `_` or `-`
            /// between them, 76 characters at most).
            ///
            /// # Errors
            /// The value is empty, too long or has another form.
            pub fn new(value: impl Into<String>) -> Result<Self, IdError> {
                let value = value.into();
                check($what, &value)?;
                Ok(Self(value))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(value: String) -> Result<Self, IdError> {
                Self::new(value)
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;

            fn from_str(value: &str) -> Result<Self, IdError> {
                Self::new(value)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    };
}

identifier!(
    /// A container's name, unique within a containerd namespace.
    ContainerId,
    "container id"
);
identifier!(
    /// An exec's name, unique within its container.
    ExecId,
    "exec id"
);

/// An absolute path without `..`, as containerd hands out for a bundle; `.` and doubled slashes are dropped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "PathBuf", into = "PathBuf")]
pub struct BundlePath(PathBuf);

impl BundlePath {
    /// Checks `path`. Does not look at the file system.
    ///
    /// # Errors
    /// The path is relative, names the root, or has a `..` or a NUL byte in it.
    pub fn new(path: impl AsRef<Path>) -> Result<Self, IdError> {
        let path = path.as_ref();
        let plain = path.is_absolute()
            && path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)))
            && path.file_name().is_some()
            && !path.as_os_str().as_encoded_bytes().contains(&0);
        if plain {
            Ok(Self(path.components().collect()))
        } else {
            Err(IdError::BundlePath { value: path.to_owned() })
        }
    }

    /// The path itself.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// A file or directory of the bundle.
    #[must_use]
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }
}

impl AsRef<Path> for BundlePath {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl fmt::Display for BundlePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

impl TryFrom<PathBuf> for BundlePath {
    type Error = IdError;

    fn try_from(path: PathBuf) -> Result<Self, IdError> {
        Self::new(path)
    }
}

impl From<BundlePath> for PathBuf {
    fn from(path: BundlePath) -> Self {
        path.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_containerds_rule() {
        for good in ["a", "0", "a-b", "a.b_c-d", &"x".repeat(76), "f00b4r.1"] {
            assert!(ContainerId::new(good).is_ok(), "{good}");
            assert_eq!(ExecId::new(good).map(String::from).as_deref(), Ok(good));
        }
        for bad in ["", ".", "..", "-a", "a-", "a..b", "a/b", "a b", "a\0", "ä", "a\n", &"x".repeat(77)] {
            assert!(ContainerId::new(bad).is_err(), "{bad:?}");
            assert!(ExecId::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn deserializing_checks_too() {
        assert!(serde_json::from_str::<ContainerId>("\"../../etc\"").is_err());
        assert!(serde_json::from_str::<BundlePath>("\"/run/../etc\"").is_err());
        assert_eq!(serde_json::to_string(&ContainerId::new("a").unwrap()).unwrap(), "\"a\"");
    }

    #[test]
    fn bundle_paths_are_absolute_and_plain() {
        assert_eq!(BundlePath::new("/run//b/./x/").unwrap().as_path(), Path::new("/run/b/x"));
        for bad in ["", "/", "b", "./b", "/run/../b", "/..", "/a\0b"] {
            assert!(BundlePath::new(bad).is_err(), "{bad:?}");
        }
    }
}
