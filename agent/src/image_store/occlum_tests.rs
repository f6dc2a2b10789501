use std::{collections::BTreeMap, os::unix::fs::symlink};

use super::*;

/// Stands in for SEFS: each mount is a directory of its own data, moved to the target and back.
#[derive(Default)]
struct Recorder {
    calls: Mutex<Vec<String>>,
    mounted: Mutex<BTreeMap<PathBuf, PathBuf>>,
}

impl Mounts for Recorder {
    fn mount(&self, mount: &SefsMount) -> io::Result<()> {
        self.calls.lock().unwrap().push(format!("mount {}", *mount.data));
        let dir = mount.data.strip_prefix("dir=").unwrap();
        let dir = PathBuf::from(dir.split(',').next().unwrap());
        fs::remove_dir(&mount.target)?;
        fs::rename(&dir, &mount.target)?;
        self.mounted.lock().unwrap().insert(mount.target.clone(), dir);
        Ok(())
    }

    fn unmount(&self, target: &Path) -> io::Result<()> {
        self.calls.lock().unwrap().push("unmount".to_owned());
        let dir = self.mounted.lock().unwrap().remove(target).unwrap();
        fs::rename(target, dir)?;
        fs::create_dir(target)
    }
}

struct Fixture {
    dir: tempfile::TempDir,
    occlum: Occlum<Recorder>,
    digest: Digest,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    for name in ["images", "scratch", "agent/lib64", "agent/opt/occlum/glibc/lib"] {
        fs::create_dir_all(dir.path().join(name)).unwrap();
    }
    fs::write(dir.path().join("agent").join(LOADER), "loader").unwrap();
    fs::write(dir.path().join("agent").join(LIBRARIES).join("libc.so.6"), "libc").unwrap();
    let occlum = Occlum {
        images: dir.path().join("images"),
        scratch: dir.path().join("scratch"),
        agent_root: dir.path().join("agent"),
        mounts: Arc::default(),
    };
    Fixture { dir, occlum, digest: Digest::sha256(b"manifest") }
}

impl Fixture {
    fn record(&self) -> ImageRecord {
        ImageRecord {
            reference: "r.test/a:1".to_owned(),
            manifest_digest: self.digest.to_string(),
            image_config: "{}".to_owned(),
            unpacked_bytes: 0,
            layers: Vec::new(),
        }
    }

    fn names(&self, dir: &str) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join(dir)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn tar(path: &str, content: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, path, content.as_bytes()).unwrap();
    builder.into_inner().unwrap()
}

#[test]
fn a_store_is_mounted_filled_sealed_and_renamed() {
    let f = fixture();
    let store = f.occlum.begin(&f.digest).unwrap();
    store.layer(0, &mut tar("hello", "world").as_slice()).unwrap();
    store.commit(&f.record()).unwrap();

    let images = f.occlum.images.display().to_string();
    let calls = f.occlum.mounts.calls.lock().unwrap().clone();
    let [root, "unmount", sealed, "unmount"] = &calls.iter().map(String::as_str).collect::<Vec<_>>()[..]
    else {
        panic!("{calls:?}");
    };
    let (temp, key) = root
        .strip_prefix(&format!("mount dir={images}/.tmp-"))
        .and_then(|rest| rest.split_once("/sefs/lower,key="))
        .unwrap();
    assert_eq!(*sealed, format!("mount dir={images}/.tmp-{temp}/keys/sefs/lower"));

    let name = store::store_dir_name(f.digest.as_str()).unwrap();
    assert_eq!(f.names("images"), std::slice::from_ref(&name));
    assert!(f.names("scratch").is_empty());
    let place = f.occlum.images.join(name);
    assert_eq!(fs::read_to_string(place.join("keys/sefs/lower/key.txt")).unwrap(), key);
    let root = place.join("sefs/lower");
    assert_eq!(fs::read_to_string(root.join(LOADER)).unwrap(), "loader");
    assert_eq!(fs::read_to_string(root.join(LIBRARIES).join("libc.so.6")).unwrap(), "libc");
    assert!(DIRECTORIES.iter().all(|dir| root.join(dir).is_dir()));
    assert!(place.join("sefs/upper").is_dir() && place.join("keys/sefs/upper").is_dir());

    assert_eq!(f.occlum.find(&f.digest).unwrap(), Some(f.record()));
    assert_eq!(f.occlum.find(&Digest::sha256(b"other")).unwrap(), None);
    assert!(f.names("scratch").is_empty());
}

#[test]
fn an_abandoned_store_leaves_no_mount_and_no_directory() {
    let f = fixture();
    let store = f.occlum.begin(&f.digest).unwrap();
    store.layer(0, &mut tar("hello", "world").as_slice()).unwrap();
    drop(store);
    assert!(f.occlum.mounts.mounted.lock().unwrap().is_empty());
    assert!(f.names("images").is_empty() && f.names("scratch").is_empty());
}

#[test]
fn a_failed_mount_leaves_nothing() {
    // This kernel knows no SEFS.
    let dir = tempfile::tempdir().unwrap();
    let mut occlum = Occlum::new(dir.path().join("images"));
    occlum.scratch = dir.path().join("scratch");
    let error = occlum.begin(&Digest::sha256(b"x")).map(drop).unwrap_err();
    assert!(matches!(error, Error::Io { operation: "mount a SEFS at", .. }), "{error}");
    assert_eq!(fs::read_dir(&occlum.images).unwrap().count(), 0);
    assert_eq!(fs::read_dir(&occlum.scratch).unwrap().count(), 0);
}

#[test]
fn a_link_in_the_image_does_not_lead_the_c_library_out() {
    let f = fixture();
    let outside = f.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let root = f.dir.path().join("root");
    fs::create_dir(&root).unwrap();
    symlink(&outside, root.join("opt")).unwrap();
    let error = complete_root(&root, &f.occlum.agent_root).unwrap_err();
    assert!(matches!(error, Error::Malformed { .. }), "{error}");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}
