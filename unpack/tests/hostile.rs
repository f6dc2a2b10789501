//! Layers that want out of the root, or to break the program. Needs root.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::{fs, path::Path};

use support::{Entry, Tar, apply, tree};
use tar::EntryType;
use unpack::UnpackError;

const VICTIM: &str = "of the host";

/// Applies a layer below `<scratch>/root`, beside which lies a file that must stay as it is.
fn attack(name: &str, make: impl Fn(&Path) -> Tar) -> (Result<(), UnpackError>, Vec<String>) {
    let scratch = tempfile::tempdir().unwrap();
    let outside = scratch.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("victim"), VICTIM).unwrap();
    let root = scratch.path().join("root");
    fs::create_dir(&root).unwrap();
    let result = apply(&root, &[make(&outside).end()]);
    assert_eq!(tree(&outside), [format!("victim = {VICTIM}")], "{name}");
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 2, "{name}");
    (result, tree(&root))
}

#[test]
fn names_that_point_out_are_refused_and_nothing_is_written() {
    let entry = |kind, name: &'static str, link: &'static str| {
        move |_: &Path| {
            Tar::new().add(&Entry { kind, name: name.as_bytes(), link: link.as_bytes(), ..Entry::default() })
        }
    };
    for (name, kind, link) in [
        ("../outside/victim", EntryType::Regular, ""),
        ("a/../../outside/victim", EntryType::Regular, ""),
        ("..", EntryType::Directory, ""),
        ("../", EntryType::Directory, ""),
        ("x", EntryType::Link, "../outside/victim"),
        ("x", EntryType::Link, "a/../../outside/victim"),
        ("x", EntryType::Link, "/"),
        ("x", EntryType::Symlink, ""),
        ("", EntryType::Regular, ""),
        ("./", EntryType::Symlink, "outside"),
        ("/", EntryType::Char, ""),
        (".wh...", EntryType::Regular, ""),
        (".wh..", EntryType::Regular, ""),
        (".wh.", EntryType::Regular, ""),
        ("a/.wh...", EntryType::Regular, ""),
        ("../outside/.wh.victim", EntryType::Regular, ""),
        ("../outside/.wh..wh..opq", EntryType::Regular, ""),
        ("x", EntryType::new(b'V'), ""),
    ] {
        let (result, written) = attack(name, entry(kind, name, link));
        assert!(matches!(result, Err(UnpackError::Refused { .. })), "{name} {kind:?}: {result:?}");
        assert!(written.is_empty(), "{name}: {written:?}");
    }
}

#[test]
fn pax_names_are_checked_as_well() {
    let long = "n/".repeat(2100);
    for (key, value) in [
        ("path", &b"../outside/victim"[..]),
        ("path", b"a\0b"),
        ("path", long.as_bytes()),
        ("linkpath", b"../outside/victim"),
        ("linkpath", b"a\0b"),
        ("uid", b"4294967295"),
        ("uid", b"4294967296"),
        ("SCHILY.xattr.", b"x"),
    ] {
        let (result, written) = attack(key, |_| Tar::new().pax(&[(key, value)]).hard_link("x", "y"));
        assert!(matches!(result, Err(UnpackError::Refused { .. })), "{key}: {result:?}");
        assert!(written.is_empty());
    }
}

#[test]
fn symlinks_to_the_host_stay_inside() {
    let (result, written) = attack("absolute", |outside| {
        Tar::new()
            .symlink("out", outside.to_str().unwrap())
            .file("out/victim", "inside")
            .file("out/more", "inside")
    });
    result.unwrap();
    assert!(written.iter().any(|line| line.ends_with("outside/victim = inside")), "{written:?}");

    let (result, written) =
        attack("relative", |_| Tar::new().symlink("out", "../outside").file("out/victim", "inside"));
    result.unwrap();
    assert_eq!(written, ["out -> ../outside", "outside/", "outside/victim = inside"]);

    let (result, _) = attack("in two steps", |_| {
        Tar::new()
            .symlink("a", ".")
            .symlink("a/b", "..")
            .symlink("a/b/c", "../outside")
            .file("a/b/c/victim", "inside")
    });
    result.unwrap();

    let (result, _) = attack("replaced on the way", |outside| {
        let target = outside.to_str().unwrap();
        Tar::new()
            .dir("d/")
            .file("d/victim", "1")
            .symlink("d", target)
            .file("d/victim", "2")
            .symlink("d", target)
    });
    result.unwrap();

    let (result, _) = attack("file over a symlink", |outside| {
        Tar::new().symlink("x", outside.join("victim").to_str().unwrap()).file("x", "inside")
    });
    result.unwrap();
}

#[test]
fn hard_links_take_what_is_in_the_root_only() {
    let (result, written) = attack("through a symlink", |outside| {
        Tar::new().symlink("out", outside.to_str().unwrap()).hard_link("x", "out/victim")
    });
    assert!(matches!(result, Err(UnpackError::Apply { .. })), "{result:?}");
    assert!(!written.iter().any(|line| line.starts_with("x")), "{written:?}");

    // The link is to the symlink itself, and writing to its name replaces it.
    let (result, written) = attack("to a symlink", |outside| {
        Tar::new()
            .symlink("s", outside.join("victim").to_str().unwrap())
            .hard_link("x", "s")
            .file("x", "inside")
    });
    result.unwrap();
    assert!(written.contains(&"x = inside".to_owned()), "{written:?}");

    let (result, _) =
        attack("absolute", |outside| Tar::new().hard_link("x", outside.join("victim").to_str().unwrap()));
    assert!(result.is_err());
    for tar in [
        Tar::new().hard_link("x", "x"),
        Tar::new().dir("d/").hard_link("x", "d"),
        Tar::new().dir("d/").file("d/f", "").hard_link("d", "d/f"),
    ] {
        let bytes = tar.end();
        let root = tempfile::tempdir().unwrap();
        assert!(apply(root.path(), &[bytes]).is_err());
    }
    let root = tempfile::tempdir().unwrap();
    apply(
        root.path(),
        &[Tar::new().file("x", "1").hard_link("x", "x").hard_link("y", "x").hard_link("y", "x").end()],
    )
    .unwrap();
    assert_eq!(tree(root.path()), ["x = 1", "y = 1"]);
}

#[test]
fn whiteouts_through_symlinks_stay_inside() {
    for whiteout in ["out/.wh.victim", "out/.wh..wh..opq"] {
        let (result, _) = attack(whiteout, |outside| {
            Tar::new().symlink("out", outside.to_str().unwrap()).file(whiteout, "")
        });
        result.unwrap();
        let (result, _) = attack(whiteout, |_| Tar::new().symlink("out", "../../outside").file(whiteout, ""));
        result.unwrap();
    }
    let (result, _) = attack("a directory that holds a way out", |outside| {
        Tar::new().dir("d/").symlink("d/out", outside.to_str().unwrap()).file("d", "replaced")
    });
    result.unwrap();
}

#[test]
fn symlink_loops_end_in_an_error() {
    let (result, _) = attack("loop", |_| Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", ""));
    assert!(matches!(result, Err(UnpackError::Apply { .. })), "{result:?}");
    let (result, _) = attack("self", |_| Tar::new().symlink("a", "a/a").file("a/x", ""));
    assert!(matches!(result, Err(UnpackError::Apply { .. })), "{result:?}");
}

#[test]
fn magic_links_of_procfs_are_not_followed() {
    // In /tmp of the host, should it ever be followed, and gone after the test.
    let host = tempfile::tempdir().unwrap();
    let (result, _) = attack("procfs", |_| {
        let made = format!("x/{}/made", host.path().strip_prefix("/").unwrap().display());
        Tar::new().symlink("x", "/proc/self/root").file(&made, "inside")
    });
    result.unwrap();
    assert!(tree(host.path()).is_empty());
}

#[test]
fn a_file_as_a_parent_is_an_error() {
    let (result, _) = attack("file", |_| Tar::new().file("f", "").file("f/x", ""));
    assert!(matches!(result, Err(UnpackError::Apply { .. })), "{result:?}");
}

#[test]
fn bytes_that_are_no_tar_are_refused() {
    let good = Tar::new().file("a", &"x".repeat(2000)).end();
    let changed = |at: usize, bytes: &[u8]| {
        let mut tar = good.clone();
        tar[at..at + bytes.len()].copy_from_slice(bytes);
        tar
    };
    // Offsets of the fields of a header: size 124, checksum 148.
    let resigned = |at: usize, bytes: &[u8]| {
        let mut tar = changed(at, bytes);
        let mut header = tar::Header::from_byte_slice(&tar[..512]).clone();
        header.set_cksum();
        tar[..512].copy_from_slice(header.as_bytes());
        tar
    };
    let pax = |bytes: &[u8]| {
        let kind = EntryType::XHeader;
        Tar::new().add(&Entry { kind, name: b"p", data: bytes, ..Entry::default() }).file("a", "").end()
    };
    let long = vec![b'n'; (1 << 20) + 1];
    for (what, bytes) in [
        ("garbage", vec![0x55; 4096]),
        ("half a header", good[..300].to_vec()),
        ("half the data", good[..1500].to_vec()),
        ("a changed name", changed(0, b"b")),
        ("a changed checksum", changed(148, b"7")),
        ("a size that is no number", resigned(124, b"zzzzzzzzzzz\0")),
        ("a negative size", resigned(124, &[0xff; 12])),
        ("a huge size", resigned(124, &[0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])),
        ("a size beyond 64 bits", resigned(124, &[0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
        ("a PAX record without length", pax(b"path=x\n")),
        ("a PAX record that runs over", pax(b"99 path=x\n")),
        ("a PAX size that is no number", pax(b"10 size=x\n")),
        ("a long name of more than 1 MiB", Tar::new().file(std::str::from_utf8(&long).unwrap(), "").end()),
        (
            "a long name without its entry",
            Tar::new()
                .add(&Entry { kind: EntryType::GNULongName, name: b"x", data: b"y", ..Entry::default() })
                .end(),
        ),
        (
            "a sparse file without a map",
            Tar::new().pax(&[("GNU.sparse.realsize", b"5")]).file("a", "x").end(),
        ),
        (
            "a sparse map that runs over",
            Tar::new().pax(&[("GNU.sparse.realsize", b"5"), ("GNU.sparse.map", b"9,1")]).file("a", "x").end(),
        ),
        (
            "a sparse map of another length",
            Tar::new()
                .pax(&[("GNU.sparse.realsize", b"50"), ("GNU.sparse.map", b"9,2")])
                .file("a", "x")
                .end(),
        ),
        (
            "a sparse map that is cut",
            Tar::new()
                .pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.realsize", b"50")])
                .file("a", "9\n1\n")
                .end(),
        ),
    ] {
        let root = tempfile::tempdir().unwrap();
        let mut unpacker = unpack::Unpacker::open(root.path(), unpack::Limits::default()).unwrap();
        for result in [unpack::inspect(&bytes[..]), unpacker.apply(&bytes[..])] {
            assert!(matches!(result, Err(UnpackError::Malformed { .. })), "{what}: {result:?}");
        }
    }
}

#[test]
fn a_reader_that_fails_is_not_the_layers_fault() {
    struct Broken;
    impl std::io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::ConnectionReset.into())
        }
    }
    assert!(matches!(unpack::inspect(Broken), Err(UnpackError::Read(_))));
}
