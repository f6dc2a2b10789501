use std::future::Future;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::*;
use crate::sys::wait;

/// One reaper at a time in a process: the tests of all rooms that have children take this lock.
static ONE_REAPER: Mutex<()> = Mutex::new(());

/// While it lives, no reaper runs: for tests that wait for their children themselves.
pub(crate) fn no_reaper() -> MutexGuard<'static, ()> {
    ONE_REAPER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a test on a runtime like the shim's, with the one reaper, and fails it if it hangs.
pub(crate) fn with_reaper<T: Future<Output = ()>>(test: impl FnOnce(Reaper) -> T) {
    with_runtime(|| async { test(Reaper::start().unwrap()).await });
}

fn with_runtime<T: Future<Output = ()>>(test: impl FnOnce() -> T) {
    let _alone = no_reaper();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(60), test()).await.expect("the test hangs");
    });
}

/// Looks again and again until it is so.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) fn sh(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).stdin(Stdio::null());
    command
}

/// Shell code that waits until its parent is gone: a shell would take the exit of a quicker child for itself.
///
/// The parent has put its pid into $PARENT.
pub(crate) const PARENT_GONE: &str = "while [ -e /proc/$PARENT ]; do :; done;";

/// Has a shell fork `script` off, write its pid and exit: what an OCI backend does.
async fn orphan(reaper: &Reaper, dir: &Path, script: &str) -> Pid {
    let file = dir.join("pid");
    let script = format!("export PARENT=$$; sh -c '{PARENT_GONE} {script}' & echo $! > {}", file.display());
    let exit = reaper.spawn(&mut sh(&script)).unwrap().wait().await;
    assert!(exit.code.is_success());
    Pid::new(std::fs::read_to_string(file).unwrap().trim().parse().unwrap()).unwrap()
}

fn is_gone(pid: Pid) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn exit_code_is_the_status_or_128_and_the_signal() {
    with_reaper(|reaper| async move {
        for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -40 $$", 168)] {
            let exit = reaper.spawn(&mut sh(script)).unwrap().wait().await;
            assert_eq!(exit.code.as_u8(), code, "{script}");
        }
    });
}

#[test]
fn many_processes_at_once_lose_no_exit() {
    with_reaper(|reaper| async move {
        let spawned: Vec<_> =
            (0..200).map(|n| (n, reaper.spawn(&mut sh(&format!("exit {n}"))).unwrap())).collect();
        for (n, process) in spawned {
            assert_eq!(process.wait().await.code, ExitCode::new(n));
        }
    });
}

#[test]
fn every_waiter_of_a_process_gets_its_exit() {
    with_reaper(|reaper| async move {
        let process = reaper.spawn(&mut sh("read x; exit 5")).unwrap();
        let (a, b) = (process.clone(), process.clone());
        let (a, b, c) = tokio::join!(a.wait(), b.wait(), process.wait());
        assert_eq!([a, b], [c, c]);
        assert_eq!(process.exit(), Some(a));
    });
}

#[test]
fn orphan_is_adopted_alive_and_takes_signals() {
    with_reaper(|reaper| async move {
        let dir = tempfile::tempdir().unwrap();
        let hold = reaper.hold();
        let pid = orphan(&reaper, dir.path(), "exec sleep 1000").await;
        let process = reaper.adopt(pid, &hold).unwrap();
        assert_eq!(process.exit(), None);
        assert!(matches!(reaper.adopt(pid, &hold), Err(ProcessError::AlreadyTracked { .. })));
        process.signal(0).unwrap();
        process.signal(libc::SIGRTMIN() + 2).unwrap();
        let code = u8::try_from(128 + libc::SIGRTMIN() + 2).unwrap();
        assert_eq!(process.wait().await.code.as_u8(), code);
    });
}

#[test]
fn orphan_that_exited_early_is_adopted_with_its_exit() {
    with_reaper(|reaper| async move {
        let dir = tempfile::tempdir().unwrap();
        let hold = reaper.hold();
        let pid = orphan(&reaper, dir.path(), "exit 9").await;
        until(|| is_gone(pid)).await;
        let process = reaper.adopt(pid, &hold).unwrap();
        assert_eq!(process.exit().map(|exit| exit.code), Some(ExitCode::new(9)));
        assert_eq!(process.wait().await.code, ExitCode::new(9));
        assert!(matches!(process.signal(libc::SIGTERM), Err(ProcessError::NotRunning { .. })));
        assert!(
            matches!(reaper.adopt(pid, &hold), Err(ProcessError::NotAChild { .. })),
            "an exit is given once"
        );
    });
}

#[test]
fn orphan_is_reaped_and_forgotten_without_a_hold() {
    with_reaper(|reaper| async move {
        let dir = tempfile::tempdir().unwrap();
        let pid = orphan(&reaper, dir.path(), "exit 9").await;
        until(|| is_gone(pid)).await;
        let hold = reaper.hold();
        assert!(matches!(reaper.adopt(pid, &hold), Err(ProcessError::NotAChild { .. })));
    });
}

#[test]
fn hold_that_was_opened_later_does_not_see_an_earlier_exit() {
    with_reaper(|reaper| async move {
        let dir = tempfile::tempdir().unwrap();
        let early = reaper.hold();
        let pid = orphan(&reaper, dir.path(), "exit 9").await;
        until(|| is_gone(pid)).await;
        let late = reaper.hold();
        assert!(matches!(reaper.adopt(pid, &late), Err(ProcessError::NotAChild { .. })));
        drop(late);
        assert_eq!(reaper.adopt(pid, &early).unwrap().wait().await.code, ExitCode::new(9));
    });
}

#[test]
fn exits_are_forgotten_with_the_last_hold_of_their_time() {
    with_reaper(|reaper| async move {
        let dir = tempfile::tempdir().unwrap();
        let early = reaper.hold();
        let pid = orphan(&reaper, dir.path(), "exit 9").await;
        until(|| is_gone(pid)).await;
        assert_eq!(reaper.remembered(), 1);
        let _late = reaper.hold();
        drop(early);
        assert_eq!(reaper.remembered(), 0);
    });
}

#[test]
fn child_that_died_before_the_reaper_started_is_reaped() {
    with_runtime(|| async {
        #[expect(clippy::zombie_processes, reason = "the reaper waits for it")]
        let child = sh("exit 1").spawn().unwrap();
        let pid = Pid::new(child.id().into()).unwrap();
        until(|| wait::peek(pid.as_raw()).unwrap().is_some()).await;
        let _reaper = Reaper::start().unwrap();
        assert!(is_gone(pid));
    });
}

#[test]
fn signal_after_exit_is_refused_even_before_the_loop_has_reaped_it() {
    with_reaper(|reaper| async move {
        let process = reaper.spawn(&mut sh("exit 0")).unwrap();
        // No await: the loop has no chance to run.
        while wait::peek(process.pid().as_raw()).unwrap().is_none() {
            std::thread::yield_now();
        }
        assert!(matches!(process.signal(libc::SIGTERM), Err(ProcessError::NotRunning { .. })));
    });
}

#[test]
fn signal_number_that_is_none_is_an_error_with_its_source() {
    with_reaper(|reaper| async move {
        let process = reaper.spawn(&mut sh("exec sleep 1000")).unwrap();
        assert!(matches!(process.signal(99), Err(ProcessError::System { .. })));
        process.signal(libc::SIGKILL).unwrap();
        assert_eq!(process.wait().await.code.as_u8(), 137);
    });
}

#[test]
fn missing_program_is_a_spawn_error_that_names_it() {
    with_reaper(|reaper| async move {
        let error = reaper.spawn(&mut Command::new("/no/such/program")).unwrap_err();
        assert!(
            matches!(&error, ProcessError::Spawn { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
        );
        assert!(error.to_string().contains("/no/such/program"));
    });
}

#[test]
fn stranger_is_not_adopted() {
    with_reaper(|reaper| async move {
        let hold = reaper.hold();
        let init = Pid::new(1).unwrap();
        assert!(matches!(reaper.adopt(init, &hold), Err(ProcessError::NotAChild { .. })));
    });
}

#[test]
fn pid_is_a_positive_number() {
    for bad in [0, -1, i64::from(i32::MAX) + 1, i64::MIN] {
        assert!(matches!(Pid::new(bad), Err(ProcessError::BadPid(_))), "{bad}");
    }
    assert_eq!(serde_json::from_str::<Pid>("17").unwrap().as_u32(), 17);
    assert!(serde_json::from_str::<Pid>("0").is_err());
}
