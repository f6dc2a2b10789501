use std::path::PathBuf;

use super::IoError;

/// Where a stream comes from or goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// Nowhere: /dev/null.
    Null,
    /// A fifo that containerd or a client made (for output, a file that is not a fifo is appended to).
    Fifo(PathBuf),
    /// A file, made with its directory when missing, appended to.
    File(PathBuf),
    /// A logging program.
    Binary {
        /// The program's absolute path.
        program: PathBuf,
        /// Its arguments: each key of the URI's query followed by its value.
        args: Vec<String>,
    },
}

/// The stdio that a create or exec request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StdioSpec {
    /// The process gets a pty; stderr is part of stdout then.
    pub terminal: bool,
    /// Standard input.
    pub stdin: Endpoint,
    /// Standard output.
    pub stdout: Endpoint,
    /// Standard error; the logger of stdout, if it has one, takes this too.
    pub stderr: Endpoint,
}

impl StdioSpec {
    /// Reads the three strings of containerd's request: empty, an absolute path, `fifo://`, `file://` or `binary://`.
    ///
    /// As in the Go shim a logger serves both streams, whatever the third string says, and a terminal has no stderr.
    ///
    /// # Errors
    /// [`IoError::BadUri`], also for a stdin that is no fifo and for a logger of stderr alone.
    pub fn parse(terminal: bool, stdin: &str, stdout: &str, stderr: &str) -> Result<Self, IoError> {
        let bad = |uri: &str, reason| IoError::BadUri { uri: uri.to_owned(), reason };
        let input = Endpoint::parse(stdin)?;
        if !matches!(input, Endpoint::Null | Endpoint::Fifo(_)) {
            return Err(bad(stdin, "stdin can only be a fifo"));
        }
        let output = Endpoint::parse(stdout)?;
        let errors = if terminal || matches!(output, Endpoint::Binary { .. }) {
            Endpoint::Null
        } else {
            Endpoint::parse(stderr)?
        };
        if matches!(errors, Endpoint::Binary { .. }) {
            return Err(bad(stderr, "a logger of stderr has to be that of stdout"));
        }
        Ok(Self { terminal, stdin: input, stdout: output, stderr: errors })
    }
}

impl Endpoint {
    fn parse(uri: &str) -> Result<Self, IoError> {
        let bad = |reason| IoError::BadUri { uri: uri.to_owned(), reason };
        if uri.is_empty() {
            return Ok(Self::Null);
        }
        // A path without a scheme is taken as it is: '%' and '?' are ordinary in it.
        let Some((scheme, rest)) = uri.split_once("://").filter(|(scheme, _)| !scheme.contains('/')) else {
            return absolute(uri.to_owned()).map(Self::Fifo).ok_or_else(|| bad("not an absolute path"));
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = decode(path, Plus::Literal)
            .and_then(absolute)
            .ok_or_else(|| bad("its path is not absolute or wrongly encoded"))?;
        match scheme {
            "fifo" => Ok(Self::Fifo(path)),
            "file" => Ok(Self::File(path)),
            "binary" => {
                let args = query_args(query).ok_or_else(|| bad("its query is wrongly encoded"))?;
                Ok(Self::Binary { program: path, args })
            }
            _ => Err(bad("unknown scheme")),
        }
    }
}

fn absolute(path: String) -> Option<PathBuf> {
    (path.starts_with('/') && !path.contains('\0')).then(|| path.into())
}

/// containerd's `NewBinaryCmd`: each key, then its first value, which may be empty. Go's map has no order; we keep theirs.
fn query_args(query: &str) -> Option<Vec<String>> {
    let mut args = Vec::new();
    let mut seen = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let key = decode(key, Plus::Space)?;
        if !seen.contains(&key) {
            args.push(key.clone());
            args.push(decode(value, Plus::Space)?);
            seen.push(key);
        }
    }
    args.iter().all(|arg| !arg.contains('\0')).then_some(args)
}

/// What '+' means: in a query it stands for a space.
#[derive(Clone, Copy, PartialEq)]
enum Plus {
    Literal,
    Space,
}

fn decode(text: &str, plus: Plus) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            b'+' if plus == Plus::Space => b' ',
            _ => byte,
        });
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(program: &str, args: &[&str]) -> Endpoint {
        Endpoint::Binary { program: program.into(), args: args.iter().map(|&arg| arg.to_owned()).collect() }
    }

    #[test]
    fn every_form_of_an_endpoint_is_read() {
        for (uri, expected) in [
            ("", Endpoint::Null),
            ("/run/f%20o?x", Endpoint::Fifo("/run/f%20o?x".into())),
            ("/run/a://b", Endpoint::Fifo("/run/a://b".into())),
            ("fifo:///run/fifo", Endpoint::Fifo("/run/fifo".into())),
            ("file:///var/log/a%20b+c", Endpoint::File("/var/log/a b+c".into())),
            ("binary:///bin/logger", binary("/bin/logger", &[])),
            (
                "binary:///bin/logger?id=a+b&-v=%2Fx&flag&id=z",
                binary("/bin/logger", &["id", "a b", "-v", "/x", "flag", ""]),
            ),
        ] {
            assert_eq!(Endpoint::parse(uri).unwrap(), expected, "{uri}");
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused_with_its_text() {
        for uri in [
            "relative",
            "file://host/path",
            "npipe:///x",
            "file:///%zz",
            "file:///%4",
            "binary:///b?a=%ff",
            "file:///a%00b",
        ] {
            let error = Endpoint::parse(uri).unwrap_err();
            assert!(error.to_string().contains(uri), "{error}");
        }
    }

    #[test]
    fn terminal_and_logger_take_stderr_with_them() {
        let spec = StdioSpec::parse(true, "/in", "/out", "/err").unwrap();
        assert_eq!(spec.stderr, Endpoint::Null);
        let spec = StdioSpec::parse(false, "", "binary:///b", "binary:///b").unwrap();
        assert_eq!((spec.stdin, spec.stderr), (Endpoint::Null, Endpoint::Null));
        assert!(StdioSpec::parse(false, "", "/out", "binary:///b").is_err());
        assert!(StdioSpec::parse(false, "file:///in", "/out", "").is_err());
    }
}
