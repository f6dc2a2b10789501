//! Harness of the system tests: a node of one's own with containerd, a registry, CNI and a resolver.
//!
//! A run re-executes itself in new network, mount and pid namespaces ([`namespace`]), starts the daemons of
//! a [`node::Node`] there, and runs scenarios against it through containerd's CRI ([`cri`], [`pod`]), over
//! the shim's own socket ([`shim`]) and with `ctr`. After each scenario [`leak`] looks for what it left.
//! The product is known by its built binaries only; nothing here links it.
#![forbid(unsafe_code)]

pub mod container;
pub mod containerd;
pub mod cri;
pub mod daemon;
pub mod dns;
pub mod gate;
pub mod handlers;
pub mod image;
pub mod images;
pub mod leak;
pub mod namespace;
pub mod node;
pub mod pod;
pub mod prerequisites;
pub mod processes;
pub mod registry;
pub mod shim;
pub mod stream;
pub mod suite;
pub mod wait;
