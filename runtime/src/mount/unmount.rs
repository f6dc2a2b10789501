//! Taking mounts down.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    fs, io,
    iter::successors,
    path::{Path, PathBuf},
};

use rustix::{
    io::Errno,
    mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount},
};

use super::{
    MountError,
    place::Place,
    table::{MountPoint, mount_points, split},
};

/// Passes over a tree. A pass takes down whatever is visible, so one is needed for each mount that hides another.
const MAX_PASSES: usize = 100;

/// Passes in a row that may fail to take anything down while another process is at the same tree.
const MAX_IDLE_PASSES: usize = 3;

pub(super) fn unmount_tree(path: &Path) -> Result<(), MountError> {
    let top = resolve_parent(path);
    if top.parent().is_none() {
        let refusal = "this would unmount the whole system";
        return Err(failed(path, io::Error::new(io::ErrorKind::InvalidInput, refusal)));
    }
    let mut idle = 0;
    for _ in 0..MAX_PASSES {
        let (tree, others) = split(mount_points()?, &top);
        if tree.is_empty() {
            return Ok(());
        }
        let count = tree.len();
        match pass(&tree, &others) {
            (true, _) => idle = 0,
            (false, _) if idle < MAX_IDLE_PASSES => idle += 1,
            (false, Some(error)) => return Err(error),
            (false, None) => return Err(MountError::Left { target: top, count }),
        }
    }
    let count = split(mount_points()?, &top).0.len();
    if count == 0 { Ok(()) } else { Err(MountError::Left { target: top, count }) }
}

/// Unmounts each mount that is visible, children before parents. Tells whether any was, and the first error.
fn pass(tree: &[MountPoint], others: &[MountPoint]) -> (bool, Option<MountError>) {
    let outside: HashSet<u32> = others.iter().filter_map(|mount| mount.shared).collect();
    let parents: HashMap<u64, u64> = tree.iter().map(|mount| (mount.id, mount.parent)).collect();
    let ancestry = |id: u64| successors(Some(id), |id| parents.get(id).copied()).take(parents.len() + 1);
    let (mut any, mut first_error) = (false, None);

    // A mount that shares with one outside of the tree (a recursive bind of a host directory) would take down what is
    // mounted below that other one as well. It is cut off first; the rest stays shared, so that copies in other
    // mount namespaces go too. One that is hidden waits until what hides it is gone, and so does all that it is mounted on.
    let mut waiting = HashSet::new();
    for mount in tree.iter().filter(|mount| mount.shared.is_some_and(|group| outside.contains(&group))) {
        match isolate(mount) {
            Ok(Seen::Visible) => {}
            Ok(Seen::Hidden) => waiting.extend(ancestry(mount.id)),
            Err(error) => {
                waiting.extend(ancestry(mount.id));
                first_error.get_or_insert(error);
            }
        }
    }

    let mut order: Vec<&MountPoint> = tree.iter().filter(|mount| !waiting.contains(&mount.id)).collect();
    order.sort_by_key(|mount| Reverse(ancestry(mount.id).count()));
    for mount in order {
        match detach(mount) {
            Ok(Seen::Visible) => any = true,
            Ok(Seen::Hidden) => {}
            Err(error) => {
                first_error.get_or_insert(error);
            }
        }
    }
    (any, first_error)
}

/// Whether a mount's path leads to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Visible,
    /// Another mount is over it, or it has gone.
    Hidden,
}

fn look(mount: &MountPoint) -> Option<Place> {
    // What can't be opened is not reachable for umount either.
    Place::exactly(&mount.path).ok().filter(|place| place.mount_id().is_ok_and(|id| id == mount.id))
}

fn isolate(mount: &MountPoint) -> Result<Seen, MountError> {
    let Some(place) = look(mount) else { return Ok(Seen::Hidden) };
    match mount_change(place.for_syscalls(), MountPropagationFlags::PRIVATE) {
        Ok(()) => Ok(Seen::Visible),
        Err(Errno::INVAL) => Ok(Seen::Hidden),
        Err(e) => Err(MountError::Change {
            operation: "set propagation",
            target: mount.path.clone(),
            source: e.into(),
        }),
    }
}

/// Unmounts a mount with all that is below it.
fn detach(mount: &MountPoint) -> Result<Seen, MountError> {
    if look(mount).is_none() {
        return Ok(Seen::Hidden);
    }
    match unmount(&mount.path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(Seen::Visible),
        // Another process was faster.
        Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => Ok(Seen::Hidden),
        Err(e) => Err(failed(&mount.path, e.into())),
    }
}

fn failed(path: &Path, source: io::Error) -> MountError {
    MountError::Unmount { target: path.to_owned(), source }
}

/// Takes back mounts that were just made, the last one first.
pub(super) fn undo(done: &[PathBuf]) -> Result<(), MountError> {
    let mut result = Ok(());
    for path in done.iter().rev() {
        // A recursive bind shares with its source: what is unmounted here must not be unmounted there.
        let cut = Place::exactly(path).map(|place| {
            mount_change(place.for_syscalls(), MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        });
        let undone = match cut {
            Ok(Ok(())) => {
                unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).map_err(io::Error::from)
            }
            Ok(Err(e)) => Err(e.into()),
            Err(e) => Err(e),
        };
        result = result.and(undone.map_err(|source| failed(path, source)));
    }
    result
}

pub(super) fn mounts_below(path: &Path) -> Result<Vec<PathBuf>, MountError> {
    let (tree, _) = split(mount_points()?, &resolve_parent(path));
    Ok(tree.into_iter().map(|mount| mount.path).collect())
}

/// The path as the kernel's table has it: without symlinks, the last component excepted, which is taken as it is.
fn resolve_parent(path: &Path) -> PathBuf {
    let resolved = match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            fs::canonicalize(parent).map(|parent| parent.join(name))
        }
        _ => fs::canonicalize(path),
    };
    resolved.unwrap_or_else(|_| path.to_owned())
}
