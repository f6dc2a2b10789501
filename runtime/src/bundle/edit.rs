//! Changes of a bundle's config, in memory.
//!
//! Each puts a value of the type that the specification names into the raw JSON, so the facts can be read again from it.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use rustix::fs::{major, minor};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Bundle, BundleError, Hook, NamespaceKind, Spec, SpecMount};

/// What a container may do with a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceAccess {
    /// `r`
    Read,
    /// `rw`
    ReadWrite,
    /// `rwm`
    ReadWriteMknod,
}

impl DeviceAccess {
    fn as_str(self) -> &'static str {
        match self {
            Self::Read => "r",
            Self::ReadWrite => "rw",
            Self::ReadWriteMknod => "rwm",
        }
    }
}

/// Changes. All of them are in memory until [`Bundle::save`].
impl Bundle {
    /// Sets `root.path`, absolute or relative to the bundle.
    ///
    /// # Errors
    /// The path is not UTF-8.
    pub fn set_root_path(&mut self, path: &Path) -> Result<(), BundleError> {
        let path = self.text("root.path", path)?;
        self.set(&["root"], "path", path);
        Ok(())
    }

    /// Sets `root.readonly`.
    pub fn set_root_readonly(&mut self, readonly: bool) {
        self.set(&["root"], "readonly", readonly);
    }

    /// Puts a hook in front of all other `createContainer` hooks.
    ///
    /// # Errors
    /// The path is relative or not UTF-8.
    pub fn prepend_create_container_hook(&mut self, hook: &Hook) -> Result<(), BundleError> {
        let path = self.absolute("hook path", &hook.path)?;
        let mut entry = json!({ "path": path, "args": hook.args });
        if !hook.env.is_empty() {
            entry["env"] = json!(hook.env);
        }
        if let Some(timeout) = hook.timeout {
            entry["timeout"] = json!(timeout);
        }
        self.array(&["hooks"], "createContainer").insert(0, entry);
        self.refresh();
        Ok(())
    }

    /// Sets `process.args`.
    pub fn set_args(&mut self, args: &[String]) {
        self.set(&["process"], "args", args);
    }

    /// Sets `process.cwd`.
    ///
    /// # Errors
    /// The path is relative or not UTF-8.
    pub fn set_cwd(&mut self, cwd: &Path) -> Result<(), BundleError> {
        let cwd = self.absolute("process.cwd", cwd)?;
        self.set(&["process"], "cwd", cwd);
        Ok(())
    }

    /// Sets user and group of the init process, without further groups.
    pub fn set_user(&mut self, uid: u32, gid: u32) {
        self.set(&["process"], "user", serde_json::json!({ "uid": uid, "gid": gid }));
    }

    /// Sets a variable of the init process' environment, in the place of what it was, or at the end.
    ///
    /// # Errors
    /// `key` is empty or has a `=` or NUL in it, `value` has a NUL in it.
    pub fn set_env(&mut self, key: &str, value: &str) -> Result<(), BundleError> {
        if key.is_empty() || key.contains(['=', '\0']) {
            return Err(self.refused("environment variable", key));
        }
        if value.contains('\0') {
            // The value may be a secret.
            return Err(self.refused("the value of environment variable", key));
        }
        let entry = Value::from(format!("{key}={value}"));
        let env = self.array(&["process"], "env");
        let is_it = |old: &Value| {
            old.as_str().and_then(|old| old.split_once('=')).is_some_and(|(name, _)| name == key)
        };
        let at = env.iter().position(is_it).unwrap_or(env.len());
        env.retain(|old| !is_it(old));
        env.insert(at, entry);
        self.refresh();
        Ok(())
    }

    /// Sets `process.terminal`.
    pub fn set_terminal(&mut self, terminal: bool) {
        self.set(&["process"], "terminal", terminal);
    }

    /// Sets or, with `None`, removes `process.oomScoreAdj`.
    pub fn set_oom_score_adj(&mut self, value: Option<i64>) {
        match value {
            Some(value) => self.set(&["process"], "oomScoreAdj", value),
            None => self.remove(&["process"], "oomScoreAdj"),
        }
    }

    /// Sets `hostname`.
    pub fn set_hostname(&mut self, hostname: &str) {
        self.set(&[], "hostname", hostname);
    }

    /// Adds a mount after all others.
    ///
    /// # Errors
    /// The destination is relative or not UTF-8.
    pub fn add_mount(&mut self, mount: &SpecMount) -> Result<(), BundleError> {
        let destination = self.absolute("mount destination", &mount.destination)?;
        let entry = json!({
            "destination": destination,
            "type": mount.kind,
            "source": mount.source,
            "options": mount.options,
        });
        self.array(&[], "mounts").push(entry);
        self.refresh();
        Ok(())
    }

    /// Gives the container the host's device node `host`, at the same path or at `inside`, and allows its use. Numbers, type,
    /// mode and owner are those of the host's node at this moment. A device that was at that path is replaced.
    ///
    /// # Errors
    /// `host` is no device node, or a path is relative or not UTF-8.
    pub fn add_device(
        &mut self,
        host: &Path,
        inside: Option<&Path>,
        access: DeviceAccess,
    ) -> Result<(), BundleError> {
        let path = self.absolute("device path", inside.unwrap_or(host))?;
        let failed = |source| BundleError::Device { device: host.to_owned(), source };
        let node = fs::metadata(host).map_err(failed)?;
        let kind = match node.file_type() {
            kind if kind.is_char_device() => "c",
            kind if kind.is_block_device() => "b",
            _ => return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "not a device node"))),
        };
        let (major, minor) = (major(node.rdev()), minor(node.rdev()));
        let entry = json!({
            "path": path,
            "type": kind,
            "major": major,
            "minor": minor,
            "fileMode": node.mode() & 0o7777,
            "uid": node.uid(),
            "gid": node.gid(),
        });
        let devices = self.array(&["linux"], "devices");
        devices.retain(|device| device["path"] != entry["path"]);
        devices.push(entry);
        // The last rule that applies wins, and the first one usually denies everything.
        self.array(&["linux", "resources"], "devices").push(json!({
            "allow": true,
            "type": kind,
            "major": major,
            "minor": minor,
            "access": access.as_str(),
        }));
        self.refresh();
        Ok(())
    }

    /// Makes the container join the namespace at `path`.
    ///
    /// # Errors
    /// The path is relative or not UTF-8.
    pub fn set_namespace_path(&mut self, kind: NamespaceKind, path: &Path) -> Result<(), BundleError> {
        let path = self.absolute("namespace path", path)?;
        self.set_namespace(kind, Some(json!({ "type": kind.as_str(), "path": path })));
        Ok(())
    }

    /// Gives the container a new namespace of this kind.
    pub fn set_namespace_new(&mut self, kind: NamespaceKind) {
        self.set_namespace(kind, Some(json!({ "type": kind.as_str() })));
    }

    /// Leaves the container in the host's namespace of this kind.
    pub fn set_namespace_host(&mut self, kind: NamespaceKind) {
        self.set_namespace(kind, None);
    }

    /// Sets `linux.cgroupsPath`, in either form.
    pub fn set_cgroups_path(&mut self, path: &str) {
        self.set(&["linux"], "cgroupsPath", path);
    }

    /// Sets an annotation.
    pub fn set_annotation(&mut self, key: &str, value: &str) {
        self.set(&["annotations"], key, value);
    }

    /// Removes an annotation.
    pub fn remove_annotation(&mut self, key: &str) {
        self.remove(&["annotations"], key);
    }

    /// Removes `linux.seccomp`.
    pub fn remove_seccomp(&mut self) {
        self.remove(&["linux"], "seccomp");
    }

    fn set_namespace(&mut self, kind: NamespaceKind, entry: Option<Value>) {
        let namespaces = self.array(&["linux"], "namespaces");
        namespaces.retain(|namespace| namespace["type"] != kind.as_str());
        namespaces.extend(entry);
        self.refresh();
    }

    fn set(&mut self, object: &[&str], key: &str, value: impl Into<Value>) {
        self.object(object).insert(key.into(), value.into());
        self.refresh();
    }

    fn remove(&mut self, object: &[&str], key: &str) {
        self.object(object).remove(key);
        self.refresh();
    }

    /// The object at a place, made on the way; `null` is what Go writes for one that is not there.
    fn object(&mut self, place: &[&str]) -> &mut Map<String, Value> {
        place.iter().fold(as_object(&mut self.config), |object, key| {
            as_object(object.entry(*key).or_insert(Value::Null))
        })
    }

    fn array(&mut self, object: &[&str], key: &str) -> &mut Vec<Value> {
        let value = self.object(object).entry(key).or_insert(Value::Null);
        if !value.is_array() {
            *value = Value::Array(Vec::new());
        }
        value.as_array_mut().expect("it was made an array just before")
    }

    fn refresh(&mut self) {
        self.spec = Spec::deserialize(&self.config)
            .expect("the config was of the specification's types when it was read, and changes keep to them");
    }

    fn text(&self, what: &'static str, path: &Path) -> Result<String, BundleError> {
        match path.to_str() {
            Some(text) if !text.is_empty() && !text.contains('\0') => Ok(text.to_owned()),
            _ => Err(self.refused(what, &path.to_string_lossy())),
        }
    }

    fn absolute(&self, what: &'static str, path: &Path) -> Result<String, BundleError> {
        if path.is_absolute() {
            self.text(what, path)
        } else {
            Err(self.refused(what, &path.to_string_lossy()))
        }
    }

    fn refused(&self, what: &'static str, value: &str) -> BundleError {
        BundleError::Value { path: self.path.as_path().to_owned(), what, value: value.to_owned() }
    }
}

fn as_object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("it was made an object just before")
}
