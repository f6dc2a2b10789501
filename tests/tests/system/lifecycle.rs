//! A pod's life through CRI, alone and beside others.

use std::{thread, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};
use k8s_cri::v1;
use tests::{
    container::ContainerSpec,
    images,
    suite::{Scenario, Scene, shared},
};

pub const SCENARIOS: &[Scenario] = &[
    shared("lifecycle::a_pod_lives_through_every_step_of_cri", every_step),
    shared("lifecycle::three_pods_of_two_containers_live_side_by_side", three_pods),
    shared("lifecycle::a_container_runs_again_in_the_same_pod", again),
    shared("lifecycle::pods_that_come_and_go_at_once_leave_nothing", come_and_go),
    shared("lifecycle::attach_reaches_the_first_process", attach),
    shared("lifecycle::an_interactive_exec_gives_output_and_exit_code", interactive),
];

fn every_step(scene: &Scene) -> Result<()> {
    let image = scene.push(&images::program("it runs")?, "app")?;
    let pod = scene.pod("pod").run()?;
    let status = pod.status()?.status.context("no status of the pod")?;
    ensure!(status.state() == v1::PodSandboxState::SandboxReady, "after RunPodSandbox: {status:?}");
    pod.pull(&image.reference)?;
    let container = pod.create(ContainerSpec::new("app", &image.reference))?;
    ensure!(container.status()?.state() == v1::ContainerState::ContainerCreated, "{:?}", container.status()?);
    container.start()?;
    container.wait_log("it runs")?;
    ensure!(container.status()?.state() == v1::ContainerState::ContainerRunning, "{:?}", container.status()?);
    let output = container.exec(["/bin/sh", "-c", "echo out; echo err >&2; exit 5"])?;
    ensure!(
        (output.code, output.stdout.as_str(), output.stderr.as_str()) == (5, "out\n", "err\n"),
        "{output:?}"
    );
    ensure!(container.sh("cat /proc/1/cmdline")?.contains("/app"), "pid 1 is not the image's program");
    container.stop(10)?;
    let status = container.status()?;
    ensure!(status.state() == v1::ContainerState::ContainerExited, "after StopContainer: {status:?}");
    container.remove()?;
    pod.stop()?;
    let status = pod.status()?.status.context("no status of the pod")?;
    ensure!(status.state() == v1::PodSandboxState::SandboxNotready, "after StopPodSandbox: {status:?}");
    pod.remove()
}

fn three_pods(scene: &Scene) -> Result<()> {
    let image = scene.push(&images::shell(), "app")?;
    let one = |name: String| -> Result<()> {
        let pod = scene.pod(&name).run()?;
        let mut containers = Vec::new();
        for n in 1..=2 {
            let script = format!("echo {name} container {n}; sleep 100000");
            containers.push(pod.run(ContainerSpec::new(&format!("c{n}"), &image.reference).script(&script))?);
        }
        for (n, container) in (1..=2).zip(&containers) {
            container.wait_log(&format!("{name} container {n}"))?;
            let hostname = container.sh("hostname")?;
            ensure!(hostname.trim() == name, "host name of a container of {name}: {hostname:?}");
        }
        pod.remove()
    };
    thread::scope(|scope| {
        let pods: Vec<_> = (1..=3).map(|n| scope.spawn(move || one(format!("pod{n}")))).collect();
        pods.into_iter().try_for_each(|pod| pod.join().map_err(|_| anyhow!("a pod's thread panicked"))?)
    })
}

fn again(scene: &Scene) -> Result<()> {
    let image = scene.push(&images::shell(), "app")?;
    let pod = scene.pod("pod").run()?;
    for attempt in 0..2 {
        let spec = ContainerSpec::new("app", &image.reference)
            .script("test -e /tmp/seen && exit 1; touch /tmp/seen; exit 3")
            .edit(|config| {
                config.metadata = Some(v1::ContainerMetadata { name: "app".into(), attempt });
                config.log_path = format!("app-{attempt}.log");
            });
        let container = pod.run(spec)?;
        let code = container.wait_exit(Duration::from_secs(20))?.exit_code;
        ensure!(code == 3, "attempt {attempt} found the files of the one before, or failed: {code}");
        container.remove()?;
    }
    pod.remove()
}

fn attach(scene: &Scene) -> Result<()> {
    let image = scene.push(&images::shell(), "app")?;
    let pod = scene.pod("pod").run()?;
    for tty in [false, true] {
        let spec = ContainerSpec::new(if tty { "tty" } else { "pipe" }, &image.reference)
            .script("echo ready; while read line; do echo \"got $line\"; done")
            .edit(|config| {
                config.stdin = true;
                config.tty = tty;
            });
        let container = pod.run(spec)?;
        container.wait_log("ready")?;
        let mut stream = container.attach(tty)?;
        stream.write("hello\n")?;
        stream.read_until("got hello")?;
        container.wait_log("got hello")?;
    }
    pod.remove()
}

fn interactive(scene: &Scene) -> Result<()> {
    let image = scene.push(&images::shell(), "app")?;
    let pod = scene.pod("pod").run()?;
    let container = pod.run(ContainerSpec::new("app", &image.reference).script("sleep 100000"))?;
    let mut stream = container.open_exec(&["/bin/sh"], true)?;
    stream.write("tty; exit 4\n")?;
    let (code, output) = stream.finish()?;
    ensure!(code == 4 && output.contains("/dev/pts/0"), "exit code {code}, output {output:?}");
    let mut stream = container.open_exec(&["/bin/sh"], false)?;
    stream.write("tty; exit 6\n")?;
    let (code, output) = stream.finish()?;
    ensure!(code == 6 && output.contains("not a tty"), "exit code {code}, output {output:?}");
    pod.remove()
}

/// Removed as soon as they run, so while their agents start.
fn come_and_go(scene: &Scene) -> Result<()> {
    let some = |worker: usize| -> Result<()> {
        for round in 0..4 {
            scene.pod(&format!("pod-{worker}-{round}")).run()?.remove()?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|worker| scope.spawn(move || some(worker))).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| anyhow!("a worker panicked"))?)
    })
}
