//! Callers, jobs and a registry that misbehaves.

mod support;

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use agent::digest::Digest;
use support::{
    agent::{Agent, Settings, answer, request, short_deadline},
    image::{Image, Packing},
    scripted::{Gate, Reply, Scripted, registry_of},
};
use ttrpc::Code;

/// An image, and a registry that holds back the second half of its layer.
fn gated() -> (Scripted, Arc<Gate>, Image) {
    let image = Image::of_files(&[("f", "content")], Packing::Gzip);
    let gate = Arc::<Gate>::default();
    let registry = Scripted::start({
        let (image, gate) = (image.clone(), gate.clone());
        move |request| {
            let mut reply = registry_of(&image, &request.path);
            if request.path.ends_with(&image.layers[0].digest()) {
                reply.gate = Some(gate.clone());
            }
            reply
        }
    });
    (registry, gate, image)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_pulls_are_one_pull() {
    let (registry, gate, image) = gated();
    let agent = Arc::new(Agent::insecure(&registry.address));
    let calls: Vec<_> = (0..4)
        .map(|i| {
            let (agent, reference) = (agent.clone(), registry.reference(&format!("app{i}:1")));
            tokio::spawn(async move { agent.pull(&reference).await })
        })
        .collect();
    // All four know their digest when three have joined.
    registry.wait_for("/manifests/", 4);
    agent.process.wait_for("joins a running pull", 3);
    gate.open();
    for call in calls {
        let response = call.await.unwrap().unwrap();
        assert_eq!(response.manifest_digest, image.manifest.digest());
    }
    assert_eq!(registry.requests(&image.layers[0].digest()), 1);
    assert_eq!(agent.stored().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_outlives_its_caller_and_the_next_joins_it() {
    let (registry, gate, image) = gated();
    let agent = Agent::insecure(&registry.address);
    let reference = registry.reference("app:1");
    // The first caller's deadline passes, the second's connection closes.
    let late = agent.client().await.pull_image(short_deadline(), &request(&reference)).await;
    assert!(late.is_err(), "{late:?}");
    {
        let client = agent.client().await;
        let mut gone = request(&reference);
        gone.container_id = "gone".into();
        let call = tokio::spawn(async move { client.pull_image(short_deadline(), &gone).await });
        agent.process.wait_for("joins a running pull", 1);
        call.abort();
    }
    let client = agent.client().await;
    let next = {
        let request = request(&reference);
        tokio::spawn(async move {
            client.pull_image(ttrpc::context::with_duration(support::process::PATIENCE), &request).await
        })
    };
    agent.process.wait_for("joins a running pull", 2);
    gate.open();
    answer(next.await.unwrap()).unwrap();
    assert_eq!(registry.requests(&image.layers[0].digest()), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_callers_get_the_error_and_the_next_call_tries_again() {
    let image = Image::of_files(&[("f", "content")], Packing::Gzip);
    let broken = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let gate = Arc::<Gate>::default();
    let registry = Scripted::start({
        let (image, broken, gate) = (image.clone(), broken.clone(), gate.clone());
        move |request| {
            let mut reply = registry_of(&image, &request.path);
            if request.path.ends_with(&image.layers[0].digest()) && broken.load(Ordering::Relaxed) {
                reply.body[10] ^= 1;
                reply.gate = Some(gate.clone());
            }
            reply
        }
    });
    let agent = Arc::new(Agent::insecure(&registry.address));
    let reference = registry.reference("app:1");
    let calls: Vec<_> = (0..2)
        .map(|_| {
            let (agent, reference) = (agent.clone(), reference.clone());
            tokio::spawn(async move { agent.pull(&reference).await })
        })
        .collect();
    agent.process.wait_for("joins a running pull", 1);
    gate.open();
    for call in calls {
        let (code, message) = call.await.unwrap().unwrap_err();
        assert_eq!(code, Code::DATA_LOSS, "{message}");
    }
    assert!(agent.stored().is_empty());
    broken.store(false, Ordering::Relaxed);
    agent.pull(&reference).await.unwrap();
}

#[tokio::test]
async fn transient_failures_are_tried_again() {
    let image = Image::of_files(&[("a", "first"), ("b", "second")], Packing::Gzip);
    let seen = AtomicUsize::new(0);
    let registry = Scripted::start({
        let image = image.clone();
        move |request| {
            let mut reply = registry_of(&image, &request.path);
            if request.path.contains("/manifests/") && seen.fetch_add(1, Ordering::Relaxed) == 0 {
                return Reply::status(503);
            }
            if request.path.ends_with(&image.config.digest()) && seen.fetch_add(1, Ordering::Relaxed) == 2 {
                return Reply { headers: vec![("Retry-After".into(), "0".into())], ..Reply::status(429) };
            }
            if request.path.ends_with(&image.layers[1].digest()) && seen.fetch_add(10, Ordering::Relaxed) < 10
            {
                reply.cut = Some(reply.body.len() / 2);
            }
            reply
        }
    });
    let agent = Agent::insecure(&registry.address);
    let response = agent.pull(&registry.reference("app:1")).await.unwrap();
    assert_eq!(agent.unpacked(&response)["b"].0, "second");
    assert_eq!(registry.requests("/manifests/"), 2);
    assert_eq!(registry.requests(&image.config.digest()), 2);
    assert_eq!(registry.requests(&image.layers[0].digest()), 1);
    assert_eq!(registry.requests(&image.layers[1].digest()), 2);
}

#[tokio::test]
async fn an_unreachable_or_failing_registry_is_unavailable() {
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let agent = Agent::insecure(&port);
    let (code, message) = agent.pull(&format!("{port}/app:1")).await.unwrap_err();
    assert_eq!(code, Code::UNAVAILABLE);
    assert!(message.contains(&port) && message.to_lowercase().contains("refused"), "{message}");

    let failing = Scripted::start(|_| Reply::status(500));
    let agent = Agent::insecure(&failing.address);
    let (code, message) = agent.pull(&failing.reference("app:1")).await.unwrap_err();
    assert_eq!(code, Code::UNAVAILABLE);
    assert!(message.contains("500"), "{message}");
    assert_eq!(failing.requests("/manifests/"), 4);
}

#[tokio::test]
async fn a_stalled_registry_is_given_up() {
    let (registry, _closed, _image) = gated();
    let args = ["--stall-timeout-secs", "1", "--attempts", "1", "--insecure-registry", &registry.address];
    let agent = Agent::start(Settings { args: args.map(String::from).to_vec(), ..Settings::default() });
    let (code, message) = agent.pull(&registry.reference("app:1")).await.unwrap_err();
    assert_eq!(code, Code::UNAVAILABLE, "{message}");
    assert!(agent.stored().is_empty());
}

#[tokio::test]
async fn a_pull_has_a_deadline() {
    let (registry, _closed, _image) = gated();
    let args = ["--pull-timeout-secs", "1", "--insecure-registry", &registry.address];
    let agent = Agent::start(Settings { args: args.map(String::from).to_vec(), ..Settings::default() });
    let (code, message) = agent.pull(&registry.reference("app:1")).await.unwrap_err();
    assert_eq!(code, Code::DEADLINE_EXCEEDED, "{message}");
    assert!(message.contains("--pull-timeout-secs"), "{message}");
    assert!(agent.stored().is_empty());
}

#[tokio::test]
async fn a_bearer_token_is_fetched_with_the_password_and_renewed() {
    let image = Image::of_files(&[("f", "content")], Packing::Gzip);
    let tokens = AtomicUsize::new(0);
    let registry = Scripted::start({
        let image = image.clone();
        move |request| {
            let authorization = request.headers.get("authorization").map(String::as_str);
            if request.path.starts_with("/token?") {
                // user:pass
                if authorization != Some("Basic dXNlcjpwYXNz") {
                    return Reply::status(401);
                }
                assert!(request.path.contains("scope=repository%3Aapp%3Apull"), "{}", request.path);
                let number = tokens.fetch_add(1, Ordering::Relaxed) + 1;
                let body = format!(r#"{{"access_token":"t{number}"}}"#).into_bytes();
                return Reply { body, ..Reply::status(200) };
            }
            // The first token is good for the manifest only, as if it expired then.
            let good = if request.path.contains("/blobs/") { "Bearer t2" } else { "Bearer t1" };
            if authorization != Some(good) {
                let challenge =
                    format!(r#"Bearer realm="http://{}/token",service="s""#, request.headers["host"]);
                return Reply { headers: vec![("WWW-Authenticate".into(), challenge)], ..Reply::status(401) };
            }
            registry_of(&image, &request.path)
        }
    });
    let agent = Agent::insecure(&registry.address);
    let mut with_password = request(&registry.reference("app:1"));
    with_password.source_creds = "user:pass".into();
    agent.call(with_password).await.unwrap();
    assert_eq!(registry.requests("/token?"), 2);
    let (code, message) = agent.pull(&registry.reference("app:1")).await.unwrap_err();
    assert_eq!(code, Code::PERMISSION_DENIED, "{message}");
    assert!(!agent.process.lines().join("\n").contains("pass\""));
}

#[tokio::test]
async fn an_endless_manifest_is_not_read() {
    let registry = Scripted::start(|_| Reply { body: vec![b' '; 5 << 20], ..Reply::status(200) });
    let agent = Agent::insecure(&registry.address);
    let (code, message) = agent.pull(&registry.reference("app:1")).await.unwrap_err();
    assert_eq!(code, Code::RESOURCE_EXHAUSTED, "{message}");
}

#[tokio::test]
async fn a_manifest_of_another_digest_is_refused() {
    let image = Image::of_files(&[("f", "content")], Packing::Gzip);
    let registry = Scripted::start(move |request| registry_of(&image, &request.path));
    let agent = Agent::insecure(&registry.address);
    let asked = Digest::sha256(b"something else");
    let (code, message) = agent.pull(&registry.reference(&format!("app@{asked}"))).await.unwrap_err();
    assert_eq!(code, Code::DATA_LOSS, "{message}");
    assert!(message.contains(asked.as_str()), "{message}");
}

#[tokio::test]
async fn the_proxy_of_the_environment_is_used() {
    let image = Image::of_files(&[("f", "content")], Packing::Gzip);
    let proxy = Scripted::start(move |request| registry_of(&image, &request.path));
    let agent = Agent::start(Settings {
        args: vec!["--insecure-registry".into(), "registry.invalid".into()],
        env: vec![("HTTP_PROXY".into(), format!("http://{}", proxy.address))],
        ..Settings::default()
    });
    agent.pull("registry.invalid/app:1").await.unwrap();
    assert_eq!(proxy.requests("http://registry.invalid/v2/app/manifests/1"), 1);
}

#[tokio::test]
async fn sigterm_in_a_pull_ends_quickly_and_leaves_nothing() {
    let (registry, _closed, image) = gated();
    let mut agent = Agent::insecure(&registry.address);
    let _ = agent.client().await.pull_image(short_deadline(), &request(&registry.reference("app:1"))).await;
    registry.wait_for(&image.layers[0].digest(), 1);
    let begun = std::time::Instant::now();
    assert!(agent.process.terminate().success());
    assert!(begun.elapsed() < std::time::Duration::from_secs(5));
    assert!(agent.stored().is_empty(), "{:?}", agent.stored());
    assert!(fs::metadata(agent.images()).unwrap().is_dir());
}
