//! The same layers, made by GNU tar, applied by this crate and by umoci: both trees must be equal.
//! Needs root and Debian's packages umoci and attr.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::{fs, path::Path, process::Command};

use unpack::{Limits, Unpacker};

fn sh(dir: &Path, script: &str) -> String {
    let output = Command::new("bash").args(["-euc", script]).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Kind, mode, owner, time, size, links and target of everything, then contents and extended attributes.
fn describe(root: &Path) -> String {
    sh(
        root,
        r"
        find . -type d -printf '%P %y %m %U %G %T@\n' -o -printf '%P %y %m %U %G %T@ %s %n %l\n' | sort
        find . -type f -print0 | sort -z | xargs -0 sha256sum
        find . \( -type c -o -type b \) -print0 | sort -z | xargs -0 stat -c '%n %t %T'
        find . -print0 | sort -z | xargs -0 getfattr -h -d -m - 2>/dev/null || true
        # Which names are one file.
        find . -type f -links +1 -printf '%i %P\n' | sort -k2 | awk '{ if (!($1 in n)) n[$1] = ++c; print n[$1], $2 }'
        ",
    )
}

const LAYERS: &str = r#"
    umask 022
    mkdir -p one/{usr/lib,usr/bin,etc/conf.d,var/cache/deep/er,opaque/sub,gone/dir,becomes-file,dev,tmp}
    cd one
    chmod 1777 tmp; chmod 750 .
    echo lib > usr/lib/libc.so.1; ln -s libc.so.1 usr/lib/libc.so; ln -s usr/lib lib
    echo sh > usr/bin/sh; ln usr/bin/sh usr/bin/bash; ln usr/bin/sh usr/bin/dash
    echo su > usr/bin/su; chmod 4755 usr/bin/su; echo wall > usr/bin/wall; chown 0:5 usr/bin/wall; chmod 2755 usr/bin/wall
    echo ping > usr/bin/ping; setcap cap_net_raw+ep usr/bin/ping 2>/dev/null || setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 usr/bin/ping
    setfattr -n user.note -v hello etc/conf.d
    echo a > etc/conf.d/a; echo b > etc/conf.d/b; chown 1000:1000 etc/conf.d/a; chown 3000000:3000001 etc/conf.d/b
    echo x > var/cache/deep/er/x; echo o > opaque/lower; echo o > opaque/sub/lower; echo g > gone/dir/g; echo h > gone-file
    echo f > becomes-file/f; echo d > becomes-dir
    mknod dev/null c 1 3; mknod dev/loop b 7 300; mkfifo dev/pipe; chmod 600 dev/pipe
    name=$(printf 'n%.0s' $(seq 200)); mkdir -p "$name/$name"; echo long > "$name/$name/$name"; ln -s "$name/$name/$name" long
    truncate -s 10M sparse; echo data | dd of=sparse bs=1 seek=5M conv=notrunc status=none; echo end >> sparse
    for i in $(seq 400); do dd if=/dev/zero bs=4096 count=1 status=none | tr '\0' x | dd of=many-holes bs=4096 seek=$((i * 3)) conv=notrunc status=none; done
    touch -d '2001-02-03 04:05:06.123456789' usr/bin/sh etc/conf.d; touch -h -d '1999-01-01' usr/lib/libc.so
    touch -d '1960-01-01' gone-file; touch -d '2005-05-05 05:05:05.5' . usr usr/lib dev
    cd ..
    mkdir -p two/{etc/conf.d,opaque/sub,becomes-dir,lib-is-link,var/cache}
    cd two
    echo a2 > etc/conf.d/a; touch etc/conf.d/.wh.b; touch opaque/.wh..wh..opq; echo n > opaque/new; echo n > opaque/sub/new
    touch .wh.gone .wh.gone-file var/cache/.wh.deep; echo file > becomes-file; echo in > becomes-dir/in
    mkdir lib; echo via > lib/via; chmod 711 etc
    touch -d '2010-10-10 10:10:10.25' etc etc/conf.d var/cache
    cd ..
    # The second layer reaches usr/lib through the first one's symlink: no entry for lib itself.
    tar() { command tar --numeric-owner --xattrs --xattrs-include='*' --sort=name "$@"; }
"#;

#[test]
fn gnu_tar_layers_unpack_as_umoci_unpacks_them() {
    for options in
        ["--format=posix", "--format=posix --sparse", "--format=posix --sparse --sparse-version=0.1"]
    {
        compare(&format!(
            "tar {options} -C one -cf 1.tar .; tar {options} -C two --exclude=./lib -cf 2.tar .; tar {options} -C two -rf 2.tar ./lib/via"
        ));
    }
}

#[test]
fn gnu_format_layers_unpack_as_umoci_unpacks_them() {
    compare(
        "command tar --numeric-owner --format=gnu -C one -cf 1.tar .; command tar --numeric-owner --format=gnu -C two -cf 2.tar .",
    );
}

#[test]
fn old_gnu_sparse_files_unpack_as_gnu_tar_unpacks_them() {
    let dir = tempfile::tempdir().unwrap();
    sh(
        dir.path(),
        &format!("{LAYERS}\ncommand tar --numeric-owner --format=gnu --sparse -C one -cf 1.tar ."),
    );
    sh(dir.path(), "mkdir theirs ours; tar --numeric-owner -C theirs -xpf 1.tar");
    let tar = fs::read(dir.path().join("1.tar")).unwrap();
    Unpacker::open(&dir.path().join("ours"), Limits::default()).unwrap().apply(&tar[..]).unwrap();
    assert_same(dir.path(), &dir.path().join("theirs"), &dir.path().join("ours"), "sparse");
    let blocks =
        |name: &str| std::os::unix::fs::MetadataExt::blocks(&fs::metadata(dir.path().join(name)).unwrap());
    assert!(blocks("ours/sparse") < 100 && blocks("ours/many-holes") < 2 * 400 * 8);
}

/// Makes both layers with `make` and applies them in both ways.
fn compare(make: &str) {
    let dir = tempfile::tempdir().unwrap();
    sh(dir.path(), &format!("{LAYERS}\n{make}"));
    sh(
        dir.path(),
        "umoci init --layout oci; umoci new --image oci:x
         for layer in 1 2; do umoci raw add-layer --image oci:x $layer.tar; done
         umoci unpack --image oci:x umoci",
    );
    let ours = dir.path().join("ours");
    fs::create_dir(&ours).unwrap();
    let mut unpacker = Unpacker::open(&ours, Limits::default()).unwrap();
    for layer in ["1.tar", "2.tar"] {
        let tar = fs::read(dir.path().join(layer)).unwrap();
        let stats = unpacker.apply(&tar[..]).unwrap();
        assert_eq!(unpack::inspect(&tar[..]).unwrap(), stats);
    }
    assert_same(dir.path(), &dir.path().join("umoci/rootfs"), &ours, make);
}

fn assert_same(scratch: &Path, theirs: &Path, ours: &Path, what: &str) {
    let (theirs, ours) = (describe(theirs), describe(ours));
    fs::write(scratch.join("a"), &theirs).unwrap();
    fs::write(scratch.join("b"), &ours).unwrap();
    let difference = sh(scratch, "diff a b || true");
    assert!(difference.is_empty() && theirs.lines().count() > 50, "{what}\n< theirs, > ours\n{difference}");
}
