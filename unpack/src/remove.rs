//! Takes away what a layer hides or replaces.

use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
};

use rustix::{
    fs::{AtFlags, Dir, FileType, OFlags},
    io::Errno,
};

use crate::root::{Inode, open_nofollow};

/// What the current layer has put: the name in the directory with that inode.
///
/// A stale inode does no harm: a directory that gets the number of a removed one was made by this layer too.
#[derive(Default)]
pub(crate) struct Touched(HashSet<(Inode, OsString)>);

impl Touched {
    pub(crate) fn insert(&mut self, dir: Inode, name: &OsStr) {
        self.0.insert((dir, name.to_owned()));
    }

    fn contains(&self, dir: Inode, name: &OsStr) -> bool {
        // One clone a removed name; whiteouts are few.
        self.0.contains(&(dir, name.to_owned()))
    }
}

/// Removes `name` in `dir`, with everything below it; a missing one is fine.
pub(crate) fn remove_all(dir: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    remove(dir, name, None).map(|_| ())
}

/// Removes what lower layers have at `name` in `dir` and keeps what the current layer put there.
pub(crate) fn remove_lower(dir: BorrowedFd<'_>, name: &OsStr, touched: &Touched) -> Result<(), Errno> {
    remove(dir, name, Some(touched)).map(|_| ())
}

/// [`remove_lower`] for everything in the directory `dir`.
pub(crate) fn empty_lower(dir: BorrowedFd<'_>, touched: &Touched) -> Result<(), Errno> {
    // The descriptor may be O_PATH, which cannot be read.
    let dir = open_nofollow(dir, OsStr::new("."), OFlags::RDONLY | OFlags::DIRECTORY)?;
    empty(dir.as_fd(), Some(touched)).map(|_| ())
}

/// Returns whether nothing is left at `name`.
fn remove(dir: BorrowedFd<'_>, name: &OsStr, keep: Option<&Touched>) -> Result<bool, Errno> {
    let kind = match Inode::at(dir, name) {
        Ok((_, kind)) => kind,
        Err(Errno::NOENT) => return Ok(true),
        Err(error) => return Err(error),
    };
    let kept = match keep {
        Some(touched) => touched.contains(Inode::of(dir)?, name),
        None => false,
    };
    if kind != FileType::Directory {
        if !kept {
            rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
        }
        return Ok(!kept);
    }
    let inner = open_nofollow(dir, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let emptied = empty(inner.as_fd(), keep)?;
    drop(inner);
    if emptied && !kept {
        rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?;
        return Ok(true);
    }
    Ok(false)
}

/// Returns whether nothing is left in the directory.
fn empty(dir: BorrowedFd<'_>, keep: Option<&Touched>) -> Result<bool, Errno> {
    let mut emptied = true;
    // All names first: reading while removing may skip some.
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if !matches!(name.as_slice(), b"." | b"..") {
            names.push(OsString::from_vec(name));
        }
    }
    for name in names {
        emptied &= remove(dir, OsStr::from_bytes(name.as_bytes()), keep)?;
    }
    Ok(emptied)
}
