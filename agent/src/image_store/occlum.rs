//! Modes HW and SIM, inside the Occlum LibOS: the image's files in a SEFS under a random key, the key and the
//! record in a second one that the enclave seals.
//!
//! ```text
//! <images>/<name>/sefs/{upper,lower}       root file system, under the key
//! <images>/<name>/keys/sefs/{upper,lower}  sealed: key.txt, record.json
//! ```
//! Layers are applied one after the other, as a layer can only be kept as files.

use std::{
    fs, io,
    io::{Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use store::ImageRecord;
use unpack::{LayerStats, Limits, Unpacker};

use super::{
    Failure, ImageStore, Kernel, Mounts, SefsMount, StoreInProgress, disk_full, sefs::SefsKey, store_dir,
};
use crate::{digest::Digest, error::Error};

const TEMP_PREFIX: &str = ".tmp-";
const RECORD: &str = "record.json";
const MAX_RECORD_BYTES: u64 = 16 << 20;

/// What Occlum needs in the root of an app.
const DIRECTORIES: [&str; 8] = ["dev", "etc", "host", "lib", "proc", "root", "sys", "tmp"];
/// Occlum's loader and C library, which the agent's own root has at the same paths.
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";
const LIBRARIES: &str = "opt/occlum/glibc/lib";

/// Stores of SEFS.
pub struct Occlum<M = Kernel> {
    images: PathBuf,
    /// Directory for mount points.
    scratch: PathBuf,
    /// The agent's root, the source of loader and libraries.
    agent_root: PathBuf,
    mounts: Arc<M>,
}

impl Occlum<Kernel> {
    /// Stores below `images`.
    #[must_use]
    pub fn new(images: PathBuf) -> Self {
        Self { images, scratch: "/tmp".into(), agent_root: "/".into(), mounts: Arc::new(Kernel) }
    }
}

impl<M: Mounts> ImageStore for Occlum<M> {
    fn find(&self, digest: &Digest) -> Result<Option<ImageRecord>, Error> {
        let dir = store_dir(&self.images, digest)?;
        if !dir.try_exists().map_err(Error::io("stat", &dir))? {
            return Ok(None);
        }
        match self.record(&dir) {
            Ok(record) if record.manifest_digest == digest.as_str() => Ok(Some(record)),
            Ok(_) => {
                tracing::warn!(%digest, "the store is of another image and is pulled again");
                Ok(None)
            }
            Err(error) => {
                tracing::warn!(%digest, reason = error.chain(), "the store cannot be opened and is pulled again");
                Ok(None)
            }
        }
    }

    fn begin(&self, digest: &Digest) -> Result<Box<dyn StoreInProgress>, Error> {
        let place = store_dir(&self.images, digest)?;
        let temp = self.images.join(format!("{TEMP_PREFIX}{}", random_name()?));
        let dirs = Dirs(temp);
        for sefs in [dirs.root(), dirs.sealed()] {
            for half in ["upper", "lower"] {
                create_dir(&sefs.join(half))?;
            }
        }
        let key = SefsKey::random().map_err(Error::io("make a key for", &dirs.0))?;
        let mounted = Mounted::new(&self.mounts, &self.scratch, &dirs.root(), Some(&key))?;
        let unpacker = Unpacker::open(&mounted.target, Limits::default())
            .map_err(|source| Error::Layer { digest: digest.to_string(), source: Arc::new(source) })?;
        Ok(Box::new(InProgress {
            unpacker: Mutex::new(unpacker),
            mounted,
            dirs,
            key,
            place,
            scratch: self.scratch.clone(),
            agent_root: self.agent_root.clone(),
            mounts: self.mounts.clone(),
        }))
    }

    fn sweep(&self) -> Result<usize, Error> {
        store::sweep(&self.images).map_err(|error| Error::Store(Arc::new(error)))
    }
}

impl<M: Mounts> Occlum<M> {
    fn record(&self, dir: &Path) -> Result<ImageRecord, Error> {
        let mounted = Mounted::new(&self.mounts, &self.scratch, &dir.join("keys/sefs"), None)?;
        let path = mounted.target.join(RECORD);
        let mut json = Vec::new();
        fs::File::open(&path)
            .and_then(|file| file.take(MAX_RECORD_BYTES).read_to_end(&mut json))
            .map_err(Error::io("read", &path))?;
        mounted.unmount()?;
        serde_json::from_slice(&json)
            .map_err(|error| Error::Malformed { what: path.display().to_string(), reason: error.to_string() })
    }
}

/// Fields drop in this order: the unpacker holds the root open, the mount holds the directory.
struct InProgress<M: Mounts> {
    /// Locked for a whole layer; layers come one at a time.
    unpacker: Mutex<Unpacker>,
    mounted: Mounted<M>,
    dirs: Dirs,
    key: SefsKey,
    place: PathBuf,
    scratch: PathBuf,
    agent_root: PathBuf,
    mounts: Arc<M>,
}

impl<M: Mounts> StoreInProgress for InProgress<M> {
    fn takes_layers_in_parallel(&self) -> bool {
        false
    }

    fn layer(&self, _index: usize, tar: &mut dyn Read) -> Result<LayerStats, Failure> {
        let mut unpacker = self.unpacker.lock().unwrap_or_else(PoisonError::into_inner);
        unpacker.apply(tar).map_err(|error| {
            if error.is_full() {
                Failure::Store(disk_full(&self.mounted.target, Arc::new(error)))
            } else {
                error.into()
            }
        })
    }

    fn commit(self: Box<Self>, record: &ImageRecord) -> Result<(), Error> {
        // Dropped in reverse order when a step fails: the directory last.
        let Self { dirs, mounted, unpacker, key, place, scratch, agent_root, mounts } = *self;
        drop(unpacker);
        complete_root(&mounted.target, &agent_root)?;
        mounted.unmount()?;

        let sealed = Mounted::new(&mounts, &scratch, &dirs.sealed(), None)?;
        write(&sealed.target.join("key.txt"), key.text().as_bytes())?;
        let json = serde_json::to_vec(record)
            .map_err(|error| Error::io("encode the record of", &place)(error.into()))?;
        write(&sealed.target.join(RECORD), &json)?;
        sealed.unmount()?;

        // What is there could not be opened, or this image would not have been pulled.
        match fs::rename(&dirs.0, &place) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                fs::remove_dir_all(&place).map_err(Error::io("replace", &place))?;
                fs::rename(&dirs.0, &place).map_err(Error::io("rename a store to", &place))
            }
            renamed => renamed.map_err(Error::io("rename a store to", &place)),
        }
    }
}

/// The directory of a store in progress; removed when dropped before the rename.
struct Dirs(PathBuf);

impl Dirs {
    fn root(&self) -> PathBuf {
        self.0.join("sefs")
    }

    fn sealed(&self) -> PathBuf {
        self.0.join("keys/sefs")
    }
}

impl Drop for Dirs {
    fn drop(&mut self) {
        // Gone after a commit; what cannot be removed is for the next sweep.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A mounted SEFS and its mount point; unmounted when dropped.
struct Mounted<M: Mounts> {
    target: PathBuf,
    mounts: Arc<M>,
    active: bool,
}

impl<M: Mounts> Mounted<M> {
    /// Mounts the `lower` of `sefs` at a new directory in `scratch`.
    fn new(mounts: &Arc<M>, scratch: &Path, sefs: &Path, key: Option<&SefsKey>) -> Result<Self, Error> {
        let target = scratch.join(format!("sefs-{}", random_name()?));
        create_dir(&target)?;
        let mut mounted = Self { target, mounts: mounts.clone(), active: false };
        mounts
            .mount(&SefsMount::new(&sefs.join("lower"), key, &mounted.target))
            .map_err(Error::io("mount a SEFS at", &mounted.target))?;
        mounted.active = true;
        Ok(mounted)
    }

    fn unmount(mut self) -> Result<(), Error> {
        self.active = false;
        self.mounts.unmount(&self.target).map_err(Error::io("unmount", &self.target))
    }
}

impl<M: Mounts> Drop for Mounted<M> {
    fn drop(&mut self) {
        if self.active
            && let Err(error) = self.mounts.unmount(&self.target)
        {
            tracing::error!(target = %self.target.display(), %error, "cannot unmount a SEFS");
            return;
        }
        let _ = fs::remove_dir(&self.target);
    }
}

/// Adds what Occlum needs to an image's root, whose links are not followed out of it: a directory on the way that
/// is a link is refused.
fn complete_root(root: &Path, agent_root: &Path) -> Result<(), Error> {
    for name in DIRECTORIES {
        let path = root.join(name);
        if fs::symlink_metadata(&path).is_err() {
            fs::create_dir(&path).map_err(Error::io("create", &path))?;
        }
    }
    copy(agent_root, root, Path::new(LOADER))?;
    let libraries = agent_root.join(LIBRARIES);
    let entries = match fs::read_dir(&libraries) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(Error::io("list", &libraries))?,
    };
    for entry in entries {
        let entry = entry.map_err(Error::io("list", &libraries))?;
        copy(agent_root, root, &Path::new(LIBRARIES).join(entry.file_name()))?;
    }
    Ok(())
}

fn copy(agent_root: &Path, root: &Path, file: &Path) -> Result<(), Error> {
    let (source, target) = (agent_root.join(file), root.join(file));
    if !source.is_file() {
        return Ok(());
    }
    let mut dir = root.to_owned();
    for part in file.parent().into_iter().flat_map(Path::components) {
        dir.push(part);
        match fs::symlink_metadata(&dir) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => {
                return Err(Error::Malformed {
                    what: dir.display().to_string(),
                    reason: "Occlum's C library belongs there, and the image has no directory there"
                        .to_owned(),
                });
            }
            Err(_) => fs::create_dir(&dir).map_err(Error::io("create", &dir))?,
        }
    }
    match fs::remove_file(&target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Error::io("replace", &target)(error));
        }
        _ => {}
    }
    fs::copy(&source, &target).map(drop).map_err(Error::io("copy Occlum's C library to", &target))
}

fn create_dir(path: &Path) -> Result<(), Error> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(Error::io("create", path))
}

fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .map_err(Error::io("write", path))
}

fn random_name() -> Result<String, Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::io("name a directory below", "/")(io::Error::other(error)))?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

#[cfg(test)]
#[path = "occlum_tests.rs"]
mod tests;
