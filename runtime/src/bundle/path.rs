//! A bundle's path, checked once: a value of this type is safe in a path, a command line or a log.

use std::{
    fmt,
    path::{Component, Path, PathBuf},
};

/// Why a path was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("bundle path {value:?} is not an absolute path without '..'")]
pub struct BundlePathError {
    /// As it was given.
    pub value: PathBuf,
}

/// An absolute path without `..`, as containerd hands out for a bundle; `.` and doubled slashes are dropped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "PathBuf", into = "PathBuf")]
pub struct BundlePath(PathBuf);

impl BundlePath {
    /// Checks `path`. Does not look at the file system.
    ///
    /// # Errors
    /// The path is relative, names the root, or has a `..` or a NUL byte in it.
    pub fn new(path: impl AsRef<Path>) -> Result<Self, BundlePathError> {
        let path = path.as_ref();
        let plain = path.is_absolute()
            && path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)))
            && path.file_name().is_some()
            && !path.as_os_str().as_encoded_bytes().contains(&0);
        if plain {
            Ok(Self(path.components().collect()))
        } else {
            Err(BundlePathError { value: path.to_owned() })
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
    type Error = BundlePathError;

    fn try_from(path: PathBuf) -> Result<Self, BundlePathError> {
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
    fn deserializing_checks_too() {
        assert!(serde_json::from_str::<BundlePath>("\"/run/../etc\"").is_err());
    }

    #[test]
    fn bundle_paths_are_absolute_and_plain() {
        assert_eq!(BundlePath::new("/run//b/./x/").unwrap().as_path(), Path::new("/run/b/x"));
        for bad in ["", "/", "b", "./b", "/run/../b", "/..", "/a\0b"] {
            assert!(BundlePath::new(bad).is_err(), "{bad:?}");
        }
    }
}
