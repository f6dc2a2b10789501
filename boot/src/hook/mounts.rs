//! Moves the pod's mounts from the backend's root into the new one.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags},
    io::Errno,
    mount::MoveMountFlags,
};
use unpack::root::{Missing, open_dir, place};

use super::HookError;

/// A mount directly on the backend's root; those below it move along.
pub(super) struct PodMount {
    /// Where it is in the container, absolute.
    destination: PathBuf,
    fs_type: String,
    /// Its root.
    mount: OwnedFd,
}

/// The mounts on `rootfs`, in the order in which they were made. Their descriptors stay good when `rootfs` is covered.
pub(super) fn below(rootfs: &Path) -> Result<Vec<PodMount>, HookError> {
    let parent = mount_id(rootfs)?;
    let mut mountinfo = Vec::new();
    let path = "/proc/self/mountinfo";
    File::open(path)
        .and_then(|mut file| file.read_to_end(&mut mountinfo))
        .map_err(HookError::io("read", path))?;
    let mut found: Vec<PodMount> = Vec::new();
    for line in mountinfo.split(|&byte| byte == b'\n') {
        let Some(line) = Line::parse(line) else { continue };
        let Some(relative) = line.mount_point.strip_prefix(rootfs).ok().filter(|_| line.parent == parent)
        else {
            continue;
        };
        let destination = Path::new("/").join(relative);
        // Two on one place: the path leads to the upper one, which is all that the container would see.
        if relative.as_os_str().is_empty() || found.iter().any(|mount| mount.destination == destination) {
            continue;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mount = rustix::fs::openat(CWD, &line.mount_point, flags, Mode::empty())
            .map_err(HookError::io("open the mount", &destination))?;
        found.push(PodMount { destination, fs_type: line.fs_type, mount });
    }
    Ok(found)
}

/// Moves each to the same place in the new root, with the image's symlinks followed inside of it.
pub(super) fn move_into(new_root: &OwnedFd, mounts: Vec<PodMount>) -> Result<(), HookError> {
    for mount in mounts {
        let target = target(new_root, &mount).map_err(|error| match error {
            NoTarget::Refused(reason) => HookError::Target { path: mount.destination.clone(), reason },
            NoTarget::Failed(source) => {
                HookError::io("find or make the mount point", &mount.destination)(source)
            }
        })?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        rustix::mount::move_mount(&mount.mount, "", &target, "", flags)
            .map_err(HookError::io("move the mount", &mount.destination))?;
    }
    Ok(())
}

/// Why a mount has no target.
enum NoTarget {
    Refused(&'static str),
    Failed(io::Error),
}

impl<E: Into<io::Error>> From<E> for NoTarget {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Opens what the mount covers, a directory for a directory and a file for a file, made if missing.
fn target(new_root: &OwnedFd, mount: &PodMount) -> Result<OwnedFd, NoTarget> {
    let destination = &mount.destination;
    // As in runc (CVE-2019-16884, CVE-2023-27561): an image that leads these away would escape masks and
    // security labels, which go by path.
    if matches!(mount.fs_type.as_str(), "proc" | "sysfs") && has_symlink(new_root, destination)? {
        return Err(NoTarget::Refused("the image has a symlink on its path"));
    }
    let target = if file_type(&mount.mount)? == FileType::Directory {
        open_dir(new_root.as_fd(), destination, Missing::Create)?
    } else {
        open_file(new_root, destination)?
            .ok_or(NoTarget::Refused("the image has a directory where a file is mounted"))?
    };
    if same_file(new_root, &target)? {
        return Err(NoTarget::Refused("the image leads it to the root itself"));
    }
    // Mounts that belong below /proc or /sys are below those mounts already and are not moved one by one.
    let magic = i128::from(rustix::fs::fstatfs(&target)?.f_type);
    if matches!(magic, PROC_SUPER_MAGIC | SYSFS_MAGIC) {
        return Err(NoTarget::Refused("the image leads it into procfs or sysfs"));
    }
    Ok(target)
}

/// linux/magic.h
const PROC_SUPER_MAGIC: i128 = 0x9fa0;
const SYSFS_MAGIC: i128 = 0x6265_6572;

/// None when there is a directory.
fn open_file(new_root: &OwnedFd, destination: &Path) -> io::Result<Option<OwnedFd>> {
    let (dir, name) = place(new_root.as_fd(), destination)?;
    let Some(name) = name else { return Ok(None) };
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(&dir, &name, flags, Mode::from_raw_mode(0o644)) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&dir, &name, flags, Mode::empty())?;
    Ok((file_type(&file)? != FileType::Directory).then_some(file))
}

fn has_symlink(new_root: &OwnedFd, destination: &Path) -> io::Result<bool> {
    let relative = destination.strip_prefix("/").unwrap_or(destination);
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match rustix::fs::openat2(new_root, relative, flags, Mode::empty(), how) {
        Ok(_) | Err(Errno::NOENT) => Ok(false),
        Err(Errno::LOOP) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

fn file_type(file: &OwnedFd) -> io::Result<FileType> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode))
}

fn same_file(one: &OwnedFd, other: &OwnedFd) -> io::Result<bool> {
    let (one, other) = (rustix::fs::fstat(one)?, rustix::fs::fstat(other)?);
    Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}

/// The id of the uppermost mount at `path`.
fn mount_id(path: &Path) -> Result<u64, HookError> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::statx(CWD, path, flags, StatxFlags::MNT_ID)
        .map(|stat| stat.stx_mnt_id)
        .map_err(HookError::io("stat", path))
}

/// A line of mountinfo, proc_pid_mountinfo(5).
#[derive(Debug, PartialEq, Eq)]
struct Line {
    parent: u64,
    mount_point: PathBuf,
    fs_type: String,
}

impl Line {
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|&byte| byte == b' ');
        let parent = std::str::from_utf8(fields.nth(1)?).ok()?.parse().ok()?;
        let mount_point = PathBuf::from(unescape(fields.nth(2)?));
        let fs_type = String::from_utf8_lossy(fields.skip_while(|&field| field != b"-").nth(1)?).into_owned();
        Some(Self { parent, mount_point, fs_type })
    }
}

/// Undoes the kernel's `\ooo` for space, tab, line end and backslash.
fn unescape(field: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after
            .first_chunk::<3>()
            .filter(|_| byte == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match octal {
            Some(value) => {
                plain.push(value);
                rest = &after[3..];
            }
            None => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    OsString::from_vec(plain)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn mountinfo_lines_are_read_with_and_without_optional_fields() {
        for line in [
            &b"36 35 98:0 /mnt1 /mnt\\0402/a\\134b rw,noatime master:1 shared:2 - ext4 /dev/root rw"[..],
            b"36 35 98:0 /mnt1 /mnt\\0402/a\\134b rw,noatime - ext4 /dev/root rw,errors=continue",
        ] {
            let expected = Line { parent: 35, mount_point: "/mnt 2/a\\b".into(), fs_type: "ext4".to_owned() };
            assert_eq!(Line::parse(line), Some(expected));
        }
        assert_eq!(Line::parse(b""), None);
        assert_eq!(unescape(b"a\\").as_bytes(), b"a\\");
    }
}
