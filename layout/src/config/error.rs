//! Errors of the config, as the person who edits the file needs them.

use std::{
    io,
    path::{Path, PathBuf},
};

/// The config cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file was named by a relative path.
    #[error("the config file {} must be named by an absolute path", file.display())]
    RelativePath {
        /// The path as it was given.
        file: PathBuf,
    },
    /// The file cannot be read.
    #[error("reading the config file {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A key is unknown or a value is not allowed.
    #[error("{}, line {line}, key {key}: {problem}", file.display())]
    Value {
        /// The file.
        file: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// The key with its section, `timeouts.pull_secs`.
        key: String,
        /// What is wrong, and what is right.
        problem: String,
    },
    /// The file is not TOML.
    #[error("{}, line {line}: not valid TOML: {problem}", file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// One of the two directories lies in the other.
    #[error(
        "{}, keys state_dir and data_dir: neither may lie in the other, but they are {} and {}",
        file.display(), state_dir.display(), data_dir.display()
    )]
    NestedDirectories {
        /// The file.
        file: PathBuf,
        /// The state directory.
        state_dir: PathBuf,
        /// The data directory.
        data_dir: PathBuf,
    },
}

impl ConfigError {
    /// Takes `error`, met in `text` of `file`, apart.
    pub(super) fn from_toml(mut error: toml::de::Error, text: &str, file: &Path) -> Self {
        let start = error.span().map_or(0, |span| span.start);
        let line = text.bytes().take(start).filter(|byte| *byte == b'\n').count() + 1;
        let problem = error.message().trim_end().replace('\n', "; ");
        // Without the text, the error displays its key instead of the place: "<message>\nin `<key>`".
        error.set_input(None);
        let shown = error.to_string();
        let section = shown.trim_end().rsplit_once("\nin `").and_then(|(_, key)| key.strip_suffix('`'));
        // An unknown key is told in the message (serde's words), the key of the error is its section.
        let unknown = problem.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`'));
        let key = match (section, unknown) {
            (Some(section), Some((key, _))) => format!("{section}.{key}"),
            (Some(key), None) => key.to_owned(),
            (None, Some((key, _))) => key.to_owned(),
            (None, None) => return Self::Syntax { file: file.into(), line, problem },
        };
        Self::Value { file: file.into(), line, key, problem }
    }
}
