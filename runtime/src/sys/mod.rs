//! The system calls that no safe wrapper offers: the only home of `unsafe` in this crate.
//!
//! What rustix or nix can do is called from the rooms directly. Nothing here knows of containers.

pub(crate) mod child;
pub(crate) mod poll;
pub(crate) mod wait;
