//! `/bin/init` of the two Occlum instances: what runs first inside the LibOS and mounts the root for the program.
//!
//! The container around the boot instance has the image's store over it, so the paths below `/keys` and `/sefs` are
//! those of the store (formats of the agent's Occlum store). The key lies in a SEFS that is sealed with the enclave's own
//! key, so any enclave of the same signer reads it and nobody else does.

use std::{fs, io, path::Path};

use rustix::mount::{MountFlags, UnmountFlags};
use zeroize::Zeroizing;

use crate::sys::{self, UserRootfs};

/// Free in the LibOS before the user's root is mounted.
const KEY_MOUNT: &str = "/tmp";
const KEY_FILE: &str = "/tmp/key.txt";

/// Why the user's root could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The sealed file system with the key cannot be mounted.
    #[error("cannot mount the sealed key store /keys/sefs/lower at /tmp")]
    MountKeys(#[source] io::Error),
    /// The key cannot be read.
    #[error("cannot read the image key /tmp/key.txt of the key store")]
    ReadKey(#[source] io::Error),
    /// The key file holds something else.
    #[error("the image key /tmp/key.txt of the key store is not 16 hexadecimal bytes joined by \"-\"")]
    Key,
    /// The key store cannot be unmounted.
    #[error("cannot unmount the sealed key store from /tmp")]
    UnmountKeys(#[source] io::Error),
    /// Occlum refused the root.
    #[error("Occlum cannot mount the root file system (system call 363)")]
    MountRoot(#[source] io::Error),
}

/// Boots an app: unseals the image key and mounts the image as root.
///
/// # Errors
/// [`InitError`]; Occlum then starts no program.
pub fn boot_app() -> Result<(), InitError> {
    let key = image_key()?;
    // The image policy (entry point, arguments and environment of the image itself) is not sealed by the agent yet.
    let root = UserRootfs {
        upper_layer: c"/sefs/upper",
        lower_layer: c"/sefs/lower",
        entry_point: c"/",
        hostfs_source: c"/tmp",
        env: &[],
    };
    sys::mount_user_root(&key, &root).map_err(InitError::MountRoot)
}

/// Boots the agent: mounts what its instance's configuration names.
///
/// # Errors
/// [`InitError::MountRoot`].
pub fn boot_agent() -> Result<(), InitError> {
    sys::mount_configured_root().map_err(InitError::MountRoot)
}

fn image_key() -> Result<Zeroizing<[u8; 16]>, InitError> {
    rustix::mount::mount("sefs", KEY_MOUNT, "sefs", MountFlags::empty(), c"dir=/keys/sefs/lower")
        .map_err(|error| InitError::MountKeys(error.into()))?;
    let text = fs::read_to_string(Path::new(KEY_FILE)).map(Zeroizing::new);
    // First of all away with it, also when it could not be read: the program must not see it.
    let unmounted = rustix::mount::unmount(KEY_MOUNT, UnmountFlags::empty());
    let text = text.map_err(InitError::ReadKey)?;
    unmounted.map_err(|error| InitError::UnmountKeys(error.into()))?;
    parse_key(text.trim_end_matches(['\r', '\n'])).ok_or(InitError::Key)
}

/// `xx-xx-…-xx`, 16 bytes.
fn parse_key(text: &str) -> Option<Zeroizing<[u8; 16]>> {
    let mut key = Zeroizing::new([0; 16]);
    let mut parts = text.split('-');
    for byte in key.iter_mut() {
        let part = parts.next()?;
        // from_str_radix would take a sign.
        if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_sixteen_hexadecimal_bytes() {
        let good = "00-01-02-03-04-05-06-07-08-09-0a-0b-0c-0d-0E-ff";
        let key = parse_key(good).unwrap();
        assert_eq!(*key, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255]);
        for bad in [
            "",
            "00",
            &good[3..],
            &format!("{good}-00"),
            &format!("{good}-"),
            &good.replace("-05", "-+5"),
            &good.replace("-05", "-5"),
            &good.replace("-05", "-x5"),
            &good.replace('-', ":"),
        ] {
            assert!(parse_key(bad).is_none(), "{bad:?}");
        }
    }
}
