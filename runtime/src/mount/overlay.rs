//! Overlays whose options do not fit in the page that `mount(2)` copies.
//!
//! First the layers are named relative to their common directory, as containerd does it itself: forty layers fit then. What is
//! still too long goes through `fsopen`, one `lowerdir+` at a time, which the kernel takes since 6.7. Both need a
//! working directory; it is that of a thread of its own, so that the process' one stays.

use std::{
    io,
    os::fd::OwnedFd,
    panic,
    path::{Path, PathBuf},
    thread,
};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::chdir,
};
use rustix::{
    io::{Errno, read},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, fsconfig_create,
        fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
    },
};

use super::{
    Mount, MountError,
    attach::{attach_short, fits},
    options::Options,
    place::Place,
};

/// Puts backslashes before what separates layers and options.
pub(super) fn escape(path: &str) -> String {
    path.chars().fold(String::with_capacity(path.len()), |mut escaped, c| {
        if matches!(c, '\\' | ':' | ',') {
            escaped.push('\\');
        }
        escaped.push(c);
        escaped
    })
}

/// The directories of an overlay.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Layers {
    lower: Vec<PathBuf>,
    upper: Option<PathBuf>,
    work: Option<PathBuf>,
    /// Options that are not directories.
    others: Vec<String>,
}

impl Layers {
    /// `None` when a directory is relative or a layer is empty (`::`, data-only layers).
    fn parse(options: &[String]) -> Option<Self> {
        let mut layers = Self::default();
        for option in options {
            match option.split_once('=') {
                Some(("lowerdir", value)) => {
                    layers.lower = split(value).into_iter().map(PathBuf::from).collect()
                }
                Some(("upperdir", value)) => layers.upper = Some(unescape(value).into()),
                Some(("workdir", value)) => layers.work = Some(unescape(value).into()),
                _ => layers.others.push(option.clone()),
            }
        }
        let absolute = layers.directories().all(Path::is_absolute);
        absolute.then_some(layers)
    }

    fn directories(&self) -> impl Iterator<Item = &Path> {
        self.lower.iter().chain(&self.upper).chain(&self.work).map(PathBuf::as_path)
    }

    /// The lowest directory that all of them are below.
    fn base(&self) -> PathBuf {
        let mut directories = self.directories();
        let Some(first) = directories.next() else { return "/".into() };
        directories.fold(first.to_owned(), |base, directory| {
            base.components()
                .zip(directory.components())
                .take_while(|(a, b)| a == b)
                .map(|(a, _)| a)
                .collect()
        })
    }

    fn relative_to(&self, base: &Path) -> Self {
        let relative = |path: &PathBuf| match path.strip_prefix(base) {
            Ok(rest) if rest.as_os_str().is_empty() => PathBuf::from("."),
            Ok(rest) => rest.to_owned(),
            Err(_) => path.clone(),
        };
        Self {
            lower: self.lower.iter().map(relative).collect(),
            upper: self.upper.as_ref().map(relative),
            work: self.work.as_ref().map(relative),
            others: self.others.clone(),
        }
    }

    fn data(&self) -> String {
        let text = |path: &PathBuf| escape(&path.to_string_lossy());
        let mut options = self.others.clone();
        options.push(format!("lowerdir={}", self.lower.iter().map(text).collect::<Vec<_>>().join(":")));
        options.extend(self.upper.as_ref().map(|path| format!("upperdir={}", text(path))));
        options.extend(self.work.as_ref().map(|path| format!("workdir={}", text(path))));
        options.join(",")
    }
}

/// Splits at colons that have no backslash before them.
fn split(value: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match (c, parts.last_mut()) {
            (':', _) => parts.push(String::new()),
            ('\\', Some(part)) => part.extend(chars.next()),
            (_, Some(part)) => part.push(c),
            (_, None) => {}
        }
    }
    parts
}

fn unescape(value: &str) -> String {
    let mut chars = value.chars();
    std::iter::from_fn(|| match chars.next() {
        Some('\\') => chars.next(),
        c => c,
    })
    .collect()
}

/// Why the new interface did not do it.
#[derive(Debug)]
enum Refused {
    /// It is not there.
    Missing,
    /// The kernel said no, with its words.
    Failed(io::Error, String),
}

/// Mounts an overlay whose options are longer than a page.
pub(super) fn attach_long(mount: &Mount, place: &Place, options: &Options) -> Result<(), MountError> {
    let Some(layers) = Layers::parse(&options.data) else {
        return Err(MountError::Unsupported {
            kind: mount.kind.clone(),
            target: place.path.clone(),
            option: "lowerdir".into(),
            reason: "more than a page of relative or data-only layers",
        });
    };
    let base = layers.base();
    let layers = layers.relative_to(&base);
    let data = layers.data();
    let bytes = data.len();
    let result = in_directory(&base, || {
        if fits(&data) {
            return attach_short("overlay", place, options.flags, data)
                .map_err(|e| Refused::Failed(e, String::new()));
        }
        attach_piecewise(place, options.flags, &layers)
    });
    match result {
        Ok(Ok(())) => Ok(()),
        Ok(Err(Refused::Missing)) => {
            Err(MountError::TooLong { target: place.path.clone(), layers: layers.lower.len(), bytes })
        }
        Ok(Err(Refused::Failed(source, detail))) => Err(MountError::Mount {
            kind: mount.kind.clone(),
            from: mount.source.clone(),
            target: place.path.clone(),
            detail,
            source,
        }),
        Err(source) => {
            Err(MountError::Change { operation: "enter the layers' directory", target: base, source })
        }
    }
}

/// Runs `body` on a thread whose working directory is `directory`. The thread is in the caller's mount namespace.
fn in_directory<T: Send>(directory: &Path, body: impl FnOnce() -> T + Send) -> io::Result<T> {
    let entered = || {
        unshare(CloneFlags::CLONE_FS)?;
        chdir(directory)?;
        Ok(body())
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("overlay".into()).spawn_scoped(scope, entered)?;
        thread.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked))
    })
}

fn attach_piecewise(place: &Place, flags: MountFlags, layers: &Layers) -> Result<(), Refused> {
    let context = Context(fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|_| Refused::Missing)?);
    for (i, directory) in layers.lower.iter().enumerate() {
        match context.set("lowerdir+", &directory.to_string_lossy()) {
            // The first one shows whether the kernel knows the option.
            Err(Refused::Failed(_, detail)) if i == 0 && detail.contains("Unknown parameter") => {
                return Err(Refused::Missing);
            }
            result => result?,
        }
    }
    for (key, directory) in [("upperdir", &layers.upper), ("workdir", &layers.work)] {
        if let Some(directory) = directory {
            // Unlike lowerdir+ these two are unescaped by the kernel.
            context.set(key, &escape(&directory.to_string_lossy()))?;
        }
    }
    for option in &layers.others {
        match option.split_once('=') {
            Some((key, value)) => context.set(key, value)?,
            None => context.set_flag(option)?,
        }
    }
    for (flag, key) in [
        (MountFlags::RDONLY, "ro"),
        (MountFlags::SYNCHRONOUS, "sync"),
        (MountFlags::DIRSYNC, "dirsync"),
        (MountFlags::LAZYTIME, "lazytime"),
    ] {
        if flags.contains(flag) {
            context.set_flag(key)?;
        }
    }
    context.mount(place, attributes(flags))
}

/// A file system in the making.
struct Context(OwnedFd);

impl Context {
    fn set(&self, key: &str, value: &str) -> Result<(), Refused> {
        fsconfig_set_string(&self.0, key, value).map_err(|e| self.refused(e, &format!("{key}={value}")))
    }

    fn set_flag(&self, key: &str) -> Result<(), Refused> {
        fsconfig_set_flag(&self.0, key).map_err(|e| self.refused(e, key))
    }

    fn mount(&self, place: &Place, attributes: MountAttrFlags) -> Result<(), Refused> {
        fsconfig_create(&self.0).map_err(|e| self.refused(e, "create"))?;
        let mount = fsmount(&self.0, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
            .map_err(|e| self.refused(e, "fsmount"))?;
        let empty_paths = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&mount, "", place, "", empty_paths).map_err(|e| self.refused(e, "move_mount"))
    }

    /// With what the file system says about it: the kernel hands out one message a read.
    fn refused(&self, errno: Errno, step: &str) -> Refused {
        let mut detail = format!(": {step}");
        let mut message = [0; 1024];
        while let Ok(length @ 1..) = read(&self.0, &mut message) {
            detail.push_str("; ");
            detail.push_str(String::from_utf8_lossy(&message[..length]).trim());
        }
        Refused::Failed(errno.into(), detail)
    }
}

fn attributes(flags: MountFlags) -> MountAttrFlags {
    let table = [
        (MountFlags::RDONLY, MountAttrFlags::MOUNT_ATTR_RDONLY),
        (MountFlags::NOSUID, MountAttrFlags::MOUNT_ATTR_NOSUID),
        (MountFlags::NODEV, MountAttrFlags::MOUNT_ATTR_NODEV),
        (MountFlags::NOEXEC, MountAttrFlags::MOUNT_ATTR_NOEXEC),
        (MountFlags::NOATIME, MountAttrFlags::MOUNT_ATTR_NOATIME),
        (MountFlags::STRICTATIME, MountAttrFlags::MOUNT_ATTR_STRICTATIME),
        (MountFlags::NODIRATIME, MountAttrFlags::MOUNT_ATTR_NODIRATIME),
    ];
    let set = table.into_iter().filter(|(flag, _)| flags.contains(*flag));
    set.fold(MountAttrFlags::empty(), |attributes, (_, attribute)| attributes | attribute)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(options: &[&str]) -> Option<Layers> {
        Layers::parse(&options.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn layers_are_named_relative_to_their_common_directory() {
        let layers =
            layers(&["index=off", "workdir=/s/3/work", "upperdir=/s/3/fs", "lowerdir=/s/2/fs:/s/1/fs"])
                .unwrap();
        assert_eq!(layers.base(), Path::new("/s"));
        assert_eq!(
            layers.relative_to(Path::new("/s")).data(),
            "index=off,lowerdir=2/fs:1/fs,upperdir=3/fs,workdir=3/work"
        );
    }

    #[test]
    fn a_common_beginning_of_names_is_not_a_common_directory() {
        let layers = layers(&["lowerdir=/s/12/fs:/s/1/fs:/s/1"]).unwrap();
        assert_eq!(layers.base(), Path::new("/s"));
        let one = layers.relative_to(Path::new("/s/1"));
        assert_eq!(one.lower, [PathBuf::from("/s/12/fs"), "fs".into(), ".".into()]);
    }

    #[test]
    fn colons_and_commas_in_names_survive() {
        let name = "/s/a:b,c\\d";
        let option = format!("lowerdir={}:/s/x", escape(name));
        let layers = layers(&[&option]).unwrap();
        assert_eq!(layers.lower, [PathBuf::from(name), "/s/x".into()]);
        assert_eq!(layers.data(), option);
    }

    #[test]
    fn relative_and_data_only_layers_are_not_taken() {
        assert_eq!(layers(&["lowerdir=a:b"]), None);
        assert_eq!(layers(&["lowerdir=/a::/b"]), None);
    }
}
