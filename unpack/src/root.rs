//! Names resolved inside a root directory, as if after `chroot`, but from outside.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::Path,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat},
    io::Errno,
};

/// As many as the kernel follows.
const MAX_SYMLINKS: usize = 40;

/// What to do about missing directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Fail with `NotFound`.
    Fail,
    /// Make them, root's and with mode 0755.
    Create,
}

/// Opens directory `path` inside `root`, as `O_PATH`. Symlinks, also in the last place, are followed as they would be with
/// `root` as `/`; `..` stops at `root`; magic links of procfs are not followed. With [`Missing::Create`] a symlink to
/// nothing gets its target made, inside the root.
///
/// # Errors
/// What the kernel says; `ELOOP` after 40 symlinks.
pub fn open_dir(root: BorrowedFd<'_>, path: &Path, missing: Missing) -> io::Result<OwnedFd> {
    // An absolute path is relative to the root as well, and an empty one means the root.
    let relative = path.strip_prefix("/").unwrap_or(path);
    let name = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
    match resolve(root, name) {
        // Occlum has no openat2.
        Err(Errno::NOSYS) => Ok(walk(root, relative.as_os_str(), Last::Directory(missing))?.0),
        Err(Errno::NOENT) if missing == Missing::Create => {
            Ok(walk(root, relative.as_os_str(), Last::Directory(missing))?.0)
        }
        other => Ok(other?),
    }
}

/// Finds the place of `path` inside `root` for something that may not exist yet: the directory that holds it and its name
/// there. Symlinks are followed, also in the last place, and missing directories are made. None as the name:
/// the path leads to the root itself or ends in `..`, and the descriptor is that directory.
///
/// # Errors
/// What the kernel says; `ELOOP` after 40 symlinks.
pub fn place(root: BorrowedFd<'_>, path: &Path) -> io::Result<(OwnedFd, Option<OsString>)> {
    walk(root, path.as_os_str(), Last::Name)
}

fn resolve(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    loop {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), how) {
            // A rename somewhere on the machine raced with the resolution of "..".
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    /// Has to be a directory, which is entered.
    Directory(Missing),
    /// May be anything but a symlink, or nothing; its directory is the result.
    Name,
}

/// One name at a time, never following a symlink by the kernel, with every directory on the way held open:
/// `..` goes back to the one that was open before, so nothing leads out.
fn walk(root: BorrowedFd<'_>, path: &OsStr, last: Last) -> io::Result<(OwnedFd, Option<OsString>)> {
    let mut open: Vec<OwnedFd> = Vec::new();
    let mut names = names(path);
    let mut links = 0;
    while let Some(name) = names.pop_front() {
        if name == ".." {
            open.pop();
            continue;
        }
        let here = open.last().map_or(root, AsFd::as_fd);
        match enter(here, &name) {
            Ok(dir) if last == Last::Name && names.is_empty() => {
                drop(dir);
                return Ok((duplicate(here)?, Some(name)));
            }
            Ok(dir) => open.push(dir),
            Err(Errno::NOENT) if last == Last::Name && names.is_empty() => {
                return Ok((duplicate(here)?, Some(name)));
            }
            Err(Errno::NOENT) if last == Last::Directory(Missing::Fail) => return Err(Errno::NOENT.into()),
            Err(Errno::NOENT) => open.push(make(here, &name)?),
            Err(Errno::NOTDIR | Errno::LOOP) => match rustix::fs::readlinkat(here, &name, Vec::new()) {
                Ok(target) => {
                    links += 1;
                    if links > MAX_SYMLINKS {
                        return Err(Errno::LOOP.into());
                    }
                    let target = OsString::from_vec(target.into_bytes());
                    if target.as_bytes().starts_with(b"/") {
                        open.clear();
                    }
                    let mut followed = self::names(&target);
                    followed.append(&mut names);
                    names = followed;
                }
                Err(Errno::INVAL) if last == Last::Name && names.is_empty() => {
                    return Ok((duplicate(here)?, Some(name)));
                }
                Err(Errno::INVAL) => return Err(Errno::NOTDIR.into()),
                Err(error) => return Err(error.into()),
            },
            Err(error) => return Err(error.into()),
        }
    }
    match open.pop() {
        Some(dir) => Ok((dir, None)),
        None => Ok((duplicate(root)?, None)),
    }
}

fn names(path: &OsStr) -> VecDeque<OsString> {
    path.as_bytes()
        .split(|&byte| byte == b'/')
        .filter(|name| !matches!(*name, b"" | b"."))
        .map(|name| OsStr::from_bytes(name).to_owned())
        .collect()
}

fn enter(dir: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

fn make(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o755))?;
    let made = open_nofollow(dir, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
    // The caller's umask or a set-group-ID parent may have changed it.
    rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755))?;
    Ok(made)
}

fn duplicate(dir: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    dir.try_clone_to_owned()
}

/// Opens `name` in `dir` and no symlink in its place.
pub(crate) fn open_nofollow(dir: BorrowedFd<'_>, name: &OsStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(dir, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Identity of a file while it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Inode(u64, u64);

impl Inode {
    pub(crate) fn of(file: impl AsFd) -> Result<Self, Errno> {
        rustix::fs::fstat(file).map(|stat| Self::from(&stat))
    }

    pub(crate) fn at(dir: impl AsFd, name: &OsStr) -> Result<(Self, FileType), Errno> {
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok((Self::from(&stat), FileType::from_raw_mode(stat.st_mode)))
    }
}

impl From<&Stat> for Inode {
    fn from(stat: &Stat) -> Self {
        Self(stat.st_dev, stat.st_ino)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    /// A root with ways in, out, around and to nowhere.
    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir_all(at("a/b/c")).unwrap();
        fs::write(at("file"), "").unwrap();
        for (name, target) in [
            ("abs", "/a/b"),
            ("rel", "a/../a/b"),
            ("up", "../../../.."),
            ("a/out", "../../../etc"),
            ("chain", "abs/c"),
            ("loop1", "loop2"),
            ("loop2", "loop1"),
            ("nowhere", "/no/where"),
            ("to-file", "file"),
            ("slash", "/"),
            ("a/b/self", "."),
        ] {
            symlink(target, at(name)).unwrap();
        }
        root
    }

    const PATHS: [&str; 22] = [
        "",
        "/",
        ".",
        "..",
        "a",
        "a/b/c/../..",
        "abs",
        "abs/c",
        "rel/c",
        "up",
        "up/a",
        "a/out",
        "chain",
        "chain/..",
        "loop1",
        "nowhere",
        "to-file",
        "file",
        "slash/a/b",
        "a/b/self/self/c",
        "file/x",
        "missing/x",
    ];

    #[test]
    fn walking_by_hand_leads_where_the_kernel_leads() {
        let root = root();
        let dir = fs::File::open(root.path()).unwrap();
        for path in PATHS {
            let kernel = resolve(dir.as_fd(), Path::new(if path.is_empty() { "." } else { path }));
            let walked = walk(dir.as_fd(), OsStr::new(path), Last::Directory(Missing::Fail));
            match (kernel, walked) {
                (Ok(kernel), Ok((walked, None))) => {
                    assert_eq!(Inode::of(kernel).unwrap(), Inode::of(walked).unwrap(), "{path:?}");
                }
                (Err(kernel), Err(walked)) => {
                    assert_eq!(Some(kernel.raw_os_error()), walked.raw_os_error(), "{path:?}");
                }
                (kernel, walked) => panic!("{path:?}: {kernel:?}, {walked:?}"),
            }
        }
    }

    #[test]
    fn what_is_missing_is_made_inside() {
        let root = root();
        let dir = fs::File::open(root.path()).unwrap();
        open_dir(dir.as_fd(), Path::new("/nowhere/../x"), Missing::Create).unwrap();
        open_dir(dir.as_fd(), Path::new("up/made"), Missing::Create).unwrap();
        open_dir(dir.as_fd(), Path::new("a/out"), Missing::Create).unwrap();
        for name in ["no/where", "no/x", "made", "etc"] {
            assert!(root.path().join(name).is_dir(), "{name}");
        }
    }

    #[test]
    fn a_place_is_a_directory_and_a_name_after_all_symlinks() {
        let root = root();
        let dir = fs::File::open(root.path()).unwrap();
        for (path, parent, name) in [
            ("/file", "", Some("file")),
            ("to-file", "", Some("file")),
            ("nowhere", "no", Some("where")),
            ("abs/new", "a/b", Some("new")),
            ("abs", "a", Some("b")),
            ("/", "", None),
            ("slash", "", None),
            ("a/b/..", "a", None),
        ] {
            let (found, last) = place(dir.as_fd(), Path::new(path)).unwrap();
            let expected = fs::File::open(root.path().join(parent)).unwrap();
            assert_eq!(Inode::of(found).unwrap(), Inode::of(expected).unwrap(), "{path}");
            assert_eq!(last.as_deref(), name.map(OsStr::new), "{path}");
        }
        assert!(place(dir.as_fd(), Path::new("file/x")).is_err());
        assert!(place(dir.as_fd(), Path::new("loop1/x")).is_err());
    }
}
