//! Exit codes and signals, as the pod's owner sees them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_cri::v1;
use tests::{
    container::{Container, ContainerSpec},
    images,
    pod::Pod,
    suite::{Scenario, Scene, shared},
};

pub const SCENARIOS: &[Scenario] = &[
    shared("exits::a_signal_handler_exiting_7_gives_7", handler_exits),
    shared("exits::pid_1_with_default_sigterm_is_killed_after_the_grace_period", default_sigterm),
    shared("exits::with_a_shared_pid_namespace_sigterm_gives_143", shared_pids),
    shared("exits::a_program_that_ends_by_itself_gives_its_code", by_itself),
    shared("exits::a_program_above_its_memory_limit_is_killed", out_of_memory),
    shared("exits::a_command_that_does_not_exist_fails_the_start", no_command),
];

/// Starts `script` and waits until it has said "ready".
fn ready(scene: &Scene, pod: &Pod<'_>, script: &str) -> Result<Container> {
    let image = scene.push(&images::shell(), "app")?;
    let container = pod.run(ContainerSpec::new("app", &image.reference).script(script))?;
    container.wait_log("ready")?;
    Ok(container)
}

fn expect_code(container: &Container, code: i32) -> Result<()> {
    let status = container.status()?;
    ensure!(status.exit_code == code, "expected exit code {code}: {status:?}");
    Ok(())
}

fn handler_exits(scene: &Scene) -> Result<()> {
    let pod = scene.pod("pod").run()?;
    let container =
        ready(scene, &pod, "trap 'exit 7' TERM; echo ready; while :; do sleep 100000 & wait $!; done")?;
    container.stop(20)?;
    expect_code(&container, 7)?;
    pod.remove()
}

fn default_sigterm(scene: &Scene) -> Result<()> {
    let pod = scene.pod("pod").run()?;
    let container = ready(scene, &pod, "echo ready; exec sleep 100000")?;
    let begin = Instant::now();
    container.stop(1)?;
    ensure!(
        begin.elapsed() >= Duration::from_secs(1),
        "killed before the grace period: {:?}",
        begin.elapsed()
    );
    expect_code(&container, 137)?;
    pod.remove()
}

fn shared_pids(scene: &Scene) -> Result<()> {
    let pod = scene.pod("pod").namespaces(|options| options.pid = v1::NamespaceMode::Pod.into()).run()?;
    let container = ready(scene, &pod, "echo ready; exec sleep 100000")?;
    let first = container.sh("cat /proc/1/cmdline")?;
    ensure!(first.contains("trap exit TERM INT"), "pid 1 is not the pause program: {first:?}");
    container.stop(20)?;
    expect_code(&container, 143)?;
    pod.remove()
}

fn by_itself(scene: &Scene) -> Result<()> {
    let image = scene.push(&images::shell(), "app")?;
    let pod = scene.pod("pod").run()?;
    for (name, script, code) in [("zero", "exit 0", 0), ("three", "exit 3", 3), ("killed", "kill -9 $$", 137)]
    {
        // Pid 1 is immune to its own SIGKILL, so a child takes it.
        let script = if name == "killed" { format!("sh -c '{script}'; exit $?") } else { script.to_owned() };
        let container = pod.run(ContainerSpec::new(name, &image.reference).script(&script))?;
        let status = container.wait_exit(Duration::from_secs(20)).context(name)?;
        ensure!(status.exit_code == code, "{name}: {status:?}");
    }
    pod.remove()
}

fn no_command(scene: &Scene) -> Result<()> {
    let image = scene.push(&images::shell(), "app")?;
    let pod = scene.pod("pod").run()?;
    pod.pull(&image.reference)?;
    let container = pod.create(ContainerSpec::new("app", &image.reference).command(["/bin/nothing-here"]))?;
    let Err(error) = container.try_start(tests::cri::DEADLINE) else { anyhow::bail!("it was started") };
    ensure!(error.message().contains("/bin/nothing-here"), "the error names no command: {error}");
    let status = container.wait_exit(Duration::from_secs(10))?;
    ensure!(status.exit_code == 128 && status.reason == "StartError", "{status:?}");
    container.remove()?;
    pod.remove()
}

fn out_of_memory(scene: &Scene) -> Result<()> {
    let image = scene.push(&images::shell(), "app")?;
    let pod = scene.pod("pod").run()?;
    let grow = "exec awk 'BEGIN { s = \"x\"; while (1) s = s s }'";
    let container =
        pod.run(ContainerSpec::new("app", &image.reference).script(grow).memory_limit(48 << 20))?;
    let status = container.wait_exit(Duration::from_secs(30))?;
    ensure!(status.exit_code == 137, "{status:?}");
    pod.remove()
}
