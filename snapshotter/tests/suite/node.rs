//! The programs under test: our snapshotter, and a containerd in a mount namespace and a directory of its own.

use std::{
    fs::{self, File},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use hyper_util::rt::TokioIo;
use snapshotter::api::{
    Mount,
    snapshots::{
        CommitSnapshotRequest, Info, ListSnapshotsRequest, MountsRequest, PrepareSnapshotRequest,
        RemoveSnapshotRequest, StatSnapshotRequest, UpdateSnapshotRequest, UsageRequest, UsageResponse,
        ViewSnapshotRequest, snapshots_client::SnapshotsClient,
    },
};
use tonic::{Code, Request, Status, transport::Channel};

pub const SNAPSHOTTER: &str = env!("CARGO_BIN_EXE_enclave-cc-snapshotter");
const START: Duration = Duration::from_secs(30);

/// A program that ends with its owner.
pub struct Daemon(Child);

impl Daemon {
    /// Starts it and waits until it serves `socket`.
    pub fn start(command: &mut Command, log: &Path, socket: &Path) -> Self {
        let log_file = File::options().append(true).create(true).open(log).unwrap();
        command.stdout(log_file.try_clone().unwrap()).stderr(log_file);
        let mut this = Self(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")));
        let deadline = Instant::now() + START;
        while UnixStream::connect(socket).is_err() {
            let ended = this.0.try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "{command:?} does not serve ({ended:?}): {}",
                fs::read_to_string(log).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        this
    }

    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// SIGTERM; whether it ended with 0.
    pub fn terminate(&mut self) -> bool {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.0.wait().unwrap().success()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn start_snapshotter(dir: &Path) -> Daemon {
    let socket = snapshotter_socket(dir);
    Daemon::start(
        Command::new(SNAPSHOTTER).arg("--root").arg(dir.join("root")).arg("--socket").arg(&socket),
        &dir.join("snapshotter.log"),
        &socket,
    )
}

pub fn snapshotter_socket(dir: &Path) -> PathBuf {
    dir.join("snapshotter.sock")
}

/// containerd with its own overlayfs and, as a proxy plugin, our snapshotter in the same directory. Its garbage
/// collector stays away: snapshots without lease are what the scenarios are about.
pub fn start_containerd(dir: &Path) -> Daemon {
    let socket = dir.join("containerd.sock");
    let config = dir.join("config.toml");
    let program = std::env::var("CONTAINERD").unwrap_or_else(|_| "containerd".to_owned());
    fs::write(&config, config_of(&program, dir)).unwrap();
    Daemon::start(
        Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private"])
            .arg(program)
            .arg("--config")
            .arg(config),
        &dir.join("containerd.log"),
        &socket,
    )
}

/// The configuration for the version of `program`.
fn config_of(program: &str, dir: &Path) -> String {
    let version = Command::new(program).arg("--version").output().unwrap();
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let current = version.contains(" 2.") || version.contains(" v2.");
    let (format, snapshots, images, runtime) = if current {
        (
            3,
            r#""io.containerd.cri.v1.images""#,
            r#""io.containerd.cri.v1.images""#,
            r#""io.containerd.cri.v1.runtime""#,
        )
    } else {
        let cri = r#""io.containerd.grpc.v1.cri""#;
        (2, r#""io.containerd.grpc.v1.cri".containerd"#, cri, cri)
    };
    format!(
        r#"version = {format}
root = "{0}/containerd"
state = "{0}/state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri"]
[plugins.{snapshots}]
snapshotter = "enclave-cc"
disable_snapshot_annotations = false
[plugins.{images}.registry]
config_path = "{0}/certs.d"
[plugins.{runtime}.cni]
conf_dir = "{0}/cni"
[plugins."io.containerd.gc.v1.scheduler"]
startup_delay = "24h"
deletion_threshold = 0
mutation_threshold = 1000000
[grpc]
address = "{0}/containerd.sock"
[proxy_plugins.enclave-cc]
type = "snapshot"
address = "{0}/snapshotter.sock"
"#,
        dir.display()
    )
}

/// A client of one snapshotter, by itself or behind containerd.
#[derive(Clone)]
pub struct Client {
    client: SnapshotsClient<Channel>,
    snapshotter: &'static str,
    namespace: &'static str,
}

pub async fn channel(socket: PathBuf) -> Channel {
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    tonic::transport::Endpoint::from_static("http://socket").connect_with_connector(connector).await.unwrap()
}

type Answer<T> = Result<T, Status>;
pub type Labels<'a> = &'a [(&'a str, &'a str)];

fn labels(labels: Labels<'_>) -> std::collections::HashMap<String, String> {
    labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

impl Client {
    pub async fn connect(socket: PathBuf, snapshotter: &'static str) -> Self {
        let client = SnapshotsClient::new(channel(socket).await);
        Self { client, snapshotter, namespace: "suite" }
    }

    pub fn in_namespace(self, namespace: &'static str) -> Self {
        Self { namespace, ..self }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("containerd-namespace", self.namespace.parse().unwrap());
        request
    }

    fn name(&self) -> String {
        self.snapshotter.to_owned()
    }

    pub async fn prepare(&self, key: &str, parent: &str, with: Labels<'_>) -> Answer<Vec<Mount>> {
        let message = PrepareSnapshotRequest {
            snapshotter: self.name(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: labels(with),
        };
        Ok(self.client.clone().prepare(self.request(message)).await?.into_inner().mounts)
    }

    pub async fn view(&self, key: &str, parent: &str) -> Answer<Vec<Mount>> {
        let message = ViewSnapshotRequest {
            snapshotter: self.name(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: labels(&[]),
        };
        Ok(self.client.clone().view(self.request(message)).await?.into_inner().mounts)
    }

    pub async fn mounts(&self, key: &str) -> Answer<Vec<Mount>> {
        let message = MountsRequest { snapshotter: self.name(), key: key.to_owned() };
        Ok(self.client.clone().mounts(self.request(message)).await?.into_inner().mounts)
    }

    pub async fn commit(&self, name: &str, key: &str, with: Labels<'_>) -> Answer<()> {
        let message = CommitSnapshotRequest {
            snapshotter: self.name(),
            name: name.to_owned(),
            key: key.to_owned(),
            labels: labels(with),
        };
        self.client.clone().commit(self.request(message)).await.map(drop)
    }

    pub async fn remove(&self, key: &str) -> Answer<()> {
        let message = RemoveSnapshotRequest { snapshotter: self.name(), key: key.to_owned() };
        self.client.clone().remove(self.request(message)).await.map(drop)
    }

    pub async fn stat(&self, key: &str) -> Answer<Info> {
        let message = StatSnapshotRequest { snapshotter: self.name(), key: key.to_owned() };
        Ok(self.client.clone().stat(self.request(message)).await?.into_inner().info.unwrap())
    }

    pub async fn update(&self, key: &str, with: Labels<'_>, fields: &[&str]) -> Answer<Info> {
        let message = UpdateSnapshotRequest {
            snapshotter: self.name(),
            info: Some(Info { name: key.to_owned(), labels: labels(with), ..Info::default() }),
            update_mask: Some(prost_types::FieldMask {
                paths: fields.iter().map(|&field| field.to_owned()).collect(),
            }),
        };
        Ok(self.client.clone().update(self.request(message)).await?.into_inner().info.unwrap())
    }

    pub async fn usage(&self, key: &str) -> Answer<UsageResponse> {
        let message = UsageRequest { snapshotter: self.name(), key: key.to_owned() };
        Ok(self.client.clone().usage(self.request(message)).await?.into_inner())
    }

    pub async fn list(&self, filters: &[&str]) -> Answer<Vec<Info>> {
        let message = ListSnapshotsRequest {
            snapshotter: self.name(),
            filters: filters.iter().map(|&filter| filter.to_owned()).collect(),
        };
        let mut stream = self.client.clone().list(self.request(message)).await?.into_inner();
        let mut found = Vec::new();
        while let Some(part) = stream.message().await? {
            found.extend(part.info);
        }
        Ok(found)
    }
}

/// The code of an answer.
pub fn code<T>(answer: &Answer<T>) -> Code {
    answer.as_ref().map_or_else(Status::code, |_| Code::Ok)
}
