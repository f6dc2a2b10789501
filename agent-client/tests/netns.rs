//! Client and agent in different network namespaces. Needs root and iproute2.

#![allow(clippy::unwrap_used)]

use std::{
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use agent::{Behaviour, FakeAgent};
use agent_client::{AgentClient, AgentError, PullRequest, free_port};
use nix::sched::{CloneFlags, setns};

mod agent;

const LONG: Duration = Duration::from_secs(20);

/// A network namespace with a loopback interface, as long as it is alive.
struct Namespace(Child);

impl Namespace {
    fn new() -> Self {
        let script = "ip link set lo up && echo up && exec sleep infinity";
        let mut child = Command::new("unshare")
            .args(["--net", "--kill-child", "sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare of util-linux is needed");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "up\n", "making a network namespace needs root and iproute2");
        Self(child)
    }

    fn path(&self) -> PathBuf {
        // The child of `unshare --kill-child` is in the namespace, and so is unshare itself.
        format!("/proc/{}/ns/net", self.0.id()).into()
    }

    /// A listener inside, at `port`.
    fn listener(&self, port: u16) -> TcpListener {
        let path = self.path();
        let inside = move || {
            setns(std::fs::File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            TcpListener::bind(("127.0.0.1", port)).unwrap()
        };
        thread::spawn(inside).join().unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn an_agent_in_another_network_namespace_is_reached_there_only() {
    let namespace = Namespace::new();
    let port = free_port(Some(&namespace.path())).await.unwrap();
    let agent = FakeAgent::on(namespace.listener(port), Behaviour::Honest).await;
    let endpoint: agent_client::Endpoint = format!("tcp://127.0.0.1:{port}").parse().unwrap();
    let request = PullRequest { image: "r/app:1".into(), ..Default::default() };

    let here = AgentClient::new(endpoint.clone(), None, "t").pull(request.clone(), LONG).await.unwrap_err();
    assert!(matches!(here, AgentError::Unreachable { .. }), "{here:?}");

    let client = AgentClient::new(endpoint, Some(namespace.path()), "t");
    client.wait_ready(LONG).await.unwrap();
    client.pull(request.clone(), LONG).await.unwrap();
    // Another thread entered the namespace; this one is where it was.
    let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    assert_ne!(own, std::fs::read_link(namespace.path()).unwrap());

    // And again after a restart.
    agent.kill().await;
    let agent = FakeAgent::on(namespace.listener(port), Behaviour::Honest).await;
    client.pull(request, LONG).await.unwrap();
    assert_eq!(agent.calls().len(), 1);
}

#[tokio::test]
async fn a_namespace_that_is_gone_is_named_in_the_error() {
    let gone = PathBuf::from("/proc/0/ns/net");
    let error = free_port(Some(&gone)).await.unwrap_err();
    assert!(error.to_string().starts_with("entering the network namespace /proc/0/ns/net: "), "{error}");
    let client = AgentClient::new("tcp://127.0.0.1:1".parse().unwrap(), Some(gone), "t");
    let error = client.pull(PullRequest::default(), LONG).await.unwrap_err();
    assert!(matches!(error, AgentError::Unreachable { .. }), "{error:?}");
}
