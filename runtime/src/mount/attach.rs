//! One mount: the steps that a description of it stands for.

use std::{
    ffi::CString,
    io,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{StatVfsMountFlags, fstatvfs},
    mount::{MountFlags, mount, mount_bind, mount_bind_recursive, mount_change, mount_remount},
};

use super::{
    Mount, MountError,
    options::{Bind, Options, Unsupported},
    overlay,
    place::Place,
};

/// What `mount(2)` copies of its data: a page, the terminating NUL included.
const MAX_DATA_BYTES: usize = 4095;

/// Mounts `mount` below `root`. As soon as there is something to undo its mount point is in `done`, whatever comes of
/// the following steps.
pub(super) fn attach(mount: &Mount, root: &Path, done: &mut Vec<PathBuf>) -> Result<(), MountError> {
    let place = match mount.target.as_deref() {
        None | Some("" | "/" | ".") => Place::open(root).map_err(|source| MountError::Target {
            root: root.to_owned(),
            target: "/".into(),
            source,
        })?,
        Some(target) => Place::below(root, target)?,
    };
    let options = checked(mount, &place)?;
    if options.remount {
        return remount(&place, &options);
    }
    attach_at(mount, &place, &options)?;
    done.push(place.path.clone());

    let change = |operation| {
        let target = place.path.clone();
        move |source: io::Error| MountError::Change { operation, target, source }
    };
    let mounted = Place::exactly(&place.path).map_err(change("open"))?;
    if options.bind != Bind::No && !options.attributes().is_empty() {
        // MS_BIND takes no attributes; a remount of the bind sets them, for the top mount only.
        let flags = MountFlags::BIND | options.attributes() | inherited(&mounted, options.cleared);
        mount_remount(mounted.for_syscalls(), flags, "").map_err(|e| change("remount")(e.into()))?;
    }
    if let Some(propagation) = options.propagation {
        mount_change(mounted.for_syscalls(), propagation).map_err(|e| change("set propagation")(e.into()))?;
    }
    Ok(())
}

fn checked(mount: &Mount, place: &Place) -> Result<Options, MountError> {
    let unsupported = |Unsupported { option, reason }| MountError::Unsupported {
        kind: mount.kind.clone(),
        target: place.path.clone(),
        option,
        reason,
    };
    let options = Options::parse(&mount.kind, &mount.options).map_err(unsupported)?;
    let helper = mount.kind.starts_with("fuse.") || mount.kind.starts_with("fuse3.");
    if helper && options.bind == Bind::No {
        let reason = "this type needs a mount helper program";
        return Err(unsupported(Unsupported { option: mount.kind.clone(), reason }));
    }
    Ok(options)
}

fn attach_at(mount_: &Mount, place: &Place, options: &Options) -> Result<(), MountError> {
    let failed = |source: io::Error| MountError::Mount {
        kind: mount_.kind.clone(),
        from: mount_.source.clone(),
        target: place.path.clone(),
        detail: String::new(),
        source,
    };
    let at = place.for_syscalls();
    match options.bind {
        Bind::Top => return mount_bind(&mount_.source, at).map_err(|e| failed(e.into())),
        Bind::Recursive => return mount_bind_recursive(&mount_.source, at).map_err(|e| failed(e.into())),
        Bind::No => {}
    }
    let data = options.data();
    if data.len() > MAX_DATA_BYTES && mount_.kind == "overlay" {
        return overlay::attach_long(mount_, place, options);
    }
    let data = CString::new(data).map_err(|e| failed(e.into()))?;
    mount(&mount_.source, at, &mount_.kind, options.flags, data.as_c_str()).map_err(|e| failed(e.into()))
}

/// Mounts on `place` with `data`, which must fit; paths in it are relative to the calling thread's directory.
pub(super) fn attach_short(kind: &str, place: &Place, flags: MountFlags, data: String) -> io::Result<()> {
    let data = CString::new(data)?;
    Ok(mount(kind, place.for_syscalls(), kind, flags, data.as_c_str())?)
}

/// Whether `mount(2)` takes data of this length.
pub(super) fn fits(data: &str) -> bool {
    data.len() <= MAX_DATA_BYTES
}

fn remount(place: &Place, options: &Options) -> Result<(), MountError> {
    let bind = if options.bind == Bind::No { MountFlags::empty() } else { MountFlags::BIND };
    mount_remount(place.for_syscalls(), options.flags | bind, options.data()).map_err(|e| {
        MountError::Change { operation: "remount", target: place.path.clone(), source: e.into() }
    })
}

/// The attributes that a bind took over from its source: a remount has to name them, or it asks to drop them, which
/// is `EPERM` for mounts that came from another user namespace. The kernel keeps the access time ones itself.
fn inherited(mounted: &Place, cleared: MountFlags) -> MountFlags {
    let Ok(stat) = fstatvfs(mounted) else { return MountFlags::empty() };
    let table = [
        (StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
    ];
    let set = table.into_iter().filter(|(has, _)| stat.f_flag.contains(*has));
    set.fold(MountFlags::empty(), |flags, (_, flag)| flags | flag) - cleared
}
