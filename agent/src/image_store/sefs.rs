//! SEFS, Occlum's encrypted file system: the mount strings, in this one place.
//!
//! Format: `mount("sefs", TARGET, "sefs", 0, "dir=PATH[,key=xx-xx-…]")`; without a key SEFS seals with the enclave's own.

use std::{
    ffi::CString,
    io,
    path::{Path, PathBuf},
};

use rustix::mount::{MountFlags, UnmountFlags};
use zeroize::Zeroizing;

const KEY_BYTES: usize = 16;

/// The key of a SEFS as its mount option and `key.txt` write it: `xx-xx-…-xx`.
pub struct SefsKey(Zeroizing<String>);

impl SefsKey {
    /// A random key.
    ///
    /// # Errors
    /// When the kernel gives no random numbers.
    pub fn random() -> io::Result<Self> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        getrandom::fill(&mut *bytes).map_err(io::Error::other)?;
        Ok(Self::from_bytes(&bytes))
    }

    fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        // Of the final size from the start, so that no part of the key stays behind in freed memory.
        let mut text = Zeroizing::new(String::with_capacity(3 * KEY_BYTES));
        for byte in bytes {
            if !text.is_empty() {
                text.push('-');
            }
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        Self(text)
    }

    /// The content of `key.txt`.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }
}

/// One mount: its arguments.
pub struct SefsMount {
    /// Where to.
    pub target: PathBuf,
    /// The option string. It holds the key.
    pub data: Zeroizing<String>,
}

impl SefsMount {
    /// A SEFS under `key`, or sealed with the enclave's own, whose data is in `dir`.
    #[must_use]
    pub fn new(dir: &Path, key: Option<&SefsKey>, target: &Path) -> Self {
        let dir = dir.display();
        let data = match key {
            Some(key) => format!("dir={dir},key={}", key.text()),
            None => format!("dir={dir}"),
        };
        Self { target: target.to_owned(), data: Zeroizing::new(data) }
    }
}

/// The two system calls; tests record them instead.
pub trait Mounts: Send + Sync + 'static {
    /// Mounts.
    ///
    /// # Errors
    /// The kernel's.
    fn mount(&self, mount: &SefsMount) -> io::Result<()>;

    /// Unmounts.
    ///
    /// # Errors
    /// The kernel's.
    fn unmount(&self, target: &Path) -> io::Result<()>;
}

/// The kernel, which is Occlum's LibOS in modes HW and SIM.
pub struct Kernel;

impl Mounts for Kernel {
    fn mount(&self, mount: &SefsMount) -> io::Result<()> {
        let data = CString::new(mount.data.as_bytes())?;
        let mounted =
            rustix::mount::mount("sefs", &mount.target, "sefs", MountFlags::empty(), data.as_c_str());
        drop(Zeroizing::new(data.into_bytes()));
        Ok(mounted?)
    }

    fn unmount(&self, target: &Path) -> io::Result<()> {
        Ok(rustix::mount::unmount(target, UnmountFlags::empty())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_options_are_exactly_occlums() {
        let key = SefsKey::from_bytes(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xff]);
        let target = Path::new("/tmp/x");
        let keyed = SefsMount::new(Path::new("/images/a/sefs/lower"), Some(&key), target);
        assert_eq!(
            *keyed.data,
            "dir=/images/a/sefs/lower,key=00-01-02-03-04-05-06-07-08-09-0a-0b-0c-0d-0e-ff"
        );
        let sealed = SefsMount::new(Path::new("/images/a/keys/sefs/lower"), None, target);
        assert_eq!(*sealed.data, "dir=/images/a/keys/sefs/lower");
        assert_eq!(sealed.target, target);
    }

    #[test]
    fn keys_differ_and_have_sixteen_bytes() {
        let (a, b) = (SefsKey::random().unwrap(), SefsKey::random().unwrap());
        assert_eq!(a.text().split('-').filter(|byte| byte.len() == 2).count(), 16);
        assert_ne!(a.text(), b.text());
    }
}
