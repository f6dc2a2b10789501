//! What goes wrong with agent, registry and store: the error names the step, and nothing stays.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tests::{
    container::{Container, ContainerSpec},
    containerd::TASKS,
    gate::{Flow, Gate},
    handlers::{BAD_AGENT, BAD_AGENT_WORDS, FULL, NO_AGENT, SHORT},
    image::{Image, Layer, Pushed},
    images,
    pod::Pod,
    processes::{agent_in, shim_of},
    registry::Client,
    suite::{Scenario, Scene, enclave, under},
    wait,
};
use tonic::Status;

pub const SCENARIOS: &[Scenario] = &[
    under(&[NO_AGENT], "failures::a_missing_agent_bundle_is_named", no_bundle),
    under(&[BAD_AGENT], "failures::an_agent_that_exits_at_once_is_reported_with_its_words", bad_agent),
    under(&[SHORT], "failures::an_unreachable_registry_is_named", unreachable),
    under(&[SHORT], "failures::a_registry_that_hangs_ends_with_the_pulls_deadline", hanging),
    enclave("failures::an_image_that_is_gone_is_named", not_found),
    under(&[FULL], "failures::a_full_disk_below_the_store_is_named", full_disk),
    enclave("failures::an_image_above_the_memory_limit_fails_with_both_sizes", above_limit),
    enclave(
        "failures::nothing_appears_after_a_clients_deadline_and_the_next_attempt_takes_over_the_pull",
        deadline,
    ),
    enclave("failures::nothing_survives_a_shim_killed_during_a_pull", killed_in_pull),
    enclave("failures::a_container_deleted_during_its_pull_is_gone_at_once", deleted),
];

/// Expects the start to fail within `limit` with all `words` in the error, and the container not to run.
fn expect_failure(container: &Container, limit: Duration, words: &[&str]) -> Result<()> {
    let begin = Instant::now();
    let error = container.try_start(limit).err().context("the container was started")?;
    ensure!(begin.elapsed() < limit, "no answer within {limit:?}");
    for word in words {
        ensure!(error.message().contains(word), "no {word:?} in the error: {}", error.message());
    }
    let state = container.status()?.state();
    ensure!(state != k8s_cri::v1::ContainerState::ContainerRunning, "the container runs");
    Ok(())
}

fn no_bundle(scene: &Scene) -> Result<()> {
    let image = scene.push(&images::shell(), "app")?;
    // The pod or its first container fails, as soon as the shim notices.
    let why = match scene.pod("pod").try_run(Duration::from_secs(30)) {
        Err(error) => error.message().to_owned(),
        Ok(pod) => {
            pod.pull(&image.reference)?;
            let container = pod.create(ContainerSpec::new("app", &image.reference))?;
            let error = container.try_start(Duration::from_secs(30)).err().context("it was started")?;
            pod.remove()?;
            error.message().to_owned()
        }
    };
    ensure!(why.contains("/nonexistent/agent"), "the error does not name the bundle: {why}");
    Ok(())
}

fn bad_agent(scene: &Scene) -> Result<()> {
    let image = scene.push(&images::shell(), "app")?;
    let pod = scene.pod("pod").run()?;
    pod.pull(&image.reference)?;
    let container = pod.create(ContainerSpec::new("app", &image.reference))?;
    expect_failure(&container, Duration::from_secs(20), &["agent", BAD_AGENT_WORDS, "3"])?;
    pod.remove()
}

/// Runs `body` with a way to the registry that it may hold or cut.
fn with_gate(scene: &Scene, body: impl FnOnce(&Gate) -> Result<()>) -> Result<()> {
    let gate = scene.node().take_gate()?;
    let outcome = body(&gate);
    scene.node().give_back(gate);
    outcome
}

/// An image whose reference leads through `gate`, pulled on the host and made into a container that is not started.
fn prepared(
    scene: &Scene,
    pod: &Pod<'_>,
    gate: &Gate,
    image: &Image,
    name: &str,
) -> Result<(Pushed, Container)> {
    let image = scene.push(image, "app")?;
    let reference = image.through(gate.authority());
    pod.pull(&reference)?;
    let container = pod.create(ContainerSpec::new(name, &reference).command(["/bin/sleep", "100000"]))?;
    Ok((image, container))
}

fn unreachable(scene: &Scene) -> Result<()> {
    with_gate(scene, |gate| {
        let pod = scene.pod("pod").run()?;
        let (_, container) = prepared(scene, &pod, gate, &images::shell(), "app")?;
        gate.set(Flow::Cut);
        expect_failure(&container, Duration::from_secs(25), &[gate.authority()])?;
        pod.remove()
    })
}

fn hanging(scene: &Scene) -> Result<()> {
    with_gate(scene, |gate| {
        let pod = scene.pod("pod").run()?;
        let (image, container) = prepared(scene, &pod, gate, &images::shell(), "app")?;
        gate.set(Flow::Held);
        // What the handler's configuration allows a pull, and where that is said.
        expect_failure(&container, Duration::from_secs(25), &[&image.repository, "pull_secs"])?;
        pod.remove()
    })
}

fn not_found(scene: &Scene) -> Result<()> {
    let image = scene.push(&images::shell(), "app")?;
    let pod = scene.pod("pod").run()?;
    pod.pull(&image.reference)?;
    scene.node().registry.forget(&image.repository)?;
    let container = pod.create(ContainerSpec::new("app", &image.reference))?;
    expect_failure(&container, Duration::from_secs(20), &[&image.reference, "not found"])?;
    pod.remove()
}

/// Bytes that don't compress.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(bytes).collect()
}

fn full_disk(scene: &Scene) -> Result<()> {
    let layer = Layer::new().file("big", 0o644, &noise(4 << 20))?.finish()?;
    let image = scene.push(&images::shell().layer(layer), "app")?;
    let small = scene.push(&images::program("there is room again")?, "small")?;
    let pod = scene.pod("pod").run()?;
    pod.pull(&image.reference)?;
    let container = pod.create(ContainerSpec::new("app", &image.reference))?;
    expect_failure(&container, Duration::from_secs(30), &["No space left on device"])?;
    // What was written of the failed pull is gone.
    pod.run(ContainerSpec::new("small", &small.reference))?.wait_log("there is room again")?;
    pod.remove()
}

fn above_limit(scene: &Scene) -> Result<()> {
    const LIMIT: i64 = 24 << 20;
    let layer = Layer::new().file("big", 0o644, &noise(32 << 20))?.finish()?;
    let image = scene.push(&images::shell().layer(layer), "app")?;
    let pod = scene.pod("pod").run()?;
    pod.pull(&image.reference)?;
    let spec = ContainerSpec::new("app", &image.reference).script("sleep 100000").memory_limit(LIMIT);
    let container = pod.create(spec)?;
    let error = container.try_start(Duration::from_secs(60)).err().context("it was started")?;
    let message = error.message();
    // The limit, and the image's size, whatever the unit.
    let numbers = message.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty()).count();
    ensure!(message.contains("memory limit") && numbers >= 2, "not both sizes in: {message}");
    ensure!(message.contains(&LIMIT.to_string()) || message.contains("24"), "the limit is not in: {message}");
    pod.remove()
}

/// How often the agent fetched the layer that is fetched most.
fn most_fetches(scene: &Scene, image: &Pushed) -> Result<usize> {
    let fetched = scene.node().registry.blobs_fetched(&image.repository, Client::Agent)?;
    let times = image.layers.iter().map(|layer| fetched.iter().filter(|blob| *blob == layer).count());
    Ok(times.max().unwrap_or(0))
}

fn deadline(scene: &Scene) -> Result<()> {
    with_gate(scene, |gate| {
        let pod = scene.pod("pod").run()?;
        let (image, first) = prepared(scene, &pod, gate, &images::shell(), "first")?;
        gate.set(Flow::Held);
        let error: Status =
            first.try_start(Duration::from_secs(3)).err().context("a held pull was finished")?;
        ensure!(matches!(error.code(), tonic::Code::DeadlineExceeded | tonic::Code::Cancelled), "{error}");
        first.wait_exit(Duration::from_secs(20))?;
        first.remove()?;
        // As kubelet does: a new container, while the pull still runs.
        let reference = image.through(gate.authority());
        let second =
            pod.create(ContainerSpec::new("second", &reference).command(["/bin/sleep", "100000"]))?;
        thread::scope(|scope| {
            let start = scope.spawn(|| second.start());
            wait::stays("no process of the first attempt", Duration::from_secs(2), || gone(&first.id))?;
            gate.set(Flow::Open);
            start.join().map_err(|_| anyhow::anyhow!("the second start panicked"))?
        })?;
        ensure!(second.sh("echo yes")? == "yes\n", "the second attempt does not run");
        wait::stays("no process of the first attempt", Duration::from_secs(2), || gone(&first.id))?;
        let times = most_fetches(scene, &image)?;
        ensure!(times == 1, "a layer was fetched {times} times: the second attempt did not join the pull");
        pod.remove()
    })
}

/// Neither a mount nor a process nor runc's state names `id`.
fn gone(id: &str) -> Result<bool> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?.contains(id);
    let processes = tests::processes::all()?.iter().any(|process| process.command_line.contains(id));
    let state = Path::new("/run/containerd/runc/k8s.io").join(id).exists();
    Ok(!mounts && !processes && !state)
}

/// Runs `disturb` while a container's start waits for its held pull, expects the start to fail, removes the pod.
fn during_a_pull(scene: &Scene, disturb: impl FnOnce(&Pod<'_>) -> Result<()>) -> Result<()> {
    with_gate(scene, |gate| {
        let pod = scene.pod("pod").run()?;
        let (_, container) = prepared(scene, &pod, gate, &images::shell(), "app")?;
        gate.set(Flow::Held);
        thread::scope(|scope| {
            let start = scope.spawn(|| container.try_start(Duration::from_secs(100)));
            // In its pull, when the agent runs and the shim has the container's bundle.
            let bundle = Path::new(TASKS).join(&container.id);
            wait::holds("the task's bundle", Duration::from_secs(10), || Ok(bundle.exists()))?;
            wait::until("the agent", Duration::from_secs(10), || agent_in(pod.cgroup()))?;
            wait::holds("the agent at the gate", Duration::from_secs(10), || Ok(gate.held() > 0))?;
            let begin = Instant::now();
            disturb(&pod)?;
            let started = start.join().map_err(|_| anyhow::anyhow!("the start panicked"))?;
            ensure!(started.is_err(), "the container was started");
            ensure!(
                begin.elapsed() < Duration::from_secs(15),
                "the start failed after {:?} only",
                begin.elapsed()
            );
            Ok(())
        })?;
        pod.remove()
    })
}

fn deleted(scene: &Scene) -> Result<()> {
    during_a_pull(scene, |pod| pod.stop())
}

fn killed_in_pull(scene: &Scene) -> Result<()> {
    during_a_pull(scene, |pod| shim_of(&pod.id)?.kill())
}
