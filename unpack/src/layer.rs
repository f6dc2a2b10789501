//! Carries out the changes of one layer.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps, XattrFlags},
    io::Errno,
    process::{Gid, Uid},
};

use crate::{
    EntryPath, UnpackError,
    archive::Archive,
    entry::{Change, Meta, Node},
    remove::{Touched, empty_lower, remove_all, remove_lower},
    root::{Inode, Missing, open_dir, open_nofollow},
    sparse::Extent,
};

/// The state of one layer's application.
pub(crate) struct Layer<'root> {
    root: BorrowedFd<'root>,
    touched: Touched,
    /// Set at the end, because every entry that comes into a directory changes them: those of the directory's own entry
    /// or else those that it had.
    directory_times: HashMap<Inode, (EntryPath, Timestamps)>,
    /// The directory of the last entry; tars come in order, so most entries are in the same.
    parent: Option<Parent>,
}

struct Parent {
    path: EntryPath,
    dir: OwnedFd,
    inode: Inode,
}

/// An operation that failed, for [`UnpackError::Apply`].
struct Failed(&'static str, io::Error);

fn failed<E: Into<io::Error>>(operation: &'static str) -> impl FnOnce(E) -> Failed {
    move |error| Failed(operation, error.into())
}

impl<'root> Layer<'root> {
    pub(crate) fn new(root: BorrowedFd<'root>) -> Self {
        Self { root, touched: Touched::default(), directory_times: HashMap::new(), parent: None }
    }

    /// Carries out one change; a file's data comes from `archive`.
    pub(crate) fn apply<R: Read>(
        &mut self,
        change: Change,
        archive: &mut Archive<R>,
    ) -> Result<(), UnpackError> {
        match change {
            Change::Ignore => Ok(()),
            Change::Opaque { dir } => {
                self.parent = None;
                self.hide(&dir, None).map_err(|error| at(&dir, error))
            }
            Change::Whiteout { dir, name } => {
                self.parent = None;
                self.hide(&dir, Some(&name)).map_err(|error| at(&dir, error))
            }
            Change::Put { path, node: Node::File { size, extents }, meta } => {
                let file = self.create_file(&path).map_err(|error| at(&path, error))?;
                let mut file = File::from(file);
                write_data(&mut file, size, &extents, archive, &path)?;
                set_meta(file.as_fd(), &meta)
                    .and_then(|()| {
                        rustix::fs::futimens(&file, &times(&meta)).map_err(failed("set the times of"))
                    })
                    .map_err(|error| at(&path, error))
            }
            Change::Put { path, node, meta } => {
                self.put(&path, &node, &meta).map_err(|error| at(&path, error))
            }
        }
    }

    /// Sets the times of the directories.
    pub(crate) fn finish(self) -> Result<(), UnpackError> {
        for (inode, (path, times)) in &self.directory_times {
            let dir = match open_dir(self.root, path.as_path(), Missing::Fail) {
                Ok(dir) => dir,
                // The layer itself replaced it later.
                Err(_) => continue,
            };
            if Inode::of(&dir).is_ok_and(|now| now == *inode) {
                rustix::fs::utimensat(&dir, ".", times, AtFlags::empty())
                    .map_err(|error| at(path, Failed("set the times of", error.into())))?;
            }
        }
        Ok(())
    }

    fn hide(&mut self, path: &EntryPath, name: Option<&OsStr>) -> Result<(), Failed> {
        let dir = match open_dir(self.root, path.as_path(), Missing::Fail) {
            Ok(dir) => dir,
            // Nothing there to hide.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(());
            }
            Err(error) => return Err(Failed("open", error)),
        };
        self.keep_times(path, &dir)?;
        match name {
            Some(name) => remove_lower(dir.as_fd(), name, &self.touched),
            None => empty_lower(dir.as_fd(), &self.touched),
        }
        .map_err(failed("hide what is in"))
    }

    /// Takes the parent of an entry out of the cache or opens it; the caller puts it back.
    fn take_parent(&mut self, path: &EntryPath) -> Result<Parent, Failed> {
        match self.parent.take() {
            Some(parent) if parent.path == *path => Ok(parent),
            _ => {
                let dir = open_dir(self.root, path.as_path(), Missing::Create)
                    .map_err(failed("open the directory of"))?;
                let inode = self.keep_times(path, &dir)?;
                Ok(Parent { path: path.clone(), dir, inode })
            }
        }
    }

    /// Remembers the times of a directory in which something is about to change.
    fn keep_times(&mut self, path: &EntryPath, dir: &OwnedFd) -> Result<Inode, Failed> {
        let stat = rustix::fs::fstat(dir).map_err(failed("stat the directory of"))?;
        let inode = Inode::from(&stat);
        self.directory_times.entry(inode).or_insert_with(|| (path.clone(), times_of(&stat)));
        Ok(inode)
    }

    fn create_file(&mut self, path: &EntryPath) -> Result<OwnedFd, Failed> {
        // The check of entries let the root be a directory only.
        let (dir, name) = path.split().ok_or(Failed("create", Errno::ISDIR.into()))?;
        let parent = self.take_parent(&dir)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = replacing(&parent, name, || {
            rustix::fs::openat(&parent.dir, name, flags, Mode::from_raw_mode(0o600))
        })
        .map_err(failed("create"))?;
        self.touched.insert(parent.inode, name);
        self.parent = Some(parent);
        Ok(file)
    }

    fn put(&mut self, path: &EntryPath, node: &Node, meta: &Meta) -> Result<(), Failed> {
        let Some((dir, name)) = path.split() else {
            clear_xattrs(self.root)?;
            set_meta(self.root, meta)?;
            let inode = Inode::of(self.root).map_err(failed("stat"))?;
            self.directory_times.insert(inode, (path.clone(), times(meta)));
            return Ok(());
        };
        let parent = self.take_parent(&dir)?;
        match node {
            Node::Directory => {
                let made = put_directory(&parent, name, meta)?;
                let inode = Inode::of(&made).map_err(failed("stat"))?;
                self.directory_times.insert(inode, (path.clone(), times(meta)));
                self.touched.insert(parent.inode, name);
                // What comes next is most often in this directory.
                self.parent = Some(Parent { path: path.clone(), dir: made, inode });
                return Ok(());
            }
            Node::Symlink { target } => {
                replacing(&parent, name, || rustix::fs::symlinkat(target, &parent.dir, name))
                    .map_err(failed("create the symlink"))?;
                set_meta_at(&parent, name, meta, FileType::Symlink)?;
            }
            Node::HardLink { target } => self.link(&parent, name, target)?,
            Node::CharDevice { major, minor } => {
                let device = rustix::fs::makedev(*major, *minor);
                put_special(&parent, name, meta, FileType::CharacterDevice, device)?;
            }
            Node::BlockDevice { major, minor } => {
                let device = rustix::fs::makedev(*major, *minor);
                put_special(&parent, name, meta, FileType::BlockDevice, device)?;
            }
            Node::Fifo => put_special(&parent, name, meta, FileType::Fifo, 0)?,
            // Written by `apply`, which has the data.
            Node::File { .. } => return Err(Failed("create", Errno::INVAL.into())),
        }
        self.touched.insert(parent.inode, name);
        self.parent = Some(parent);
        Ok(())
    }

    fn link(&self, parent: &Parent, name: &OsStr, target: &EntryPath) -> Result<(), Failed> {
        let (dir, target_name) = target.split().ok_or(Failed("link", Errno::ISDIR.into()))?;
        let dir = open_dir(self.root, dir.as_path(), Missing::Fail)
            .map_err(failed("open the directory of the hard link's target"))?;
        let target = Inode::at(&dir, target_name).map_err(failed("find the hard link's target"))?.0;
        if Inode::at(&parent.dir, name).is_ok_and(|(inode, _)| inode == target) {
            return Ok(());
        }
        // Without AT_SYMLINK_FOLLOW: a symlink as the target is linked, not followed.
        replacing(parent, name, || rustix::fs::linkat(&dir, target_name, &parent.dir, name, AtFlags::empty()))
            .map_err(failed("create the hard link"))
    }
}

fn at(path: &EntryPath, Failed(operation, source): Failed) -> UnpackError {
    UnpackError::Apply { operation, path: path.clone(), source }
}

/// Makes something new at `name`, in place of what is there.
fn replacing<T>(parent: &Parent, name: &OsStr, make: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
    match make() {
        Err(Errno::EXIST) => {
            remove_all(parent.dir.as_fd(), name)?;
            make()
        }
        other => other,
    }
}

/// Keeps a directory that is there, with what is in it; replaces anything else, a symlink to a directory too,
/// as an overlay would show it.
fn put_directory(parent: &Parent, name: &OsStr, meta: &Meta) -> Result<OwnedFd, Failed> {
    let make = || rustix::fs::mkdirat(&parent.dir, name, Mode::from_raw_mode(0o700));
    let open = || open_nofollow(parent.dir.as_fd(), name, OFlags::RDONLY | OFlags::DIRECTORY);
    match make() {
        Err(Errno::EXIST) => {
            let (_, kind) = Inode::at(&parent.dir, name).map_err(failed("stat"))?;
            if kind == FileType::Directory {
                clear_xattrs(open().map_err(failed("open"))?.as_fd())?;
            } else {
                replacing(parent, name, make).map_err(failed("create the directory"))?;
            }
        }
        made => made.map_err(failed("create the directory"))?,
    }
    let dir = open().map_err(failed("open"))?;
    set_meta(dir.as_fd(), meta)?;
    Ok(dir)
}

fn put_special(
    parent: &Parent,
    name: &OsStr,
    meta: &Meta,
    kind: FileType,
    device: u64,
) -> Result<(), Failed> {
    replacing(parent, name, || {
        rustix::fs::mknodat(&parent.dir, name, kind, Mode::from_raw_mode(0o600), device)
    })
    .map_err(failed("create the device or pipe"))?;
    set_meta_at(parent, name, meta, kind)
}

fn write_data<R: Read>(
    file: &mut File,
    size: u64,
    extents: &[Extent],
    archive: &mut Archive<R>,
    path: &EntryPath,
) -> Result<(), UnpackError> {
    let write = |error| at(path, Failed("write", error));
    let mut position = 0;
    for extent in extents {
        if extent.offset != position {
            file.seek(SeekFrom::Start(extent.offset)).map_err(write)?;
        }
        let mut left = extent.length;
        while left > 0 {
            let piece = archive.data(left)?;
            let length = piece.len();
            if length == 0 {
                return Err(archive.malformed("it ends in the middle of an entry"));
            }
            file.write_all(piece).map_err(write)?;
            archive.used(length);
            left -= length as u64;
        }
        position = extent.offset + extent.length;
    }
    // A hole at the end.
    if position != size {
        file.set_len(size).map_err(write)?;
    }
    Ok(())
}

/// Owner first, as changing it takes away set-user-ID bits and file capabilities.
fn set_meta(file: BorrowedFd<'_>, meta: &Meta) -> Result<(), Failed> {
    rustix::fs::fchown(file, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))
        .map_err(failed("set the owner of"))?;
    rustix::fs::fchmod(file, Mode::from_raw_mode(meta.mode)).map_err(failed("set the mode of"))?;
    for (name, value) in &meta.xattrs {
        tolerate(name, rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()))?;
    }
    Ok(())
}

/// An entry says all that its directory has, so what a lower layer's entry said and this one does not is gone.
fn clear_xattrs(dir: BorrowedFd<'_>) -> Result<(), Failed> {
    let list = failed("list the extended attributes of");
    let length = match rustix::fs::flistxattr_query(dir) {
        Ok(0) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(()),
        length => length.map_err(list)?,
    };
    let mut names = vec![0; length];
    let length =
        rustix::fs::flistxattr(dir, &mut names[..]).map_err(failed("list the extended attributes of"))?;
    for name in names[..length].split(|&byte| byte == 0) {
        // The kernel's own, which no entry carries.
        if !name.is_empty() && name != b"security.selinux" {
            tolerate(OsStr::from_bytes(name), rustix::fs::fremovexattr(dir, name))?;
        }
    }
    Ok(())
}

/// [`set_meta`] and the times, for what cannot be opened without side effects.
fn set_meta_at(parent: &Parent, name: &OsStr, meta: &Meta, kind: FileType) -> Result<(), Failed> {
    let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
    rustix::fs::chownat(&parent.dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(failed("set the owner of"))?;
    // A symlink has no mode of its own.
    if kind != FileType::Symlink {
        rustix::fs::chmodat(&parent.dir, name, Mode::from_raw_mode(meta.mode), AtFlags::empty())
            .map_err(failed("set the mode of"))?;
    }
    if !meta.xattrs.is_empty() {
        // There is no lsetxattr relative to a descriptor before Linux 6.13. The link in procfs leads to the
        // open directory itself, whatever its path.
        let mut path = format!("/proc/self/fd/{}/", parent.dir.as_raw_fd()).into_bytes();
        path.extend_from_slice(name.as_bytes());
        for (name, value) in &meta.xattrs {
            tolerate(name, rustix::fs::lsetxattr(path.as_slice(), name, value, XattrFlags::empty()))?;
        }
    }
    rustix::fs::utimensat(&parent.dir, name, &times(meta), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(failed("set the times of"))
}

/// A system without this kind of attribute is no error, as with containerd (tmpfs has `user.*` only since
/// Linux 6.6, Occlum none at all); but a file capability must not get lost silently.
fn tolerate(name: &OsStr, set: Result<(), Errno>) -> Result<(), Failed> {
    match set {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) if name != "security.capability" => Ok(()),
        other => other.map_err(failed("set an extended attribute of")),
    }
}

fn times_of(stat: &Stat) -> Timestamps {
    // The types of these fields differ between targets.
    #[allow(clippy::useless_conversion)]
    let time = |tv_sec, nanos| Timespec { tv_sec, tv_nsec: i64::try_from(nanos).unwrap_or_default() };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

fn times(meta: &Meta) -> Timestamps {
    let (tv_sec, nanos) = meta.mtime;
    let time = Timespec { tv_sec, tv_nsec: nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}
