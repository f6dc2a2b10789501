//! Tars made byte by byte, as no well-behaved writer would make them.

// Each test program uses a part.
#![allow(dead_code)]

use std::path::Path;

use tar::{EntryType, Header};
use unpack::{Limits, Unpacker};

/// A tar under construction.
#[derive(Default)]
pub struct Tar(Vec<u8>);

pub struct Entry<'a> {
    pub kind: EntryType,
    pub name: &'a [u8],
    pub link: &'a [u8],
    pub data: &'a [u8],
    pub mode: u32,
    pub owner: (u64, u64),
    pub mtime: u64,
    pub device: (u32, u32),
}

impl Default for Entry<'_> {
    fn default() -> Self {
        Self {
            kind: EntryType::Regular,
            name: b"",
            link: b"",
            data: b"",
            mode: 0o644,
            owner: (0, 0),
            mtime: 1_700_000_000,
            device: (0, 0),
        }
    }
}

impl Tar {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry; a name or link target longer than its field goes into a GNU long name.
    pub fn add(mut self, entry: &Entry) -> Self {
        if entry.name.len() > 100 {
            self = self.add(&Entry {
                kind: EntryType::GNULongName,
                name: b"././@LongLink",
                data: &[entry.name, b"\0"].concat(),
                ..Entry::default()
            });
        }
        if entry.link.len() > 100 {
            self = self.add(&Entry {
                kind: EntryType::GNULongLink,
                name: b"././@LongLink",
                data: &[entry.link, b"\0"].concat(),
                ..Entry::default()
            });
        }
        let mut header = Header::new_gnu();
        let fill = |field: &mut [u8], bytes: &[u8]| {
            let length = bytes.len().min(field.len());
            field[..length].copy_from_slice(&bytes[..length]);
        };
        fill(&mut header.as_old_mut().name, entry.name);
        fill(&mut header.as_old_mut().linkname, entry.link);
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_uid(entry.owner.0);
        header.set_gid(entry.owner.1);
        header.set_mtime(entry.mtime);
        header.set_size(entry.data.len() as u64);
        header.set_device_major(entry.device.0).unwrap();
        header.set_device_minor(entry.device.1).unwrap();
        header.set_cksum();
        self.raw(header.as_bytes()).raw(entry.data)
    }

    /// Adds bytes and pads them to a block.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (1..).find(|digits| (rest + digits).to_string().len() == *digits).unwrap() + rest;
            data.extend_from_slice(
                &[length.to_string().as_bytes(), b" ", key.as_bytes(), b"=", value, b"\n"].concat(),
            );
        }
        self.add(&Entry { kind: EntryType::XHeader, name: b"PaxHeaders/x", data: &data, ..Entry::default() })
    }

    pub fn dir(self, name: &str) -> Self {
        let kind = EntryType::Directory;
        self.add(&Entry { kind, name: name.as_bytes(), mode: 0o755, ..Entry::default() })
    }

    pub fn file(self, name: &str, data: &str) -> Self {
        self.add(&Entry { name: name.as_bytes(), data: data.as_bytes(), ..Entry::default() })
    }

    pub fn symlink(self, name: &str, target: &str) -> Self {
        let kind = EntryType::Symlink;
        self.add(&Entry { kind, name: name.as_bytes(), link: target.as_bytes(), ..Entry::default() })
    }

    pub fn hard_link(self, name: &str, target: &str) -> Self {
        let kind = EntryType::Link;
        self.add(&Entry { kind, name: name.as_bytes(), link: target.as_bytes(), ..Entry::default() })
    }

    pub fn end(self) -> Vec<u8> {
        self.raw(&[0; 1024]).0
    }

    /// Without the blocks that end an archive.
    pub fn bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Applies layers below `root`, one unpacker for all.
pub fn apply(root: &Path, layers: &[Vec<u8>]) -> Result<(), unpack::UnpackError> {
    let mut unpacker = Unpacker::open(root, Limits::default())?;
    for layer in layers {
        let seen = unpack::inspect(&layer[..])?;
        assert_eq!(unpacker.apply(&layer[..])?, seen, "inspect counts what apply counts");
    }
    Ok(())
}

/// Everything below `root`, sorted: path, and a file's content or a symlink's target.
pub fn tree(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let kind = path.symlink_metadata().unwrap().file_type();
            if kind.is_dir() {
                found.push(format!("{name}/"));
                open.push(path);
            } else if kind.is_symlink() {
                found.push(format!("{name} -> {}", std::fs::read_link(path).unwrap().display()));
            } else if kind.is_file() {
                found.push(format!("{name} = {}", String::from_utf8_lossy(&std::fs::read(path).unwrap())));
            } else {
                found.push(format!("{name} special"));
            }
        }
    }
    found.sort();
    found
}
