//! What is left when shim, agent or machine die.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use tests::{
    container::ContainerSpec,
    containerd::TASKS,
    daemon::run,
    handlers::{BREAKABLE, REBOOT},
    images,
    processes::{agent_in, shim_of},
    suite::{Scenario, Scene, enclave, shared, under},
    wait,
};

pub const SCENARIOS: &[Scenario] = &[
    shared("crash::nothing_survives_a_killed_shim", killed_shim),
    shared("crash::nothing_survives_a_shim_killed_right_after_its_pod_was_run", killed_at_once),
    under(&[REBOOT], "crash::what_a_reboot_orphaned_is_swept_by_the_next_pod", reboot),
    under(&[BREAKABLE], "crash::nothing_survives_a_killed_shim_whose_configuration_is_broken", broken_config),
    enclave("crash::a_killed_agent_is_reported_and_comes_back", killed_agent),
    enclave("crash::a_killed_agent_during_a_pod_does_not_touch_the_app", app_survives),
];

fn killed_shim(scene: &Scene) -> Result<()> {
    let image = scene.push(&images::shell(), "app")?;
    let pod = scene.pod("pod").run()?;
    let script = "sleep 100000 & exec sleep 100001";
    let containers = [
        pod.run(ContainerSpec::new("one", &image.reference).script(script))?,
        pod.run(ContainerSpec::new("two", &image.reference).script(script))?,
    ];
    let address = fs::read_to_string(Path::new(TASKS).join(&pod.id).join("address"))?;
    let socket = Path::new(address.trim_start_matches("unix://"));
    shim_of(&pod.id)?.kill()?;
    for container in &containers {
        container.wait_exit(Duration::from_secs(20))?;
    }
    wait::holds("containerd to remove the bundles", Duration::from_secs(20), || {
        Ok(containers.iter().all(|container| !Path::new(TASKS).join(&container.id).exists()))
    })?;
    pod.remove()?;
    expect_no_socket(scene, socket)
}

fn expect_no_socket(scene: &Scene, socket: &Path) -> Result<()> {
    if scene.is_runc() {
        // The Go shim's fault, not to be repeated.
        return fs::remove_file(socket).context("removing the socket of runc's shim");
    }
    wait::holds("the shim's socket to be removed", Duration::from_secs(5), || Ok(!socket.exists()))
}

/// In particular no agent that was just being started.
fn killed_at_once(scene: &Scene) -> Result<()> {
    for round in 0..4 {
        let pod = scene.pod(&format!("pod-{round}")).run()?;
        let address = fs::read_to_string(Path::new(TASKS).join(&pod.id).join("address"))?;
        shim_of(&pod.id)?.kill()?;
        pod.remove()?;
        expect_no_socket(scene, Path::new(address.trim_start_matches("unix://")))?;
    }
    Ok(())
}

/// `delete` has the bundle as its only input; that the configuration can't be read any more is no excuse.
fn broken_config(scene: &Scene) -> Result<()> {
    let image = scene.push(&images::shell(), "app")?;
    let file =
        scene.node().handler(scene.handler())?.config.clone().context("the handler has no configuration")?;
    let pod = scene.pod("pod").run()?;
    let container = pod.run(ContainerSpec::new("app", &image.reference).script("sleep 100000"))?;
    fs::write(&file, "sgx_mode = [").with_context(|| format!("breaking {}", file.display()))?;
    shim_of(&pod.id)?.kill()?;
    container.wait_exit(Duration::from_secs(20))?;
    pod.remove()?;
    let error = scene.pod("refused").try_run(Duration::from_secs(30)).err();
    let message = error.context("a pod runs with a broken configuration")?.message().to_owned();
    ensure!(message.contains(&file.display().to_string()), "the error does not name the file: {message}");
    Ok(())
}

/// A pod's directories as they were when the power went: put back after the pod was removed, with another
/// boot's id, and without what was on `/run`.
fn reboot(scene: &Scene) -> Result<()> {
    let handler = scene.node().handler(scene.handler())?.clone();
    let image = scene.push(&images::shell(), "app")?;
    let saved = tests::node::scratch_dir("reboot")?;
    let first = scene.pod("before").run()?;
    first.run(ContainerSpec::new("app", &image.reference).script("sleep 100000"))?;
    let orphan = first.id.clone();
    for (dir, name) in [(&handler.data_dir, "data"), (&handler.state_dir, "state")] {
        // Not into the overlays that are mounted there.
        run(Command::new("cp").args(["-a", "--one-file-system"]).arg(dir).arg(saved.join(name)))?;
    }
    first.remove()?;
    run(Command::new("cp").arg("-a").arg(saved.join("data")).arg("-T").arg(&handler.data_dir))?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    replace_below(&handler.data_dir, boot.trim(), "00000000-0000-0000-0000-000000000000")?;
    let stores = handler.data_dir.join("k8s.io").join(&orphan);
    ensure!(stores.exists(), "{} was not put back", stores.display());
    let second = scene.pod("after").run()?;
    second.run(ContainerSpec::new("app", &image.reference).script("sleep 100000"))?;
    wait::holds("the orphan's stores to be swept", Duration::from_secs(20), || Ok(!stores.exists()))?;
    let living = handler.data_dir.join("k8s.io").join(&second.id);
    ensure!(living.exists(), "the living pod's stores were swept: {}", living.display());
    second.remove()
}

/// Replaces `old` by `new` in the small text files below `dir`.
fn replace_below(dir: &Path, old: &str, new: &str) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?.flatten() {
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            replace_below(&path, old, new)?;
        } else if let Ok(text) = fs::read_to_string(&path)
            && text.contains(old)
        {
            fs::write(&path, text.replace(old, new))?;
        }
    }
    Ok(())
}

fn killed_agent(scene: &Scene) -> Result<()> {
    let image = scene.push(&images::program("the first image")?, "first")?;
    let other = scene.push(&images::program("the second image")?, "second")?;
    let pod = scene.pod("pod").run()?;
    pod.run(ContainerSpec::new("first", &image.reference))?.wait_log("the first image")?;
    let agent = agent_in(pod.cgroup())?.context("the pod has no agent")?;
    agent.kill()?;
    let again = wait::until("another agent", Duration::from_secs(15), || {
        Ok(agent_in(pod.cgroup())?.filter(|process| process.pid != agent.pid))
    })?;
    ensure!(again.exists(), "the new agent is gone again");
    wait::holds("the agent's exit in containerd's log", Duration::from_secs(10), || {
        let log = scene.node().containerd_log()?;
        let about = |line: &str| line.contains("agent") && line.contains(&pod.id) && line.contains("137");
        Ok(log.lines().any(about))
    })?;
    pod.run(ContainerSpec::new("second", &other.reference))?.wait_log("the second image")?;
    pod.remove()
}

fn app_survives(scene: &Scene) -> Result<()> {
    let image = scene.push(&images::shell(), "app")?;
    let pod = scene.pod("pod").run()?;
    let container =
        pod.run(ContainerSpec::new("app", &image.reference).script("echo $$ > /tmp/pid; sleep 100000"))?;
    agent_in(pod.cgroup())?.context("the pod has no agent")?.kill()?;
    wait::stays("the app to answer", Duration::from_secs(2), || Ok(container.sh("cat /tmp/pid")? == "1\n"))?;
    container.stop(0)?;
    container.remove()?;
    pod.remove()
}
