//! How these programs end: one line on stderr, which the caller passes on, and status 1.

use std::{error::Error, fmt::Write as _, io::Write as _, process::ExitCode};

/// Ends a program with the error and its causes in one line.
pub fn failure(program: &str, error: &dyn Error) -> ExitCode {
    let mut line = format!("{program}: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a String cannot fail.
        let _ = write!(line, ": {error}");
        cause = error.source();
    }
    // A name from an image may hold anything; the backend takes one line.
    let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    // With stderr gone there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{line}");
    ExitCode::FAILURE
}
