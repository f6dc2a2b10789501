//! The OCI backend: runc, crun or rune, each call a process of its own.
//!
//! Three files of different reasons to change: `backend` has the verbs and their arguments, `run` the life of one such
//! process (stdio, deadline, cancellation), `words` what its messages mean. It must not know why a container is created.
//!
//! Facts of the programs (runc 1.1.5, crun 1.8.1) that shape this room:
//!
//! - `create` and `exec` let the container's process inherit their stdio, so without a terminal their stderr is not ours
//!   to read: the reason is in `log.json` alone. crun reports what fails before it reads the config (a missing bundle, an
//!   unknown verb) on stderr only, so there it is lost to the container's stderr and the message names the exit code.
//! - A hook's stderr is in runc's message; crun gives hooks the container's stderr, unless the annotation
//!   `run.oci.hooks.stderr` names a file.
//! - crun's `kill` succeeds for a process that has ended, its `ps` crashes for a stopped container, and Debian's crun has
//!   neither `features` nor `checkpoint`.
//! - A backend that is killed in the middle of `create` leaves its init to die of the closed pipe, a directory of state,
//!   which `delete --force` removes, and the cgroup, which it does not, for no state names it yet: the caller removes it.

mod backend;
mod error;
mod null;
mod run;
mod types;
mod words;

#[cfg(test)]
mod tests;

pub use backend::Backend;
pub use error::OciError;
pub use types::{
    AfterCheckpoint, BackendConfig, BackendState, Checkpoint, ChildStdio, Create, CriuOptions, Dialect, Exec,
    Force, KillScope, Restore, Status,
};
