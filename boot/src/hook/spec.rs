//! What the hook needs of the OCI state and the bundle's `config.json`; other fields are not looked at.

use std::{
    fs::{self, File},
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::HookError;

/// OCI runtime specification, "State".
#[derive(Debug, Deserialize)]
pub(super) struct State {
    pub(super) bundle: PathBuf,
}

impl State {
    pub(super) fn read(state: impl Read) -> Result<Self, HookError> {
        serde_json::from_reader(state).map_err(HookError::State)
    }
}

/// OCI runtime specification, "Configuration".
#[derive(Debug, Deserialize)]
pub(super) struct Spec {
    root: Root,
    process: Option<Process>,
    linux: Option<Linux>,
}

#[derive(Debug, Deserialize)]
struct Root {
    path: PathBuf,
    #[serde(default)]
    readonly: bool,
}

#[derive(Debug, Deserialize)]
struct Process {
    cwd: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Linux {
    mount_label: Option<String>,
    resources: Option<Resources>,
}

#[derive(Debug, Deserialize)]
struct Resources {
    memory: Option<Memory>,
}

#[derive(Debug, Deserialize)]
struct Memory {
    limit: Option<i64>,
}

impl Spec {
    pub(super) fn read(bundle: &Path) -> Result<Self, HookError> {
        let path = bundle.join("config.json");
        let file = File::open(&path).map_err(HookError::io("open", &path))?;
        serde_json::from_reader(BufReader::new(file)).map_err(|source| HookError::Config { path, source })
    }

    /// The absolute path of the root, free of symlinks.
    pub(super) fn rootfs(&self, bundle: &Path) -> Result<PathBuf, HookError> {
        let path = bundle.join(&self.root.path);
        fs::canonicalize(&path).map_err(HookError::io("resolve", path))
    }

    pub(super) fn readonly(&self) -> bool {
        self.root.readonly
    }

    pub(super) fn cwd(&self) -> Option<&Path> {
        self.process.as_ref().map(|process| process.cwd.as_path())
    }

    pub(super) fn mount_label(&self) -> Option<&str> {
        let label = self.linux.as_ref()?.mount_label.as_deref()?;
        (!label.is_empty()).then_some(label)
    }

    /// None without a limit; the specification has zero and negative numbers for that too.
    pub(super) fn memory_limit_bytes(&self) -> Option<u64> {
        let limit = self.linux.as_ref()?.resources.as_ref()?.memory.as_ref()?.limit?;
        u64::try_from(limit).ok().filter(|&limit| limit > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> Spec {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn absent_parts_mean_no_limit_no_label_and_writable() {
        for json in [
            r#"{"root":{"path":"rootfs"}}"#,
            r#"{"root":{"path":"rootfs"},"linux":{"mountLabel":"","resources":{"memory":{"limit":-1}}}}"#,
            r#"{"root":{"path":"rootfs"},"linux":{"resources":{"memory":{}}}}"#,
        ] {
            let spec = spec(json);
            assert_eq!((spec.memory_limit_bytes(), spec.mount_label(), spec.readonly()), (None, None, false));
        }
    }

    #[test]
    fn present_parts_are_read() {
        let spec = spec(
            r#"{"ociVersion":"1.0.2","root":{"path":"rootfs","readonly":true},"process":{"cwd":"/srv","args":["x"]},
                "linux":{"mountLabel":"system_u:object_r:t:s0","resources":{"memory":{"limit":1024}}}}"#,
        );
        assert_eq!(spec.memory_limit_bytes(), Some(1024));
        assert_eq!(spec.mount_label(), Some("system_u:object_r:t:s0"));
        assert_eq!(spec.cwd(), Some(Path::new("/srv")));
        assert!(spec.readonly());
    }

    #[test]
    fn a_state_needs_a_bundle() {
        assert_eq!(State::read(&br#"{"bundle":"/b","id":"x"}"#[..]).unwrap().bundle, Path::new("/b"));
        assert!(matches!(State::read(&b"{}"[..]), Err(HookError::State(_))));
        assert!(matches!(State::read(&b""[..]), Err(HookError::State(_))));
    }
}
