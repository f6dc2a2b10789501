//! Generated ttrpc code: the agent's service and the shim's Image service.

/// `grpc.Image`, served by the enclave agent.
pub mod agent {
    #![allow(missing_docs, warnings, clippy::all)]
    mod generated {
        include!(concat!(env!("OUT_DIR"), "/image/mod.rs"));
    }
    pub use generated::image::*;
    pub use generated::image_ttrpc::*;
}

/// `containerd.task.v2.Image`, served by the shim for the confidential-containers fork of containerd.
pub mod shim_image {
    #![allow(missing_docs, warnings, clippy::all)]
    mod generated {
        include!(concat!(env!("OUT_DIR"), "/shim_image/mod.rs"));
    }
    pub use generated::shim_image::*;
    pub use generated::shim_image_ttrpc::*;
}

/// `runtimeoptions.v1.Options`, containerd's options for runtime types that are not its own.
pub mod runtimeoptions {
    #![allow(missing_docs, warnings, clippy::all)]
    mod generated {
        include!(concat!(env!("OUT_DIR"), "/runtimeoptions/mod.rs"));
    }
    pub use generated::runtimeoptions::*;
}
