use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::*;
use crate::process::Reaper;
use crate::process::tests::{PARENT_GONE, until, with_reaper};

const LONG: Duration = Duration::from_secs(30);

/// A backend that is a shell script, in a directory of its own. The script finds the path of the log in $LOG, the verb
/// in $VERB, the directory in $DIR; all arguments are in $DIR/args.
struct Fake {
    dir: tempfile::TempDir,
    backend: Backend,
}

impl Fake {
    fn new(reaper: &Reaper, script: &str) -> Self {
        Self::speaking(Dialect::Runc, reaper, script)
    }

    fn speaking(dialect: Dialect, reaper: &Reaper, script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("fake");
        let dir_name = dir.path().display();
        let text = format!(
            "#!/bin/sh\nDIR={dir_name}\nprintf '%s\\n' \"$@\" > $DIR/args\nLOG=$4\nshift 6\nVERB=$1\n{script}\n"
        );
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let config = BackendConfig {
            dialect,
            program,
            root: "/fake/root".into(),
            systemd_cgroup: false,
            criu_path: None,
        };
        let scratch = dir.path().join("scratch");
        fs::create_dir(&scratch).unwrap();
        Self { backend: Backend::new(config, reaper.clone(), scratch), dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The arguments of the last call, without the log's random path.
    fn args(&self) -> Vec<String> {
        let args = fs::read_to_string(self.path("args")).unwrap();
        let mut args: Vec<String> = args.lines().map(str::to_owned).collect();
        assert!(args[3].ends_with("/log.json"));
        args[3] = "LOG".into();
        args
    }

    fn create(&self) -> (PathBuf, PathBuf) {
        (self.path("bundle"), self.path("pid"))
    }

    /// No call leaves its scratch directory behind.
    fn assert_clean(&self) {
        assert_eq!(fs::read_dir(self.path("scratch")).unwrap().count(), 0);
    }
}

/// A script that leaves a process running `script` behind and writes its pid, as `create` does.
///
/// A shell gives a background job /dev/null as stdin; the backend's own is its descriptor 3.
fn leaving(script: &str) -> String {
    format!("export PARENT=$$; exec 3<&0; sh -c '{PARENT_GONE} {script}' & echo $! > $DIR/pid")
}

fn plain<'a>(bundle: &'a Path, pid_file: &'a Path) -> Create<'a> {
    Create {
        bundle,
        pid_file,
        console_socket: None,
        stdio: ChildStdio::default(),
        no_pivot: false,
        no_new_keyring: false,
        restore: None,
    }
}

#[test]
fn create_adopts_the_process_that_the_backend_leaves() {
    with_reaper(|reaper| async move {
        let fake = Fake::new(&reaper, &leaving("exit 5"));
        let (bundle, pid) = fake.create();
        let process = fake.backend.create("c1", plain(&bundle, &pid), LONG).await.unwrap();
        assert_eq!(process.wait().await.code.as_u8(), 5);
        let expected = ["--root", "/fake/root", "--log", "LOG", "--log-format", "json", "create", "--bundle"];
        assert_eq!(fake.args()[..8], expected);
        assert_eq!(fake.args().last().unwrap(), "c1");
        fake.assert_clean();
    });
}

#[test]
fn process_inherits_the_stdio_that_was_given() {
    with_reaper(|reaper| async move {
        let fake = Fake::new(&reaper, &leaving("cat <&3; echo err >&2"));
        let (bundle, pid) = fake.create();
        let input = fake.path("in");
        fs::write(&input, "hello").unwrap();
        let file = |name: &str| Some(fs::File::create(fake.path(name)).unwrap().into());
        let mut create = plain(&bundle, &pid);
        create.stdio = ChildStdio {
            stdin: Some(fs::File::open(input).unwrap().into()),
            stdout: file("out"),
            stderr: file("err"),
        };
        fake.backend.create("c1", create, LONG).await.unwrap().wait().await;
        assert_eq!(fs::read_to_string(fake.path("out")).unwrap(), "hello");
        assert_eq!(fs::read_to_string(fake.path("err")).unwrap(), "err\n");
    });
}

#[test]
fn failure_speaks_with_the_logs_last_error() {
    with_reaper(|reaper| async move {
        let script =
            r#"echo noise >&2; echo '{"level":"error","msg":"container does not exist"}' > $LOG; exit 1"#;
        let fake = Fake::new(&reaper, script);
        let error = fake.backend.start("c1", LONG).await.unwrap_err();
        assert!(matches!(&error, OciError::NotFound { operation: "start", .. }), "{error:?}");
        assert!(error.to_string().ends_with(": container does not exist"), "{error}");
        fake.assert_clean();
    });
}

#[test]
fn failure_with_a_garbage_log_speaks_with_stderr() {
    with_reaper(|reaper| async move {
        let fake = Fake::new(&reaper, "echo '}{' > $LOG; echo the words >&2; exit 3");
        match fake.backend.pause("c1", LONG).await.unwrap_err() {
            OciError::Failed { code, message, .. } => {
                assert_eq!((code.as_u8(), message.as_str()), (3, "the words"));
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn death_by_signal_is_told() {
    with_reaper(|reaper| async move {
        let fake = Fake::new(&reaper, "kill -SEGV $$");
        let error = fake.backend.resume("c1", LONG).await.unwrap_err();
        assert!(error.to_string().contains("signal 11"), "{error}");
    });
}

#[test]
fn missing_program_is_a_spawn_error() {
    with_reaper(|reaper| async move {
        let mut fake = Fake::new(&reaper, "");
        fs::remove_file(fake.path("fake")).unwrap();
        assert!(matches!(fake.backend.start("c1", LONG).await, Err(OciError::Spawn { .. })));
        // A bare name is looked up in PATH.
        fake.backend.config.program = "true".into();
        fake.backend.start("c1", LONG).await.unwrap();
    });
}

/// A script whose process group holds a second process; both write their pids.
const HANGS: &str =
    "sleep 1000 & echo $! > $DIR/second; echo $$ > $DIR/first.tmp; mv $DIR/first.tmp $DIR/first; wait";

fn process_of(fake: &Fake, file: &str) -> PathBuf {
    Path::new("/proc").join(fs::read_to_string(fake.path(file)).unwrap().trim())
}

#[test]
fn deadline_kills_the_backend_and_what_it_runs() {
    with_reaper(|reaper| async move {
        let fake = Fake::new(&reaper, HANGS);
        let begin = Instant::now();
        let error = fake.backend.start("c1", Duration::from_millis(300)).await.unwrap_err();
        assert!(matches!(error, OciError::Deadline { operation: "start", .. }), "{error:?}");
        assert!(begin.elapsed() < Duration::from_secs(5));
        let (first, second) = (process_of(&fake, "first"), process_of(&fake, "second"));
        assert!(!first.exists());
        until(|| !second.exists()).await;
        fake.assert_clean();
    });
}

#[test]
fn dropped_call_kills_the_backend_and_what_it_runs() {
    with_reaper(|reaper| async move {
        let fake = Fake::new(&reaper, HANGS);
        let (bundle, pid) = fake.create();
        {
            let call = fake.backend.create("c1", plain(&bundle, &pid), LONG);
            tokio::select! {
                result = call => panic!("{result:?}"),
                () = until(|| fake.path("first").exists()) => {}
            }
        }
        let (first, second) = (process_of(&fake, "first"), process_of(&fake, "second"));
        until(|| !first.exists() && !second.exists()).await;
        fake.assert_clean();
    });
}

#[test]
fn flood_of_output_neither_blocks_the_backend_nor_fills_memory() {
    with_reaper(|reaper| async move {
        let fake = Fake::new(&reaper, "head -c 50000000 /dev/zero | tr '\\0' x >&2; exit 1");
        match fake.backend.start("c1", LONG).await.unwrap_err() {
            OciError::Failed { message, .. } => assert_eq!(message.len(), 64 * 1024),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn child_that_keeps_the_output_open_does_not_hold_up_the_call() {
    with_reaper(|reaper| async move {
        let fake = Fake::new(&reaper, "sleep 1000 & echo $! > $DIR/second; exit 0");
        fake.backend.start("c1", LONG).await.unwrap();
        let pid = fs::read_to_string(fake.path("second")).unwrap().trim().parse().unwrap();
        let hold = reaper.hold();
        let left = reaper.adopt(crate::process::Pid::new(pid).unwrap(), &hold).unwrap();
        left.signal(libc::SIGKILL).unwrap();
        left.wait().await;
    });
}

#[test]
fn state_and_ps_are_read_as_runc_and_crun_write_them() {
    with_reaper(|reaper| async move {
        let fake = Fake::new(&reaper, "cat $DIR/$VERB.json");
        let say = |verb: &str, json: &str| fs::write(fake.path(&format!("{verb}.json")), json).unwrap();

        say(
            "state",
            r#"{"ociVersion":"1.0.0","id":"t1","pid":17309,"status":"paused","bundle":"/b","systemd-scope":""}"#,
        );
        let state = fake.backend.state("t1", LONG).await.unwrap();
        assert_eq!((state.status, state.pid.map(|pid| pid.as_raw())), (Status::Paused, Some(17309)));

        say(
            "state",
            r#"{"ociVersion":"1.0.2-dev","id":"t1","pid":0,"status":"stopped","bundle":"/b","owner":""}"#,
        );
        let state = fake.backend.state("t1", LONG).await.unwrap();
        assert_eq!((state.status, state.pid), (Status::Stopped, None));

        say("state", "null");
        assert!(matches!(fake.backend.state("t1", LONG).await, Err(OciError::Output { .. })));

        say("ps", "[\n 17, 4\n]");
        assert_eq!(
            fake.backend.ps("t1", LONG).await.unwrap().iter().map(|p| p.as_raw()).collect::<Vec<_>>(),
            [17, 4]
        );
        say("ps", "null");
        assert!(fake.backend.ps("t1", LONG).await.unwrap().is_empty());
        say("ps", "[0]");
        assert!(fake.backend.ps("t1", LONG).await.is_err());
    });
}

#[test]
fn bad_pid_file_is_an_output_error() {
    with_reaper(|reaper| async move {
        for content in ["", "abc", "0", "1"] {
            let fake = Fake::new(&reaper, &format!("printf '{content}' > $DIR/pid"));
            let (bundle, pid) = fake.create();
            let error = fake.backend.create("c1", plain(&bundle, &pid), LONG).await.unwrap_err();
            assert!(matches!(error, OciError::Output { what: "the pid file", .. }), "{content}: {error:?}");
        }
    });
}

#[test]
fn every_verb_has_the_arguments_that_the_backends_take() {
    with_reaper(|reaper| async move {
        let script = format!(
            "case $VERB in update) cat $3 > $DIR/resources;; restore|exec|create) {} ;; esac",
            leaving("exit 0")
        );
        let mut fake = Fake::new(&reaper, &script);
        fake.backend.config.systemd_cgroup = true;
        let tail = |fake: &Fake| fake.args()[6..].join(" ");
        let dir = fake.dir.path().display().to_string();

        fake.backend.kill("c1", 34, KillScope::All, LONG).await.unwrap();
        assert_eq!(tail(&fake), "--systemd-cgroup kill --all c1 34");
        fake.backend.config.systemd_cgroup = false;
        fake.backend.kill("c1", 9, KillScope::Init, LONG).await.unwrap();
        assert_eq!(tail(&fake), "kill c1 9");
        fake.backend.delete("c1", Force::Yes, LONG).await.unwrap();
        assert_eq!(tail(&fake), "delete --force c1");
        fake.backend.delete("c1", Force::No, LONG).await.unwrap();
        assert_eq!(tail(&fake), "delete c1");
        fake.backend.update("c1", b"{\"pids\":{}}", LONG).await.unwrap();
        assert_eq!(fs::read_to_string(fake.path("resources")).unwrap(), "{\"pids\":{}}");

        let (bundle, pid) = fake.create();
        let socket = fake.path("s");
        let mut create = plain(&bundle, &pid);
        (create.no_pivot, create.no_new_keyring, create.console_socket) =
            (true, true, Some(socket.as_path()));
        fake.backend.create("c1", create, LONG).await.unwrap();
        assert_eq!(
            tail(&fake),
            format!(
                "create --bundle {dir}/bundle --pid-file {dir}/pid --no-pivot --no-new-keyring --console-socket {dir}/s c1"
            )
        );

        let options = CriuOptions {
            tcp_established: true,
            external_unix_sockets: true,
            shell_job: true,
            file_locks: true,
        };
        let restore = Restore { image_path: "/i".into(), work_path: Some("/w".into()), options };
        let mut create = plain(&bundle, &pid);
        create.restore = Some(&restore);
        fake.backend.create("c1", create, LONG).await.unwrap();
        assert_eq!(
            tail(&fake),
            format!(
                "restore --bundle {dir}/bundle --pid-file {dir}/pid --detach --image-path /i --work-path /w \
                 --tcp-established --ext-unix-sk --shell-job --file-locks c1"
            )
        );

        let process_json = fake.path("p.json");
        let exec = Exec {
            process_json: &process_json,
            pid_file: &pid,
            console_socket: None,
            stdio: ChildStdio::default(),
        };
        fake.backend.exec("c1", exec, LONG).await.unwrap();
        assert_eq!(tail(&fake), format!("exec --detach --process {dir}/p.json --pid-file {dir}/pid c1"));

        let checkpoint = Checkpoint {
            image_path: "/i".into(),
            work_path: None,
            after: AfterCheckpoint::Run,
            options: CriuOptions::default(),
            empty_namespaces: vec!["network".into()],
            cgroups_mode: Some("soft".into()),
        };
        fake.backend.checkpoint("c1", &checkpoint, LONG).await.unwrap();
        assert_eq!(
            tail(&fake),
            "checkpoint --image-path /i --leave-running --empty-ns network --manage-cgroups-mode soft c1"
        );
    });
}

#[test]
fn rune_has_no_features_and_is_not_asked() {
    with_reaper(|reaper| async move {
        let fake = Fake::speaking(Dialect::Rune, &reaper, "exit 1");
        let error = fake.backend.features(LONG).await.unwrap_err();
        assert!(matches!(error, OciError::Unsupported { operation: "features", dialect: Dialect::Rune }));
        assert!(!fake.path("args").exists());
    });
}

#[test]
fn forced_delete_of_what_is_not_there_succeeds() {
    with_reaper(|reaper| async move {
        let script = r#"echo '{"level":"error","msg":"container does not exist"}' > $LOG; exit 1"#;
        let fake = Fake::new(&reaper, script);
        fake.backend.delete("c1", Force::Yes, LONG).await.unwrap();
        assert!(matches!(fake.backend.delete("c1", Force::No, LONG).await, Err(OciError::NotFound { .. })));
    });
}
