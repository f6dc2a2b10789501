//! Starts an app container from the store.
//!
//! Three programs, one a role, so that nothing from outside decides what a program is:
//! - `enclave-boot-hook`: OCI `createContainer` hook of mode NONE ([`hook`]),
//! - `enclave-boot-init`: `/bin/init` of the boot instance, inside Occlum ([`occlum`]),
//! - `enclave-agent-init`: `/bin/init` of the agent instance, inside Occlum ([`occlum`]).
//!
//! Knows the store and the paths it is given; nothing of pods, containerd or the agent.
#![deny(unsafe_code)]

pub mod hook;
pub mod occlum;
pub mod report;
// The one exception: Occlum's own system call has no safe wrapper.
#[allow(unsafe_code)]
mod sys;
