use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::process::Pid;

/// Writes a logger and returns its URI; it finds the test's directory in $DIR.
fn logger(place: &Place, script: &str) -> String {
    let path = place.path("logger");
    let dir = place.dir.path().display();
    fs::write(&path, format!("#!/bin/sh\nPATH=/usr/bin:/bin; DIR={dir}\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    format!("binary://{}?tag=a%20b&-v=1", path.display())
}

async fn open_logger(place: &Place, terminal: bool, script: &str) -> Result<Streams, IoError> {
    let uri = logger(place, script);
    let spec = StdioSpec::parse(terminal, "", &uri, &uri).unwrap();
    Streams::open(&spec, &place.ctx, LONG).await
}

/// A logger that writes each stream to a file.
const LOGS: &str = "echo \"$CONTAINER_NAMESPACE $CONTAINER_ID $*\" > $DIR/who
exec 5>&-; cat <&4 >$DIR/log.err & cat <&3 > $DIR/log.out; wait; echo done > $DIR/done";

#[test]
fn logger_gets_both_streams_and_knows_for_whom() {
    with_reaper(|reaper| async move {
        let place = Place::new(&reaper);
        let mut streams = open_logger(&place, false, LOGS).await.unwrap();
        let process = place.run(&mut streams, "head -c 3000000 /dev/zero; echo err >&2");
        assert!(process.wait().await.code.is_success());
        streams.drained().await;
        assert!(place.path("done").exists(), "drained waits for the logger's end");
        assert_eq!(fs::read_to_string(place.path("who")).unwrap(), "k8s.io c1 tag a b -v 1\n");
        assert_eq!(fs::metadata(place.path("log.out")).unwrap().len(), 3_000_000);
        assert_eq!(fs::read_to_string(place.path("log.err")).unwrap(), "err\n");
    });
}

#[test]
fn logger_of_a_terminal_gets_its_output() {
    with_reaper(|reaper| async move {
        let place = Place::new(&reaper);
        let mut streams = open_logger(&place, true, LOGS).await.unwrap();
        let socket = streams.console_socket().unwrap().to_owned();
        let process = backend_with_terminal(&reaper, &socket, "echo out; echo err >&2");
        streams.start(LONG).await.unwrap();
        process.wait().await;
        streams.drained().await;
        assert_eq!(fs::read_to_string(place.path("log.out")).unwrap(), "out\r\nerr\r\n");
    });
}

#[test]
fn logger_that_dies_or_is_missing_or_silent_is_an_error() {
    with_reaper(|reaper| async move {
        let place = Place::new(&reaper);
        let error = open_logger(&place, false, "exit 9").await.unwrap_err();
        assert!(matches!(error, IoError::LoggerExited { code: 9, .. }), "{error:?}");

        let uri = logger(&place, "echo $$ > $DIR/pid.tmp; mv $DIR/pid.tmp $DIR/pid; exec sleep 1000");
        let spec = StdioSpec::parse(false, "", &uri, "").unwrap();
        let error = Streams::open(&spec, &place.ctx, Duration::from_millis(300)).await.unwrap_err();
        assert!(matches!(error, IoError::LoggerDeadline { .. }), "{error:?}");
        let pid: i64 = fs::read_to_string(place.path("pid")).unwrap().trim().parse().unwrap();
        let pid = Pid::new(pid).unwrap();
        until(|| !Path::new(&format!("/proc/{pid}")).exists()).await;

        fs::remove_file(place.path("logger")).unwrap();
        assert!(matches!(Streams::open(&spec, &place.ctx, LONG).await, Err(IoError::LoggerSpawn(_))));
    });
}

#[test]
fn logger_that_is_ready_by_a_byte_is_ended_with_its_streams() {
    with_reaper(|reaper| async move {
        let place = Place::new(&reaper);
        let script = "trap 'echo term > $DIR/term; exit' TERM; echo >&5; while :; do sleep 0.01; done";
        let streams = open_logger(&place, false, script).await.unwrap();
        streams.close();
        until(|| place.path("term").exists()).await;
    });
}
