//! These need root. Each body runs on a thread with a mount namespace of its own, so nothing reaches the host.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    thread,
};

use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountPropagationFlags as Propagation, mount_change};

use super::*;

/// Runs `body` with an empty tmpfs, in a private mount namespace that ends with it.
fn isolated(body: impl FnOnce(&Path) + Send + 'static) {
    let outside = tempfile::tempdir().unwrap();
    let directory = outside.path().to_owned();
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).expect("these tests need root");
        mount_change("/", Propagation::PRIVATE | Propagation::REC).unwrap();
        private_tmpfs(&directory, 16 << 20).unwrap();
        body(&directory);
    });
    thread.join().unwrap_or_else(|panicked| std::panic::resume_unwind(panicked));
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0, "something reached the host");
}

fn dir(parent: &Path, name: &str) -> PathBuf {
    let path = parent.join(name);
    fs::create_dir_all(&path).unwrap();
    path
}

fn mount(kind: &str, source: &Path, options: &[&str]) -> Mount {
    Mount {
        kind: kind.into(),
        source: source.to_str().unwrap().into(),
        target: None,
        options: options.iter().map(ToString::to_string).collect(),
    }
}

fn tmpfs_on(path: &Path) {
    mount_rootfs(&[mount("tmpfs", Path::new("tmpfs"), &[])], path).unwrap();
}

fn entry(path: &Path) -> MountPoint {
    mount_points().unwrap().into_iter().rfind(|mount| mount.path == path).expect("nothing is mounted there")
}

fn errno(error: &MountError) -> Option<i32> {
    let mut error: &dyn std::error::Error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error)
}

fn is_read_only(path: &Path) -> bool {
    fs::write(path.join("written"), "").is_err_and(|e| e.kind() == ErrorKind::ReadOnlyFilesystem)
}

/// Layers `0`, `1`, … below `base`, each with a file of its own name, topmost first.
fn layers(base: &Path, count: usize, name: &str) -> Vec<PathBuf> {
    let layers: Vec<_> = (0..count).map(|i| dir(base, &format!("{i}{name}"))).collect();
    for (i, layer) in layers.iter().enumerate() {
        fs::write(layer.join(i.to_string()), "").unwrap();
        fs::write(layer.join("top"), i.to_string()).unwrap();
    }
    layers
}

fn overlay_options(base: &Path, layers: &[PathBuf]) -> Vec<String> {
    let lower: Vec<_> = layers.iter().map(|layer| layer.to_str().unwrap()).collect();
    vec![
        "index=off".into(),
        format!("workdir={}", dir(base, "work").display()),
        format!("upperdir={}", dir(base, "upper").display()),
        format!("lowerdir={}", lower.join(":")),
    ]
}

#[test]
fn a_private_tmpfs_has_its_size_and_mode_and_shares_nothing() {
    isolated(|base| {
        let shared = dir(base, "shared");
        tmpfs_on(&shared);
        mount_change(&shared, Propagation::SHARED).unwrap();
        let target = dir(&shared, "target");
        private_tmpfs(&target, 1 << 20).unwrap();
        let mounted = entry(&target);
        assert_eq!((mounted.shared, mounted.master), (None, None));
        assert!(
            mounted.options.contains("size=1024k") && mounted.options.contains("mode=755"),
            "{mounted:?}"
        );
    });
}

#[test]
fn a_read_only_bind_is_read_only_and_its_source_is_not() {
    isolated(|base| {
        let (source, target) = (dir(base, "source"), dir(base, "target"));
        bind(&source, &target, Access::ReadOnly).unwrap();
        assert!(is_read_only(&target));
        assert!(!is_read_only(&source));
        assert_eq!(entry(&target).shared, None);
        unmount_tree(&target).unwrap();
        bind(&source, &target, Access::ReadWrite).unwrap();
        assert!(target.join("written").exists() && !is_read_only(&target));
    });
}

#[test]
fn a_bind_of_a_file_works() {
    isolated(|base| {
        let (source, target) = (base.join("source"), base.join("target"));
        fs::write(&source, "s").unwrap();
        fs::write(&target, "t").unwrap();
        bind(&source, &target, Access::ReadOnly).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "s");
        unmount_tree(&target).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "t");
    });
}

#[test]
fn a_bind_keeps_the_attributes_of_its_source() {
    isolated(|base| {
        let (source, target) = (dir(base, "source"), dir(base, "target"));
        mount_rootfs(&[mount("tmpfs", Path::new("t"), &["nosuid", "noexec"])], &source).unwrap();
        bind(&source, &target, Access::ReadOnly).unwrap();
        let flags = rustix::fs::statvfs(&target).unwrap().f_flag;
        let all = rustix::fs::StatVfsMountFlags::RDONLY
            | rustix::fs::StatVfsMountFlags::NOSUID
            | rustix::fs::StatVfsMountFlags::NOEXEC;
        assert!(flags.contains(all), "{flags:?}");
    });
}

#[test]
fn propagation_options_take_effect() {
    isolated(|base| {
        for (option, shared) in [("rshared", true), ("shared", true), ("rprivate", false), ("rslave", false)]
        {
            let target = dir(base, option);
            mount_rootfs(&[mount("bind", base, &["rbind", option])], &target).unwrap();
            assert_eq!(entry(&target).shared.is_some(), shared, "{option}");
            unmount_tree(&target).unwrap();
        }
    });
}

#[test]
fn an_overlay_shows_its_layers_in_order() {
    isolated(|base| {
        let layers = layers(base, 3, "");
        let target = dir(base, "target");
        let lower: Vec<&Path> = layers.iter().map(PathBuf::as_path).collect();
        overlay(&lower, &dir(base, "upper"), &dir(base, "work"), &target).unwrap();
        assert_eq!(fs::read_to_string(target.join("top")).unwrap(), "0");
        assert_eq!(fs::read_dir(&target).unwrap().count(), 4);
        fs::write(target.join("new"), "").unwrap();
        assert!(base.join("upper/new").exists());
    });
}

#[test]
fn an_overlay_with_separators_in_its_paths_works() {
    isolated(|base| {
        let odd = dir(base, "a:b,c\\d e");
        let layers = layers(&odd, 2, "");
        let target = dir(base, "target");
        let lower: Vec<&Path> = layers.iter().map(PathBuf::as_path).collect();
        overlay(&lower, &dir(&odd, "upper"), &dir(&odd, "work"), &target).unwrap();
        assert_eq!(fs::read_to_string(target.join("top")).unwrap(), "0");
    });
}

#[test]
fn an_overlay_of_forty_long_paths_fits() {
    isolated(|base| {
        let deep = dir(base, &"d".repeat(120));
        let layers = layers(&deep, 40, "-layer");
        let target = dir(base, "target");
        let overlay = Mount {
            kind: "overlay".into(),
            source: "overlay".into(),
            target: None,
            options: overlay_options(&deep, &layers),
        };
        let cwd = std::env::current_dir().unwrap();
        mount_rootfs(&[overlay], &target).unwrap();
        assert_eq!(fs::read_dir(&target).unwrap().count(), 41);
        assert_eq!(fs::read_to_string(target.join("top")).unwrap(), "0");
        assert_eq!(std::env::current_dir().unwrap(), cwd);
        fs::write(target.join("new"), "").unwrap();
    });
}

#[test]
fn an_overlay_longer_than_a_page_in_any_form_goes_through_fsopen() {
    isolated(|base| {
        let odd = dir(base, "o,dd\\");
        let layers = layers(&odd, 100, &format!("{}:,\\", "x".repeat(100)));
        let target = dir(base, "target");
        let lower: Vec<&Path> = layers.iter().map(PathBuf::as_path).collect();
        overlay(&lower, &dir(&odd, "upper,\\"), &dir(&odd, "work"), &target).unwrap();
        assert_eq!(fs::read_dir(&target).unwrap().count(), 101);
        assert_eq!(fs::read_to_string(target.join("top")).unwrap(), "0");
        fs::write(target.join("new"), "").unwrap();
        assert!(odd.join("upper,\\/new").exists());

        let target = dir(base, "read-only");
        let mut options = overlay_options(&odd, &layers);
        options.retain(|option| !option.starts_with("upperdir") && !option.starts_with("workdir"));
        options.pop();
        let lower: Vec<_> =
            layers.iter().map(|layer| super::overlay::escape(layer.to_str().unwrap())).collect();
        options.extend([format!("lowerdir={}", lower.join(":")), "ro".into(), "nodev".into()]);
        mount_rootfs(&[Mount { kind: "overlay".into(), options, ..Mount::default() }], &target).unwrap();
        assert!(is_read_only(&target));
    });
}

#[test]
fn a_long_overlay_that_fails_says_why() {
    isolated(|base| {
        let mut layers = layers(base, 100, &"x".repeat(100));
        layers[70] = base.join("missing");
        let target = dir(base, "target");
        let options = overlay_options(base, &layers);
        let error = mount_rootfs(&[Mount { kind: "overlay".into(), options, ..Mount::default() }], &target)
            .unwrap_err();
        assert_eq!(errno(&error), Some(libc::ENOENT), "{error}");
        assert!(error.to_string().contains("missing"), "{error}");
        assert_eq!(mounts_below(&target).unwrap(), Vec::<PathBuf>::new());
    });
}

#[test]
fn a_failure_unmounts_what_was_mounted() {
    isolated(|base| {
        let target = dir(base, "target");
        let good = mount("tmpfs", Path::new("t"), &[]);
        let bad = mount("bind", &base.join("missing"), &["rbind"]);
        let error = mount_rootfs(&[good.clone(), good, bad], &target).unwrap_err();
        assert!(matches!(error, MountError::Mount { .. }), "{error:?}");
        assert_eq!(errno(&error), Some(libc::ENOENT));
        assert!(error.to_string().contains(target.to_str().unwrap()), "{error}");
        assert_eq!(mounts_below(&target).unwrap(), Vec::<PathBuf>::new());
    });
}

#[test]
fn unsupported_options_are_refused_before_anything_is_mounted() {
    isolated(|base| {
        let target = dir(base, "target");
        for (kind, option) in [("overlay", "uidmap=0:1:2"), ("ext4", "loop"), ("fuse.sshfs", "ro")] {
            let error = mount_rootfs(&[mount(kind, base, &[option])], &target).unwrap_err();
            assert!(matches!(error, MountError::Unsupported { .. }), "{error}");
        }
        assert_eq!(mounts_below(&target).unwrap(), Vec::<PathBuf>::new());
    });
}

#[test]
fn a_target_is_resolved_inside_the_root() {
    isolated(|base| {
        let (root, outside) = (dir(base, "root"), dir(base, "outside"));
        dir(&root, "outside");
        std::os::unix::fs::symlink("/outside", root.join("absolute")).unwrap();
        std::os::unix::fs::symlink("../../../outside", root.join("relative")).unwrap();
        for target in ["absolute", "/relative", "../outside"] {
            let inner = Mount { target: Some(target.into()), ..mount("tmpfs", Path::new("t"), &[]) };
            mount_rootfs(&[mount("bind", &root, &[]), inner], &root).unwrap();
            assert_eq!(mounts_below(&root).unwrap(), [root.clone(), root.join("outside")], "{target}");
            assert_eq!(mounts_below(&outside).unwrap(), Vec::<PathBuf>::new());
            unmount_tree(&root).unwrap();
        }
    });
}

#[test]
fn unmounting_a_tree_is_idempotent_and_takes_stacked_and_hidden_mounts() {
    isolated(|base| {
        let top = dir(base, "top");
        tmpfs_on(&top);
        tmpfs_on(&dir(&top, "a b\\c"));
        tmpfs_on(&dir(&top, "a b\\c/deep"));
        tmpfs_on(&top.join("a b\\c"));
        tmpfs_on(&top);
        tmpfs_on(&dir(&top, "x"));
        tmpfs_on(&dir(base, "topper"));
        assert_eq!(mounts_below(&top).unwrap().len(), 6);
        unmount_tree(&top).unwrap();
        unmount_tree(&top).unwrap();
        assert_eq!(mounts_below(&top).unwrap(), Vec::<PathBuf>::new());
        assert_eq!(mounts_below(&base.join("topper")).unwrap().len(), 1);
        fs::remove_dir(&top).unwrap();
        unmount_tree(&top).unwrap();
        unmount_tree(&base.join("never/was")).unwrap();
    });
}

#[test]
fn unmounting_follows_symlinks_of_parents_only() {
    isolated(|base| {
        let real = dir(base, "real");
        let inner = dir(&real, "inner");
        tmpfs_on(&inner);
        std::os::unix::fs::symlink(&real, base.join("parent")).unwrap();
        std::os::unix::fs::symlink(&inner, base.join("last")).unwrap();
        unmount_tree(&base.join("last")).unwrap();
        assert_eq!(mounts_below(&inner).unwrap().len(), 1);
        unmount_tree(&base.join("parent/inner")).unwrap();
        assert_eq!(mounts_below(&inner).unwrap().len(), 0);
    });
}

#[test]
fn the_root_directory_is_never_unmounted() {
    isolated(|_| {
        assert!(unmount_tree(Path::new("/")).is_err());
        assert!(unmount_tree(Path::new("/..")).is_err());
    });
}

#[test]
fn unmounting_a_recursive_bind_leaves_its_shared_source_alone() {
    isolated(|base| {
        let (source, top) = (dir(base, "source"), dir(base, "top"));
        tmpfs_on(&source);
        mount_change(&source, Propagation::SHARED).unwrap();
        let inner = dir(&source, "inner");
        tmpfs_on(&inner);
        tmpfs_on(&top);
        mount_rootfs(&[mount("bind", &source, &["rbind"])], &dir(&top, "bind")).unwrap();
        // What is hidden by another mount is not forgotten; nor is one of the same name in what hides it.
        tmpfs_on(&top);
        mount_rootfs(&[mount("bind", &source, &["rbind"])], &dir(&top, "bind")).unwrap();
        assert!(entry(&inner).shared.is_some());
        unmount_tree(&top).unwrap();
        assert_eq!(mounts_below(&top).unwrap(), Vec::<PathBuf>::new());
        assert_eq!(mounts_below(&source).unwrap(), [source.clone(), inner.clone()]);

        // The undo of a failed call as well.
        let bad = mount("no-such-type", base, &[]);
        mount_rootfs(&[mount("bind", &source, &["rbind"]), bad], &top).unwrap_err();
        assert_eq!(mounts_below(&source).unwrap(), [source.clone(), inner]);
    });
}

#[test]
fn unmounting_reaches_copies_in_other_mount_namespaces() {
    isolated(|base| {
        tmpfs_on(base);
        mount_change(base, Propagation::SHARED).unwrap();
        let top = dir(base, "top");
        tmpfs_on(&top);
        tmpfs_on(&dir(&top, "inner"));
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (done, is_done) = std::sync::mpsc::channel::<()>();
        let watched = top.clone();
        let other = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            mount_change("/", Propagation::DOWNSTREAM | Propagation::REC).unwrap();
            ready.send(mounts_below(&watched).unwrap().len()).unwrap();
            is_done.recv().unwrap();
            mounts_below(&watched).unwrap().len()
        });
        assert_eq!(is_ready.recv().unwrap(), 2);
        unmount_tree(&top).unwrap();
        done.send(()).unwrap();
        assert_eq!(other.join().unwrap(), 0);
    });
}
