//! What can go wrong between shim and agent.

use std::{io, time::Duration};

use ttrpc::Code;

use crate::endpoint::Endpoint;

/// A call of the agent failed.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Nothing answers at the endpoint, the connection broke, or what answers does not speak ttrpc.
    #[error("the agent at {endpoint} cannot be reached")]
    Unreachable {
        /// Where it should listen.
        endpoint: Endpoint,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The agent does not accept our token: something else listens there, or its token is of another start.
    #[error("the agent at {endpoint} refused the pod's token: {message}")]
    Refused {
        /// Where it listens.
        endpoint: Endpoint,
        /// What it said.
        message: String,
    },
    /// The time was up.
    #[error("the agent at {endpoint} did not finish {operation} within {deadline:?}")]
    Deadline {
        /// Where it listens.
        endpoint: Endpoint,
        /// What was waited for.
        operation: String,
        /// How long.
        deadline: Duration,
        /// The last failure to connect, if that was what took the time.
        #[source]
        source: Option<io::Error>,
    },
    /// The agent answered with an error.
    #[error("the agent could not pull {image}: {message}")]
    Said {
        /// The image that was asked for.
        image: String,
        /// The error's class.
        code: Code,
        /// What it said.
        message: String,
    },
    /// The agent's answer makes no sense.
    #[error("the agent's answer for {image} is not acceptable")]
    BadAnswer {
        /// The image that was asked for.
        image: String,
        /// Why.
        #[source]
        source: BadAnswer,
    },
}

/// What is wrong with an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAnswer {
    /// It is about another image.
    #[error("it is about the image {answered:?}")]
    OtherImage {
        /// The reference in the answer, shortened.
        answered: String,
    },
    /// The digest is not `sha256:<64 hex>`, `sha384:<96>` or `sha512:<128>`.
    #[error("{digest:?} is not a digest")]
    Digest {
        /// The digest in the answer, shortened.
        digest: String,
    },
    /// The store's name does not follow from the digest.
    #[error("{store_dir:?} is not the store of {digest}")]
    StoreDir {
        /// The name in the answer, shortened.
        store_dir: String,
        /// The digest in the answer.
        digest: String,
    },
    /// The image config is too large.
    #[error("the image config has {bytes} bytes, more than the {limit} that are allowed")]
    ConfigTooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The image config is not a JSON object.
    #[error("the image config is not a JSON object: {problem}")]
    ConfigNotJson {
        /// Why not.
        problem: String,
    },
}
