//! Names of entries, made safe: relative, without `.`, `..` and NUL.

use std::{ffi::OsStr, fmt, os::unix::ffi::OsStrExt, path::Path};

/// Longest path that one system call takes, with its NUL.
const PATH_MAX: usize = 4096;
/// Longest name of a file.
const NAME_MAX: usize = 255;

/// The name of an entry below the root, relative, without `.` and `..`; empty for the root itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct EntryPath(Vec<u8>);

impl EntryPath {
    /// Takes a name as archives have it: absolute, `./`-prefixed or with a `/` at its end. The error says what is wrong.
    pub(crate) fn parse(raw: &[u8]) -> Result<Self, &'static str> {
        let mut clean = Vec::with_capacity(raw.len());
        for name in raw.split(|&byte| byte == b'/') {
            match name {
                b"" | b"." => continue,
                b".." => return Err("its name has a \"..\""),
                name if name.contains(&0) => return Err("its name has a NUL"),
                name if name.len() > NAME_MAX => return Err("a part of its name is longer than 255 bytes"),
                name => {
                    if !clean.is_empty() {
                        clean.push(b'/');
                    }
                    clean.extend_from_slice(name);
                }
            }
        }
        if clean.len() >= PATH_MAX {
            return Err("its name is longer than 4095 bytes");
        }
        Ok(Self(clean))
    }

    /// For messages about names that [`EntryPath::parse`] refused.
    pub(crate) fn unchecked(raw: &[u8]) -> Self {
        Self(raw[..raw.len().min(PATH_MAX)].to_vec())
    }

    /// Directory and last name; None for the root.
    pub(crate) fn split(&self) -> Option<(Self, &OsStr)> {
        let at = self.0.iter().rposition(|&byte| byte == b'/');
        let (dir, name) = match at {
            Some(at) => (&self.0[..at], &self.0[at + 1..]),
            None => (&[][..], &self.0[..]),
        };
        (!name.is_empty()).then(|| (Self(dir.to_vec()), OsStr::from_bytes(name)))
    }

    /// The path relative to the root; empty for the root itself.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Quoted: names may hold anything, line ends too.
        write!(f, "{:?}", Path::new("/").join(self.as_path().strip_prefix("/").unwrap_or(self.as_path())))
    }
}

/// The text of a symlink, which may be anything that the kernel takes: it is never followed out of the root.
pub(crate) fn link_text(raw: &[u8]) -> Result<Vec<u8>, &'static str> {
    match raw {
        [] => Err("a symlink to nothing"),
        raw if raw.contains(&0) => Err("a symlink whose target has a NUL"),
        raw if raw.len() >= PATH_MAX => Err("a symlink whose target is longer than 4095 bytes"),
        raw => Ok(raw.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_relative_and_clean() {
        for (raw, clean) in [
            ("", ""),
            ("./", ""),
            ("/", ""),
            ("./a/b", "a/b"),
            ("/etc//passwd", "etc/passwd"),
            ("a/./b/", "a/b"),
            ("...", "..."),
            ("a..b", "a..b"),
        ] {
            assert_eq!(EntryPath::parse(raw.as_bytes()).unwrap().as_path(), Path::new(clean), "{raw:?}");
        }
    }

    #[test]
    fn names_that_could_leave_the_root_or_break_a_call_are_refused() {
        let long_name = "n".repeat(256);
        let long_path = "d/".repeat(2048) + "f";
        for raw in ["..", "../a", "a/../../b", "a/..", "a\0b", long_name.as_str(), long_path.as_str()] {
            assert!(EntryPath::parse(raw.as_bytes()).is_err(), "{raw:?}");
        }
    }

    #[test]
    fn a_path_splits_into_directory_and_name() {
        let split =
            |raw: &str| EntryPath::parse(raw.as_bytes()).unwrap().split().map(|(d, n)| (d.0, n.to_owned()));
        assert_eq!(split("a/b/c"), Some((b"a/b".to_vec(), "c".into())));
        assert_eq!(split("a"), Some((vec![], "a".into())));
        assert_eq!(split("/"), None);
    }
}
