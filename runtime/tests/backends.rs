//! The rooms process, oci and io together, on the real runc and crun: the life of a container, from create to delete.
//!
//! Needs root, runc and crun; fails without them. The container's root is this machine's, read-only. Every test has a
//! mount namespace of its own, in which `/sys/fs/cgroup/unified` is covered, since crun refuses hybrid cgroups.

#![allow(clippy::unwrap_used, reason = "a test; clippy.toml's exception covers test functions only")]

use std::fs::{self, File};
use std::future::Future;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use runtime::cgroup::{Cgroup, CgroupError};
use runtime::io::{IoContext, StdioSpec, Streams};
use runtime::oci::{
    Backend, BackendConfig, ChildStdio, Create, Dialect, Exec, Force, KillScope, OciError, Status,
};
use runtime::process::{Process, Reaper};
use serde_json::{Value, json};

const LONG: Duration = Duration::from_secs(30);

/// A process has one reaper, so one test runs at a time.
static ONE_REAPER: Mutex<()> = Mutex::new(());

/// A bundle with three fifos, and the backend that runs it.
struct Place {
    /// Not a `TempDir`: that would remove this machine's root if the mount were still there.
    dir: PathBuf,
    backend: Backend,
    reaper: Reaper,
    id: String,
    cgroup: String,
}

impl Place {
    fn new(dialect: Dialect, reaper: Reaper) -> Self {
        let dir = tempfile::tempdir().unwrap().keep();
        let rootfs = dir.join("rootfs");
        fs::create_dir(&rootfs).unwrap();
        mount(Some("/"), &rootfs, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        mount(None::<&str>, &rootfs, None::<&str>, read_only, None::<&str>).unwrap();
        let config = BackendConfig {
            dialect,
            program: dialect.name().into(),
            root: dir.join("state"),
            systemd_cgroup: false,
            criu_path: None,
        };
        let backend = Backend::new(config, reaper.clone(), &dir);
        let id = format!("test-{}-{dialect}", std::process::id());
        let cgroup = format!("/enclave-cc-{id}");
        let place = Self { backend, reaper, id, cgroup, dir };
        for name in ["in", "out", "err"] {
            nix::unistd::mkfifo(&place.path(name), nix::sys::stat::Mode::S_IRWXU).unwrap();
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn write_config(&self, script: &str, hooks: &Value) {
        let config = json!({
            "ociVersion": "1.0.2",
            "process": process(script, false),
            "root": {"path": self.path("rootfs"), "readonly": true},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]},
            ],
            "hooks": hooks,
            "linux": {
                "cgroupsPath": self.cgroup,
                "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"}],
            },
        });
        fs::write(self.path("config.json"), config.to_string()).unwrap();
    }

    async fn open_streams(&self, terminal: bool) -> Streams {
        let uri = |name: &str| self.path(name).to_str().unwrap().to_owned();
        let spec = StdioSpec::parse(terminal, &uri("in"), &uri("out"), &uri("err")).unwrap();
        let ctx = IoContext {
            namespace: "test".into(),
            id: self.id.clone(),
            owner: None,
            console_dir: self.dir.clone(),
            reaper: self.reaper.clone(),
        };
        Streams::open(&spec, &ctx, LONG).await.unwrap()
    }

    async fn create(&self, stdio: ChildStdio) -> Result<Process, OciError> {
        let (bundle, pid_file) = (self.dir.as_path(), self.path("init.pid"));
        let create = Create {
            bundle,
            pid_file: &pid_file,
            console_socket: None,
            stdio,
            no_pivot: false,
            no_new_keyring: false,
            restore: None,
        };
        self.backend.create(&self.id, create, LONG).await
    }

    async fn exec(&self, process: &Value, streams: &mut Streams) -> Result<Process, OciError> {
        let (process_json, pid_file) = (self.path("process.json"), self.path("exec.pid"));
        fs::write(&process_json, process.to_string()).unwrap();
        let stdio = streams.child_stdio();
        let exec = Exec {
            process_json: &process_json,
            pid_file: &pid_file,
            console_socket: streams.console_socket(),
            stdio,
        };
        self.backend.exec(&self.id, exec, LONG).await
    }

    async fn status(&self) -> Status {
        self.backend.state(&self.id, LONG).await.unwrap().status
    }

    /// What the caller of a `create` that did not succeed does: a killed backend has no state of the cgroup it made.
    async fn undo(&self) {
        self.backend.delete(&self.id, Force::Yes, Duration::from_secs(5)).await.unwrap();
        // In the tmpfs that covers the unified hierarchy crun made a directory with files.
        let _ = fs::remove_dir_all(Path::new("/sys/fs/cgroup/unified").join(&self.cgroup[1..]));
        match Cgroup::at(Path::new(&self.cgroup)) {
            Ok(cgroup) => cgroup.remove().unwrap(),
            Err(error) => assert!(matches!(error, CgroupError::NotFound { .. }), "{error:?}"),
        }
    }

    /// Nothing of the container is left: no state, no cgroup, no file of a call.
    async fn assert_clean(&self) {
        let error = self.backend.state(&self.id, LONG).await.unwrap_err();
        assert!(matches!(error, OciError::NotFound { .. }), "{error:?}");
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap() {
            let hierarchy = hierarchy.unwrap().path();
            let cgroup = hierarchy.join(&self.cgroup[1..]);
            if hierarchy.ends_with("unified") {
                continue;
            }
            assert!(!cgroup.exists(), "{}", cgroup.display());
        }
        let left = fs::read_dir(&self.dir).unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = left.filter(|name| name.to_string_lossy().starts_with('.')).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A test that failed half-way has a container. The runtime is not running while this thread is here, so neither
        // is the reaper.
        let config = self.backend.config();
        let mut delete = Command::new(&config.program);
        delete.arg("--root").arg(&config.root).args(["delete", "--force", &self.id]);
        delete.status().unwrap();
        let rootfs = self.path("rootfs");
        umount2(&rootfs, MntFlags::MNT_DETACH).unwrap();
        // This fails unless it is an empty directory, so what follows can't reach into the mount.
        fs::remove_dir(&rootfs).unwrap();
        fs::remove_dir_all(&self.dir).unwrap();
    }
}

fn process(script: &str, terminal: bool) -> Value {
    json!({
        "terminal": terminal,
        "user": {"uid": 0, "gid": 0},
        "args": ["/bin/sh", "-c", script],
        "env": ["PATH=/usr/bin:/bin"],
        "cwd": "/",
    })
}

fn with_backend<T: Future<Output = ()>>(dialect: Dialect, test: impl FnOnce(Place) -> T) {
    let _alone = ONE_REAPER.lock().unwrap_or_else(PoisonError::into_inner);
    // The namespace is this thread's, which ends with the test.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("needs root");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    let unified = Path::new("/sys/fs/cgroup/unified");
    if unified.exists() {
        // Not just unmounted: crun would leave a directory in the tmpfs below, which all namespaces share.
        mount(Some("tmpfs"), unified, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let place = Place::new(dialect, Reaper::start().unwrap());
        tokio::time::timeout(Duration::from_secs(120), test(place)).await.expect("the test hangs");
    });
}

async fn read_exactly(mut file: File, bytes: usize) -> String {
    let read = move || {
        let mut data = vec![0; bytes];
        file.read_exact(&mut data).unwrap();
        String::from_utf8(data).unwrap()
    };
    tokio::task::spawn_blocking(read).await.unwrap()
}

async fn container_lives_from_create_to_delete(place: Place) {
    let (backend, id) = (&place.backend, place.id.as_str());
    place.write_config("read line; echo out $line; echo err >&2; exec sleep 1000", &json!({}));
    let mut streams = place.open_streams(false).await;
    let (out, err) = (File::open(place.path("out")).unwrap(), File::open(place.path("err")).unwrap());
    let init = place.create(streams.child_stdio()).await.unwrap();
    streams.start(LONG).await.unwrap();
    assert_eq!(place.status().await, Status::Created);
    let error = place.create(ChildStdio::default()).await.unwrap_err();
    assert!(matches!(error, OciError::AlreadyExists { .. }), "{error:?}");

    backend.start(id, LONG).await.unwrap();
    let state = backend.state(id, LONG).await.unwrap();
    assert_eq!((state.status, state.pid), (Status::Running, Some(init.pid())));
    File::options().write(true).open(place.path("in")).unwrap().write_all(b"hello\n").unwrap();
    assert_eq!(read_exactly(out, 10).await, "out hello\n");
    assert_eq!(read_exactly(err, 4).await, "err\n");
    assert!(backend.ps(id, LONG).await.unwrap().contains(&init.pid()));

    backend.pause(id, LONG).await.unwrap();
    assert_eq!(place.status().await, Status::Paused);
    backend.resume(id, LONG).await.unwrap();
    backend.update(id, br#"{"memory":{"limit":100000000}}"#, LONG).await.unwrap();

    // Execs: an exit code, a program that is missing, a terminal.
    let mut null =
        Streams::open(&StdioSpec::parse(false, "", "", "").unwrap(), &context(&place), LONG).await.unwrap();
    let exec = place.exec(&process("exit 7", false), &mut null).await.unwrap();
    assert_eq!(exec.wait().await.code.as_u8(), 7);
    // As another user without stdio: the machine's null device does not become that user's.
    let mut as_user = process("cat; echo lost; exit 7", false);
    as_user["user"] = json!({"uid": 54321, "gid": 54321});
    let exec = place.exec(&as_user, &mut null).await.unwrap();
    assert_eq!(exec.wait().await.code.as_u8(), 7);
    let device = fs::metadata("/dev/null").unwrap();
    assert_ne!((device.uid(), device.gid()), (54321, 54321));
    let mut missing = process("", false);
    missing["args"] = json!(["/no/such/program"]);
    match place.exec(&missing, &mut null).await.unwrap_err() {
        OciError::Failed { message, .. } => assert!(message.contains("/no/such/program"), "{message}"),
        other => panic!("{other:?}"),
    }
    terminal_exec(&place).await;

    backend.kill(id, libc::SIGKILL, KillScope::Init, LONG).await.unwrap();
    assert_eq!(init.wait().await.code.as_u8(), 137);
    streams.drained().await;
    assert_eq!(place.status().await, Status::Stopped);
    backend.kill(id, libc::SIGKILL, KillScope::All, LONG).await.unwrap();
    backend.delete(id, Force::No, LONG).await.unwrap();
    backend.delete(id, Force::Yes, LONG).await.unwrap();
    let error = backend.delete(id, Force::No, LONG).await.unwrap_err();
    assert!(matches!(error, OciError::NotFound { .. }), "{error:?}");
    place.assert_clean().await;
}

fn context(place: &Place) -> IoContext {
    IoContext {
        namespace: "test".into(),
        id: place.id.clone(),
        owner: None,
        console_dir: place.dir.clone(),
        reaper: place.reaper.clone(),
    }
}

async fn terminal_exec(place: &Place) {
    let mut streams = place.open_streams(true).await;
    let out = File::open(place.path("out")).unwrap();
    let exec = place.exec(&process("read line; stty size; exit 3", true), &mut streams).await.unwrap();
    streams.start(LONG).await.unwrap();
    streams.resize(123, 45).unwrap();
    File::options().write(true).open(place.path("in")).unwrap().write_all(b"x\n").unwrap();
    assert_eq!(exec.wait().await.code.as_u8(), 3);
    streams.drained().await;
    assert_eq!(read_exactly(out, 11).await, "x\r\n45 123\r\n");
}

async fn exit_before_anyone_asks_is_not_lost(place: Place) {
    place.write_config("exit 9", &json!({}));
    let init = place.create(ChildStdio::default()).await.unwrap();
    place.backend.start(&place.id, LONG).await.unwrap();
    assert_eq!(init.wait().await.code.as_u8(), 9);
    place.backend.delete(&place.id, Force::Yes, LONG).await.unwrap();
    place.assert_clean().await;
}

async fn create_that_is_dropped_or_too_slow_is_undone_by_force(place: Place) {
    let started = place.path("started");
    let hook = format!("echo > {}; exec sleep 1000", started.display());
    place
        .write_config("exit 0", &json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", hook]}]}));
    tokio::select! {
        result = place.create(ChildStdio::default()) => panic!("{result:?}"),
        () = async { while !started.exists() { tokio::time::sleep(Duration::from_millis(5)).await; } } => {}
    }
    place.undo().await;
    place.assert_clean().await;

    let (bundle, pid_file) = (place.dir.as_path(), place.path("init.pid"));
    let stdio = ChildStdio::default();
    let create = Create {
        bundle,
        pid_file: &pid_file,
        console_socket: None,
        stdio,
        no_pivot: false,
        no_new_keyring: false,
        restore: None,
    };
    let error = place.backend.create(&place.id, create, Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(error, OciError::Deadline { .. }), "{error:?}");
    place.undo().await;
    place.assert_clean().await;
}

#[test]
fn runc_container_lives_from_create_to_delete() {
    with_backend(Dialect::Runc, container_lives_from_create_to_delete);
}

#[test]
fn crun_container_lives_from_create_to_delete() {
    with_backend(Dialect::Crun, container_lives_from_create_to_delete);
}

#[test]
fn runc_exit_before_anyone_asks_is_not_lost() {
    with_backend(Dialect::Runc, exit_before_anyone_asks_is_not_lost);
}

#[test]
fn crun_exit_before_anyone_asks_is_not_lost() {
    with_backend(Dialect::Crun, exit_before_anyone_asks_is_not_lost);
}

#[test]
fn runc_create_that_is_dropped_or_too_slow_is_undone_by_force() {
    with_backend(Dialect::Runc, create_that_is_dropped_or_too_slow_is_undone_by_force);
}

#[test]
fn crun_create_that_is_dropped_or_too_slow_is_undone_by_force() {
    with_backend(Dialect::Crun, create_that_is_dropped_or_too_slow_is_undone_by_force);
}

#[test]
fn runc_tells_its_features() {
    with_backend(Dialect::Runc, |place| async move {
        assert!(place.backend.features(LONG).await.unwrap().is_object());
    });
}
