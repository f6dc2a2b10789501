//! Standard streams of container processes: fifos, terminals, files, logging programs.
//!
//! Every stream is copied by a task of its own on nonblocking descriptors, so a reader that stops stops its stream only.
//! It must not know what the process is, nor when it exits.

mod error;
mod spec;
mod streams;

pub use error::IoError;
pub use spec::{Endpoint, StdioSpec};
pub use streams::{IoContext, Streams};
