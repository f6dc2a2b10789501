//! What a child process does between `fork` and `exec`.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Lets the kernel kill the child with SIGKILL when the thread that spawned it ends.
///
/// The setting is the child's alone: its own children do not inherit it. With a single-threaded runtime the thread
/// is the process. A parent that dies before the child has said so is noticed as well.
pub(crate) fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    // SAFETY: the closure runs in the forked child and only makes the async-signal-safe calls prctl and getppid; it
    // touches no memory but its own copy of an integer.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            if u32::try_from(libc::getppid()) != Ok(parent) {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        });
    }
}

/// Gives the child `fds[i]` as its descriptor `first + i`. The command owns them from now on; `first` is above 2.
pub(crate) fn inherit_fds(command: &mut Command, first: RawFd, fds: Vec<OwnedFd>) {
    // SAFETY: the closure runs in the forked child and only makes the async-signal-safe calls fcntl, dup2 and close
    // on descriptors that it owns; the array it writes was allocated before the fork.
    unsafe {
        let mut lifted: Vec<RawFd> = vec![-1; fds.len()];
        command.pre_exec(move || {
            // First out of the way of all targets, so that no dup2 overwrites a source that is still needed.
            let above = first.saturating_add(RawFd::try_from(fds.len()).unwrap_or(RawFd::MAX));
            for (slot, fd) in lifted.iter_mut().zip(&fds) {
                *slot = libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, above);
                if *slot < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            for (target, fd) in (first..).zip(&lifted) {
                // dup2 leaves close-on-exec off. std has set up 0, 1 and 2 by now. Its pipe for a failed exec must not be
                // at a target, and is not: the runtime's descriptors and the sources themselves are lower.
                if libc::dup2(*fd, target) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
}
