//! Mechanism of a container runtime shim: OCI backends, bundles, mounts, stdio, processes, cgroups.
//!
//! Everything in here would exist for plain runc as well. It knows nothing of enclaves, of CRI annotations or of
//! containerd's RPC. `unsafe` lives in `sys` only.

pub mod bundle;
pub mod cgroup;
pub mod container;
pub mod io;
pub mod mount;
pub mod oci;
pub mod process;
mod sys;
