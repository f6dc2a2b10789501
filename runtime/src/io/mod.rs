//! Standard streams of container processes: fifos, terminals, files, logging programs.
//!
//! ```text
//!   client's fifo ─▶ copy ─▶ pipe ─▶ process ─▶ pipe ─▶ copy ─▶ fifo or file      without a terminal
//!   client's fifo ─▶ copy ─▶ master ⇄ process;   master ─▶ copy ─▶ fifo, file or logger      with one
//!                                    process ─▶ pipe ─▶ logger                    `binary://`, nothing is copied
//! ```
//!
//! Every copy is a task of its own on nonblocking descriptors, so a reader that stops reading stops its stream only, and
//! then the process that writes to it, as a pipe would. Memory is one buffer for each stream that is moving.
//!
//! A client that restarts finds its fifos as it left them: the reading and the writing end that we hold keep them from
//! ending. For stdin that means that only [`Streams::close_stdin`] lets it end.
//!
//! It must not know what the process is, nor when it exits.

mod console;
mod copy;
mod error;
mod logger;
mod open;
mod spec;
mod streams;

#[cfg(test)]
mod tests;

pub use error::IoError;
pub use spec::{Endpoint, StdioSpec};
pub use streams::{IoContext, Streams};
