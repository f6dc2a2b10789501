//! From a reference to the manifest and configuration of this machine's platform.

use oci_client::manifest::{ImageIndexEntry, OciDescriptor, OciImageManifest, OciManifest};
use serde::Deserialize;

use super::{ImageRef, Session};
use crate::{digest::Digest, error::Error};

/// Largest manifest or index that is read; registries accept no larger one.
pub const MAX_MANIFEST_BYTES: u64 = 4 << 20;
/// Largest image configuration that is read: it has to fit into one ttrpc message of 4 MiB.
pub const MAX_CONFIG_BYTES: u64 = (4 << 20) - (64 << 10);
/// Most layers that an image may have; file systems and other runtimes stop far below.
pub const MAX_LAYERS: usize = 1000;

const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

/// A reference, resolved: the manifest of this platform.
pub struct Resolved {
    /// Digest of the manifest; the identity of the image.
    pub digest: Digest,
    manifest: OciImageManifest,
}

/// How a layer's tar is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, also of several members.
    Gzip,
    /// zstd, also of several frames.
    Zstd,
}

/// One layer to pull.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Place in apply order, from 0.
    pub index: usize,
    /// Digest of the blob.
    pub digest: Digest,
    /// Length of the blob in bytes.
    pub size_bytes: u64,
    /// Its compression.
    pub compression: Compression,
    /// Digest of the tar inside.
    pub diff_id: Digest,
}

/// An image's configuration.
pub struct ImageConfig {
    /// The blob as it came.
    pub json: String,
    diff_ids: Vec<Digest>,
}

#[derive(Deserialize)]
struct ConfigFacts {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

impl Session {
    /// Asks the registry which image the reference means now.
    ///
    /// # Errors
    /// [`Error`]: not there, not for this platform, not what the digest says, or the registry's trouble.
    pub async fn resolve(&self) -> Result<Resolved, Error> {
        let (digest, manifest) = self.manifest(self.image().digest(), self.image().object()).await?;
        let manifest = match manifest {
            OciManifest::Image(manifest) => return Ok(Resolved { digest, manifest }),
            OciManifest::ImageIndex(index) => choose(self.image(), &index.manifests)?,
        };
        match self.manifest(Some(&manifest), manifest.as_str()).await? {
            (digest, OciManifest::Image(manifest)) => Ok(Resolved { digest, manifest }),
            (digest, OciManifest::ImageIndex(_)) => Err(Error::Malformed {
                what: format!("the index of {}", self.image()),
                reason: format!("its entry {digest} is an index again"),
            }),
        }
    }

    async fn manifest(
        &self,
        expected: Option<&Digest>,
        object: &str,
    ) -> Result<(Digest, OciManifest), Error> {
        let body = self.read("manifests", object, ACCEPT, MAX_MANIFEST_BYTES).await?;
        let what = || format!("manifest {object} of {}", self.image());
        let digest = match expected {
            Some(expected) => verified(&body, expected, what)?,
            None => Digest::sha256(&body),
        };
        let manifest = serde_json::from_slice(&body).map_err(|_| Error::Malformed {
            what: what(),
            reason: "neither an image manifest nor an index of schema version 2".to_owned(),
        })?;
        let (OciManifest::Image(OciImageManifest { schema_version, .. })
        | OciManifest::ImageIndex(oci_client::manifest::OciImageIndex { schema_version, .. })) = &manifest;
        if *schema_version != 2 {
            return Err(Error::Malformed {
                what: what(),
                reason: format!("its schema version is {schema_version}, not 2"),
            });
        }
        Ok((digest, manifest))
    }

    /// Fetches and checks the image's configuration.
    ///
    /// # Errors
    /// [`Error`], among them [`Error::Platform`] for an image of another platform.
    pub async fn config(&self, resolved: &Resolved) -> Result<ImageConfig, Error> {
        let what = || format!("the configuration of {}", self.image());
        let digest = digest_of(&resolved.manifest.config, what)?;
        let body = self.read("blobs", digest.as_str(), "*/*", MAX_CONFIG_BYTES).await?;
        verified(&body, &digest, what)?;
        parse_config(self.image(), body)
    }
}

impl Resolved {
    /// The layers in apply order, with the diff ids of the configuration.
    ///
    /// # Errors
    /// [`Error`] for a layer that is encrypted or of an unknown type, and for a manifest that does not fit its configuration.
    pub fn layers(&self, image: &ImageRef, config: &ImageConfig) -> Result<Vec<Layer>, Error> {
        let descriptors = &self.manifest.layers;
        let malformed =
            |reason| Error::Malformed { what: format!("manifest {} of {image}", self.digest), reason };
        if descriptors.len() > MAX_LAYERS {
            return Err(malformed(format!(
                "{} layers, at most {MAX_LAYERS} are supported",
                descriptors.len()
            )));
        }
        // Before the numbers are compared: an encrypted image should be refused for what it is.
        if let Some(layer) = descriptors.iter().find(|layer| layer.media_type.ends_with("+encrypted")) {
            return Err(Error::Encrypted {
                image: image.to_string(),
                layer: layer.digest.chars().take(160).collect(),
            });
        }
        if descriptors.len() != config.diff_ids.len() {
            return Err(malformed(format!(
                "{} layers, but the configuration lists {}",
                descriptors.len(),
                config.diff_ids.len()
            )));
        }
        descriptors
            .iter()
            .zip(&config.diff_ids)
            .enumerate()
            .map(|(index, (layer, diff_id))| {
                let what = || format!("layer {index} of {image}");
                Ok(Layer {
                    index,
                    digest: digest_of(layer, what)?,
                    size_bytes: u64::try_from(layer.size)
                        .map_err(|_| malformed(format!("layer {index} has a negative size")))?,
                    compression: compression(&layer.media_type).ok_or_else(|| Error::Unsupported {
                        what: what(),
                        media_type: layer.media_type.chars().take(160).collect(),
                    })?,
                    diff_id: diff_id.clone(),
                })
            })
            .collect()
    }
}

fn digest_of(descriptor: &OciDescriptor, what: impl Fn() -> String) -> Result<Digest, Error> {
    descriptor.digest.parse().map_err(|error: crate::digest::DigestError| Error::Malformed {
        what: what(),
        reason: error.to_string(),
    })
}

fn verified(body: &[u8], expected: &Digest, what: impl Fn() -> String) -> Result<Digest, Error> {
    let actual = expected.same_algorithm(body);
    if actual == *expected {
        Ok(actual)
    } else {
        Err(Error::Digest { what: what(), expected: expected.to_string(), actual: actual.to_string() })
    }
}

/// The platform of this machine in Go's words, as images use them.
fn platform() -> (&'static str, &'static str) {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    ("linux", architecture)
}

fn choose(image: &ImageRef, entries: &[ImageIndexEntry]) -> Result<Digest, Error> {
    let (os, architecture) = platform();
    let names = |entry: &ImageIndexEntry| {
        entry.platform.as_ref().map(|p| (p.os.to_string(), p.architecture.to_string()))
    };
    let fits = |entry: &&ImageIndexEntry| names(entry).is_some_and(|(o, a)| o == os && a == architecture);
    let Some(entry) = entries.iter().find(fits) else {
        let found: Vec<String> =
            entries.iter().filter_map(names).take(20).map(|(os, arch)| format!("{os}/{arch}")).collect();
        return Err(Error::Platform {
            image: image.to_string(),
            wanted: format!("{os}/{architecture}"),
            found: if found.is_empty() { "none".to_owned() } else { found.join(", ") },
        });
    };
    entry.digest.parse().map_err(|error: crate::digest::DigestError| Error::Malformed {
        what: format!("the index of {image}"),
        reason: error.to_string(),
    })
}

fn parse_config(image: &ImageRef, body: Vec<u8>) -> Result<ImageConfig, Error> {
    let malformed =
        |reason: String| Error::Malformed { what: format!("the configuration of {image}"), reason };
    let json = String::from_utf8(body).map_err(|_| malformed("not UTF-8".to_owned()))?;
    let facts: ConfigFacts = serde_json::from_str(&json).map_err(|error| malformed(error.to_string()))?;
    let (os, architecture) = platform();
    let other = |found: &str, wanted: &str| !found.is_empty() && found != wanted;
    if other(&facts.os, os) || other(&facts.architecture, architecture) {
        return Err(Error::Platform {
            image: image.to_string(),
            wanted: format!("{os}/{architecture}"),
            found: format!("{}/{}", facts.os, facts.architecture).chars().take(80).collect(),
        });
    }
    let diff_ids = facts
        .rootfs
        .diff_ids
        .iter()
        .map(|id| id.parse().map_err(|error: crate::digest::DigestError| malformed(error.to_string())))
        .collect::<Result<_, _>>()?;
    Ok(ImageConfig { json, diff_ids })
}

/// The compression that a layer's media type tells. Layers that must not be distributed are fetched from the
/// registry like all others; their own URLs are never followed.
fn compression(media_type: &str) -> Option<Compression> {
    const TARS: [&str; 4] = [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ];
    let suffix = TARS.iter().find_map(|tar| media_type.strip_prefix(tar))?;
    match suffix {
        "" => Some(Compression::None),
        "+gzip" | ".gzip" => Some(Compression::Gzip),
        "+zstd" | ".zstd" => Some(Compression::Zstd),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> ImageRef {
        ImageRef::parse("r.test/a:1").unwrap()
    }

    fn resolved(layer_types: &[&str]) -> Resolved {
        let descriptor = |media_type: &str| OciDescriptor {
            media_type: media_type.to_owned(),
            digest: Digest::sha256(media_type.as_bytes()).to_string(),
            size: 7,
            ..Default::default()
        };
        Resolved {
            digest: Digest::sha256(b""),
            manifest: OciImageManifest {
                layers: layer_types.iter().map(|t| descriptor(t)).collect(),
                ..Default::default()
            },
        }
    }

    fn config(layers: usize) -> ImageConfig {
        ImageConfig { json: String::new(), diff_ids: vec![Digest::sha256(b"x"); layers] }
    }

    #[test]
    fn media_types_tell_the_compression() {
        for (media_type, expected) in [
            ("application/vnd.oci.image.layer.v1.tar", Some(Compression::None)),
            ("application/vnd.oci.image.layer.v1.tar+gzip", Some(Compression::Gzip)),
            ("application/vnd.oci.image.layer.v1.tar+zstd", Some(Compression::Zstd)),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", Some(Compression::Gzip)),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", Some(Compression::Gzip)),
            ("application/vnd.docker.image.rootfs.diff.tar", Some(Compression::None)),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Some(Compression::Gzip)),
            ("application/vnd.oci.image.layer.v1.tar+xz", None),
            ("application/vnd.wasm.content.layer.v1+wasm", None),
            ("", None),
        ] {
            assert_eq!(compression(media_type), expected, "{media_type}");
        }
    }

    #[test]
    fn an_encrypted_layer_is_named_as_such() {
        for suffix in ["+encrypted", "+gzip+encrypted", "+zstd+encrypted"] {
            let media_type = format!("application/vnd.oci.image.layer.v1.tar{suffix}");
            let error = resolved(&[&media_type]).layers(&image(), &config(1)).unwrap_err();
            assert!(matches!(error, Error::Encrypted { .. }), "{error}");
            assert!(error.to_string().contains("no key broker is available"), "{error}");
        }
    }

    #[test]
    fn layers_must_match_the_diff_ids() {
        let tar = "application/vnd.oci.image.layer.v1.tar";
        assert_eq!(resolved(&[tar, tar]).layers(&image(), &config(2)).unwrap().len(), 2);
        for count in [0, 1, 3] {
            let error = resolved(&[tar, tar]).layers(&image(), &config(count)).unwrap_err();
            assert!(matches!(error, Error::Malformed { .. }), "{error}");
        }
    }

    #[test]
    fn the_config_must_be_for_this_platform() {
        let (os, arch) = platform();
        let config = |os: &str, arch: &str| {
            let json = format!(
                r#"{{"os":"{os}","architecture":"{arch}","rootfs":{{"type":"layers","diff_ids":[]}}}}"#
            );
            parse_config(&image(), json.into_bytes())
        };
        assert!(config(os, arch).is_ok());
        assert!(config("", "").is_ok());
        assert!(matches!(config("windows", arch), Err(Error::Platform { .. })));
        assert!(matches!(config(os, "s390x"), Err(Error::Platform { .. })));
        for bad in [&b"{}"[..], b"\xff", br#"{"rootfs":{"diff_ids":["sha256:1"]}}"#] {
            assert!(matches!(parse_config(&image(), bad.to_vec()), Err(Error::Malformed { .. })));
        }
    }
}
