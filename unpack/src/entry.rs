//! What an entry does to the tree, after all checks that need no file system.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use tar::EntryType;

use crate::{EntryPath, UnpackError, archive::RawEntry, path::link_text, sparse::Extent};

const WHITEOUT: &[u8] = b".wh.";
const WHITEOUT_META: &[u8] = b".wh..wh.";
const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";

/// tmpfs stores data in pages.
const PAGE: u64 = 4096;
/// About what the kernel takes for an inode and its name in a tmpfs.
const INODE: u64 = 1024;

/// One step of applying a layer.
#[derive(Debug)]
pub(crate) enum Change {
    /// Hides what lower layers have at `dir`/`name`.
    Whiteout { dir: EntryPath, name: OsString },
    /// Hides what lower layers have in `dir`.
    Opaque { dir: EntryPath },
    /// Makes or replaces `path`.
    Put { path: EntryPath, node: Node, meta: Meta },
    /// Nothing: bookkeeping of the file system that the layer was made on.
    Ignore,
}

#[derive(Debug)]
pub(crate) enum Node {
    File { size: u64, extents: Vec<Extent> },
    Directory,
    Symlink { target: OsString },
    HardLink { target: EntryPath },
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
}

#[derive(Debug)]
pub(crate) struct Meta {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds, nanoseconds.
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: Vec<(OsString, Vec<u8>)>,
}

impl Change {
    pub(crate) fn check(raw: RawEntry) -> Result<Self, UnpackError> {
        let path = EntryPath::parse(&raw.path)
            .map_err(|reason| UnpackError::Refused { path: EntryPath::unchecked(&raw.path), reason })?;
        let refused = |reason| UnpackError::Refused { path: path.clone(), reason };
        if let Some((dir, name)) = path.split() {
            match name.as_bytes() {
                WHITEOUT_OPAQUE => return Ok(Self::Opaque { dir }),
                // aufs kept its own files there; no image means them.
                name if name.starts_with(WHITEOUT_META) => return Ok(Self::Ignore),
                name => {
                    if let Some(hidden) = name.strip_prefix(WHITEOUT) {
                        if matches!(hidden, b"" | b"." | b"..") {
                            return Err(refused("a whiteout of no file"));
                        }
                        return Ok(Self::Whiteout { dir, name: OsStr::from_bytes(hidden).to_owned() });
                    }
                }
            }
        }
        let (major, minor) = raw.device;
        let node = match raw.kind {
            EntryType::Regular | EntryType::Continuous => Node::File { size: raw.size, extents: raw.extents },
            EntryType::Directory => Node::Directory,
            EntryType::Symlink => {
                Node::Symlink { target: OsString::from_vec(link_text(&raw.link).map_err(refused)?) }
            }
            EntryType::Link => {
                let target = EntryPath::parse(&raw.link)
                    .map_err(|_| refused("a hard link to a name with \"..\", a NUL or too many bytes"))?;
                if target.split().is_none() {
                    return Err(refused("a hard link to the root"));
                }
                Node::HardLink { target }
            }
            EntryType::Char => Node::CharDevice { major, minor },
            EntryType::Block => Node::BlockDevice { major, minor },
            EntryType::Fifo => Node::Fifo,
            _ => return Err(refused("an entry of an unknown type")),
        };
        if path.split().is_none() && !matches!(node, Node::Directory) {
            return Err(refused("the root is no directory"));
        }
        // The kernel keeps the highest id for "no change".
        let id = |id: u64| {
            u32::try_from(id)
                .ok()
                .filter(|&id| id != u32::MAX)
                .ok_or_else(|| refused("its owner is no valid id"))
        };
        let meta = Meta {
            mode: raw.mode,
            uid: id(raw.uid)?,
            gid: id(raw.gid)?,
            mtime: raw.mtime,
            xattrs: xattrs(raw.xattrs).map_err(refused)?,
        };
        Ok(Self::Put { path, node, meta })
    }

    /// What it takes in a tmpfs.
    pub(crate) fn unpacked_bytes(&self) -> u64 {
        match self {
            Self::Put { node: Node::File { extents, .. }, .. } => extents
                .iter()
                .map(|extent| {
                    let first = extent.offset / PAGE;
                    let end = extent.offset.saturating_add(extent.length).div_ceil(PAGE);
                    (end - first).saturating_mul(PAGE)
                })
                .fold(INODE, u64::saturating_add),
            Self::Put { node: Node::HardLink { .. }, .. } => 0,
            Self::Put { .. } => INODE,
            Self::Whiteout { .. } | Self::Opaque { .. } | Self::Ignore => 0,
        }
    }
}

/// Leaves out what belongs to the machine on which the layer was made: overlayfs' own marks, which would change
/// what an overlay shows, and SELinux labels, which the mount label decides.
fn xattrs(raw: Vec<(Vec<u8>, Vec<u8>)>) -> Result<Vec<(OsString, Vec<u8>)>, &'static str> {
    let foreign = |name: &[u8]| {
        name.starts_with(b"trusted.overlay.")
            || name.starts_with(b"user.overlay.")
            || name == b"security.selinux"
    };
    let mut kept = Vec::with_capacity(raw.len());
    for (name, value) in raw {
        if name.is_empty() || name.len() > 255 || name.contains(&0) {
            return Err("an extended attribute's name is malformed");
        }
        if value.len() > 65536 {
            return Err("an extended attribute is longer than 64 KiB");
        }
        if !foreign(&name) {
            kept.push((OsString::from_vec(name), value));
        }
    }
    Ok(kept)
}
