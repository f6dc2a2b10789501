//! Generated code: containerd's snapshots API, and the records kept on disk.

#![allow(missing_docs, clippy::all, clippy::pedantic)]

/// containerd's packages, nested as their names are.
pub mod containerd {
    pub mod types {
        tonic::include_proto!("containerd.types");
    }
    pub mod services {
        pub mod snapshots {
            pub mod v1 {
                tonic::include_proto!("containerd.services.snapshots.v1");
            }
        }
    }
}

/// Records on disk.
pub mod state {
    tonic::include_proto!("enclavecc.snapshotter.state");
}

pub use containerd::services::snapshots::v1 as snapshots;
pub use containerd::types::Mount;
