//! Exits of children and signals to them: `waitid` and `pidfd_send_signal`.
//!
//! nix and rustix do not serve here: nix fails with `EINVAL` for a child that a real-time signal killed (and tells no
//! pid then), rustix keeps the pid of the `siginfo` to itself, and neither sends real-time signals through a pidfd.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

/// A child that has exited, as `waitid` describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChildExit {
    /// The child's pid in this process's PID namespace.
    pub pid: i32,
    /// How it ended.
    pub end: ChildEnd,
}

/// The two ways in which a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChildEnd {
    /// It called `exit` with this status.
    Exited(i32),
    /// This signal killed it.
    Killed(i32),
}

/// Finds a child that has exited, any one, and leaves it to be consumed. `None`: no child has exited, or there is none.
pub(crate) fn peek_any() -> io::Result<Option<ChildExit>> {
    match waitid(libc::P_ALL, 0, libc::WNOWAIT) {
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Ok(None),
        other => other,
    }
}

/// Whether `pid` has exited, without consuming it. `ECHILD`: it is not a child of this process.
pub(crate) fn peek(pid: i32) -> io::Result<Option<ChildExit>> {
    waitid(libc::P_PID, pid, libc::WNOWAIT)
}

/// Consumes the exit of the child `pid`, after which its pid can be used again by the kernel.
pub(crate) fn consume(pid: i32) -> io::Result<Option<ChildExit>> {
    waitid(libc::P_PID, pid, 0)
}

fn waitid(id_type: libc::idtype_t, id: i32, extra: libc::c_int) -> io::Result<Option<ChildExit>> {
    let id = libc::id_t::try_from(id).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    loop {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        // SAFETY: `info` is a live, writable siginfo_t, which the kernel only writes during the call.
        let rc =
            unsafe { libc::waitid(id_type, id, info.as_mut_ptr(), libc::WEXITED | libc::WNOHANG | extra) };
        if rc != 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        // SAFETY: all zero bytes are a valid siginfo_t, and the kernel has at most filled it in.
        let info = unsafe { info.assume_init() };
        // SAFETY: after waitid with WEXITED the siginfo holds the SIGCHLD members; with nothing to report it is still
        // zeroed (waitid(2) asks for that), and zero is a valid pid_t and int.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        if pid == 0 {
            return Ok(None);
        }
        let end = if info.si_code == libc::CLD_EXITED {
            ChildEnd::Exited(status)
        } else {
            ChildEnd::Killed(status)
        };
        return Ok(Some(ChildExit { pid, end }));
    }
}

/// Sends any signal number, real-time ones and 0 included, to the process that `pidfd` refers to.
pub(crate) fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is open for the length of the call, a null siginfo is allowed, flags must be 0.
    let rc = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, no_info, 0) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
