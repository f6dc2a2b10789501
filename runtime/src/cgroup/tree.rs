//! A cgroup's directory and those below it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::io::Errno;

use super::{CgroupError, files::is_absent};

/// Between two tries to remove a cgroup whose last process is on its way out.
const RETRY_AFTER: Duration = Duration::from_millis(5);

/// Calls `body` with `directory` and all directories below it, parents first. What vanishes meanwhile is left out.
pub(super) fn visit(
    directory: &Path,
    body: &mut dyn FnMut(&Path) -> Result<(), CgroupError>,
) -> Result<(), CgroupError> {
    body(directory)?;
    for child in
        children(directory).map_err(|source| CgroupError::Read { path: directory.to_owned(), source })?
    {
        visit(&child, body)?;
    }
    Ok(())
}

fn children(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if is_absent(&e) => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut children = Vec::new();
    for entry in entries {
        let entry = entry?;
        // The type is that of the entry itself: a symlink is not followed.
        if entry.file_type()?.is_dir() {
            children.push(entry.path());
        }
    }
    Ok(children)
}

/// Removes `directory` and all below it, trying again until `deadline` while it is busy.
pub(super) fn remove(directory: &Path, deadline: Instant) -> Result<(), CgroupError> {
    loop {
        match remove_once(directory) {
            Ok(()) => return Ok(()),
            // EBUSY: a process is in it, or a cgroup was made in it after the list was read.
            Err(e) if e.raw_os_error() == Some(Errno::BUSY.raw_os_error()) && Instant::now() < deadline => {
                thread::sleep(RETRY_AFTER);
            }
            Err(source) => return Err(CgroupError::Remove { path: directory.to_owned(), source }),
        }
    }
}

fn remove_once(directory: &Path) -> io::Result<()> {
    for child in children(directory)? {
        remove_once(&child)?;
    }
    match fs::remove_dir(directory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
