//! What the agent's tests share: the agent as a process, a real registry, images, a scripted registry.
#![allow(dead_code, reason = "each test program uses a part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

pub mod agent;
pub mod image;
pub mod process;
pub mod registry;
pub mod scripted;
