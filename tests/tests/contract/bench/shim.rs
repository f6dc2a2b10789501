//! A shim as containerd drives it: its command line, and a client of its Task service.

use std::{
    fmt,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use containerd_shim_protos::{
    api,
    protobuf::{Message, well_known_types::any::Any},
};
use tokio::{runtime::Handle, task::JoinHandle};
use ttrpc::{Code, Request, asynchronous::Client};

/// The one name that every version of containerd asks for.
const SERVICE: &str = "containerd.task.v2.Task";
/// No call of a test takes longer.
const DEADLINE: Duration = Duration::from_secs(60);

/// An answer that is an error.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The call.
    pub method: String,
    /// ttrpc's code.
    pub code: Code,
    /// Its words.
    pub message: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}: {}", self.method, self.code, self.message)
    }
}

impl std::error::Error for Refusal {}

/// What a call answers.
pub type Answer<T> = std::result::Result<T, Refusal>;

/// A call that was sent and whose answer was not waited for yet.
pub struct Pending<T> {
    rt: Handle,
    task: JoinHandle<Answer<T>>,
}

impl<T> Pending<T> {
    /// Whether there is no answer so far.
    pub fn is_pending(&self) -> bool {
        !self.task.is_finished()
    }

    /// Waits for the answer.
    pub fn answer(self) -> Result<Answer<T>> {
        Ok(self.rt.block_on(self.task)?)
    }

    /// Gives the call up, as a client whose deadline passes.
    pub fn abandon(self) {
        self.task.abort();
    }
}

/// A connection to a shim.
#[derive(Clone)]
pub struct Shim {
    rt: Handle,
    client: Client,
    /// As `start` printed it.
    pub address: String,
    /// Of the serving process, once it was asked for.
    pub pid: u32,
}

impl Shim {
    /// Connects to the address that `start` printed.
    pub fn connect(rt: &Handle, address: &str) -> Result<Self> {
        let client = rt
            .block_on(async { Client::connect(address).await })
            .with_context(|| format!("connecting to {address}"))?;
        Ok(Self { rt: rt.clone(), client, address: address.to_owned(), pid: 0 })
    }

    /// The path of the socket.
    pub fn socket(&self) -> PathBuf {
        self.address.trim_start_matches("unix://").into()
    }

    /// Sends a call.
    pub fn begin<Q: Message, A: Message>(&self, method: &str, request: &Q) -> Pending<A> {
        let (client, method) = (self.client.clone(), method.to_owned());
        let payload = request.write_to_bytes();
        let task = self.rt.spawn(async move {
            let refusal = |code, message| Refusal { method: method.clone(), code, message };
            let mut request = Request::new();
            request.service = SERVICE.into();
            request.method.clone_from(&method);
            request.timeout_nano = i64::try_from(DEADLINE.as_nanos()).unwrap_or(i64::MAX);
            request.payload = payload.map_err(|e| refusal(Code::INTERNAL, e.to_string()))?;
            match client.request(request).await {
                Ok(response) => A::parse_from_bytes(&response.payload)
                    .map_err(|e| refusal(Code::INTERNAL, format!("malformed answer: {e}"))),
                Err(ttrpc::Error::RpcStatus(status)) => {
                    Err(refusal(status.code.enum_value_or(Code::UNKNOWN), status.message))
                }
                Err(other) => Err(refusal(Code::UNAVAILABLE, other.to_string())),
            }
        });
        Pending { rt: self.rt.clone(), task }
    }

    /// Sends a call and waits for its answer.
    pub fn call<Q: Message, A: Message>(&self, method: &str, request: &Q) -> Answer<A> {
        let broken =
            |e: anyhow::Error| Refusal { method: method.into(), code: Code::ABORTED, message: e.to_string() };
        self.begin(method, request).answer().map_err(broken)?
    }

    /// A call that answers nothing.
    pub fn order<Q: Message>(&self, method: &str, request: &Q) -> Answer<()> {
        self.call::<Q, api::Empty>(method, request).map(drop)
    }

    /// `Start` of init (empty `exec`) or an exec: the pid.
    pub fn start(&self, id: &str, exec: &str) -> Answer<u32> {
        let request = api::StartRequest { id: id.into(), exec_id: exec.into(), ..Default::default() };
        self.call::<_, api::StartResponse>("Start", &request).map(|answer| answer.pid)
    }

    /// `State`.
    pub fn state(&self, id: &str, exec: &str) -> Answer<api::StateResponse> {
        self.call("State", &api::StateRequest { id: id.into(), exec_id: exec.into(), ..Default::default() })
    }

    /// `Kill` of one process.
    pub fn kill(&self, id: &str, exec: &str, signal: u32) -> Answer<()> {
        let request = api::KillRequest {
            id: id.into(),
            exec_id: exec.into(),
            signal,
            all: false,
            ..Default::default()
        };
        self.order("Kill", &request)
    }

    /// `Kill` of the whole container.
    pub fn kill_all(&self, id: &str, signal: u32) -> Answer<()> {
        self.order("Kill", &api::KillRequest { id: id.into(), signal, all: true, ..Default::default() })
    }

    /// `Wait`, sent.
    pub fn begin_wait(&self, id: &str, exec: &str) -> Pending<api::WaitResponse> {
        self.begin("Wait", &api::WaitRequest { id: id.into(), exec_id: exec.into(), ..Default::default() })
    }

    /// `Wait`: the exit status.
    pub fn wait(&self, id: &str, exec: &str) -> Answer<u32> {
        let request = api::WaitRequest { id: id.into(), exec_id: exec.into(), ..Default::default() };
        self.call::<_, api::WaitResponse>("Wait", &request).map(|answer| answer.exit_status)
    }

    /// `Delete` of init or of an exec: the exit status.
    pub fn delete(&self, id: &str, exec: &str) -> Answer<u32> {
        let request = api::DeleteRequest { id: id.into(), exec_id: exec.into(), ..Default::default() };
        self.call::<_, api::DeleteResponse>("Delete", &request).map(|answer| answer.exit_status)
    }

    /// `Connect`: pids of the shim and of the container's init.
    pub fn pids_of(&self, id: &str) -> Answer<(u32, u32)> {
        let request = api::ConnectRequest { id: id.into(), ..Default::default() };
        self.call::<_, api::ConnectResponse>("Connect", &request)
            .map(|answer| (answer.shim_pid, answer.task_pid))
    }

    /// `Pids`.
    pub fn pids(&self, id: &str) -> Answer<api::PidsResponse> {
        self.call("Pids", &api::PidsRequest { id: id.into(), ..Default::default() })
    }

    /// `Pause`.
    pub fn pause(&self, id: &str) -> Answer<()> {
        self.order("Pause", &api::PauseRequest { id: id.into(), ..Default::default() })
    }

    /// `Resume`.
    pub fn resume(&self, id: &str) -> Answer<()> {
        self.order("Resume", &api::ResumeRequest { id: id.into(), ..Default::default() })
    }

    /// `Shutdown`.
    pub fn shutdown(&self, id: &str) -> Answer<()> {
        self.order("Shutdown", &api::ShutdownRequest { id: id.into(), ..Default::default() })
    }
}

/// How containerd calls the shim's program.
pub struct Program<'a> {
    /// The program.
    pub path: &'a Path,
    /// The containerd namespace.
    pub namespace: &'a str,
    /// Holds the sockets of containerd and its events, and the temporary files.
    pub dir: &'a Path,
}

impl Program<'_> {
    fn command(&self, id: &str, bundle: &Path) -> Command {
        let mut command = Command::new(self.path);
        command
            .args(["-namespace", self.namespace, "-address"])
            .arg(self.dir.join("containerd.sock"))
            .args(["-publish-binary", "/usr/bin/containerd", "-id", id])
            .current_dir(bundle)
            .env("TTRPC_ADDRESS", self.dir.join("events"))
            .env("TMPDIR", self.dir.join("tmp"))
            .env("GOMAXPROCS", "2")
            .env("NAMESPACE", self.namespace);
        command
    }

    /// `start`, with `options` on stdin: all that it did.
    pub fn start(&self, id: &str, bundle: &Path, options: &Any) -> Result<Output> {
        let mut command = self.command(id, bundle);
        run(command.arg("start"), &options.write_to_bytes()?)
    }

    /// `delete`, in the bundle or, when that is gone, in its parent.
    pub fn delete(&self, id: &str, bundle: &Path) -> Result<Output> {
        let dir = if bundle.is_dir() { bundle } else { bundle.parent().unwrap_or(bundle) };
        let mut command = self.command(id, dir);
        run(command.arg("-bundle").arg(bundle).arg("delete"), &[])
    }

    /// `delete` that has to succeed: its answer.
    pub fn deleted(&self, id: &str, bundle: &Path) -> Result<api::DeleteResponse> {
        let output = self.delete(id, bundle)?;
        ensure!(output.status.success(), "delete of {id}: {output:?}");
        api::DeleteResponse::parse_from_bytes(&output.stdout)
            .with_context(|| format!("the answer of delete: {output:?}"))
    }
}

/// Runs `command` with `input` on its stdin.
pub fn run(command: &mut Command, input: &[u8]) -> Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {command:?}"))?;
    let mut stdin = child.stdin.take().context("the child has no stdin")?;
    // A program that does not read it is right as well.
    let _ = stdin.write_all(input);
    drop(stdin);
    Ok(child.wait_with_output()?)
}

/// Fails unless `answer` is a refusal with one of `codes` whose message has all `words`.
pub fn refused<T: fmt::Debug>(answer: Answer<T>, codes: &[Code], words: &[&str]) -> Result<Refusal> {
    let refusal = match answer {
        Ok(value) => bail!("answered {value:?} instead of an error of {codes:?}"),
        Err(refusal) => refusal,
    };
    ensure!(codes.contains(&refusal.code), "not the code of {codes:?}: {refusal}");
    for word in words {
        ensure!(refusal.message.contains(word), "no {word:?} in: {refusal}");
    }
    Ok(refusal)
}
