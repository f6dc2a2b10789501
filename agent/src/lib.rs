//! The enclave agent: pulls, verifies and stores images for the containers of one pod.
//!
//! ```text
//! service ──▶ pull (one job per manifest digest) ──▶ registry     manifests, blobs, credentials
//!    │          │  layer: http → digest → decompress → diff id
//!    │          └────────────────────────────────▶ image_store  none | occlum
//!    └─ token, error → ttrpc code                  (crates store, unpack)
//! ```
//! It knows nothing of the host: it sees the directory of stores, its token and its configuration files.
//!
//! # What this version does not do
//! There is neither a signature policy nor a key broker yet. Started with a decrypt config whose
//! `security_validate` is true (its default), the agent therefore refuses each pull, rather than to accept
//! what it cannot check; without a decrypt config it pulls unsigned images and warns of it at start.
//! An image with an encrypted layer is refused.

#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod digest;
pub mod error;
pub mod image_store;
pub mod pull;
pub mod registry;
pub mod service;
