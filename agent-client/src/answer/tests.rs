use super::*;

fn hex(length: usize) -> String {
    "0123456789abcdef".chars().cycle().take(length).collect()
}

fn honest() -> PullImageResponse {
    PullImageResponse {
        image_ref: "registry/a/app:1".into(),
        manifest_digest: format!("sha256:{}", hex(64)),
        store_dir: format!("sha256-{}", hex(64)),
        image_config: br#"{"config":{}}"#.to_vec(),
        unpacked_bytes: 7,
        ..Default::default()
    }
}

fn checked(change: impl FnOnce(&mut PullImageResponse)) -> Result<PulledImage, BadAnswer> {
    let mut answer = honest();
    change(&mut answer);
    PulledImage::checked("registry/a/app:1", answer)
}

#[test]
fn an_honest_answer_is_taken_as_it_is() {
    let image = checked(|_| ()).unwrap();
    assert_eq!(image.manifest_digest, format!("sha256:{}", hex(64)));
    assert_eq!(image.store_dir, format!("sha256-{}", hex(64)));
    assert_eq!((image.image_config.as_str(), image.unpacked_bytes), (r#"{"config":{}}"#, 7));
}

#[test]
fn every_registered_digest_algorithm_is_known() {
    for (algorithm, length) in [("sha256", 64), ("sha384", 96), ("sha512", 128)] {
        let image = checked(|answer| {
            answer.manifest_digest = format!("{algorithm}:{}", hex(length));
            answer.store_dir = format!("{algorithm}-{}", hex(length));
        });
        assert!(image.is_ok(), "{image:?}");
    }
}

#[test]
fn an_answer_about_another_image_is_refused() {
    let refused = checked(|answer| answer.image_ref = "registry/b/app:1".into());
    assert_eq!(refused, Err(BadAnswer::OtherImage { answered: "registry/b/app:1".into() }));
}

#[test]
fn what_is_no_digest_is_refused() {
    let upper = format!("sha256:{}", hex(64).to_uppercase());
    let nul = format!("sha256:{}\0", hex(63));
    let traversal = format!("sha256:../{}", hex(61));
    let long = format!("sha256:{}", hex(65));
    let md5 = format!("md5:{}", hex(32));
    let bare = hex(64);
    for digest in ["", "sha256:", "sha256", &upper, &nul, &traversal, &long, &md5, &bare] {
        let refused = checked(|answer| {
            answer.manifest_digest = digest.to_owned();
            answer.store_dir = digest.replacen(':', "-", 1);
        });
        assert!(matches!(refused, Err(BadAnswer::Digest { .. })), "{digest}: {refused:?}");
    }
}

#[test]
fn a_store_that_is_not_the_digests_is_refused() {
    let other = format!("sha256-{}", hex(64).replace('0', "1"));
    let below = format!("sha256-{}/../x", hex(64));
    for store_dir in ["", ".", "..", "/etc", "../../etc", &other, &below] {
        let refused = checked(|answer| answer.store_dir = store_dir.to_owned());
        assert!(matches!(refused, Err(BadAnswer::StoreDir { .. })), "{store_dir}: {refused:?}");
    }
}

#[test]
fn an_image_config_that_is_no_json_object_is_refused() {
    let configs: [&[u8]; 7] = [b"", b"{", b"[]", b"null", b"\"{}\"", b"{}{}", b"{\"a\":\"\xff\"}"];
    for config in configs {
        let refused = checked(|answer| answer.image_config = config.to_vec());
        assert!(matches!(refused, Err(BadAnswer::ConfigNotJson { .. })), "{config:?}: {refused:?}");
    }
}

#[test]
fn an_image_config_is_refused_from_the_first_byte_too_many() {
    let padded = |bytes: usize| format!("{{}}{}", " ".repeat(bytes - 2)).into_bytes();
    assert!(checked(|answer| answer.image_config = padded(MAX_IMAGE_CONFIG_BYTES)).is_ok());
    let (bytes, limit) = (MAX_IMAGE_CONFIG_BYTES + 1, MAX_IMAGE_CONFIG_BYTES);
    let refused = checked(|answer| answer.image_config = padded(bytes));
    assert_eq!(refused, Err(BadAnswer::ConfigTooLarge { bytes, limit }));
}

#[test]
fn deeply_nested_json_does_not_exhaust_the_stack() {
    let nested = format!("{{\"a\":{}{}}}", "[".repeat(1_000_000), "]".repeat(1_000_000));
    // Whoever reads it into a type of its own meets serde_json's limit of depth.
    assert!(checked(|answer| answer.image_config = nested.into_bytes()).is_ok());
}

#[test]
fn what_the_agent_said_is_repeated_bounded_and_on_one_line() {
    let said = shortened(&format!("a\nb\x1b[31m{}", "ä".repeat(10_000)));
    assert!(said.starts_with("a b [31mä") && said.chars().count() == SHOWN_CHARS, "{said}");
}
