//! Pods' networks, and who reaches the agent.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use tests::{
    container::ContainerSpec,
    daemon::run,
    handlers::{ENCLAVE_CC, HOST_NETWORK, SHORT},
    images,
    processes::{agent_in, all},
    suite::{Scenario, Scene, enclave, shared, under},
    wait,
};

pub const SCENARIOS: &[Scenario] = &[
    shared("network::two_pods_in_the_nodes_network_run_at_once", host_network),
    under(
        &[HOST_NETWORK],
        "network::a_pod_without_egress_runs_with_the_agent_in_the_nodes_network",
        no_egress,
    ),
    under(&[SHORT], "network::a_pod_without_egress_says_that_the_registry_is_unreachable", no_egress_fails),
    enclave("network::an_app_in_the_pod_can_not_make_the_agent_pull", foreign_pull),
    enclave(
        "network::the_agent_is_in_the_pods_network_and_cgroup_with_namespaces_of_its_own",
        agent_namespaces,
    ),
];

fn host_network(scene: &Scene) -> Result<()> {
    let image = scene.push(&images::program("in the node's network")?, "app")?;
    let pods = [scene.pod("first").host_network().run()?, scene.pod("second").host_network().run()?];
    for pod in &pods {
        let container = pod.run(ContainerSpec::new("app", &image.reference))?;
        container.wait_log("in the node's network")?;
        let interfaces = container.sh("ls /sys/class/net")?;
        ensure!(interfaces.contains("pods0"), "not the node's network: {interfaces}");
    }
    pods.into_iter().try_for_each(tests::pod::Pod::remove)
}

/// Takes the default route from the pod's network: only its own subnet is left.
fn cut_egress(pod: &tests::pod::Pod<'_>) -> Result<()> {
    let netns = format!("--net={}", pod.netns()?);
    run(Command::new("nsenter").arg(netns).args(["ip", "route", "del", "default"]))?;
    Ok(())
}

fn no_egress(scene: &Scene) -> Result<()> {
    let image = scene.push(&images::program("without egress")?, "app")?;
    let pod = scene.pod("pod").run()?;
    cut_egress(&pod)?;
    let container = pod.run(ContainerSpec::new("app", &image.reference))?;
    container.wait_log("without egress")?;
    let out = container.exec(["nc", "-w", "1", "registry.test", "5000"])?;
    ensure!(out.code != 0, "the pod reaches the registry: {out:?}");
    pod.remove()
}

fn no_egress_fails(scene: &Scene) -> Result<()> {
    let image = scene.push(&images::program("never")?, "app")?;
    let pod = scene.pod("pod").run()?;
    cut_egress(&pod)?;
    pod.pull(&image.reference)?;
    let container = pod.create(ContainerSpec::new("app", &image.reference))?;
    let error =
        container.try_start(Duration::from_secs(30)).err().context("it was started without egress")?;
    ensure!(error.message().contains(tests::node::REGISTRY), "the error names no registry: {error}");
    pod.remove()
}

/// From inside an app: the agent's port is found in the pod's network and called without and with a wrong token.
fn foreign_pull(scene: &Scene) -> Result<()> {
    let image = scene.push(&images::shell(), "app")?;
    let other = scene.push(&images::program("for another")?, "other")?;
    let pod = scene.pod("pod").run()?;
    let container = pod.run(ContainerSpec::new("app", &image.reference).script("sleep 100000"))?;
    let listening = container.sh("netstat -ltn | grep LISTEN | tr -s ' ' | cut -d' ' -f4")?;
    let port = listening
        .lines()
        .find_map(|line| line.rsplit_once(':'))
        .context("the agent listens nowhere in the pod")?
        .1;
    for token in ["", "0000000000000000000000000000000000000000000000000000000000000000"] {
        let request: String =
            pull_request(&other.reference, token).iter().map(|byte| format!("\\x{byte:02x}")).collect();
        // The answer's status has no length of its own to tell: what it says is looked for in its bytes.
        let script = format!("(printf '{request}'; sleep 3) | nc -w 5 127.0.0.1 {port} | strings; true");
        let answer = container.sh(&script)?;
        ensure!(answer.to_lowercase().contains("token"), "the agent's answer names no token: {answer:?}");
    }
    let accesses = scene.node().registry.accesses(&other.repository)?;
    let by_agent = accesses.iter().filter(|access| access.client == tests::registry::Client::Agent).count();
    ensure!(by_agent == 0, "the agent went to the registry for an app's call");
    pod.remove()
}

/// A ttrpc request frame: `grpc.Image/PullImage` of `reference`.
fn pull_request(reference: &str, token: &str) -> Vec<u8> {
    let field = |number: u8, text: &[u8]| -> Vec<u8> {
        // Lengths below 128 are one byte, longer ones here are below 16384.
        let length = text.len();
        let mut bytes = vec![number << 3 | 2];
        if length < 128 {
            bytes.push(u8::try_from(length).unwrap_or(0));
        } else {
            bytes.push(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
            bytes.push(u8::try_from(length >> 7).unwrap_or(0));
        }
        bytes.extend_from_slice(text);
        bytes
    };
    let mut message = field(1, reference.as_bytes());
    if !token.is_empty() {
        message.extend(field(10, token.as_bytes()));
    }
    let payload = [field(1, b"grpc.Image"), field(2, b"PullImage"), field(3, &message)].concat();
    let length = u32::try_from(payload.len()).unwrap_or(0);
    // Length, stream 1, type request, flags.
    [&length.to_be_bytes()[..], &1_u32.to_be_bytes(), &[1, 0], &payload].concat()
}

fn agent_namespaces(scene: &Scene) -> Result<()> {
    let image = scene.push(&images::shell(), "app")?;
    let pod = scene.pod("pod").run()?;
    let container = pod.run(ContainerSpec::new("app", &image.reference).script("sleep 100000"))?;
    let agent = wait::until("the agent", Duration::from_secs(20), || agent_in(pod.cgroup()))?;
    let pid = container.pid()?;
    let app = all()?.into_iter().find(|process| process.pid == pid).context("the app's process")?;
    ensure!(agent.namespace("net")? == app.namespace("net")?, "the agent is not in the pod's network");
    for kind in ["pid", "ipc", "uts", "mnt"] {
        ensure!(agent.namespace(kind)? != app.namespace(kind)?, "agent and app share the {kind} namespace");
    }
    let tasks = run(Command::new("ctr").args(["-n", "k8s.io", "tasks", "list", "-q"]))?;
    let ours: Vec<&str> =
        tasks.lines().filter(|id| id.contains(&pod.id) || id.contains(&container.id)).collect();
    ensure!(ours.len() == 2, "the agent is among containerd's tasks: {tasks}");
    ensure!(scene.handler() == ENCLAVE_CC, "under another handler");
    pod.remove()
}
