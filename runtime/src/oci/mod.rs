//! The OCI backend: runc, crun or rune, each call a process of its own.
//!
//! Three files of different reasons to change: `backend` has the verbs and their arguments, `run` the life of one such
//! process (stdio, deadline, cancellation), `error` what its words mean. It must not know why a container is created.

mod backend;
mod error;
mod types;

pub use backend::Backend;
pub use error::OciError;
pub use types::{
    AfterCheckpoint, BackendConfig, BackendState, Checkpoint, ChildStdio, Create, CriuOptions, Dialect, Exec,
    Force, KillScope, Restore, Status,
};
