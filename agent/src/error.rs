//! Why a pull failed, and which ttrpc code says so.
//!
//! An error is cloned to every caller that waits for the same pull, so sources are shared.

use std::{fmt, io, path::PathBuf, sync::Arc, time::Duration};

use ttrpc::Code;

/// An error from below, shared by all callers of one pull.
pub type Shared = Arc<dyn std::error::Error + Send + Sync>;

/// A failed pull.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The call does not carry the pod's token.
    #[error("the call is refused: it does not carry this pod's token")]
    Token,
    /// The text is no image reference.
    #[error("{reference:?} is not an image reference: {reason}")]
    Reference {
        /// As it was given.
        reference: String,
        /// What is wrong with it.
        reason: String,
    },
    /// `source_creds` is not `USER[:PASSWORD]`.
    #[error("the credentials of the call are not USER[:PASSWORD]")]
    SourceCredentials,
    /// The registry has no such thing.
    #[error("not found: {url} answers {status}{detail}")]
    NotFound {
        /// What was asked for.
        url: String,
        /// HTTP status.
        status: u16,
        /// The registry's words, or nothing.
        detail: Detail,
    },
    /// The image exists, for other platforms.
    #[error("{image} has no variant for {wanted}; it has {found}")]
    Platform {
        /// The image.
        image: String,
        /// This machine's platform.
        wanted: String,
        /// What there is.
        found: String,
    },
    /// The registry refuses access.
    #[error("access denied by {url}: {reason}")]
    Denied {
        /// What was asked for.
        url: String,
        /// The registry's reason or ours.
        reason: String,
    },
    /// The policy forbids the image.
    #[error("{image} is refused: {reason}")]
    Policy {
        /// The image.
        image: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The image is encrypted and nobody gives keys.
    #[error(
        "{image} is encrypted (layer {layer}) and no key broker is available in this version of the agent"
    )]
    Encrypted {
        /// The image.
        image: String,
        /// Digest of the first encrypted layer.
        layer: String,
    },
    /// No answer could be had from the registry, after retries.
    #[error("{url} cannot be reached ({attempts} attempts)")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// How often it was tried.
        attempts: u32,
        /// The last failure.
        #[source]
        source: Shared,
    },
    /// The registry answers with an error of its own, after retries.
    #[error("{url} answers {status}{detail} ({attempts} attempts)")]
    Registry {
        /// What was asked for.
        url: String,
        /// HTTP status.
        status: u16,
        /// How often it was tried.
        attempts: u32,
        /// The registry's words, or nothing.
        detail: Detail,
    },
    /// The pull takes too long.
    #[error("the pull of {image} is not done after {} s (--{flag})", after.as_secs())]
    Deadline {
        /// The image.
        image: String,
        /// The limit.
        after: Duration,
        /// The option that sets it.
        flag: &'static str,
    },
    /// Of a kind that the agent cannot handle.
    #[error("{what} is of the unsupported type {media_type:?}")]
    Unsupported {
        /// The object.
        what: String,
        /// Its media type.
        media_type: String,
    },
    /// The content is not what its name promises.
    #[error("digest mismatch: {what} has {actual}, not {expected}")]
    Digest {
        /// The object.
        what: String,
        /// The digest promised.
        expected: String,
        /// The digest it has.
        actual: String,
    },
    /// The content contradicts its format.
    #[error("{what} is malformed: {reason}")]
    Malformed {
        /// The object.
        what: String,
        /// In what.
        reason: String,
    },
    /// A layer's archive cannot be applied.
    #[error("layer {digest} cannot be applied")]
    Layer {
        /// Digest of the layer.
        digest: String,
        /// What is wrong with it.
        #[source]
        source: Arc<unpack::UnpackError>,
    },
    /// More than the agent accepts.
    #[error("{what} is larger than the limit of {limit_bytes} bytes{hint}")]
    TooLarge {
        /// The object.
        what: String,
        /// The limit.
        limit_bytes: u64,
        /// How to raise it, or nothing.
        hint: &'static str,
    },
    /// The disk below the stores is full.
    #[error("disk full: {} has {available_bytes} of {total_bytes} bytes left", path.display())]
    DiskFull {
        /// The directory of the stores.
        path: PathBuf,
        /// Free space, after the failed pull's data.
        available_bytes: u64,
        /// Size of the file system.
        total_bytes: u64,
        /// The failed operation.
        #[source]
        source: Shared,
    },
    /// The store cannot be written.
    #[error("the image cannot be stored")]
    Store(#[source] Arc<store::StoreError>),
    /// An operation on a path failed.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// The path.
        path: PathBuf,
        /// The operating system's answer.
        #[source]
        source: Arc<io::Error>,
    },
    /// The agent stops, or the pull's task died.
    #[error("the pull was interrupted, the agent is stopping")]
    Interrupted,
}

impl Error {
    pub(crate) fn io(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { operation, path, source: Arc::new(source) }
    }

    /// The code that a caller of the service sees.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Error::Token => Code::UNAUTHENTICATED,
            Error::Reference { .. } | Error::SourceCredentials => Code::INVALID_ARGUMENT,
            Error::NotFound { .. } | Error::Platform { .. } => Code::NOT_FOUND,
            Error::Denied { .. } | Error::Policy { .. } | Error::Encrypted { .. } => Code::PERMISSION_DENIED,
            Error::Unreachable { .. } | Error::Registry { .. } | Error::Interrupted => Code::UNAVAILABLE,
            Error::Deadline { .. } => Code::DEADLINE_EXCEEDED,
            Error::Unsupported { .. } => Code::UNIMPLEMENTED,
            Error::Layer { source, .. } if !is_archives_fault(source) => Code::INTERNAL,
            Error::Digest { .. } | Error::Malformed { .. } | Error::Layer { .. } => Code::DATA_LOSS,
            Error::TooLarge { .. } | Error::DiskFull { .. } => Code::RESOURCE_EXHAUSTED,
            Error::Io { source, .. }
                if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
            {
                Code::RESOURCE_EXHAUSTED
            }
            Error::Store(_) | Error::Io { .. } => Code::INTERNAL,
        }
    }

    /// The error and its sources in one line.
    #[must_use]
    pub fn chain(&self) -> String {
        chain(self)
    }
}

/// Whether the layer itself is wrong, and not the file system it is applied to.
fn is_archives_fault(error: &unpack::UnpackError) -> bool {
    use unpack::UnpackError::{Apply, Root};
    !matches!(error, Apply { .. } | Root { .. })
}

/// An error and its sources in one line, without repetition.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    one_line(&text, 2048)
}

/// Something that a registry said: one line of limited length, or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Detail(String);

impl Detail {
    /// Takes the registry's words.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(one_line(text.trim(), 300))
    }
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " ({})", self.0) }
    }
}

/// Keeps foreign text from forging log lines.
fn one_line(text: &str, max_chars: usize) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(max_chars).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> String {
        "x".to_owned()
    }

    fn shared() -> Shared {
        Arc::new(io::Error::other("below"))
    }

    #[test]
    fn every_error_has_its_code() {
        let table = [
            (Error::Token, Code::UNAUTHENTICATED),
            (Error::Reference { reference: text(), reason: text() }, Code::INVALID_ARGUMENT),
            (Error::SourceCredentials, Code::INVALID_ARGUMENT),
            (Error::NotFound { url: text(), status: 404, detail: Detail::default() }, Code::NOT_FOUND),
            (Error::Platform { image: text(), wanted: text(), found: text() }, Code::NOT_FOUND),
            (Error::Denied { url: text(), reason: text() }, Code::PERMISSION_DENIED),
            (Error::Policy { image: text(), reason: text() }, Code::PERMISSION_DENIED),
            (Error::Encrypted { image: text(), layer: text() }, Code::PERMISSION_DENIED),
            (Error::Unreachable { url: text(), attempts: 1, source: shared() }, Code::UNAVAILABLE),
            (
                Error::Registry { url: text(), status: 500, attempts: 1, detail: Detail::default() },
                Code::UNAVAILABLE,
            ),
            (
                Error::Deadline { image: text(), after: Duration::from_secs(1), flag: "pull-timeout-secs" },
                Code::DEADLINE_EXCEEDED,
            ),
            (Error::Unsupported { what: text(), media_type: text() }, Code::UNIMPLEMENTED),
            (Error::Digest { what: text(), expected: text(), actual: text() }, Code::DATA_LOSS),
            (Error::Malformed { what: text(), reason: text() }, Code::DATA_LOSS),
            (
                Error::Layer {
                    digest: text(),
                    source: Arc::new(unpack::UnpackError::Read(io::Error::other("below"))),
                },
                Code::DATA_LOSS,
            ),
            (Error::TooLarge { what: text(), limit_bytes: 1, hint: "" }, Code::RESOURCE_EXHAUSTED),
            (
                Error::DiskFull {
                    path: PathBuf::new(),
                    available_bytes: 0,
                    total_bytes: 1,
                    source: shared(),
                },
                Code::RESOURCE_EXHAUSTED,
            ),
            (Error::Store(Arc::new(store::StoreError::Missing { path: PathBuf::new() })), Code::INTERNAL),
            (Error::io("mount", "/x")(io::Error::other("below")), Code::INTERNAL),
            (Error::io("write", "/x")(io::ErrorKind::StorageFull.into()), Code::RESOURCE_EXHAUSTED),
            (Error::Interrupted, Code::UNAVAILABLE),
        ];
        for (error, code) in table {
            assert_eq!(error.code(), code, "{error:?}");
        }
    }

    #[test]
    fn a_chain_names_each_source_once_and_is_one_line() {
        let error = Error::Unreachable { url: "http://r/v2/".to_owned(), attempts: 3, source: shared() };
        assert_eq!(error.chain(), "http://r/v2/ cannot be reached (3 attempts): below");
        let error = Error::Registry {
            url: "u".to_owned(),
            status: 500,
            attempts: 1,
            detail: Detail::new("a\nforged line"),
        };
        assert_eq!(error.chain(), "u answers 500 (a forged line) (1 attempts)");
    }
}
