//! Client and agent over real sockets.

#![allow(clippy::unwrap_used)]

use std::{
    error::Error as _, future::poll_fn, io, io::Write as _, net::TcpListener, pin::pin, task::Poll,
    time::Duration,
};

use agent::{Behaviour, FakeAgent};
use agent_client::{AgentClient, AgentError, BadAnswer, Code, Endpoint, PullRequest, free_port};

mod agent;

/// For what is expected to come.
const LONG: Duration = Duration::from_secs(20);
/// For what is expected not to come.
const SHORT: Duration = Duration::from_millis(100);

fn request() -> PullRequest {
    PullRequest { image: "r/app:1".into(), container_id: "c1".into(), source_creds: "user:secret".into() }
}

fn client(url: &str) -> AgentClient {
    AgentClient::new(url.parse().unwrap(), None, "token")
}

async fn tcp_url() -> String {
    format!("tcp://127.0.0.1:{}", free_port(None).await.unwrap())
}

fn unix_url(dir: &tempfile::TempDir) -> String {
    format!("unix://{}", dir.path().join("agent.sock").display())
}

#[tokio::test]
async fn an_image_is_pulled_over_either_kind_of_socket() {
    let dir = tempfile::tempdir().unwrap();
    for url in [tcp_url().await, unix_url(&dir)] {
        let agent = FakeAgent::at(&url, Behaviour::Honest).await;
        let image = client(&url).pull(request(), LONG).await.unwrap();
        assert!(image.store_dir.starts_with("sha256-0123"), "{image:?}");
        let calls = agent.calls();
        let [call] = &calls[..] else { panic!("{calls:?}") };
        assert_eq!((&*call.image, &*call.container_id), ("r/app:1", "c1"));
        assert_eq!((&*call.source_creds, &*call.token), ("user:secret", "token"));
    }
}

#[tokio::test]
async fn a_pull_goes_through_after_the_agent_was_restarted() {
    let dir = tempfile::tempdir().unwrap();
    for url in [tcp_url().await, unix_url(&dir)] {
        let client = client(&url);
        let first = FakeAgent::at(&url, Behaviour::Honest).await;
        client.pull(request(), LONG).await.unwrap();
        first.kill().await;
        // A killed process leaves its socket file.
        if let Some(path) = url.strip_prefix("unix://") {
            let _ = std::fs::remove_file(path);
        }

        let error = client.pull(request(), LONG).await.unwrap_err();
        assert!(matches!(error, AgentError::Unreachable { .. }), "{error:?}");

        let second = FakeAgent::at(&url, Behaviour::Honest).await;
        client.pull(request(), LONG).await.unwrap();
        assert_eq!(second.calls().len(), 1);
        second.kill().await;
        let _ = url.strip_prefix("unix://").map(std::fs::remove_file);

        // Without a failed call in between, the kept connection is found dead by the call itself.
        let third = FakeAgent::at(&url, Behaviour::Honest).await;
        client.pull(request(), LONG).await.unwrap();
        client.pull(request(), LONG).await.unwrap();
        assert_eq!(third.calls().len(), 2);
    }
}

#[tokio::test]
async fn readiness_comes_with_the_listener() {
    let url = tcp_url().await;
    let client = client(&url);
    let mut ready = pin!(client.wait_ready(LONG));
    let first = poll_fn(|context| Poll::Ready(ready.as_mut().poll(context))).await;
    assert!(first.is_pending(), "nobody listens yet: {first:?}");
    let agent = FakeAgent::at(&url, Behaviour::Honest).await;
    ready.await.unwrap();
    client.pull(request(), LONG).await.unwrap();
    assert_eq!(agent.calls().len(), 1);
}

#[tokio::test]
async fn readiness_that_does_not_come_is_a_deadline_with_its_cause() {
    let url = tcp_url().await;
    let error = client(&url).wait_ready(SHORT).await.unwrap_err();
    let AgentError::Deadline { endpoint, operation, deadline, .. } = &error else { panic!("{error:?}") };
    assert_eq!((endpoint.to_string(), operation.as_str(), *deadline), (url, "its start", SHORT));
    let cause = error.source().unwrap().downcast_ref::<io::Error>().unwrap();
    assert_eq!(cause.kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn an_agent_that_does_not_answer_costs_the_deadline_and_no_more() {
    let url = tcp_url().await;
    let agent = FakeAgent::at(&url, Behaviour::Silent).await;
    let error = client(&url).pull(request(), SHORT).await.unwrap_err();
    let is_named = |operation: &str| operation.starts_with("the pull of ");
    assert!(matches!(&error, AgentError::Deadline { operation, .. } if is_named(operation)), "{error:?}");
    assert_eq!(agent.calls().len(), 1);
}

#[tokio::test]
async fn a_peer_that_never_reads_costs_the_deadline_and_no_more() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("tcp://{}", listener.local_addr().unwrap());
    let mut large = request();
    large.source_creds = "x".repeat(4_000_000);
    let error = client(&url).pull(large, SHORT).await.unwrap_err();
    assert!(matches!(&error, AgentError::Deadline { .. }), "{error:?}");
}

#[tokio::test]
async fn an_agent_that_dies_during_a_pull_is_unreachable_at_once() {
    let url = tcp_url().await;
    let agent = FakeAgent::at(&url, Behaviour::Silent).await;
    let client = client(&url);
    let (result, ()) = tokio::join!(client.pull(request(), LONG), async {
        agent.called().await;
        agent.kill().await;
    });
    let error = result.unwrap_err();
    assert!(matches!(&error, AgentError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_dropped_pull_leaves_the_client_usable() {
    let url = tcp_url().await;
    let agent = FakeAgent::at(&url, Behaviour::Silent).await;
    let client = client(&url);
    tokio::select! {
        result = client.pull(request(), LONG) => panic!("{result:?}"),
        () = agent.called() => (),
    }
    agent.kill().await;
    let agent = FakeAgent::at(&url, Behaviour::Honest).await;
    client.pull(request(), LONG).await.unwrap();
    assert_eq!(agent.calls().len(), 1);
}

#[tokio::test]
async fn pulls_at_the_same_time_share_the_client() {
    let url = tcp_url().await;
    let agent = FakeAgent::at(&url, Behaviour::Honest).await;
    let client = client(&url);
    client.wait_ready(LONG).await.unwrap();
    let results = tokio::join!(client.pull(request(), LONG), client.pull(request(), LONG));
    assert!(matches!(results, (Ok(_), Ok(_))), "{results:?}");
    assert_eq!(agent.calls().len(), 2);
}

#[tokio::test]
async fn a_refused_token_has_an_error_of_its_own() {
    let url = tcp_url().await;
    let _agent = FakeAgent::at(&url, Behaviour::Error(Code::UNAUTHENTICATED, "wrong token")).await;
    let error = client(&url).pull(request(), LONG).await.unwrap_err();
    assert!(matches!(&error, AgentError::Refused { message, .. } if message == "wrong token"), "{error:?}");
}

#[tokio::test]
async fn what_the_agent_said_is_passed_on_with_its_code() {
    let codes = [
        Code::NOT_FOUND,
        Code::PERMISSION_DENIED,
        Code::UNAVAILABLE,
        Code::RESOURCE_EXHAUSTED,
        Code::DATA_LOSS,
    ];
    for expected in codes {
        let url = tcp_url().await;
        let _agent = FakeAgent::at(&url, Behaviour::Error(expected, "no\nway")).await;
        let error = client(&url).pull(request(), LONG).await.unwrap_err();
        let AgentError::Said { image, code, message } = &error else { panic!("{error:?}") };
        assert_eq!((&**image, *code, &**message), ("r/app:1", expected, "no way"));
        assert_eq!(error.to_string(), "the agent could not pull r/app:1: no way");
    }
}

#[tokio::test]
async fn a_lying_agent_is_not_believed() {
    let url = tcp_url().await;
    let _agent = FakeAgent::at(&url, Behaviour::Lying(|answer| answer.store_dir = "../../etc".into())).await;
    let error = client(&url).pull(request(), LONG).await.unwrap_err();
    let AgentError::BadAnswer { image, source: BadAnswer::StoreDir { store_dir, .. } } = error else {
        panic!("{error:?}")
    };
    assert_eq!((&*image, &*store_dir), ("r/app:1", "../../etc"));
}

#[tokio::test]
async fn a_peer_that_speaks_no_ttrpc_is_an_error_at_once() {
    let cases: [&[u8]; 4] = [
        // A message of 4 GiB for the first call (stream 1).
        &[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 2, 0],
        // An answer that is no Response.
        &[0, 0, 0, 2, 0, 0, 0, 1, 2, 0, 0xff, 0xff],
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"",
    ];
    for bytes in cases {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("tcp://{}", listener.local_addr().unwrap());
        let peer = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // The client may have hung up already.
            let _ = stream.write_all(bytes);
        });
        let error = client(&url).pull(request(), LONG).await.unwrap_err();
        assert!(!matches!(&error, AgentError::Deadline { .. }), "{bytes:?}: {error:?}");
        peer.join().unwrap();
    }
}

#[test]
fn neither_token_nor_credentials_are_shown() {
    let shown = format!("{:?} {:?}", client("tcp://127.0.0.1:1"), request());
    assert!(!shown.contains("token") && !shown.contains("secret"), "{shown}");
    assert_eq!(client("tcp://127.0.0.1:1").endpoint(), &Endpoint::Tcp("127.0.0.1:1".parse().unwrap()));
}
