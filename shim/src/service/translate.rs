//! containerd's messages to checked values and back.

use std::{
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use containerd_shim_protos::{
    api::{CreateTaskRequest, ExecProcessRequest, Mount as ApiMount, StateResponse, Status},
    events::task::{TaskCreate, TaskIO},
    protobuf::{EnumOrUnknown, MessageField, well_known_types::timestamp::Timestamp},
};
use layout::Identifier;
use runtime::{
    bundle::BundlePath,
    container::{ProcessView, State},
    io::{Endpoint, StdioSpec},
    mount::Mount,
    process::Pid,
};

use super::{Error, options::Options};

/// A container that is to be created.
pub struct CreateRequest {
    /// Its id.
    pub id: Identifier,
    /// Its bundle.
    pub bundle: BundlePath,
    /// The mounts that make up its root file system, when the host made one.
    pub rootfs: Vec<Mount>,
    /// Its stdio.
    pub stdio: StdioSpec,
    /// The checkpoint to restore from.
    pub checkpoint: Option<PathBuf>,
    /// The runtime options.
    pub options: Options,
    /// The event that tells of the creation, the pid left out.
    pub event: TaskCreate,
}

impl CreateRequest {
    /// Checks a request.
    ///
    /// # Errors
    /// The field that makes no sense.
    pub fn check(request: CreateTaskRequest) -> Result<Self, Error> {
        let event = TaskCreate {
            container_id: request.id.clone(),
            bundle: request.bundle.clone(),
            rootfs: request.rootfs.clone(),
            io: MessageField::some(TaskIO {
                stdin: request.stdin.clone(),
                stdout: request.stdout.clone(),
                stderr: request.stderr.clone(),
                terminal: request.terminal,
                ..Default::default()
            }),
            checkpoint: request.checkpoint.clone(),
            ..Default::default()
        };
        Ok(CreateRequest {
            id: identifier("id", request.id)?,
            bundle: BundlePath::new(request.bundle).map_err(|e| Error::invalid("bundle", e))?,
            rootfs: request.rootfs.into_iter().map(mount).collect(),
            stdio: StdioSpec::parse(request.terminal, &request.stdin, &request.stdout, &request.stderr)?,
            checkpoint: Some(PathBuf::from(request.checkpoint)).filter(|path| !path.as_os_str().is_empty()),
            options: Options::decode(request.options.as_ref())?,
            event,
        })
    }
}

/// A process that is to be added to a container.
pub struct ExecRequest {
    /// Its id.
    pub exec_id: Identifier,
    /// Its stdio.
    pub stdio: StdioSpec,
    /// The runtime specification's `process`, as JSON.
    pub process: Vec<u8>,
}

impl ExecRequest {
    /// Checks a request.
    ///
    /// # Errors
    /// The field that makes no sense.
    pub fn check(request: ExecProcessRequest) -> Result<Self, Error> {
        Ok(ExecRequest {
            exec_id: identifier("exec_id", request.exec_id)?,
            stdio: StdioSpec::parse(request.terminal, &request.stdin, &request.stdout, &request.stderr)?,
            process: exec_process(request.spec.value.clone(), request.terminal)?,
        })
    }
}

/// The request says whether there is a terminal; the process must not say otherwise.
fn exec_process(json: Vec<u8>, terminal: bool) -> Result<Vec<u8>, Error> {
    let invalid = |e: serde_json::Error| Error::invalid("spec", e);
    let mut process: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&json).map_err(invalid)?;
    process.insert("terminal".to_owned(), terminal.into());
    serde_json::to_vec(&process).map_err(invalid)
}

/// An id of containerd's form.
///
/// # Errors
/// The field and what is wrong with it.
pub fn identifier(field: &'static str, id: String) -> Result<Identifier, Error> {
    Identifier::new(id).map_err(|e| Error::invalid(field, e))
}

/// An exec id; the empty one stands for init.
pub fn exec_id(id: &str) -> Option<&str> {
    Some(id).filter(|id| !id.is_empty())
}

fn mount(mount: ApiMount) -> Mount {
    Mount {
        kind: mount.type_,
        source: mount.source,
        target: Some(mount.target).filter(|target| !target.is_empty()),
        options: mount.options,
    }
}

/// A time as protobuf has it; one before 1970 is 1970.
pub fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
        ..Default::default()
    }
}

/// The answer to `State`.
pub fn state_response(id: &str, exec_id: &str, bundle: String, view: &ProcessView) -> StateResponse {
    let [stdin, stdout, stderr] = [&view.stdio.stdin, &view.stdio.stdout, &view.stdio.stderr].map(uri);
    let mut response = StateResponse {
        id: id.to_owned(),
        exec_id: exec_id.to_owned(),
        bundle,
        pid: view.pid.map_or(0, Pid::as_u32),
        status: EnumOrUnknown::new(match view.state {
            State::Added | State::Created => Status::CREATED,
            State::Running => Status::RUNNING,
            State::Paused => Status::PAUSED,
            State::Stopped(_) => Status::STOPPED,
        }),
        stdin,
        stdout,
        stderr,
        terminal: view.stdio.terminal,
        ..Default::default()
    };
    if let State::Stopped(exit) = view.state {
        response.exit_status = u32::from(exit.code.as_u8());
        response.exited_at = MessageField::some(timestamp(exit.at));
    }
    response
}

/// A stream as containerd names it, so that clients can attach to it.
fn uri(endpoint: &Endpoint) -> String {
    match endpoint {
        Endpoint::Null => String::new(),
        Endpoint::Fifo(path) => path.to_string_lossy().into_owned(),
        Endpoint::File(path) => format!("file://{}", path.display()),
        Endpoint::Binary { program, .. } => format!("binary://{}", program.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: &str, bundle: &str) -> CreateTaskRequest {
        CreateTaskRequest { id: id.into(), bundle: bundle.into(), ..Default::default() }
    }

    #[test]
    fn hostile_ids_and_bundles_are_refused_with_the_field_named() {
        let long = "a".repeat(4096);
        for (id, bundle, field) in [
            ("", "/b", "id"),
            ("..", "/b", "id"),
            ("a/b", "/b", "id"),
            ("a:b", "/b", "id"),
            ("a,b", "/b", "id"),
            ("a\0b", "/b", "id"),
            (&long, "/b", "id"),
            ("a", "", "bundle"),
            ("a", "b", "bundle"),
            ("a", "/b/../c", "bundle"),
        ] {
            match CreateRequest::check(request(id, bundle)) {
                Err(Error::Invalid { field: named, .. }) => assert_eq!(named, field),
                _ => panic!("{id:?} {bundle:?} was accepted"),
            }
        }
        assert!(CreateRequest::check(request("a-b.c_d", "/b")).is_ok());
    }

    #[test]
    fn the_request_decides_on_the_terminal_of_an_exec() {
        let process = exec_process(br#"{"terminal":true,"x":1}"#.to_vec(), false).unwrap();
        assert_eq!(process, br#"{"terminal":false,"x":1}"#);
        assert!(exec_process(b"[]".to_vec(), false).is_err());
    }
}
