//! What a backend's words mean: `log.json` and stderr to a message, the message to an [`OciError`]. The only place that
//! looks into a backend's text, because text is all that these programs give.

use serde::Deserialize;

use super::{Dialect, OciError};
use crate::process::ExitCode;

/// A line of `log.json`; the keys are the same for runc and crun, their order is not.
#[derive(Deserialize)]
struct LogLine {
    level: String,
    msg: String,
}

/// Of what a failed backend left behind, the words that tell the reason.
///
/// The last error of the log, because the ones before are its consequences or warnings (crun logs "fail startup", then
/// the system call that failed). crun reports errors of its arguments and of its early steps on stderr only.
pub(super) fn message(log: &[u8], stderr: &[u8], code: ExitCode) -> String {
    let log = String::from_utf8_lossy(log);
    let last_error =
        log.lines().filter_map(|line| serde_json::from_str::<LogLine>(line).ok()).rfind(|line| {
            matches!(line.level.as_str(), "error" | "fatal" | "panic") && !line.msg.trim().is_empty()
        });
    if let Some(line) = last_error {
        return line.msg.trim().to_owned();
    }
    for text in [String::from_utf8_lossy(stderr), log] {
        let text = text.trim();
        if !text.is_empty() {
            return text.to_owned();
        }
    }
    match code.as_u8().checked_sub(128) {
        Some(signal @ 1..) => format!("the OCI backend was killed by signal {signal} and left no message"),
        _ => format!("the OCI backend exited with {code} and left no message"),
    }
}

/// Sorts a failure by its message.
///
/// Ends and beginnings are compared, never the inside of a message: that holds names which users choose.
pub(super) fn classify(
    dialect: Dialect,
    operation: &'static str,
    id: &str,
    code: ExitCode,
    message: String,
) -> OciError {
    let text = message.as_str();
    let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| text.ends_with(suffix));
    let owned_id = || id.to_owned();

    let unknown_verb =
        text.starts_with("No help topic for '") || text == format!("unknown command {operation}");
    // crun has no words of its own for a container that it doesn't know, but opens its state.
    let crun_not_found = ends(&[": No such file or directory"])
        && (text.starts_with("error opening file `")
            && ends(&[&format!("/{id}/status`: No such file or directory")])
            || text.starts_with("cannot open directory '")
                && ends(&[&format!("/{id}': No such file or directory")]));

    if unknown_verb {
        OciError::Unsupported { operation, dialect }
    } else if crun_not_found
        || ends(&["container does not exist"])
        || text == format!("container `{id}` does not exist")
    {
        OciError::NotFound { operation, id: owned_id(), message }
    } else if ends(&["container with given ID already exists"])
        || ends(&[&format!("container with id exists: {id}")])
        || text == format!("container `{id}` already exists")
    {
        OciError::AlreadyExists { operation, id: owned_id(), message }
    } else if ends(&[
        "container not running",
        "process already finished",
        "cannot exec in a stopped container",
        "cannot exec a container that has stopped",
        "cannot start a container that has stopped",
        "container has already stopped",
        ": No such process",
        ": no such process",
    ]) || text == format!("the container `{id}` is not running")
        || text == format!("container `{id}` is not running")
    {
        OciError::NotRunning { operation, id: owned_id(), message }
    } else {
        OciError::Failed { operation, id: owned_id(), code, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines that runc 1.1.5 and crun 1.8.1 wrote for a container named t1.
    const REAL: &[(&str, &str, &str)] = &[
        (
            "state",
            "NotFound",
            r#"{"level":"error","msg":"container does not exist","time":"2026-11-25T10:30:05Z"}"#,
        ),
        (
            "exec",
            "NotFound",
            r#"{"level":"error","msg":"exec failed: container does not exist","time":"2026-11-25T10:30:05Z"}"#,
        ),
        (
            "create",
            "AlreadyExists",
            r#"{"level":"error","msg":"runc create failed: container with given ID already exists","time":"2026-11-25T10:30:18Z"}"#,
        ),
        (
            "kill",
            "NotRunning",
            r#"{"level":"error","msg":"container not running","time":"2026-11-25T10:30:25Z"}"#,
        ),
        (
            "exec",
            "NotRunning",
            r#"{"level":"error","msg":"exec failed: cannot exec in a stopped container","time":"2026-11-25T10:30:25Z"}"#,
        ),
        (
            "start",
            "NotRunning",
            r#"{"level":"error","msg":"cannot start a container that has stopped","time":"2026-11-25T10:30:25Z"}"#,
        ),
        (
            "start",
            "Failed",
            r#"{"level":"error","msg":"cannot start an already running container","time":"2026-11-25T10:30:25Z"}"#,
        ),
        (
            "resume",
            "Failed",
            r#"{"level":"error","msg":"container not paused","time":"2026-11-25T10:30:25Z"}"#,
        ),
        (
            "kill",
            "Failed",
            r#"{"level":"error","msg":"unable to signal init: invalid argument","time":"2026-11-25T10:30:25Z"}"#,
        ),
        (
            "exec",
            "Failed",
            r#"{"level":"error","msg":"exec failed: unable to start container process: exec: \"/nonexist\": stat /nonexist: no such file or directory","time":"2026-11-25T10:30:25Z"}"#,
        ),
        (
            "create",
            "Failed",
            r#"{"level":"error","msg":"runc create failed: chdir /nonexistent: no such file or directory","time":"2026-11-25T10:30:05Z"}"#,
        ),
        (
            "frobnicate",
            "Unsupported",
            r#"{"level":"error","msg":"No help topic for 'frobnicate'\n","time":"2026-11-25T10:30:05Z"}"#,
        ),
        (
            "state",
            "NotFound",
            r#"{"msg":"error opening file `/run/crun/t1/status`: No such file or directory","level":"error","time":"2026-11-25T10:30:05.584554Z"}"#,
        ),
        (
            "delete",
            "NotFound",
            r#"{"msg":"cannot open directory '/run/crun/t1': No such file or directory","level":"error","time":"2026-11-25T10:30:05.596464Z"}"#,
        ),
        (
            "create",
            "AlreadyExists",
            r#"{"msg":"container `t1` already exists","level":"error","time":"2026-11-25T10:30:18.995957Z"}"#,
        ),
        (
            "start",
            "Failed",
            r#"{"msg":"cannot open `/run/crun/t1/exec.fifo`: No such file or directory","level":"error","time":"2026-11-25T10:30:26.220492Z"}"#,
        ),
        (
            "exec",
            "Failed",
            r#"{"msg":"the container `t1` is paused","level":"error","time":"2026-11-25T10:30:26.320709Z"}"#,
        ),
        (
            "exec",
            "Failed",
            r#"{"msg":"executable file `/nonexist` not found in $PATH: No such file or directory","level":"error","time":"2026-11-25T10:30:26.271377Z"}"#,
        ),
        (
            "kill",
            "Failed",
            r#"{"msg":"send signal to pidfd: Invalid argument","level":"error","time":"2026-11-25T10:30:26.381806Z"}"#,
        ),
        (
            "delete",
            "Failed",
            r#"{"msg":"the container `t1` is not in `created` or `stopped` state","level":"error","time":"2026-11-25T10:30:27.063668Z"}"#,
        ),
        (
            "exec",
            "NotRunning",
            "{\"msg\":\"fail startup\",\"level\":\"error\",\"time\":\"2026-11-25T10:30:26.972854Z\"}\n{\"msg\":\"setns(pid=17309, CLONE_NEWUSER): No such process\",\"level\":\"error\",\"time\":\"2026-11-25T10:30:26.973135Z\"}",
        ),
    ];

    fn variant(error: &OciError) -> &'static str {
        match error {
            OciError::NotFound { .. } => "NotFound",
            OciError::AlreadyExists { .. } => "AlreadyExists",
            OciError::NotRunning { .. } => "NotRunning",
            OciError::Unsupported { .. } => "Unsupported",
            OciError::Failed { .. } => "Failed",
            other => panic!("classify never makes {other:?}"),
        }
    }

    #[test]
    fn real_log_lines_become_the_errors_they_mean() {
        for (operation, expected, log) in REAL {
            let code = ExitCode::new(1);
            let error = classify(Dialect::Runc, operation, "t1", code, message(log.as_bytes(), b"", code));
            assert_eq!(variant(&error), *expected, "{log}");
        }
    }

    #[test]
    fn crun_tells_unknown_verbs_and_a_missing_container_on_stderr_only() {
        let code = ExitCode::new(1);
        let error =
            classify(Dialect::Crun, "features", "", code, message(b"", b"unknown command features\n", code));
        assert!(matches!(error, OciError::Unsupported { operation: "features", dialect: Dialect::Crun }));
        let stderr = b"error opening file `/r/t1/status`: No such file or directory\n";
        assert_eq!(
            variant(&classify(Dialect::Crun, "ps", "t1", code, message(b"", stderr, code))),
            "NotFound"
        );
    }

    #[test]
    fn names_that_users_choose_do_not_sort_an_error() {
        let text = "runc create failed: exec: \"container does not exist\": stat container not running: permission denied";
        assert_eq!(
            variant(&classify(Dialect::Runc, "create", "t1", ExitCode::new(1), text.into())),
            "Failed"
        );
    }

    #[test]
    fn warnings_are_not_the_reason() {
        let log = concat!(
            r#"{"level":"error","msg":"the reason"}"#,
            "\n",
            r#"{"level":"warning","msg":"cgroups are odd here"}"#,
            "\n"
        );
        assert_eq!(message(log.as_bytes(), b"noise", ExitCode::new(1)), "the reason");
    }

    #[test]
    fn without_a_readable_log_stderr_then_the_raw_log_then_the_exit_speak() {
        let code = ExitCode::new(3);
        assert_eq!(message(b"%%garbage", b"  the words\n", code), "the words");
        assert_eq!(message(b"%%garbage\xff", b"", code), "%%garbage\u{fffd}");
        assert!(message(b"", b"", code).contains("exited with 3"));
        assert!(message(b"", b"", ExitCode::signalled(9)).contains("signal 9"));
    }
}
