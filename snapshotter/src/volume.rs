//! The mount option that tells the shim which image a container's root stands for.
//!
//! `io.katacontainers.volume=<base64 of JSON>`, as Kata's runtime and nydus-snapshotter have it:
//! ```json
//! {"volume_type":"image_guest_pull","source":"<reference, or empty>","fs_type":"","options":[],
//!  "image_pull":{"metadata":{"containerd.io/snapshot/cri.manifest-digest":"sha256:…"}}}
//! ```
//! The labels are those of the topmost layer when containerd asked for it. Images of the same layers share
//! snapshots, so reference and digest are those of the image that was pulled first (or again after containerd had
//! forgotten the layer): a hint that the shim weighs against the container's own annotations.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Serialize;

use crate::snapshot::Labels;

/// The option's name.
pub const OPTION: &str = "io.katacontainers.volume";
/// The label with the reference that was pulled.
pub const IMAGE_REF: &str = "containerd.io/snapshot/cri.image-ref";

/// Labels that are handed on. Not `cri.image-layers`: it can be as long as a page, the limit of mount options.
const HANDED_ON: [&str; 3] =
    [IMAGE_REF, "containerd.io/snapshot/cri.manifest-digest", "containerd.io/snapshot/cri.layer-digest"];
/// A reference has 255 + 1 + 128 + 72 bytes at most; what is longer is no reference.
const MAX_VALUE_BYTES: usize = 512;

#[derive(Serialize)]
struct Volume<'a> {
    volume_type: &'static str,
    source: &'a str,
    fs_type: &'static str,
    options: [&'static str; 0],
    image_pull: ImagePull<'a>,
}

#[derive(Serialize)]
struct ImagePull<'a> {
    metadata: BTreeMap<&'a str, &'a str>,
}

/// The option for an image whose topmost layer has these labels.
#[must_use]
pub fn option(labels: &Labels) -> String {
    let metadata: BTreeMap<&str, &str> = HANDED_ON
        .iter()
        .filter_map(|&key| labels.get(key).map(|value| (key, value.as_str())))
        .filter(|(_, value)| value.len() <= MAX_VALUE_BYTES)
        .collect();
    let volume = Volume {
        volume_type: "image_guest_pull",
        source: metadata.get(IMAGE_REF).copied().unwrap_or_default(),
        fs_type: "",
        options: [],
        image_pull: ImagePull { metadata },
    };
    let json = serde_json::to_vec(&volume).expect("strings and maps of strings are always JSON");
    format!("{OPTION}={}", STANDARD.encode(json))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(option: &str) -> String {
        let encoded = option.strip_prefix("io.katacontainers.volume=").unwrap();
        String::from_utf8(STANDARD.decode(encoded).unwrap()).unwrap()
    }

    #[test]
    fn option_is_what_kata_reads() {
        let labels = Labels::from([
            (IMAGE_REF.to_owned(), "registry.example/a/app:1".to_owned()),
            ("containerd.io/snapshot/cri.manifest-digest".to_owned(), "sha256:aa".to_owned()),
            ("containerd.io/snapshot/cri.image-layers".to_owned(), "sha256:bb,sha256:cc".to_owned()),
            ("containerd.io/snapshot.ref".to_owned(), "sha256:dd".to_owned()),
        ]);
        assert_eq!(
            decode(&option(&labels)),
            concat!(
                r#"{"volume_type":"image_guest_pull","source":"registry.example/a/app:1","fs_type":"","options":[],"#,
                r#""image_pull":{"metadata":{"containerd.io/snapshot/cri.image-ref":"registry.example/a/app:1","#,
                r#""containerd.io/snapshot/cri.manifest-digest":"sha256:aa"}}}"#
            )
        );
    }

    #[test]
    fn option_without_labels_still_asks_for_a_guest_pull() {
        assert_eq!(
            decode(&option(&Labels::new())),
            r#"{"volume_type":"image_guest_pull","source":"","fs_type":"","options":[],"image_pull":{"metadata":{}}}"#
        );
    }

    #[test]
    fn option_fits_into_a_page_whatever_the_labels() {
        let labels: Labels = HANDED_ON.map(|key| (key.to_owned(), "x".repeat(MAX_VALUE_BYTES))).into();
        assert!(option(&labels).len() < 4096);
        let labels: Labels = HANDED_ON.map(|key| (key.to_owned(), "x".repeat(4000))).into();
        assert!(option(&labels).len() < 4096);
    }
}
