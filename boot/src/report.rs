//! How these programs end: one line on stderr, which the caller passes on, and status 1.

use std::{
    error::Error,
    fmt::Write as _,
    fs::OpenOptions,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::ExitCode,
};

/// Ends a program with the error and its causes in one line on stderr and, if asked for, in `file`.
pub fn failure(program: &str, error: &dyn Error, file: Option<&Path>) -> ExitCode {
    let line = one_line(error);
    // With stderr gone there is nobody to tell, and the status says it too.
    let _ = writeln!(io::stderr(), "{program}: {line}");
    if let Some(file) = file
        && let Err(error) = write(file, &line)
    {
        let _ = writeln!(io::stderr(), "{program}: cannot write {}: {error}", file.display());
    }
    ExitCode::FAILURE
}

fn write(file: &Path, line: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file)?;
    writeln!(file, "{line}")
}

fn one_line(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // An io::Error that carries one of ours displays as that one, which is its source as well.
        if !line.ends_with(&text) {
            // Writing to a String cannot fail.
            let _ = write!(line, ": {text}");
        }
        cause = error.source();
    }
    // A name from an image may hold anything; the backend takes one line.
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Layered(&'static str, #[source] Option<Box<Layered>>);

    #[test]
    fn an_error_is_one_line_with_its_causes() {
        let cause = Layered("of that", None);
        let error = Layered("a\nfailure", Some(Box::new(Layered("because", Some(Box::new(cause))))));
        assert_eq!(one_line(&error), "a failure: because: of that");
    }
}
