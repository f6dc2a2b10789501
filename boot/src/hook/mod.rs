//! The OCI `createContainer` hook of mode NONE: builds the container's root from the encrypted store.
//!
//! The backend runs it inside the container's mount namespace, after it has made the pod's mounts below
//! `<bundle>/rootfs` (a small private tmpfs of the shim's) and before it pivots into that path:
//!
//! ```text
//! before  <bundle>/rootfs        shim's tmpfs, mount points only
//!           ├─ proc dev sys …    the pod's mounts
//! after   <bundle>/rootfs        shim's tmpfs, covered
//!           └─ (on top)          new tmpfs with the decrypted image; the backend pivots into this one
//!                ├─ proc dev …   the same mounts, moved
//! ```
//! User, capabilities, seccomp, masks and exec stay the backend's. The tmpfs is charged to the container's memory
//! cgroup, in which the hook runs. Decrypting is a tenth to a sixth of the time, filling the tmpfs the rest, so both are
//! done by one thread. `--no-pivot` cannot work: runc then enters the root by the working directory that it had
//! before the hook, which is the covered tmpfs. On failure nothing is undone: the backend ends the container's
//! first process, and the mount namespace goes with it.

mod error;
mod mounts;
mod newroot;
mod spec;

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use rustix::{
    mount::{MountFlags, MountPropagationFlags},
    process::{DumpableBehavior, Resource, Rlimit},
};
use store::{SealKey, StoreReader};
use unpack::{Limits, Unpacker};

pub use error::HookError;
use spec::{Spec, State};

/// The hook's arguments.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Args {
    store: PathBuf,
    seal_key: PathBuf,
    memory_limit_bytes: Option<u64>,
    report: Option<PathBuf>,
}

impl Args {
    /// Reads `--store DIR --seal-key FILE [--memory-limit BYTES] [--report FILE]`, without the program's name.
    ///
    /// # Errors
    /// [`HookError::Usage`].
    pub fn parse(args: impl IntoIterator<Item = std::ffi::OsString>) -> Result<Self, HookError> {
        let mut parsed = Self::default();
        let mut args = args.into_iter();
        while let Some(flag) = args.next() {
            let value = args.next().ok_or(HookError::Usage)?;
            match flag.to_str() {
                Some("--store") => parsed.store = value.into(),
                Some("--seal-key") => parsed.seal_key = value.into(),
                Some("--memory-limit") => {
                    let bytes = value.to_str().and_then(|text| text.parse().ok());
                    parsed.memory_limit_bytes = Some(bytes.ok_or(HookError::Usage)?);
                }
                Some("--report") => parsed.report = Some(value.into()),
                _ => return Err(HookError::Usage),
            }
        }
        if parsed.store.as_os_str().is_empty() || parsed.seal_key.as_os_str().is_empty() {
            return Err(HookError::Usage);
        }
        Ok(parsed)
    }

    /// Where to write the error as well: crun 1.8 drops the output of hooks.
    #[must_use]
    pub fn report(&self) -> Option<&Path> {
        self.report.as_deref()
    }
}

/// Does the hook's work; `state` is the OCI state JSON.
///
/// # Errors
/// [`HookError`]; the container must then not start, and its mount namespace is left half-built.
pub fn run(args: &Args, state: impl Read) -> Result<(), HookError> {
    keep_memory_private()?;
    let state = State::read(state)?;
    let spec = Spec::read(&state.bundle)?;

    let key = SealKey::read(&args.seal_key)?;
    let store = StoreReader::open(&args.store, &key)?;
    drop(key);
    let image_bytes = store.record().unpacked_bytes;
    if let Some(limit_bytes) = args.memory_limit_bytes.or(spec.memory_limit_bytes())
        && image_bytes > limit_bytes
    {
        return Err(HookError::Memory { image_bytes, limit_bytes });
    }

    let new_root = newroot::create(spec.mount_label())?;
    let mut unpacker = Unpacker::new(&new_root, Limits::default())?;
    for index in 0..store.record().layers.len() {
        let layer = store.layer(index)?;
        unpacker.apply(layer).map_err(|source| HookError::Layer { index, source })?;
    }
    drop((store, unpacker));

    let rootfs = spec.rootfs(&state.bundle)?;
    // Nothing that happens on it may reach the host, whatever the pod's propagation.
    rustix::mount::mount_change(&rootfs, MountPropagationFlags::PRIVATE)
        .map_err(HookError::io("make private", &rootfs))?;
    let pod_mounts = mounts::below(&rootfs)?;
    newroot::attach(&new_root, &rootfs)?;
    mounts::move_into(&new_root, pod_mounts)?;
    newroot::create_cwd(&new_root, spec.cwd());
    if spec.readonly() {
        // runc does it again after the pivot, crun 1.8 leaves it to whoever made the mount.
        rustix::mount::mount_remount(&rootfs, MountFlags::BIND | MountFlags::RDONLY, "")
            .map_err(HookError::io("make read-only", &rootfs))?;
    }
    Ok(())
}

/// Keys and the image's plaintext pass through this process: no core dump, no debugger of the same user.
fn keep_memory_private() -> Result<(), HookError> {
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .and_then(|()| rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable))
        .map_err(|error| HookError::Harden(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Option<Args> {
        Args::parse(args.iter().map(Into::into)).ok()
    }

    #[test]
    fn arguments_are_all_or_nothing() {
        let args = parse(&["--store", "/s", "--seal-key", "/k", "--memory-limit", "4096"]).unwrap();
        assert_eq!(args.store, PathBuf::from("/s"));
        assert_eq!(args.seal_key, PathBuf::from("/k"));
        assert_eq!(args.memory_limit_bytes, Some(4096));
        for bad in [
            &[][..],
            &["--store", "/s"],
            &["--store", "/s", "--seal-key"],
            &["--store", "/s", "--seal-key", "/k", "--memory-limit", "-1"],
            &["--store", "/s", "--seal-key", "/k", "--else", "1"],
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
