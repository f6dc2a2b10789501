//! An image in a store and a bundle that boots it, run by a real OCI runtime in a mount namespace of its own.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};
use store::{ImageRecord, LayerRecord, SealKey, StoreWriter};

/// The OCI runtimes that the hook serves.
pub const BACKENDS: [&str; 2] = ["runc", "crun"];

pub struct Fixture {
    dir: tempfile::TempDir,
    pub config: Value,
    tar: Vec<u8>,
    /// What the image's record says.
    pub unpacked_bytes: u64,
}

/// An entry of the test image's only layer.
pub enum Entry<'a> {
    /// That many MiB of data.
    Big(&'a str, usize),
    Dir(&'a str, u32),
    File(&'a str, &'a str),
    Link(&'a str, &'a str),
}

impl Fixture {
    /// An image with the probe at /probe and these entries, and `runc spec`'s config with the hook.
    pub fn new(entries: &[Entry]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tar = layer(dir.path(), entries);
        let unpacked_bytes = unpack::inspect(&tar[..]).unwrap().unpacked_bytes;
        Self { config: spec(dir.path()), dir, tar, unpacked_bytes }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn store(&self) -> PathBuf {
        self.path("images").join(store::store_dir_name(&digest()).unwrap())
    }

    pub fn args(&mut self, args: &[&str]) {
        let args: Vec<&str> = ["/probe"].iter().chain(args).copied().collect();
        self.config["process"]["args"] = json!(args);
    }

    pub fn mount(&mut self, mount: Value) {
        self.config["mounts"].as_array_mut().unwrap().push(mount);
    }

    /// Writes the store and runs the container to its end.
    pub fn run(&mut self, backend: &str) -> Output {
        self.write_store();
        self.script(backend, r#""$BACKEND" --root "$DIR/state" run --bundle "$DIR/bundle" "$ID""#)
    }

    /// Runs a shell script in a new mount namespace, in which the shim's tmpfs is at the bundle's rootfs. The variables BACKEND,
    /// DIR and ID are those of the container.
    pub fn script(&mut self, backend: &str, script: &str) -> Output {
        let bundle = self.path("bundle");
        fs::create_dir_all(bundle.join("rootfs")).unwrap();
        self.config["hooks"] = json!({"createContainer": [{
            "path": env!("CARGO_BIN_EXE_enclave-boot-hook"),
            "args": ["enclave-boot-hook", "--store", self.store(), "--seal-key", self.path("seal.key"),
                "--report", self.path("report")],
        }]});
        fs::write(bundle.join("config.json"), self.config.to_string()).unwrap();
        let prepare = r#"
            set -e
            # crun refuses a machine with both cgroup hierarchies.
            if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi
            mount -t tmpfs -o size=1m shim "$DIR/bundle/rootfs"
        "#;
        Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c"])
            .arg(format!("{prepare}\n{script}"))
            .env("BACKEND", backend)
            .env("DIR", self.dir.path())
            .env("ID", self.dir.path().file_name().unwrap().to_str().unwrap().replace('.', "t"))
            .output()
            .unwrap()
    }

    pub fn write_store(&self) {
        let seal = SealKey::read_or_create(&self.path("seal.key")).unwrap();
        let writer = StoreWriter::create(&self.path("images"), &digest()).unwrap();
        let mut layer = writer.layer(0).unwrap();
        layer.write_all(&self.tar).unwrap();
        let tar_bytes = layer.finish().unwrap();
        let record = ImageRecord {
            reference: "registry.example/app:1".to_owned(),
            manifest_digest: digest(),
            image_config: "{}".to_owned(),
            unpacked_bytes: self.unpacked_bytes,
            layers: vec![LayerRecord { diff_id: digest(), tar_bytes }],
        };
        writer.commit(&record, &seal).unwrap();
    }
}

fn digest() -> String {
    format!("sha256:{}", "5a".repeat(32))
}

fn layer(scratch: &Path, entries: &[Entry]) -> Vec<u8> {
    let probe = scratch.join("probe");
    let built = Command::new("musl-gcc")
        .args(["-static", "-O1", "-o"])
        .arg(&probe)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hook/probe.c"))
        .output()
        .expect("musl-gcc (Debian package musl-tools) builds the test program");
    assert!(built.status.success(), "{built:?}");
    fs::set_permissions(&probe, fs::Permissions::from_mode(0o755)).unwrap();

    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mtime(1_700_000_000);
    for entry in entries {
        header.set_size(0);
        match entry {
            Entry::Dir(path, mode) => {
                header.set_mode(*mode);
                header.set_entry_type(tar::EntryType::Directory);
                tar.append_data(&mut header, path, &[][..]).unwrap();
            }
            Entry::File(path, content) => append_file(&mut tar, header.clone(), path, content.as_bytes()),
            Entry::Big(path, mebibytes) => {
                append_file(&mut tar, header.clone(), path, &vec![1; mebibytes << 20]);
            }
            Entry::Link(path, target) => {
                header.set_mode(0o777);
                header.set_entry_type(tar::EntryType::Symlink);
                tar.append_link(&mut header, path, target).unwrap();
            }
        }
    }
    tar.append_path_with_name(&probe, "probe").unwrap();
    tar.into_inner().unwrap()
}

fn append_file(tar: &mut tar::Builder<Vec<u8>>, mut header: tar::Header, path: &str, content: &[u8]) {
    header.set_mode(0o644);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, path, content).unwrap();
}

/// The config that `runc spec` writes, without a terminal.
fn spec(scratch: &Path) -> Value {
    let bundle = scratch.join("bundle");
    fs::create_dir_all(&bundle).unwrap();
    let made = Command::new("runc").arg("spec").current_dir(&bundle).output().expect("runc is installed");
    assert!(made.status.success(), "{made:?}");
    let mut config: Value = serde_json::from_slice(&fs::read(bundle.join("config.json")).unwrap()).unwrap();
    config["process"]["terminal"] = json!(false);
    config["root"] = json!({"path": "rootfs", "readonly": false});
    config
}
