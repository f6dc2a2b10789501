//! Images made in memory.

use std::io::Write;

use agent::digest::Digest;
use serde_json::{Value, json};

pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

#[derive(Clone, Copy)]
pub enum Packing {
    Gzip,
    Zstd,
    Plain,
    DockerGzip,
    ForeignGzip,
}

#[derive(Clone)]
pub struct Blob {
    pub media_type: String,
    pub data: Vec<u8>,
}

impl Blob {
    pub fn digest(&self) -> String {
        Digest::sha256(&self.data).to_string()
    }

    pub fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest(), "size": self.data.len()})
    }
}

#[derive(Clone)]
pub struct Image {
    pub layers: Vec<Blob>,
    pub config: Blob,
    pub manifest: Blob,
}

impl Image {
    /// One file for each layer: `files[i]` = (path, content).
    pub fn of_files(files: &[(&str, &str)], packing: Packing) -> Self {
        let layers = files.iter().map(|(path, content)| (tar(&[(path, content)]), packing)).collect();
        Self::of_tars(layers, "amd64")
    }

    pub fn of_tars(layers: Vec<(Vec<u8>, Packing)>, architecture: &str) -> Self {
        let diff_ids: Vec<String> = layers.iter().map(|(tar, _)| Digest::sha256(tar).to_string()).collect();
        let layers = layers.iter().map(|(tar, packing)| pack(tar, *packing)).collect();
        Self::of_blobs(layers, diff_ids, architecture)
    }

    pub fn of_blobs(layers: Vec<Blob>, diff_ids: Vec<String>, architecture: &str) -> Self {
        let config = json!({
            "os": "linux", "architecture": architecture,
            "config": {"Entrypoint": ["/bin/app"], "Env": ["A=b"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = Blob {
            media_type: "application/vnd.oci.image.config.v1+json".into(),
            data: serde_json::to_vec(&config).unwrap(),
        };
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        });
        let manifest = Blob { media_type: MANIFEST.into(), data: serde_json::to_vec(&manifest).unwrap() };
        Self { layers, config, manifest }
    }

    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        self.layers.iter().chain([&self.config])
    }
}

/// An index over images by architecture.
pub fn index(images: &[(&str, &Image)]) -> Blob {
    let manifests: Vec<Value> = images
        .iter()
        .map(|(architecture, image)| {
            let mut entry = image.manifest.descriptor();
            entry["platform"] = json!({"os": "linux", "architecture": architecture});
            entry
        })
        .collect();
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
    Blob { media_type: INDEX.into(), data: serde_json::to_vec(&index).unwrap() }
}

pub fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o640);
        header.set_mtime(1_700_000_000);
        builder.append_data(&mut header, path, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

pub fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn pack(tar: &[u8], packing: Packing) -> Blob {
    let (media_type, data) = match packing {
        Packing::Gzip => ("application/vnd.oci.image.layer.v1.tar+gzip", gzip(tar)),
        Packing::Zstd => ("application/vnd.oci.image.layer.v1.tar+zstd", zstd::encode_all(tar, 3).unwrap()),
        Packing::Plain => ("application/vnd.oci.image.layer.v1.tar", tar.to_vec()),
        Packing::DockerGzip => ("application/vnd.docker.image.rootfs.diff.tar.gzip", gzip(tar)),
        Packing::ForeignGzip => ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", gzip(tar)),
    };
    Blob { media_type: media_type.into(), data }
}
