use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::Hasher;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use super::*;
use crate::oci::ChildStdio;
use crate::process::Process;
use crate::process::Reaper;
use crate::process::tests::{sh, until, with_reaper};

mod loggers;

const LONG: Duration = Duration::from_secs(30);

/// A directory with three fifos, and what a container's process is run with.
struct Place {
    dir: tempfile::TempDir,
    ctx: IoContext,
}

impl Place {
    fn new(reaper: &Reaper) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["in", "out", "err"] {
            let path = dir.path().join(name);
            rustix::fs::mknodat(
                rustix::fs::CWD,
                &path,
                rustix::fs::FileType::Fifo,
                Mode::RUSR | Mode::WUSR,
                0,
            )
            .unwrap();
        }
        let ctx = IoContext {
            namespace: "k8s.io".into(),
            id: "c1".into(),
            owner: None,
            console_dir: dir.path().into(),
            reaper: reaper.clone(),
        };
        Self { dir, ctx }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Opens an output as a client does, before the streams end: they keep nothing for readers that come later. It does
    /// not block, for the streams are the writer.
    fn reader(&self, name: &str) -> fs::File {
        fs::File::open(self.path(name)).unwrap()
    }

    fn uri(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    async fn open(&self, terminal: bool) -> Streams {
        let spec = StdioSpec::parse(terminal, &self.uri("in"), &self.uri("out"), &self.uri("err")).unwrap();
        Streams::open(&spec, &self.ctx, LONG).await.unwrap()
    }

    /// Runs a script as the container's process.
    fn run(&self, streams: &mut Streams, script: &str) -> Process {
        let ChildStdio { stdin, stdout, stderr } = streams.child_stdio();
        let or_null = |fd: Option<OwnedFd>| fd.map_or_else(Stdio::null, Stdio::from);
        let mut command = sh(script);
        command.stdin(or_null(stdin)).stdout(or_null(stdout)).stderr(or_null(stderr));
        self.ctx.reaper.spawn(&mut command).unwrap()
    }
}

/// A client's end: blocking, on a thread of its own, as a client is another process.
fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> tokio::task::JoinHandle<T> {
    tokio::task::spawn_blocking(work)
}

fn read_some(mut file: fs::File, bytes: usize) -> Vec<u8> {
    let mut data = vec![0; bytes];
    file.read_exact(&mut data).unwrap();
    data
}

#[test]
fn hundred_mebibytes_arrive_whole_through_stdin_and_stdout() {
    with_reaper(|reaper| async move {
        const BYTES: usize = 100 << 20;
        let place = Place::new(&reaper);
        let mut streams = place.open(false).await;
        let process = place.run(&mut streams, "exec cat");
        let (input, mut file) = (place.path("in"), place.reader("out"));
        // A generator whose period is no multiple of any buffer.
        let chunk = |n: u32| -> Vec<u8> {
            (0..10_007_u32).map(|i| (i * 31 + n % 251 * 7).to_le_bytes()[1]).collect()
        };
        let writer = on_thread(move || {
            let mut file = fs::OpenOptions::new().write(true).open(input).unwrap();
            let mut hasher = DefaultHasher::new();
            let mut left = BYTES;
            for n in 0.. {
                let data = chunk(n);
                let data = &data[..data.len().min(left)];
                file.write_all(data).unwrap();
                data.iter().for_each(|byte| hasher.write_u8(*byte));
                left -= data.len();
                if left == 0 {
                    return hasher.finish();
                }
            }
            unreachable!()
        });
        let reader = on_thread(move || {
            let mut hasher = DefaultHasher::new();
            let mut buffer = vec![0; 1 << 16];
            let mut left = BYTES;
            while left > 0 {
                let read = file.read(&mut buffer).unwrap();
                assert_ne!(read, 0, "the fifo ended early");
                buffer[..read].iter().for_each(|byte| hasher.write_u8(*byte));
                left -= read;
            }
            (hasher.finish(), left)
        });
        let written = writer.await.unwrap();
        assert_eq!(process.exit(), None, "stdin ends before close_stdin");
        streams.close_stdin();
        assert!(process.wait().await.code.is_success());
        streams.drained().await;
        assert_eq!(reader.await.unwrap(), (written, 0));
    });
}

#[test]
fn close_stdin_waits_for_what_clients_still_write() {
    with_reaper(|reaper| async move {
        let place = Place::new(&reaper);
        let mut streams = place.open(false).await;
        let process = place.run(&mut streams, "exec cat");
        let out = place.reader("out");
        let mut client = fs::OpenOptions::new().write(true).open(place.path("in")).unwrap();
        streams.close_stdin();
        client.write_all(b"late").unwrap();
        drop(client);
        assert!(process.wait().await.code.is_success());
        streams.drained().await;
        assert_eq!(read_some(out, 4), b"late");
    });
}

#[test]
fn blocked_reader_of_one_stream_does_not_stop_the_other() {
    with_reaper(|reaper| async move {
        let place = Place::new(&reaper);
        let mut streams = place.open(false).await;
        // More than two pipes hold: the process's own writer of stdout stays blocked.
        let script = "head -c 1000000 /dev/zero & head -c 5000000 /dev/zero >&2; wait";
        let process = place.run(&mut streams, script);
        let (out, err) = (place.reader("out"), place.reader("err"));
        assert_eq!(on_thread(move || read_some(err, 5_000_000)).await.unwrap().len(), 5_000_000);
        assert_eq!(process.exit(), None);
        assert_eq!(on_thread(move || read_some(out, 1_000_000)).await.unwrap().len(), 1_000_000);
        process.wait().await;
        streams.drained().await;
    });
}

#[test]
fn reader_that_leaves_and_comes_back_gets_the_rest() {
    with_reaper(|reaper| async move {
        let place = Place::new(&reaper);
        let mut streams = place.open(false).await;
        let dir = place.dir.path().display();
        let script = format!(
            "echo one; until [ -e {dir}/go ]; do :; done; echo two; echo > {dir}/said; until [ -e {dir}/end ]; do :; done"
        );
        let process = place.run(&mut streams, &script);
        let out = place.reader("out");
        assert_eq!(on_thread(move || read_some(out, 4)).await.unwrap(), b"one\n");
        // Nobody reads now; the process must neither get SIGPIPE nor lose a word.
        fs::write(place.path("go"), "").unwrap();
        until(|| place.path("said").exists()).await;
        let out = place.reader("out");
        assert_eq!(on_thread(move || read_some(out, 4)).await.unwrap(), b"two\n");
        fs::write(place.path("end"), "").unwrap();
        assert!(process.wait().await.code.is_success());
        streams.drained().await;
    });
}

#[test]
fn client_sees_the_end_of_a_stream_before_the_streams_are_closed() {
    with_reaper(|reaper| async move {
        let place = Place::new(&reaper);
        let mut streams = place.open(false).await;
        let mut out = place.reader("out");
        place.run(&mut streams, "echo all");
        let mut said = String::new();
        // containerd asks for the deletion of a task only after the end of its output.
        let said = on_thread(move || out.read_to_string(&mut said).map(|_| said)).await.unwrap().unwrap();
        assert_eq!(said, "all\n");
        streams.drained().await;
    });
}

#[test]
fn missing_fifo_is_an_error_that_names_it() {
    with_reaper(|reaper| async move {
        let place = Place::new(&reaper);
        for (stdin, stdout) in [("nope", "out"), ("in", "nope")] {
            let spec = StdioSpec::parse(false, &place.uri(stdin), &place.uri(stdout), "").unwrap();
            match Streams::open(&spec, &place.ctx, LONG).await.unwrap_err() {
                IoError::Open { path, .. } => assert_eq!(path, place.path("nope")),
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn files_are_made_and_appended_to_and_null_is_null() {
    with_reaper(|reaper| async move {
        let place = Place::new(&reaper);
        let log = place.path("logs/c1.log");
        let spec = StdioSpec::parse(false, "", &format!("file://{}", log.display()), "").unwrap();
        for _ in 0..2 {
            let mut streams = Streams::open(&spec, &place.ctx, LONG).await.unwrap();
            let process = place.run(&mut streams, "echo line; echo lost >&2; cat");
            assert!(process.wait().await.code.is_success());
            streams.drained().await;
        }
        assert_eq!(fs::read_to_string(log).unwrap(), "line\nline\n");
    });
}

#[test]
fn full_disk_loses_output_but_does_not_block_the_process() {
    with_reaper(|reaper| async move {
        let place = Place::new(&reaper);
        let spec = StdioSpec::parse(false, "", "file:///dev/full", "").unwrap();
        let mut streams = Streams::open(&spec, &place.ctx, LONG).await.unwrap();
        let process = place.run(&mut streams, "head -c 3000000 /dev/zero");
        assert!(process.wait().await.code.is_success());
        streams.drained().await;
    });
}

#[test]
fn pipes_belong_to_the_user_that_is_named() {
    use std::os::unix::fs::MetadataExt;
    with_reaper(|reaper| async move {
        let mut place = Place::new(&reaper);
        place.ctx.owner = Some((1234, 5678));
        let mut streams = place.open(false).await;
        let ChildStdio { stdin, stdout, stderr } = streams.child_stdio();
        for fd in [stdin, stdout, stderr] {
            let metadata = fs::File::from(fd.unwrap()).metadata().unwrap();
            assert_eq!((metadata.uid(), metadata.gid()), (1234, 5678));
        }
    });
}

/// What a backend does with a terminal: makes the pty, sends its master, runs the process on the other end.
fn backend_with_terminal(reaper: &Reaper, socket: &Path, script: &str) -> Process {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
    use rustix::pty::OpenptFlags;
    let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
    let slave =
        rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [std::os::fd::AsFd::as_fd(&master)];
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let data = [std::io::IoSlice::new(name.as_bytes())];
    rustix::net::sendmsg(&stream, &data, &mut control, SendFlags::empty()).unwrap();
    let end = || Stdio::from(slave.try_clone().unwrap());
    let mut command = Command::new("setsid");
    command.args(["--ctty", "/bin/sh", "-c", script]).stdin(end()).stdout(end()).stderr(end());
    reaper.spawn(&mut command).unwrap()
}

#[test]
fn terminal_echoes_and_is_resized() {
    with_reaper(|reaper| async move {
        let place = Place::new(&reaper);
        let mut streams = place.open(true).await;
        assert!(streams.child_stdio().stdin.is_none());
        let socket = streams.console_socket().unwrap().to_owned();
        // The process tells its size when a line comes: by then the size is set.
        let process = backend_with_terminal(&reaper, &socket, "read line; echo got $line; stty size; exit 4");
        streams.start(LONG).await.unwrap();
        assert!(!socket.parent().unwrap().exists(), "the socket is gone once the terminal has come");
        streams.resize(123, 45).unwrap();
        let out = place.reader("out");
        fs::OpenOptions::new().write(true).open(place.path("in")).unwrap().write_all(b"hello\n").unwrap();
        assert_eq!(process.wait().await.code.as_u8(), 4);
        streams.drained().await;
        let expected = "hello\r\ngot hello\r\n45 123\r\n";
        let said = read_some(out, expected.len());
        assert_eq!(String::from_utf8(said).unwrap(), expected);
    });
}

#[test]
fn terminal_that_does_not_come_is_an_error_within_the_deadline() {
    with_reaper(|reaper| async move {
        let place = Place::new(&reaper);
        let mut streams = place.open(true).await;
        let error = streams.start(Duration::from_millis(50)).await.unwrap_err();
        assert!(matches!(error, IoError::ConsoleDeadline { .. }), "{error:?}");

        let mut streams = place.open(true).await;
        let socket = streams.console_socket().unwrap().to_owned();
        drop(std::os::unix::net::UnixStream::connect(&socket).unwrap());
        let error = streams.start(LONG).await.unwrap_err();
        assert!(matches!(error, IoError::Console { .. }), "{error:?}");
        assert!(!socket.exists());
    });
}

#[test]
fn console_directory_with_a_long_path_is_refused_by_name() {
    with_reaper(|reaper| async move {
        let mut place = Place::new(&reaper);
        place.ctx.console_dir = place.path(&"d".repeat(100));
        fs::create_dir(&place.ctx.console_dir).unwrap();
        let spec = StdioSpec::parse(true, "", "", "").unwrap();
        let error = Streams::open(&spec, &place.ctx, LONG).await.unwrap_err();
        assert!(matches!(error, IoError::ConsolePathTooLong { .. }), "{error:?}");
        assert_eq!(fs::read_dir(&place.ctx.console_dir).unwrap().count(), 0);
    });
}

#[test]
fn dropped_streams_leave_no_descriptor_open() {
    with_reaper(|reaper| async move {
        let count = || fs::read_dir("/proc/self/fd").unwrap().count();
        let place = Place::new(&reaper);
        thread::yield_now();
        let before = count();
        for terminal in [false, true] {
            let mut streams = place.open(terminal).await;
            drop(streams.child_stdio());
            drop(streams);
        }
        // Aborted tasks drop what they own when the runtime next turns to them.
        until(|| count() <= before).await;
    });
}
