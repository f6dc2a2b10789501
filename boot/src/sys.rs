//! The system call that only Occlum has.

use std::{
    ffi::{CStr, CString, c_char},
    io, ptr,
};

/// `SYS_MOUNT_FS`: Occlum mounts the file system of the user's image over that of the init process.
const SYS_MOUNT_FS: libc::c_long = 363;

/// Where Occlum finds the user's root; it copies what it needs during the call.
pub(crate) struct UserRootfs<'a> {
    pub(crate) upper_layer: &'a CStr,
    pub(crate) lower_layer: &'a CStr,
    /// Executables outside of it cannot be started.
    pub(crate) entry_point: &'a CStr,
    /// Directory of the container that the enclave sees at `/host`.
    pub(crate) hostfs_source: &'a CStr,
    /// `NAME=value`, trusted, merged over the defaults.
    pub(crate) env: &'a [CString],
}

/// `user_rootfs_config` of Occlum (`src/libos/src/config.rs`).
#[repr(C)]
struct UserRootfsConfig {
    len: usize,
    upper_layer_path: *const c_char,
    lower_layer_path: *const c_char,
    entry_point: *const c_char,
    hostfs_source: *const c_char,
    /// Null means `/host`.
    hostfs_target: *const c_char,
    envp: *const *const c_char,
}

const _: () = assert!(size_of::<UserRootfsConfig>() == 56, "Occlum expects 56 bytes");

/// Mounts the file systems that the instance's own configuration names, as an instance without a user's image does.
pub(crate) fn mount_configured_root() -> io::Result<()> {
    // SAFETY: the call takes null for "no key" and "no user's root" and dereferences neither.
    let result =
        unsafe { libc::syscall(SYS_MOUNT_FS, ptr::null::<[u8; 16]>(), ptr::null::<UserRootfsConfig>()) };
    outcome(result)
}

/// Mounts the user's root, decrypted with `key`.
pub(crate) fn mount_user_root(key: &[u8; 16], root: &UserRootfs<'_>) -> io::Result<()> {
    let envp: Vec<*const c_char> =
        root.env.iter().map(|variable| variable.as_ptr()).chain([ptr::null()]).collect();
    let config = UserRootfsConfig {
        len: size_of::<UserRootfsConfig>(),
        upper_layer_path: root.upper_layer.as_ptr(),
        lower_layer_path: root.lower_layer.as_ptr(),
        entry_point: root.entry_point.as_ptr(),
        hostfs_source: root.hostfs_source.as_ptr(),
        hostfs_target: ptr::null(),
        envp: envp.as_ptr(),
    };
    // SAFETY: `key` and `config` are valid for reads of 16 and 56 bytes, all strings in it end with NUL and `envp` with
    // null; all of them are borrowed or owned until after the call, which only reads them and keeps no pointer. A kernel without
    // the call answers ENOSYS. No other thread has access to them.
    let result = unsafe { libc::syscall(SYS_MOUNT_FS, ptr::from_ref(key), ptr::from_ref(&config)) };
    outcome(result)
}

fn outcome(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
