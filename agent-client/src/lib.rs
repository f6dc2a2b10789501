//! Client of the enclave agent: dials it over TCP or a Unix socket, from inside a network namespace
//! where that is asked for, waits until it is ready, and pulls images through it.
//!
//! The agent is not trusted: what it answers is checked before anybody uses it. This crate knows
//! nothing of containers; it is told where the agent listens.

#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

mod answer;
mod client;
mod dial;
mod endpoint;
mod error;
mod netns;

pub use answer::{MAX_IMAGE_CONFIG_BYTES, PulledImage};
pub use client::{AgentClient, PullRequest};
pub use endpoint::{Endpoint, EndpointError};
pub use error::{AgentError, BadAnswer};
pub use netns::free_port;
pub use ttrpc::Code;
