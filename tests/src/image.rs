//! Builds OCI images in memory, layer by layer, and pushes them with skopeo.

use std::{
    fs,
    io::Write,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, Result};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{daemon::run, node::scratch_dir};

/// A layer under construction.
pub struct Layer {
    tar: tar::Builder<Vec<u8>>,
}

impl Layer {
    /// An empty layer.
    #[must_use]
    pub fn new() -> Self {
        Self { tar: tar::Builder::new(Vec::new()) }
    }

    /// Adds a directory; `path` has no leading slash.
    ///
    /// # Errors
    /// When the path does not fit a tar header.
    pub fn dir(mut self, path: &str, mode: u32) -> Result<Self> {
        let mut header = header(tar::EntryType::Directory, mode, 0);
        self.tar.append_data(&mut header, format!("{path}/"), std::io::empty())?;
        Ok(self)
    }

    /// Adds a file owned by root.
    ///
    /// # Errors
    /// When the path does not fit a tar header.
    pub fn file(self, path: &str, mode: u32, content: &[u8]) -> Result<Self> {
        self.owned_file(path, mode, (0, 0), content)
    }

    /// Adds a file owned by `owner` (user, group).
    ///
    /// # Errors
    /// When the path does not fit a tar header.
    pub fn owned_file(mut self, path: &str, mode: u32, owner: (u64, u64), content: &[u8]) -> Result<Self> {
        let mut header = header(tar::EntryType::Regular, mode, u64::try_from(content.len())?);
        header.set_uid(owner.0);
        header.set_gid(owner.1);
        self.tar.append_data(&mut header, path, content)?;
        Ok(self)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// When a path does not fit a tar header.
    pub fn symlink(mut self, path: &str, target: &str) -> Result<Self> {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        self.tar.append_link(&mut header, path, target)?;
        Ok(self)
    }

    /// Adds a hard link to `target` of this layer, with the mode and owner of the file, as tar has it.
    ///
    /// # Errors
    /// When a path does not fit a tar header.
    pub fn hard_link(mut self, path: &str, target: &str, mode: u32, owner: (u64, u64)) -> Result<Self> {
        let mut header = header(tar::EntryType::Link, mode, 0);
        header.set_uid(owner.0);
        header.set_gid(owner.1);
        self.tar.append_link(&mut header, path, target)?;
        Ok(self)
    }

    /// Removes `name` of `dir`, which a lower layer has.
    ///
    /// # Errors
    /// When the path does not fit a tar header.
    pub fn whiteout(self, dir: &str, name: &str) -> Result<Self> {
        self.file(&format!("{dir}/.wh.{name}"), 0o644, b"")
    }

    /// Compresses what was added.
    ///
    /// # Errors
    /// When the archive can't be finished.
    pub fn finish(self) -> Result<Blob> {
        let tar = self.tar.into_inner()?;
        let diff_id = digest(&tar);
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&tar)?;
        let bytes = gzip.finish()?;
        Ok(Blob { digest: digest(&bytes), diff_id, bytes: Arc::new(bytes) })
    }
}

impl Default for Layer {
    fn default() -> Self {
        Self::new()
    }
}

/// A finished layer.
#[derive(Clone, Debug)]
pub struct Blob {
    /// Digest of the compressed layer, as the registry knows it.
    pub digest: String,
    diff_id: String,
    bytes: Arc<Vec<u8>>,
}

/// An image: layers and the parts of its configuration that matter to a runtime.
#[derive(Clone, Debug, Default)]
pub struct Image {
    layers: Vec<Blob>,
    config: serde_json::Map<String, Value>,
}

/// An image in the registry.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// `registry/repository:tag`.
    pub reference: String,
    /// The manifest's digest.
    pub digest: String,
    /// `repository`, as the access log names it.
    pub repository: String,
    /// Digests of the layers.
    pub layers: Vec<String>,
}

impl Pushed {
    /// The reference by digest, through `authority` (`host:port`).
    #[must_use]
    pub fn by_digest(&self, authority: &str) -> String {
        format!("{authority}/{}@{}", self.repository, self.digest)
    }

    /// The reference by tag, through `authority`.
    #[must_use]
    pub fn through(&self, authority: &str) -> String {
        match self.reference.split_once('/') {
            Some((_, rest)) => format!("{authority}/{rest}"),
            None => self.reference.clone(),
        }
    }
}

impl Image {
    /// Puts a layer on top.
    #[must_use]
    pub fn layer(mut self, blob: Blob) -> Self {
        self.layers.push(blob);
        self
    }

    /// Sets a field of the configuration's `config` object, such as `Entrypoint`.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.config.insert(key.into(), value.into());
        self
    }

    /// Writes the image as an OCI layout and pushes it as `registry/repository:tag`.
    ///
    /// # Errors
    /// When a file can't be written or the push fails.
    pub fn push(&self, registry: &str, repository: &str, tag: &str) -> Result<Pushed> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let dir = scratch_dir(&format!("layouts/{}", SERIAL.fetch_add(1, Ordering::Relaxed)))?;
        self.write_layout(&dir)?;
        let reference = format!("{registry}/{repository}:{tag}");
        let digest_file = dir.join("digest");
        run(Command::new("skopeo")
            .args([
                "copy",
                "--insecure-policy",
                "--dest-tls-verify=false",
                "--preserve-digests",
                "--digestfile",
            ])
            .arg(&digest_file)
            .arg(format!("oci:{}:image", dir.display()))
            .arg(format!("docker://{reference}")))?;
        let digest = fs::read_to_string(&digest_file)?.trim().to_owned();
        fs::remove_dir_all(&dir)?;
        let layers = self.layers.iter().map(|layer| layer.digest.clone()).collect();
        Ok(Pushed { reference, digest, repository: repository.into(), layers })
    }

    fn write_layout(&self, dir: &Path) -> Result<()> {
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).with_context(|| format!("creating {}", blobs.display()))?;
        let put = |bytes: &[u8]| -> Result<Value> {
            let digest = digest(bytes);
            fs::write(blobs.join(digest.trim_start_matches("sha256:")), bytes)?;
            Ok(json!({ "digest": digest, "size": bytes.len() }))
        };
        let typed = |mut descriptor: Value, media_type: &str| {
            descriptor["mediaType"] = media_type.into();
            descriptor
        };
        let mut layers = Vec::new();
        for layer in &self.layers {
            layers.push(typed(put(&layer.bytes)?, "application/vnd.oci.image.layer.v1.tar+gzip"));
        }
        let diff_ids: Vec<&str> = self.layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let config = json!({
            "created": "2026-01-01T00:00:00Z", "architecture": "amd64", "os": "linux", "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": diff_ids.iter().map(|_| json!({ "created_by": "test" })).collect::<Vec<_>>(),
        });
        let config = typed(put(config.to_string().as_bytes())?, "application/vnd.oci.image.config.v1+json");
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers });
        let mut manifest = typed(put(manifest.to_string().as_bytes())?, media_type);
        manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": "image" });
        fs::write(
            dir.join("index.json"),
            json!({ "schemaVersion": 2, "manifests": [manifest] }).to_string(),
        )?;
        fs::write(dir.join("oci-layout"), json!({ "imageLayoutVersion": "1.0.0" }).to_string())?;
        Ok(())
    }
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(1_700_000_000);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}
