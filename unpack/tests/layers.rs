//! What a layer does to the layers below it. Needs root.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, symlink},
};

use support::{Entry, Tar, apply, tree};
use tar::EntryType;
use unpack::{Limits, UnpackError, Unpacker, inspect_limited};

fn tree_of(layers: &[Vec<u8>]) -> Vec<String> {
    let root = tempfile::tempdir().unwrap();
    apply(root.path(), layers).unwrap();
    tree(root.path())
}

#[test]
fn later_layers_replace_and_directories_merge() {
    let lower = Tar::new()
        .dir("d/")
        .file("d/a", "1")
        .file("d/b", "1")
        .file("f", "1")
        .dir("e/")
        .file("e/x", "1")
        .symlink("l", "d");
    let upper = Tar::new()
        .dir("d/")
        .file("d/a", "2")
        .dir("f/")
        .file("f/in", "2")
        .file("e", "2")
        .dir("l/")
        .file("l/own", "2");
    assert_eq!(
        tree_of(&[lower.end(), upper.end()]),
        ["d/", "d/a = 2", "d/b = 1", "e = 2", "f/", "f/in = 2", "l/", "l/own = 2"]
    );
}

#[test]
fn every_kind_replaces_every_kind() {
    let kinds: [fn(Tar) -> Tar; 6] = [
        |tar| tar.file("x", "f"),
        |tar| tar.dir("x/").dir("x/sub").file("x/sub/f", "f"),
        |tar| tar.symlink("x", "/nowhere"),
        |tar| tar.file("other", "o").hard_link("x", "other"),
        |tar| tar.add(&Entry { kind: EntryType::Fifo, name: b"x", ..Entry::default() }),
        |tar| tar.add(&Entry { kind: EntryType::Char, name: b"x", device: (1, 3), ..Entry::default() }),
    ];
    for (at, lower) in kinds.iter().enumerate() {
        for (over, upper) in kinds.iter().enumerate() {
            let alone = tree_of(&[upper(Tar::new()).end()]);
            let mut both = tree_of(&[lower(Tar::new()).end(), upper(Tar::new()).end()]);
            both.retain(|line| line != "other = o" || alone.contains(line));
            assert_eq!(both, alone, "{over} over {at}");
        }
    }
}

#[test]
fn whiteouts_hide_lower_layers_only() {
    let lower = Tar::new()
        .dir("d/")
        .file("d/a", "1")
        .file("d/b", "1")
        .dir("d/s/")
        .file("d/s/x", "1")
        .file("top", "1")
        .end();
    for (what, upper, expected) in [
        ("file", Tar::new().file("d/.wh.a", ""), &["d/", "d/b = 1", "d/s/", "d/s/x = 1", "top = 1"][..]),
        ("directory", Tar::new().file(".wh.d", ""), &["top = 1"]),
        (
            "nothing",
            Tar::new().file("d/.wh.none", "").file("none/.wh.a", "").file("top/.wh.a", ""),
            &["d/", "d/a = 1", "d/b = 1", "d/s/", "d/s/x = 1", "top = 1"],
        ),
        ("then anew", Tar::new().file(".wh.d", "").dir("d/").file("d/n", "2"), &["d/", "d/n = 2", "top = 1"]),
        (
            "anew, then hidden",
            Tar::new().dir("d/").file("d/n", "2").file(".wh.d", ""),
            &["d/", "d/n = 2", "top = 1"],
        ),
        (
            "own file",
            Tar::new().file("top", "2").file(".wh.top", ""),
            &["d/", "d/a = 1", "d/b = 1", "d/s/", "d/s/x = 1", "top = 2"],
        ),
        (
            "opaque first",
            Tar::new().file("d/.wh..wh..opq", "").file("d/n", "2"),
            &["d/", "d/n = 2", "top = 1"],
        ),
        (
            "opaque last",
            Tar::new().file("d/n", "2").file("d/s/y", "2").file("d/.wh..wh..opq", ""),
            &["d/", "d/n = 2", "d/s/", "d/s/y = 2", "top = 1"],
        ),
        ("opaque root", Tar::new().file(".wh..wh..opq", "").file("n", "2"), &["n = 2"]),
        (
            "aufs",
            Tar::new().dir(".wh..wh.plnk/").file(".wh..wh.aufs", ""),
            &["d/", "d/a = 1", "d/b = 1", "d/s/", "d/s/x = 1", "top = 1"],
        ),
    ] {
        assert_eq!(tree_of(&[lower.clone(), upper.end()]), expected, "{what}");
    }
}

#[test]
fn a_whiteout_of_a_symlink_takes_the_link_and_not_its_target() {
    let lower = Tar::new().dir("d/").file("d/a", "1").symlink("l", "d").end();
    assert_eq!(tree_of(&[lower.clone(), Tar::new().file(".wh.l", "").end()]), ["d/", "d/a = 1"]);
    assert_eq!(tree_of(&[lower, Tar::new().file("l/.wh.a", "").end()]), ["d/", "l -> d"]);
}

#[test]
fn parents_are_followed_inside_the_root_and_made_when_missing() {
    let tar = Tar::new()
        .dir("usr/lib/")
        .symlink("lib", "/usr/lib")
        .symlink("up", "../../../usr")
        .symlink("dangling", "/made/by/link")
        .file("lib/foo", "1")
        .file("up/bar", "1")
        .file("dangling/baz", "1")
        .file("no/parents/yet", "1");
    assert_eq!(
        tree_of(&[tar.end()]),
        [
            "dangling -> /made/by/link",
            "lib -> /usr/lib",
            "made/",
            "made/by/",
            "made/by/link/",
            "made/by/link/baz = 1",
            "no/",
            "no/parents/",
            "no/parents/yet = 1",
            "up -> ../../../usr",
            "usr/",
            "usr/bar = 1",
            "usr/lib/",
            "usr/lib/foo = 1",
        ]
    );
    let root = tempfile::tempdir().unwrap();
    apply(root.path(), &[Tar::new().file("a/b", "").end()]).unwrap();
    assert_eq!(fs::metadata(root.path().join("a")).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn a_parent_that_is_replaced_is_looked_up_again() {
    let tar =
        Tar::new().dir("a/").file("a/1", "x").dir("b/").symlink("a", "b").file("a/2", "x").file("a", "y");
    assert_eq!(tree_of(&[tar.end()]), ["a = y", "b/", "b/2 = x"]);
}

#[test]
fn metadata_is_kept() {
    let root = tempfile::tempdir().unwrap();
    let entry = |kind, name, mode| Entry {
        kind,
        name,
        mode,
        owner: (12, 34),
        mtime: 1_234_567_890,
        ..Entry::default()
    };
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let tar = Tar::new()
        .add(&entry(EntryType::Directory, b"./", 0o711))
        .add(&entry(EntryType::Directory, b"d", 0o1777))
        .add(&Entry { data: b"x", ..entry(EntryType::Regular, b"d/setuid", 0o6755) })
        .add(&Entry { link: b"nowhere", ..entry(EntryType::Symlink, b"d/link", 0o777) })
        .add(&Entry { device: (5, 300), ..entry(EntryType::Char, b"d/char", 0o620) })
        .add(&Entry { device: (7, 1), ..entry(EntryType::Block, b"d/block", 0o660) })
        .add(&entry(EntryType::Fifo, b"d/fifo", 0o606))
        .pax(&[
            ("uid", b"4000000000"),
            ("gid", b"3000000"),
            ("mtime", b"1600000000.123456789"),
            ("SCHILY.xattr.user.note", b"a\0b"),
            ("SCHILY.xattr.security.capability", &capability),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ])
        .file("pax", "x")
        .add(&Entry { owner: (3_000_000, 0), name: b"base256", ..Entry::default() })
        .hard_link("hard", "d/setuid");
    apply(root.path(), &[tar.end()]).unwrap();
    let meta = |name: &str| fs::symlink_metadata(root.path().join(name)).unwrap();
    for (name, mode) in [
        ("", 0o711),
        ("d", 0o1777),
        ("d/setuid", 0o6755),
        ("d/link", 0o777),
        ("d/char", 0o620),
        ("d/block", 0o660),
        ("d/fifo", 0o606),
        ("hard", 0o6755),
    ] {
        let meta = meta(name);
        assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (mode, 12, 34), "{name}");
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (1_234_567_890, 0), "{name}");
    }
    assert_eq!(meta("hard").ino(), meta("d/setuid").ino());
    assert_eq!(meta("d/char").rdev(), rustix::fs::makedev(5, 300));
    assert_eq!(meta("d/block").rdev(), rustix::fs::makedev(7, 1));
    assert!(meta("d/fifo").file_type().is_fifo() && meta("d/block").file_type().is_block_device());
    let pax = meta("pax");
    assert_eq!(
        (pax.uid(), pax.gid(), pax.mtime(), pax.mtime_nsec()),
        (4_000_000_000, 3_000_000, 1_600_000_000, 123_456_789)
    );
    assert_eq!(meta("base256").uid(), 3_000_000);

    let path = root.path().join("pax");
    let xattr = |name: &str| {
        let mut value = vec![0; 256];
        rustix::fs::getxattr(&path, name, &mut value[..]).map(|length| value[..length].to_vec()).ok()
    };
    assert_eq!(xattr("user.note").unwrap(), b"a\0b");
    assert_eq!(xattr("security.capability").unwrap(), capability);
    assert_eq!((xattr("trusted.overlay.opaque"), xattr("user.overlay.opaque")), (None, None));
}

#[test]
fn long_names_links_and_deep_paths_are_kept() {
    let deep = "d/".repeat(1000);
    let name = "n".repeat(255);
    let target = "t/".repeat(2000);
    let tar = Tar::new()
        .file(&format!("{deep}{name}"), "deep")
        .symlink("link", &target)
        .pax(&[("path", b"from/pax"), ("linkpath", target.as_bytes())])
        .symlink("x", "y");
    let root = tempfile::tempdir().unwrap();
    apply(root.path(), &[tar.end()]).unwrap();
    assert_eq!(fs::read_link(root.path().join("link")).unwrap().to_str(), Some(&target[..]));
    assert_eq!(fs::read_link(root.path().join("from/pax")).unwrap().to_str(), Some(&target[..]));
    assert_eq!(fs::read_to_string(root.path().join(format!("{deep}{name}"))).unwrap(), "deep");
    // Deeper than a process may have files open.
    apply(root.path(), &[Tar::new().file(".wh.d", "").end()]).unwrap_or_else(|error| {
        assert!(matches!(error, UnpackError::Apply { .. }), "{error}");
    });
}

#[test]
fn an_archive_may_end_without_its_end() {
    for bytes in [Tar::new().file("a", "x").bytes(), Tar::new().file("a", "x").raw(&[0; 512]).bytes(), {
        let mut bytes = Tar::new().file("a", "x").bytes();
        bytes.truncate(513);
        bytes
    }] {
        assert_eq!(tree_of(&[bytes]), ["a = x"]);
    }
    assert_eq!(tree_of(&[Vec::new()]), [""; 0]);
}

#[test]
fn the_reader_is_read_to_its_end() {
    let bytes = [Tar::new().file("a", "x").end(), vec![7; 100_000]].concat();
    let mut rest = &bytes[..];
    unpack::inspect(&mut rest).unwrap();
    assert!(rest.is_empty());
}

#[test]
fn limits_stop_a_layer_before_it_is_written() {
    let tar = Tar::new().file("a", &"x".repeat(5000)).file("b", "x").end();
    let limited = |max_entries, max_unpacked_bytes| {
        let limits = Limits { max_entries, max_unpacked_bytes };
        let inspected = inspect_limited(&tar[..], &limits);
        let root = tempfile::tempdir().unwrap();
        let applied = Unpacker::open(root.path(), limits).unwrap().apply(&tar[..]);
        assert_eq!(inspected.is_ok(), applied.is_ok());
        (inspected, tree(root.path()).len())
    };
    let stats = limited(Some(2), Some(2 * 4096 + 4096 + 2 * 1024)).0.unwrap();
    assert_eq!((stats.entries, stats.unpacked_bytes), (2, 3 * 4096 + 2 * 1024));
    let (refused, written) = limited(Some(1), None);
    assert!(matches!(refused, Err(UnpackError::Limit { what: "entries", limit: 1 })) && written == 1);
    let (refused, written) = limited(None, Some(8192));
    assert!(matches!(refused, Err(UnpackError::Limit { limit: 8192, .. })) && written == 0);
}

#[test]
fn an_existing_symlink_in_the_root_is_data_of_the_image() {
    // As left by a lower layer: a file through it is its replacement, never a write to its target.
    let root = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    symlink(outside.path().join("victim"), root.path().join("x")).unwrap();
    apply(root.path(), &[Tar::new().file("x", "new").end()]).unwrap();
    assert_eq!(tree(root.path()), ["x = new"]);
    assert!(tree(outside.path()).is_empty());
}
