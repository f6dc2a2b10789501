//! `linux.cgroupsPath` and where it leads.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// `linux.cgroupsPath`, in one of its two forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupsPath {
    /// A path below the cgroup hierarchies; a relative one is the backend's to place (runc: below its own cgroup).
    Fs(PathBuf),
    /// `slice:prefix:name`, for backends with `--systemd-cgroup`.
    Systemd {
        /// Slice unit; empty means `system.slice`.
        slice: String,
        /// Prefix of the scope unit's name.
        prefix: String,
        /// Name of the scope unit, or of a slice when it ends in `.slice`.
        name: String,
    },
}

impl CgroupsPath {
    /// Tells the two forms apart; `None` for the empty text, which leaves the choice to the backend.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return None;
        }
        let mut parts = text.split(':');
        Some(match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(slice), Some(prefix), Some(name), None) if !text.contains('/') => {
                Self::Systemd { slice: slice.into(), prefix: prefix.into(), name: name.into() }
            }
            _ => Self::Fs(text.into()),
        })
    }

    /// Whether it is for a backend with `--systemd-cgroup`.
    #[must_use]
    pub fn is_systemd(&self) -> bool {
        matches!(self, Self::Systemd { .. })
    }

    /// The path below the hierarchies' roots. systemd nests a slice in those that its name begins with:
    /// `a-b.slice` is `/a.slice/a-b.slice`.
    #[must_use]
    pub fn in_hierarchy(&self) -> PathBuf {
        let (slice, prefix, name) = match self {
            Self::Fs(path) => return Path::new("/").join(path),
            Self::Systemd { slice, prefix, name } => (slice.as_str(), prefix, name),
        };
        let slice = if slice.is_empty() { "system.slice" } else { slice };
        let stem = slice.strip_suffix(".slice").unwrap_or(slice);
        let nested =
            stem.match_indices('-').map(|(at, _)| &stem[..at]).chain([stem]).filter(|part| !part.is_empty());
        let mut path = PathBuf::from("/");
        path.extend(nested.filter(|part| *part != "-").map(|part| format!("{part}.slice")));
        if name.ends_with(".slice") { path.join(name) } else { path.join(format!("{prefix}-{name}.scope")) }
    }
}

impl fmt::Display for CgroupsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fs(path) => path.display().fmt(f),
            Self::Systemd { slice, prefix, name } => write!(f, "{slice}:{prefix}:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_forms_are_told_apart_and_lead_to_a_path() {
        let table = [
            ("/kubepods/pod1/abc", false, "/kubepods/pod1/abc"),
            ("k8s.io/abc", false, "/k8s.io/abc"),
            ("/odd:na:me", false, "/odd:na:me"),
            ("a:b", false, "/a:b"),
            (
                "kubepods-burstable-pod1.slice:cri-containerd:abc",
                true,
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-abc.scope",
            ),
            ("system.slice:runc:x", true, "/system.slice/runc-x.scope"),
            (":runc:x", true, "/system.slice/runc-x.scope"),
            ("-.slice:runc:x", true, "/runc-x.scope"),
            ("user.slice:p:n.slice", true, "/user.slice/n.slice"),
        ];
        for (text, systemd, path) in table {
            let parsed = CgroupsPath::parse(text).unwrap();
            assert_eq!(parsed.is_systemd(), systemd, "{text}");
            assert_eq!(parsed.in_hierarchy(), Path::new(path), "{text}");
            assert_eq!(parsed.to_string(), text);
        }
        assert_eq!(CgroupsPath::parse(""), None);
    }
}
