//! The formats of cgroup files, shared by both versions.
//!
//! A file that is not there (no such controller, not compiled in, the cgroup has just gone) is `None`; one of another
//! form than the kernel documents is an error.

use std::{collections::HashMap, fs, io, path::Path};

use rustix::io::Errno;

use super::CgroupError;

/// `rdma.current` and `rdma.max`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct Rdma {
    pub current: Vec<RdmaEntry>,
    pub limit: Vec<RdmaEntry>,
}

/// A device's line; `max` is `u32::MAX`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct RdmaEntry {
    pub device: String,
    pub hca_handles: u32,
    pub hca_objects: u32,
}

/// Flat keyed files (`memory.stat`, `cpu.stat`, …).
#[derive(Debug, Default)]
pub(super) struct Keyed(HashMap<String, u64>);

impl Keyed {
    /// The value of a key; 0 when the kernel does not have it.
    pub(super) fn get(&self, key: &str) -> u64 {
        self.find(key).unwrap_or(0)
    }

    pub(super) fn find(&self, key: &str) -> Option<u64> {
        self.0.get(key).copied()
    }
}

pub(super) fn text(directory: &Path, name: &str) -> Result<Option<String>, CgroupError> {
    let path = directory.join(name);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if is_absent(&e) => Ok(None),
        Err(source) => Err(CgroupError::Read { path, source }),
    }
}

/// `ENODEV`: the cgroup was removed between open and read. `EOPNOTSUPP`: compiled in and switched off.
pub(super) fn is_absent(error: &io::Error) -> bool {
    let absent = [Errno::NOENT, Errno::NODEV, Errno::OPNOTSUPP, Errno::NOTDIR];
    absent.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// A file with one number; `max` is `u64::MAX`.
pub(super) fn number(directory: &Path, name: &str) -> Result<Option<u64>, CgroupError> {
    let Some(text) = text(directory, name)? else { return Ok(None) };
    parse_number(text.trim()).map(Some).ok_or_else(|| unexpected(directory, name, &text))
}

pub(super) fn keyed(directory: &Path, name: &str) -> Result<Option<Keyed>, CgroupError> {
    let Some(text) = text(directory, name)? else { return Ok(None) };
    let entry = |line: &str| {
        let (key, value) = line.split_once(' ')?;
        Some((key.to_owned(), parse_number(value.trim())?))
    };
    let entries = text.lines().map(|line| entry(line).ok_or_else(|| unexpected(directory, name, line)));
    entries.collect::<Result<_, _>>().map(|map| Some(Keyed(map)))
}

pub(super) fn rdma(directory: &Path) -> Result<Option<Rdma>, CgroupError> {
    let (current, limit) = (text(directory, "rdma.current")?, text(directory, "rdma.max")?);
    if current.is_none() && limit.is_none() {
        return Ok(None);
    }
    let entries = |name: &str, text: Option<String>| {
        text.unwrap_or_default()
            .lines()
            .map(|line| parse_rdma(line).ok_or_else(|| unexpected(directory, name, line)))
            .collect::<Result<Vec<_>, _>>()
    };
    Ok(Some(Rdma { current: entries("rdma.current", current)?, limit: entries("rdma.max", limit)? }))
}

fn parse_rdma(line: &str) -> Option<RdmaEntry> {
    let mut fields = line.split_whitespace();
    let mut entry = RdmaEntry { device: fields.next()?.to_owned(), ..RdmaEntry::default() };
    for field in fields {
        let (key, value) = field.split_once('=')?;
        let value = if value == "max" { u32::MAX } else { value.parse().ok()? };
        match key {
            "hca_handle" => entry.hca_handles = value,
            "hca_object" => entry.hca_objects = value,
            _ => {}
        }
    }
    Some(entry)
}

/// The page sizes of which the controller `hugetlb` counts, from the names of its files ending in `suffix`.
pub(super) fn page_sizes(directory: &Path, suffix: &str) -> Result<Vec<String>, CgroupError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if is_absent(&e) => return Ok(Vec::new()),
        Err(source) => return Err(CgroupError::Read { path: directory.to_owned(), source }),
    };
    let size = |name: &str| {
        let size = name.strip_prefix("hugetlb.")?.strip_suffix(suffix)?;
        // "2MB.rsvd" is the count of reservations.
        (!size.contains('.')).then(|| size.to_owned())
    };
    let mut sizes: Vec<_> = entries.filter_map(|entry| size(entry.ok()?.file_name().to_str()?)).collect();
    sizes.sort();
    Ok(sizes)
}

pub(super) fn parse_number(text: &str) -> Option<u64> {
    if text == "max" { Some(u64::MAX) } else { text.parse().ok() }
}

/// `major:minor`
pub(super) fn parse_device(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

pub(super) fn unexpected(directory: &Path, name: &str, line: &str) -> CgroupError {
    CgroupError::Format { path: directory.join(name), line: line.trim_end().chars().take(200).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_file_is_no_error_and_a_garbled_one_is() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(number(dir.path(), "pids.current").unwrap(), None);
        assert!(keyed(&dir.path().join("gone"), "cpu.stat").unwrap().is_none());
        for (name, garbage) in [("pids.current", "many\n"), ("cpu.stat", "usage_usec\n")] {
            fs::write(dir.path().join(name), garbage).unwrap();
        }
        assert!(matches!(number(dir.path(), "pids.current"), Err(CgroupError::Format { .. })));
        assert!(matches!(keyed(dir.path(), "cpu.stat"), Err(CgroupError::Format { .. })));
    }

    #[test]
    fn max_is_the_largest_number() {
        assert_eq!(parse_number("max"), Some(u64::MAX));
        assert_eq!(
            parse_rdma("m hca_handle=max hca_object=1").map(|entry| entry.hca_handles),
            Some(u32::MAX)
        );
        assert_eq!(parse_rdma("m hca_handle"), None);
    }
}
