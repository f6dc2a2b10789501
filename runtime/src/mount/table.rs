//! The kernel's table of mounts (`/proc/<pid>/mountinfo`, see proc(5)) of the calling thread's mount namespace.

use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use super::MountError;

/// The calling thread's: `/proc/self` would be the main thread's, which may be in another mount namespace.
const TABLE: &str = "/proc/thread-self/mountinfo";

/// A mount as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MountPoint {
    /// Number of the mount, unique while it lives.
    pub id: u64,
    /// Number of the mount that it is mounted on.
    pub parent: u64,
    /// Directory of the file system that is its root, `/` unless it is a bind or a cgroup namespace's.
    pub root: PathBuf,
    /// Where it is mounted.
    pub path: PathBuf,
    /// File system type.
    pub kind: String,
    /// Source as it was given to `mount`.
    pub source: OsString,
    /// Options of the file system, comma-separated.
    pub options: String,
    /// Peer group that mounts below it are sent to.
    pub shared: Option<u32>,
    /// Peer group that mounts below it come from.
    pub master: Option<u32>,
}

/// All mounts of the calling thread's mount namespace, oldest first as far as the kernel keeps that order.
///
/// # Errors
/// `/proc` can't be read.
pub fn mount_points() -> Result<Vec<MountPoint>, MountError> {
    let table = fs::read(TABLE).map_err(|source| MountError::Table { path: TABLE.into(), source })?;
    Ok(parse(&table))
}

/// The mounts at and below `top`, and the others.
pub(super) fn split(table: Vec<MountPoint>, top: &Path) -> (Vec<MountPoint>, Vec<MountPoint>) {
    table.into_iter().partition(|mount| mount.path.starts_with(top))
}

/// Lines that are not of the documented form are left out: nothing could be done about such a mount.
fn parse(table: &[u8]) -> Vec<MountPoint> {
    table.split(|b| *b == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<MountPoint> {
    let mut fields = line.split(|b| *b == b' ');
    let mut number = || std::str::from_utf8(fields.next()?).ok()?.parse().ok();
    let (id, parent) = (number()?, number()?);
    let root = fields.nth(1).map(unescape)?;
    let path = fields.next().map(unescape)?;
    let _mount_options = fields.next()?;
    let (mut shared, mut master) = (None, None);
    for tag in fields.by_ref().take_while(|field| *field != b"-") {
        let tag = std::str::from_utf8(tag).ok()?;
        match tag.split_once(':') {
            Some(("shared", group)) => shared = group.parse().ok(),
            Some(("master", group)) => master = group.parse().ok(),
            _ => {}
        }
    }
    let kind = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = fields.next().map(unescape)?;
    let options = String::from_utf8_lossy(fields.next().unwrap_or_default()).into_owned();
    Some(MountPoint {
        id,
        parent,
        root: root.into(),
        path: path.into(),
        kind,
        source,
        options,
        shared,
        master,
    })
}

/// Blank, tab, newline, `#` and backslash are written as `\` and three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] if byte == b'\\' => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = tail;
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_with_its_optional_fields() {
        let table = b"36 35 98:0 /mnt1 /mnt\\0402/a\\134b rw,noatime master:1 shared:7 propagate_from:2 - ext3 /dev/root rw,errors=continue\n\
            22 27 0:21 / /proc rw,relatime - proc proc rw\n\
            garbage\n";
        let mounts = parse(table);
        assert_eq!(mounts.len(), 2);
        assert_eq!(
            mounts[0],
            MountPoint {
                id: 36,
                parent: 35,
                root: "/mnt1".into(),
                path: "/mnt 2/a\\b".into(),
                kind: "ext3".into(),
                source: "/dev/root".into(),
                options: "rw,errors=continue".into(),
                shared: Some(7),
                master: Some(1),
            }
        );
        assert_eq!((mounts[1].shared, mounts[1].master), (None, None));
    }

    #[test]
    fn escapes_are_octal_and_nothing_else_is_one() {
        for (field, expect) in
            [(r"a\040b", "a b"), (r"\011\012\043\134", "\t\n#\\"), (r"a\04", r"a\04"), (r"\9", r"\9")]
        {
            assert_eq!(unescape(field.as_bytes()), OsString::from(expect), "{field}");
        }
        assert_eq!(unescape(br"\303\244"), OsString::from("ä"));
    }

    #[test]
    fn siblings_with_the_same_beginning_are_not_below() {
        let table = parse(
            b"1 0 0:1 / /a rw - tmpfs t rw\n2 1 0:1 / /a/b rw - tmpfs t rw\n3 1 0:1 / /ab rw - tmpfs t rw\n",
        );
        let (tree, others) = split(table, Path::new("/a"));
        assert_eq!(tree.len(), 2);
        assert_eq!(others[0].path, Path::new("/ab"));
    }
}
