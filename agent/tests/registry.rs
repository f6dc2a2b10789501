//! The agent against a real registry.

mod support;

use std::fs;

use agent::digest::Digest;
use support::{
    agent::{Agent, Settings, request},
    image::{Blob, Image, Packing, index, tar},
    registry::{PASSWORD, Registry, USER},
};
use ttrpc::Code;

#[tokio::test]
async fn each_compression_arrives_in_apply_order() {
    let registry = Registry::start();
    let agent = Agent::insecure(&registry.address);
    let layers = [Packing::Gzip, Packing::Zstd, Packing::Plain, Packing::DockerGzip, Packing::ForeignGzip]
        .into_iter()
        .enumerate()
        .map(|(i, packing)| (tar(&[("last", &i.to_string()), (&format!("f{i}"), "x")]), packing))
        .collect();
    let image = Image::of_tars(layers, "amd64");
    registry.push("a/app", "1", &image).await;

    let reference = registry.reference("a/app:1");
    let response = agent.pull(&reference).await.unwrap();
    assert_eq!(response.image_ref, reference);
    assert_eq!(response.manifest_digest, image.manifest.digest());
    assert_eq!(response.image_config, image.config.data);
    assert_eq!(response.store_dir, image.manifest.digest().replace(':', "-"));
    assert!(response.unpacked_bytes > 0);
    let files = agent.unpacked(&response);
    assert_eq!(files["last"], ("4".to_owned(), 0o640));
    assert_eq!(files.len(), 6, "{files:?}");
    assert_eq!(agent.stored(), [response.store_dir.as_str()]);
    let record = agent.store(&response).record().clone();
    assert_eq!((record.reference, record.manifest_digest), (reference, image.manifest.digest()));

    // The second time nothing but the reference is asked for.
    agent.pull(&registry.reference("a/app:1")).await.unwrap();
    for layer in &image.layers {
        registry.wait_for_download(&layer.digest());
        assert_eq!(registry.downloads(&layer.digest()), 1);
    }
}

#[tokio::test]
async fn forty_layers_arrive() {
    let registry = Registry::start();
    let agent = Agent::insecure(&registry.address);
    let files: Vec<(String, String)> =
        (0..40).map(|i| (format!("dir/f{i}"), format!("content {i}"))).collect();
    let files: Vec<(&str, &str)> =
        files.iter().map(|(path, content)| (path.as_str(), content.as_str())).collect();
    registry.push("app", "40", &Image::of_files(&files, Packing::Gzip)).await;
    let response = agent.pull(&registry.reference("app:40")).await.unwrap();
    let unpacked = agent.unpacked(&response);
    assert_eq!(unpacked.len(), 40);
    for (path, content) in files {
        assert_eq!(unpacked[path].0, content);
    }
}

#[tokio::test]
async fn a_digest_pulls_exactly_that_even_beside_a_tag() {
    let registry = Registry::start();
    let agent = Agent::insecure(&registry.address);
    let old = Image::of_files(&[("f", "old")], Packing::Gzip);
    let new = Image::of_files(&[("f", "new")], Packing::Gzip);
    registry.push("app", "1", &old).await;
    registry.push("app", "1", &new).await;
    for (name, expected) in [
        ("app:1".to_owned(), "new"),
        (format!("app@{}", old.manifest.digest()), "old"),
        (format!("app:1@{}", old.manifest.digest()), "old"),
    ] {
        let response = agent.pull(&registry.reference(&name)).await.unwrap();
        assert_eq!(agent.unpacked(&response)["f"].0, expected, "{name}");
    }
    assert_eq!(agent.stored().len(), 2);
}

#[tokio::test]
async fn an_index_gives_this_platform_and_names_the_others() {
    let registry = Registry::start();
    let agent = Agent::insecure(&registry.address);
    let arm = Image::of_tars(vec![(tar(&[("f", "arm")]), Packing::Gzip)], "arm64");
    let amd = Image::of_tars(vec![(tar(&[("f", "amd")]), Packing::Gzip)], "amd64");
    registry.push("app", "arm", &arm).await;
    registry.push("app", "amd", &amd).await;
    registry.push_manifest("app", "all", &index(&[("arm64", &arm), ("amd64", &amd)])).await;
    registry.push_manifest("app", "foreign", &index(&[("arm64", &arm)])).await;

    let response = agent.pull(&registry.reference("app:all")).await.unwrap();
    assert_eq!(response.manifest_digest, amd.manifest.digest());
    assert_eq!(agent.unpacked(&response)["f"].0, "amd");
    for name in ["app:foreign", "app:arm"] {
        let (code, message) = agent.pull(&registry.reference(name)).await.unwrap_err();
        assert_eq!(code, Code::NOT_FOUND, "{message}");
        assert!(message.contains("linux/amd64") && message.contains("linux/arm64"), "{message}");
    }
    assert_eq!(agent.stored().len(), 1);
}

#[tokio::test]
async fn a_changed_or_short_blob_is_refused_and_leaves_nothing() {
    let registry = Registry::start();
    let agent = Agent::insecure(&registry.address);
    let random: String = (0..50_000_u32).map(|i| Digest::sha256(&i.to_le_bytes()).to_string()).collect();
    let image = Image::of_files(&[("a", "first"), ("b", &random)], Packing::Gzip);
    registry.push("app", "1", &image).await;
    let file = registry.file(&image.layers[1].digest());
    let good = fs::read(&file).unwrap();

    let mut changed = good.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    for bad in [&changed[..], &good[..middle]] {
        fs::write(&file, bad).unwrap();
        let (code, message) = agent.pull(&registry.reference("app:1")).await.unwrap_err();
        assert_eq!(code, Code::DATA_LOSS, "{message}");
        assert!(message.contains(&image.layers[1].digest()), "{message}");
        assert!(agent.stored().is_empty(), "{:?}", agent.stored());
    }
    fs::write(&file, &good).unwrap();
    agent.pull(&registry.reference("app:1")).await.unwrap();
}

#[tokio::test]
async fn a_changed_config_is_refused() {
    let registry = Registry::start();
    let agent = Agent::insecure(&registry.address);
    let image = Image::of_files(&[("a", "x")], Packing::Gzip);
    registry.push("app", "1", &image).await;
    let file = registry.file(&image.config.digest());
    let changed = fs::read_to_string(&file).unwrap().replace("/bin/app", "/bin/apq");
    fs::write(&file, changed).unwrap();
    let (code, message) = agent.pull(&registry.reference("app:1")).await.unwrap_err();
    assert_eq!(code, Code::DATA_LOSS, "{message}");
    assert!(agent.stored().is_empty());
}

#[tokio::test]
async fn content_that_is_not_its_diff_id_is_refused() {
    let registry = Registry::start();
    let agent = Agent::insecure(&registry.address);
    let honest = Image::of_files(&[("a", "x")], Packing::Gzip);
    let lie = vec![Digest::sha256(b"another tar").to_string()];
    registry.push("app", "1", &Image::of_blobs(honest.layers, lie, "amd64")).await;
    let (code, message) = agent.pull(&registry.reference("app:1")).await.unwrap_err();
    assert_eq!(code, Code::DATA_LOSS, "{message}");
    assert!(agent.stored().is_empty());
}

#[tokio::test]
async fn a_layer_that_leaves_the_root_is_refused() {
    let registry = Registry::start();
    let agent = Agent::insecure(&registry.address);
    let mut bad = tar(&[("xx/escape", "x")]);
    // The tar writer refuses such names.
    bad[..2].copy_from_slice(b"..");
    let sum: u32 = bad[..512]
        .iter()
        .enumerate()
        .map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) })
        .sum();
    bad[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    registry.push("app", "1", &Image::of_tars(vec![(bad, Packing::Gzip)], "amd64")).await;
    let (code, message) = agent.pull(&registry.reference("app:1")).await.unwrap_err();
    assert_eq!(code, Code::DATA_LOSS, "{message}");
    assert!(agent.stored().is_empty());
}

#[tokio::test]
async fn an_encrypted_layer_is_refused_for_what_it_is() {
    let registry = Registry::start();
    let agent = Agent::insecure(&registry.address);
    let layer = Blob {
        media_type: "application/vnd.oci.image.layer.v1.tar+gzip+encrypted".into(),
        data: b"ciphertext".to_vec(),
    };
    let diff_ids = vec![Digest::sha256(b"plain").to_string()];
    registry.push("app", "1", &Image::of_blobs(vec![layer], diff_ids, "amd64")).await;
    let (code, message) = agent.pull(&registry.reference("app:1")).await.unwrap_err();
    assert_eq!(code, Code::PERMISSION_DENIED);
    assert!(message.contains("encrypted") && message.contains("no key broker"), "{message}");
}

#[tokio::test]
async fn what_is_missing_is_not_found() {
    let registry = Registry::start();
    let agent = Agent::insecure(&registry.address);
    registry.push("app", "1", &Image::of_files(&[("a", "x")], Packing::Gzip)).await;
    let digest = format!("app@{}", Digest::sha256(b"no manifest"));
    for name in ["app:2", "other:1", &digest] {
        let (code, message) = agent.pull(&registry.reference(name)).await.unwrap_err();
        assert_eq!(code, Code::NOT_FOUND, "{message}");
        assert!(message.contains(&registry.address), "{message}");
    }
}

#[tokio::test]
async fn a_bomb_is_stopped_by_the_limit() {
    let registry = Registry::start();
    let limit = ["--max-image-bytes", "1000000", "--insecure-registry", &registry.address];
    let agent = Agent::start(Settings { args: limit.map(String::from).to_vec(), ..Settings::default() });
    let zeros = "\0".repeat(20 << 20);
    let image = Image::of_files(&[("zeros", &zeros)], Packing::Gzip);
    assert!(image.layers[0].data.len() < 200_000);
    registry.push("app", "bomb", &image).await;
    let (code, message) = agent.pull(&registry.reference("app:bomb")).await.unwrap_err();
    assert_eq!(code, Code::RESOURCE_EXHAUSTED);
    assert!(message.contains("1000000") && message.contains("--max-image-bytes"), "{message}");
    assert!(agent.stored().is_empty());
}

#[tokio::test]
async fn a_full_disk_is_told_with_its_sizes() {
    let registry = Registry::start();
    let args = ["--insecure-registry", &registry.address].map(String::from).to_vec();
    let agent = Agent::start(Settings { args, disk_bytes: Some(1 << 20), ..Settings::default() });
    let image = Image::of_files(&[("zeros", &"\0".repeat(3 << 20))], Packing::Gzip);
    registry.push("app", "big", &image).await;
    registry.push("app", "small", &Image::of_files(&[("f", "x")], Packing::Gzip)).await;
    let (code, message) = agent.pull(&registry.reference("app:big")).await.unwrap_err();
    assert_eq!(code, Code::RESOURCE_EXHAUSTED, "{message}");
    let images = agent.images().display().to_string();
    assert!(message.contains(&images) && message.contains("of 1048576 bytes left"), "{message}");
    // The failed store has been removed, so there is room again.
    agent.pull(&registry.reference("app:small")).await.unwrap();
}

#[tokio::test]
async fn passwords_come_from_the_call_or_the_auth_file() {
    let registry = Registry::with_password();
    registry.push("team/app", "1", &Image::of_files(&[("a", "x")], Packing::Gzip)).await;
    let reference = registry.reference("team/app:1");
    let agent = Agent::insecure(&registry.address);

    let (code, message) = agent.pull(&reference).await.unwrap_err();
    assert_eq!(code, Code::PERMISSION_DENIED, "{message}");
    let mut wrong = request(&reference);
    wrong.source_creds = "user:wrong".into();
    let (code, message) = agent.call(wrong).await.unwrap_err();
    assert_eq!(code, Code::PERMISSION_DENIED, "{message}");
    let mut right = request(&reference);
    right.source_creds = format!("{USER}:{PASSWORD}");
    agent.call(right).await.unwrap();
    let log = agent.process.lines().join("\n");
    assert!(!log.contains(PASSWORD) && !log.contains("wrong\""), "credentials in the log: {log}");

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    let auths = serde_json::json!({"auths": {&registry.address: {"username": USER, "password": PASSWORD}}});
    fs::write(&file, auths.to_string()).unwrap();
    let args = ["--insecure-registry", &registry.address, "--auth-file", file.to_str().unwrap()];
    let agent = Agent::start(Settings { args: args.map(String::from).to_vec(), ..Settings::default() });
    agent.pull(&reference).await.unwrap();
}

#[tokio::test]
async fn https_needs_the_ca_and_http_the_setting() {
    let (registry, ca) = Registry::with_tls();
    registry.push("app", "1", &Image::of_files(&[("a", "x")], Packing::Gzip)).await;
    let reference = registry.reference("app:1");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    fs::write(&file, ca).unwrap();
    let args = ["--ca-file", file.to_str().unwrap(), "--attempts", "1"];
    let trusting = Agent::start(Settings { args: args.map(String::from).to_vec(), ..Settings::default() });
    trusting.pull(&reference).await.unwrap();

    let args = ["--attempts", "1"].map(String::from).to_vec();
    let other = Agent::start(Settings { args: args.clone(), ..Settings::default() });
    let (code, message) = other.pull(&reference).await.unwrap_err();
    assert_eq!(code, Code::UNAVAILABLE);
    assert!(message.to_lowercase().contains("certificate"), "{message}");

    let plain = Registry::start();
    plain.push("app", "1", &Image::of_files(&[("a", "x")], Packing::Gzip)).await;
    let agent = Agent::start(Settings { args, ..Settings::default() });
    let (code, message) = agent.pull(&plain.reference("app:1")).await.unwrap_err();
    assert_eq!(code, Code::UNAVAILABLE, "{message}");
}

#[tokio::test]
async fn memory_does_not_grow_with_the_image() {
    let registry = Registry::start();
    let agent = Agent::insecure(&registry.address);
    let idle = agent.peak_bytes();
    let layers = (0..3_u64).map(|seed| {
        let mut state = seed + 1;
        let noise: String = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b' ' + (state.to_be_bytes()[0] >> 2))
        })
        .take(16 << 20)
        .collect();
        let tar = tar(&[(&format!("f{seed}"), &noise)]);
        (tar, if seed == 0 { Packing::Plain } else { Packing::Zstd })
    });
    registry.push("app", "big", &Image::of_tars(layers.collect(), "amd64")).await;
    let response = agent.pull(&registry.reference("app:big")).await.unwrap();
    assert!(response.unpacked_bytes >= 3 * (16 << 20));
    let peak = agent.peak_bytes();
    println!("idle {} MiB, peak {} MiB", idle >> 20, peak >> 20);
    // The blobs alone are 40 MiB, their tars 48.
    assert!(peak - idle < 40 << 20 && peak < 64 << 20, "{} MiB, {} when idle", peak >> 20, idle >> 20);
}
