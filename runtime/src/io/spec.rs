use std::path::PathBuf;

use super::IoError;

/// Where a stream comes from or goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// Nowhere: /dev/null.
    Null,
    /// A fifo that containerd or a client made (a file that is not a fifo is appended to).
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
    /// Standard error.
    pub stderr: Endpoint,
}

#[allow(unused_variables, clippy::unimplemented)]
impl StdioSpec {
    /// Reads the three strings of containerd's request: empty, a path, `fifo://`, `file://` or `binary://`.
    ///
    /// # Errors
    /// [`IoError::BadUri`].
    pub fn parse(terminal: bool, stdin: &str, stdout: &str, stderr: &str) -> Result<Self, IoError> {
        unimplemented!()
    }
}
