//! A containerd proxy snapshotter that leaves image layers to the enclave.
//!
//! ```text
//! containerd ──gRPC──▶ service ─▶ snapshots ─▶ store   names, parents, labels; memory, journal, redb
//!                    (translation)  (rules)  ├▶ disk    directories with files
//!                                            ├▶ mounts  pure: what containerd is told to mount
//!                                            └▶ volume  pure: what the shim is told of the image
//! ```
//! containerd asks for one snapshot per image layer before it fetches the layer, naming what it wants in the
//! label [`snapshots::SNAPSHOT_REF`]. Those are committed at once, empty, and the answer "already exists"
//! keeps containerd from fetching the layer. A container's snapshot on top of them is an empty directory whose
//! mount carries reference and digest of the image in an option that the kernel ignores. Everything else,
//! layers that containerd does unpack included, is an ordinary overlay snapshot.
//!
//! This crate knows nothing of the agent, the shim, pods or containerd's own database.

#![forbid(unsafe_code)]

pub mod api;
pub mod disk;
pub mod error;
pub mod filter;
pub mod mounts;
pub mod service;
pub mod snapshot;
pub mod snapshots;
pub mod socket;
pub mod store;
pub mod volume;
