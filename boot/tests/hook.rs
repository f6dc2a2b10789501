//! The hook under the OCI runtimes that it is made for. Needs root, runc, crun and musl-gcc.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "hook/fixture.rs"]
mod fixture;

use std::{fs, process::Output};

use fixture::{BACKENDS, Entry, Fixture};
use serde_json::json;

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

fn assert_has(backend: &str, output: &Output, expected: &[&str]) {
    let text = text(output);
    for line in expected {
        assert!(text.contains(line), "{backend}: no {line:?} in\n{text}");
    }
}

/// The message is one line in the file of `--report`, and runc passes it on; crun 1.8 does not.
fn assert_reported(backend: &str, fixture: &Fixture, output: &Output, expected: &str) {
    let report = fs::read_to_string(fixture.path("report")).unwrap();
    assert!(
        report.contains(expected) && report.lines().count() == 1,
        "{backend}: {expected:?} not in {report:?}"
    );
    if backend == "runc" {
        assert_has(backend, output, &[expected]);
    }
}

#[test]
fn the_image_is_the_root_and_the_pods_mounts_are_in_it() {
    for backend in BACKENDS {
        let mut fixture = Fixture::new(&[
            Entry::Dir(".", 0o750),
            Entry::Dir("etc", 0o755),
            Entry::File("etc/motd", "from the image\n"),
            Entry::File("etc/resolv.conf", "of the image\n"),
            Entry::Dir("data", 0o755),
            Entry::File("data/hidden", "covered\n"),
        ]);
        fs::write(fixture.path("resolv"), "of the pod\n").unwrap();
        fs::create_dir(fixture.path("volume")).unwrap();
        fs::create_dir(fixture.path("inner")).unwrap();
        fs::create_dir(fixture.path("volume/deep")).unwrap();
        fs::write(fixture.path("inner/file"), "in the nested volume\n").unwrap();
        let bind = |from: &str, to: &str| json!({"destination": to, "source": fixture.path(from), "type": "bind", "options": ["rbind", "rw"]});
        let mounts = [
            bind("resolv", "/etc/resolv.conf"),
            bind("resolv", "/etc/made-for-it"),
            bind("volume", "/data"),
            bind("inner", "/data/deep"),
        ];
        mounts.into_iter().for_each(|mount| fixture.mount(mount));
        fixture.config["process"]["cwd"] = json!("/made/dir");
        fixture.args(&[
            "cat:/etc/motd",
            "cat:/etc/resolv.conf",
            "cat:/etc/made-for-it",
            "cat:/data/hidden",
            "cat:/data/deep/file",
            "write:/data/written",
            "write:/new",
            "stat:/",
            "stat:/dev/null",
            "stat:/dev/shm",
            "write:/proc/sys/kernel/core_pattern",
            "pwd",
            "cat:/proc/self/mountinfo",
        ]);
        let output = fixture.run(backend);
        assert!(output.status.success(), "{backend}: {}", text(&output));
        assert_has(
            backend,
            &output,
            &[
                "from the image\nof the pod\nof the pod\ncat /data/hidden: No such file or directory\n\
                 in the nested volume\nwrite /data/written: done\nwrite /new: done\nstat /: 40750 0:0\n\
                 stat /dev/null: 20666 0:0\nstat /dev/shm: 41777 0:0\n\
                 write /proc/sys/kernel/core_pattern: Read-only file system\npwd /made/dir\n",
                " / / rw",
                " - tmpfs enclave-cc ",
                " /dev/mqueue ",
                " /sys/fs/cgroup",
            ],
        );
        assert!(fixture.path("volume/written").exists(), "{backend}");
        assert!(!text(&output).contains("tmpfs shim"), "{backend}: {}", text(&output));
    }
}

#[test]
fn a_read_only_root_is_read_only_and_has_its_working_directory() {
    for backend in BACKENDS {
        let mut fixture = Fixture::new(&[Entry::Dir("etc", 0o755)]);
        fixture.config["root"]["readonly"] = json!(true);
        fixture.config["process"]["cwd"] = json!("/made");
        fixture.args(&["write:/etc/x", "write:/x", "write:/dev/shm/x", "pwd"]);
        let output = fixture.run(backend);
        let expected = "write /etc/x: Read-only file system\nwrite /x: Read-only file system\n\
                        write /dev/shm/x: done\npwd /made\n";
        assert_has(backend, &output, &[expected]);
    }
}

#[test]
fn nothing_of_the_new_root_reaches_the_host_when_the_pod_shares_its_mounts() {
    for backend in BACKENDS {
        let mut fixture = Fixture::new(&[Entry::Dir("mnt", 0o755)]);
        fixture.config["linux"]["rootfsPropagation"] = json!("rshared");
        let volume = fixture.path("volume");
        fs::create_dir(&volume).unwrap();
        fixture.mount(
            json!({"destination": "/mnt", "source": volume, "type": "bind", "options": ["rbind", "rshared"]}),
        );
        fixture.args(&["cat:/proc/self/mountinfo"]);
        fixture.write_store();
        // The container is created, its hook done, and not started yet when the host's mounts are looked at.
        let output = fixture.script(
            backend,
            r#"
            mount --make-rshared /
            mount --make-private "$DIR/bundle/rootfs"
            cat /proc/self/mountinfo > "$DIR/before"
            "$BACKEND" --root "$DIR/state" create --bundle "$DIR/bundle" "$ID" < /dev/null > "$DIR/output" 2>&1
            cat /proc/self/mountinfo > "$DIR/during"
            "$BACKEND" --root "$DIR/state" start "$ID"
            until "$BACKEND" --root "$DIR/state" state "$ID" | grep -q stopped; do :; done
            "$BACKEND" --root "$DIR/state" delete "$ID"
            cat "$DIR/output"
            "#,
        );
        assert_has(backend, &output, &[" - tmpfs enclave-cc ", " /mnt "]);
        assert!(output.status.success(), "{backend}: {}", text(&output));
        let read = |name| fs::read_to_string(fixture.path(name)).unwrap();
        let (before, during) = (read("before"), read("during"));
        assert_eq!(before, during, "{backend}");
    }
}

#[test]
fn hostile_symlinks_of_an_image_lead_nowhere_outside() {
    for backend in BACKENDS {
        let outside = tempfile::tempdir().unwrap();
        let leading_out = outside.path().join("resolv.conf");
        let mut fixture = Fixture::new(&[
            Entry::Dir("etc", 0o755),
            Entry::Link("etc/resolv.conf", leading_out.to_str().unwrap()),
            Entry::Link("etc/hosts", "../../../../../../hosts-of-root"),
            Entry::Link("volume", outside.path().to_str().unwrap()),
        ]);
        fs::write(fixture.path("file"), "of the pod\n").unwrap();
        let file = fixture.path("file");
        for destination in ["/etc/resolv.conf", "/etc/hosts"] {
            fixture.mount(
                json!({"destination": destination, "source": file, "type": "bind", "options": ["bind"]}),
            );
        }
        fixture.mount(json!({"destination": "/volume", "source": "tmpfs", "type": "tmpfs"}));
        let inside = format!("cat:{}", leading_out.display());
        fixture.args(&["cat:/hosts-of-root", "write:/volume/x", &inside]);
        let output = fixture.run(backend);
        assert!(output.status.success(), "{backend}: {}", text(&output));
        assert_has(backend, &output, &["of the pod\nwrite /volume/x: done\n"]);
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0, "{backend}");
    }
}

#[test]
fn an_image_that_leads_a_mount_into_proc_or_over_the_root_is_refused() {
    for backend in BACKENDS {
        for (link, target, reason) in [
            ("proc", "/elsewhere", "the mount at /proc is refused: the image has a symlink on its path"),
            ("sys", "proc", "the mount at /sys is refused"),
            ("dev", "/", "the mount at /dev is refused: the image leads it to the root itself"),
            (
                "volume",
                "/proc/sys",
                "the mount at /volume is refused: the image leads it into procfs or sysfs",
            ),
            (
                "file",
                "/proc/self/comm",
                "the mount at /file is refused: the image leads it into procfs or sysfs",
            ),
        ] {
            let mut fixture = Fixture::new(&[Entry::Dir("elsewhere", 0o755), Entry::Link(link, target)]);
            fs::write(fixture.path("file"), "x").unwrap();
            let file = fixture.path("file");
            fixture.mount(json!({"destination": "/volume", "source": "tmpfs", "type": "tmpfs"}));
            fixture
                .mount(json!({"destination": "/file", "source": file, "type": "bind", "options": ["bind"]}));
            fixture.args(&[]);
            let output = fixture.run(backend);
            assert!(!output.status.success(), "{backend}: {link}");
            assert_reported(backend, &fixture, &output, reason);
        }
    }
}

#[test]
fn an_image_above_the_memory_limit_fails_with_both_sizes() {
    for backend in BACKENDS {
        let mut fixture = Fixture::new(&[]);
        fixture.unpacked_bytes = 64 << 20;
        fixture.config["linux"]["resources"]["memory"] = json!({"limit": 32 << 20});
        fixture.args(&[]);
        let output = fixture.run(backend);
        assert!(!output.status.success(), "{backend}");
        assert_reported(backend, &fixture, &output, "takes 67108864 bytes");
        assert_reported(backend, &fixture, &output, "limit of 33554432 bytes");
    }
}

#[test]
fn a_damaged_store_starts_nothing_and_is_named() {
    for backend in BACKENDS {
        let mut fixture = Fixture::new(&[]);
        fixture.write_store();
        let layer = fixture.store().join("layers/0000");
        let mut bytes = fs::read(&layer).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&layer, bytes).unwrap();
        fixture.args(&["pwd"]);
        // A second writer would leave the complete store as it is.
        let output = fixture.run(backend);
        assert!(!output.status.success(), "{backend}");
        assert_reported(backend, &fixture, &output, "layers/0000 does not verify");
        assert!(!text(&output).contains("pwd /"), "{backend}");
    }
}

#[test]
fn user_capabilities_and_seccomp_are_the_backends() {
    for backend in BACKENDS {
        let mut fixture = Fixture::new(&[Entry::Dir("etc", 0o755)]);
        fixture.config["process"]["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [7]});
        fixture.config["process"]["capabilities"] =
            json!({"bounding": [], "effective": [], "permitted": [], "inheritable": [], "ambient": []});
        fixture.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls":
            [{"names": ["bpf"], "action": "SCMP_ACT_ERRNO"}]});
        fixture.args(&["cat:/proc/self/status", "write:/etc/x"]);
        let output = fixture.run(backend);
        let expected = [
            "Uid:\t1000\t1000\t1000\t1000",
            "Gid:\t1001\t1001\t1001\t1001",
            "Groups:\t7 ",
            "CapEff:\t0000000000000000",
            "CapBnd:\t0000000000000000",
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
            "write /etc/x: Permission denied",
        ];
        assert_has(backend, &output, &expected);
    }
}

#[test]
fn the_root_is_charged_to_the_container() {
    for backend in BACKENDS {
        let mut fixture = Fixture::new(&[Entry::Big("big", 40)]);
        // Says less than it takes, so that only the cgroup can stop it.
        fixture.unpacked_bytes = 1;
        fixture.config["linux"]["resources"]["memory"] = json!({"limit": 24 << 20});
        fixture.args(&["pwd"]);
        let output = fixture.run(backend);
        assert!(!output.status.success() && !text(&output).contains("pwd /"), "{backend}: {}", text(&output));
        fixture.config["linux"]["resources"]["memory"] = json!({"limit": 128 << 20});
        let output = fixture.run(backend);
        assert_has(backend, &output, &["pwd /"]);
    }
}
