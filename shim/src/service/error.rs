//! The one mapping from what can go wrong to the codes that containerd understands.

use std::error::Error as StdError;

use agent_client::AgentError;
use runtime::{container::ContainerError, io::IoError, oci::OciError};
use thiserror::Error;
use ttrpc::{Code, get_status};

use crate::{pod::PodError, service::options::OptionsError, tasks::TableError};

/// Why a request failed.
#[derive(Debug, Error)]
pub enum Error {
    /// The request makes no sense.
    #[error("{field} of the request: {reason}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The options cannot be used.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The id has no container, or has one already.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The container refused or failed.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// The container could not be created or torn down.
    #[error(transparent)]
    Pod(#[from] PodError),
    /// The stdio cannot be used.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A failure, and another one while it was being undone.
    #[error("{first}; undoing it also failed: {undo}", first = chain(first), undo = chain(undo))]
    Undo {
        /// The failure.
        first: Box<Error>,
        /// What could not be undone.
        undo: Box<PodError>,
    },
}

impl Error {
    /// A field that cannot be used.
    pub fn invalid(field: &'static str, reason: impl ToString) -> Self {
        Error::Invalid { field, reason: reason.to_string() }
    }

    fn code(&self) -> Code {
        match self {
            Error::Invalid { .. } | Error::Options(_) => Code::INVALID_ARGUMENT,
            Error::Table(TableError::NotFound(_)) => Code::NOT_FOUND,
            Error::Table(TableError::AlreadyExists(_)) => Code::ALREADY_EXISTS,
            Error::Container(error) => container_code(error),
            Error::Pod(error) => pod_code(error),
            Error::Io(error) => io_code(error),
            Error::Undo { first, .. } => first.code(),
        }
    }
}

fn container_code(error: &ContainerError) -> Code {
    match error {
        ContainerError::Illegal { .. } => Code::FAILED_PRECONDITION,
        ContainerError::NoSuchProcess { .. } | ContainerError::NotRunning { .. } => Code::NOT_FOUND,
        ContainerError::ProcessExists { .. } => Code::ALREADY_EXISTS,
        ContainerError::ExitDeadline { .. } => Code::DEADLINE_EXCEEDED,
        ContainerError::Backend(error) => backend_code(error),
        ContainerError::Io(error) => io_code(error),
        ContainerError::Process(_) | ContainerError::Cgroup { .. } | ContainerError::Scratch { .. } => {
            Code::UNKNOWN
        }
    }
}

fn backend_code(error: &OciError) -> Code {
    match error {
        OciError::NotFound { .. } | OciError::NotRunning { .. } => Code::NOT_FOUND,
        OciError::AlreadyExists { .. } => Code::ALREADY_EXISTS,
        OciError::Deadline { .. } => Code::DEADLINE_EXCEEDED,
        OciError::Unsupported { .. } => Code::UNIMPLEMENTED,
        // The Go shim answers a backend's failure as unknown.
        OciError::Spawn { .. }
        | OciError::Prepare { .. }
        | OciError::Failed { .. }
        | OciError::Output { .. } => Code::UNKNOWN,
    }
}

fn io_code(error: &IoError) -> Code {
    match error {
        IoError::BadUri { .. } => Code::INVALID_ARGUMENT,
        IoError::ConsoleDeadline { .. } | IoError::LoggerDeadline { .. } => Code::DEADLINE_EXCEEDED,
        _ => Code::UNKNOWN,
    }
}

fn pod_code(error: &PodError) -> Code {
    match error {
        PodError::Plan(_) => Code::INVALID_ARGUMENT,
        PodError::NotConfidential(_) => Code::UNIMPLEMENTED,
        PodError::Cancelled { .. } => Code::CANCELLED,
        PodError::NoSandbox => Code::FAILED_PRECONDITION,
        PodError::Agent(error) => agent_code(error),
        PodError::AgentDown { .. } => Code::UNAVAILABLE,
        PodError::AgentDeadline { .. } | PodError::PullDeadline { .. } => Code::DEADLINE_EXCEEDED,
        PodError::Container(error) | PodError::Boot { source: error, .. } => container_code(error),
        PodError::Backend(error) => backend_code(error),
        PodError::Bundle(_)
        | PodError::AgentBundle { .. }
        | PodError::Mount(_)
        | PodError::Cgroup(_)
        | PodError::State(_)
        | PodError::Paths(_)
        | PodError::Image { .. }
        | PodError::File { .. }
        | PodError::Setup(_) => Code::UNKNOWN,
    }
}

fn agent_code(error: &AgentError) -> Code {
    match error {
        AgentError::Unreachable { .. } => Code::UNAVAILABLE,
        AgentError::Refused { .. } => Code::PERMISSION_DENIED,
        AgentError::Deadline { .. } => Code::DEADLINE_EXCEEDED,
        AgentError::Said { code, .. } => *code,
        AgentError::BadAnswer { .. } => Code::INTERNAL,
    }
}

/// An error with all its sources in one line.
pub fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // A transparent wrapper shows what it wraps.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

impl From<Error> for ttrpc::Error {
    fn from(error: Error) -> Self {
        ttrpc::Error::RpcStatus(get_status(error.code(), chain(&error)))
    }
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, time::Duration};

    use super::*;

    #[test]
    fn each_kind_of_failure_has_the_code_that_containerd_acts_on() {
        let id = || "c".to_owned();
        let backend = |e: OciError| Error::Container(ContainerError::Backend(e));
        let (operation, message) = ("start", String::new());
        let table: Vec<(Error, Code)> = vec![
            (Error::invalid("id", "empty"), Code::INVALID_ARGUMENT),
            (TableError::NotFound(id()).into(), Code::NOT_FOUND),
            (TableError::AlreadyExists(id()).into(), Code::ALREADY_EXISTS),
            (ContainerError::NotRunning { id: id() }.into(), Code::NOT_FOUND),
            (ContainerError::ProcessExists { id: id(), exec_id: id() }.into(), Code::ALREADY_EXISTS),
            (backend(OciError::NotFound { operation, id: id(), message: message.clone() }), Code::NOT_FOUND),
            (backend(OciError::NotRunning { operation, id: id(), message }), Code::NOT_FOUND),
            (
                backend(OciError::Deadline { operation, id: id(), after: Duration::from_secs(1) }),
                Code::DEADLINE_EXCEEDED,
            ),
            (PodError::NoSandbox.into(), Code::FAILED_PRECONDITION),
            (
                Error::Undo {
                    first: Box::new(TableError::AlreadyExists(id()).into()),
                    undo: Box::new(PodError::NoSandbox),
                },
                Code::ALREADY_EXISTS,
            ),
        ];
        for (error, code) in table {
            assert_eq!(error.code(), code, "{error}");
        }
    }

    #[test]
    fn the_text_of_an_error_has_all_its_sources_once() {
        let io = std::io::Error::from_raw_os_error(2);
        let error = Error::Io(IoError::Open { path: PathBuf::from("/f"), source: io });
        assert_eq!(chain(&error), "opening /f: No such file or directory (os error 2)");
    }
}
