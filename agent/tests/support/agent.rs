//! The built agent as a process, with directories of its own.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use protos::agent::{ImageClient, PullImageRequest, PullImageResponse};
use store::{SealKey, StoreReader};
use tempfile::TempDir;
use ttrpc::{Code, context};

use super::process::{PATIENCE, Process};

pub const TOKEN: &str = "a-token-of-this-pod";

/// How the agent is started.
#[derive(Default)]
pub struct Settings {
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Gives the agent a disk of its own for the stores, of so many bytes (needs root).
    pub disk_bytes: Option<u64>,
}

pub struct Agent {
    pub process: Process,
    pub dir: TempDir,
    pub address: String,
}

pub fn program() -> &'static str {
    env!("CARGO_BIN_EXE_enclave-agent")
}

/// A directory with token and seal key, and a command that uses them; `--listen` is missing.
pub fn prepare() -> (TempDir, Command) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("token"), format!("{TOKEN}\n")).unwrap();
    SealKey::read_or_create(&dir.path().join("seal.key")).unwrap();
    fs::create_dir(dir.path().join("images")).unwrap();
    let mut command = Command::new(program());
    command
        .env_clear()
        .env("RUST_BACKTRACE", "1")
        .args(["--mode", "none", "--log-level", "debug"])
        .arg("--images")
        .arg(dir.path().join("images"))
        .arg("--token-file")
        .arg(dir.path().join("token"))
        .arg("--seal-key-file")
        .arg(dir.path().join("seal.key"));
    (dir, command)
}

impl Agent {
    /// An agent that speaks plain http to the registry at `address`.
    pub fn insecure(address: &str) -> Self {
        Self::start(Settings {
            args: vec!["--insecure-registry".into(), address.into()],
            ..Settings::default()
        })
    }

    pub fn start(settings: Settings) -> Self {
        let (dir, mut command) = prepare();
        command.args(["-l", "tcp://127.0.0.1:0"]).args(settings.args).envs(settings.env);
        if let Some(bytes) = settings.disk_bytes {
            command = on_small_disk(&command, &dir.path().join("images"), bytes);
        }
        let process = Process::spawn(&mut command);
        let line = process.line(|line| line.contains("listening address="));
        let address = line.split('"').nth(1).unwrap().to_owned();
        Self { process, dir, address }
    }

    pub fn images(&self) -> PathBuf {
        self.dir.path().join("images")
    }

    pub async fn client(&self) -> ImageClient {
        connect(&self.address).await
    }

    pub async fn pull(&self, image: &str) -> Result<PullImageResponse, (Code, String)> {
        self.call(request(image)).await
    }

    pub async fn call(&self, request: PullImageRequest) -> Result<PullImageResponse, (Code, String)> {
        answer(self.client().await.pull_image(context::with_duration(PATIENCE), &request).await)
    }

    /// The names below `images`.
    pub fn stored(&self) -> Vec<String> {
        let entries = fs::read_dir(self.images()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    pub fn store(&self, response: &PullImageResponse) -> StoreReader {
        let seal = SealKey::read(&self.dir.path().join("seal.key")).unwrap();
        StoreReader::open(&self.images().join(&response.store_dir), &seal).unwrap()
    }

    /// Applies the stored layers to a directory and reads its files back: path → content and mode.
    pub fn unpacked(&self, response: &PullImageResponse) -> BTreeMap<String, (String, u32)> {
        let store = self.store(response);
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut unpacker = unpack::Unpacker::open(root.path(), unpack::Limits::default()).unwrap();
        for index in 0..store.record().layers.len() {
            unpacker.apply(store.layer(index).unwrap()).unwrap();
        }
        let mut files = BTreeMap::new();
        walk(root.path(), root.path(), &mut files);
        files
    }

    /// The highest resident size so far, in bytes.
    pub fn peak_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }
}

/// `command` in a mount namespace of its own, in which `dir` is a file system of so many bytes.
fn on_small_disk(command: &Command, dir: &Path, bytes: u64) -> Command {
    let mount = format!("mount -t tmpfs -o size={bytes} none '{}' && exec \"$@\"", dir.display());
    let mut wrapped = Command::new("unshare");
    wrapped.args(["--mount", "--propagation", "private", "sh", "-c", &mount, "sh"]);
    wrapped.arg(command.get_program()).args(command.get_args());
    wrapped
}

pub async fn connect(address: &str) -> ImageClient {
    ImageClient::new(ttrpc::r#async::Client::connect(address).await.unwrap())
}

pub fn request(image: &str) -> PullImageRequest {
    PullImageRequest {
        image: image.into(),
        container_id: "c1".into(),
        token: TOKEN.into(),
        ..Default::default()
    }
}

pub fn answer(result: ttrpc::Result<PullImageResponse>) -> Result<PullImageResponse, (Code, String)> {
    result.map_err(|error| match error {
        ttrpc::Error::RpcStatus(status) => (status.code(), status.message),
        other => panic!("no answer: {other}"),
    })
}

pub fn short_deadline() -> context::Context {
    context::with_duration(Duration::from_secs(1))
}

fn walk(root: &Path, dir: &Path, files: &mut BTreeMap<String, (String, u32)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            walk(root, &path, files);
        } else if meta.is_file() {
            let mut content = String::new();
            fs::File::open(&path).unwrap().read_to_string(&mut content).unwrap();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            files.insert(name, (content, meta.mode() & 0o7777));
        }
    }
}
