//! Containers that are no confidential ones: those of `ctr`, and of namespaces that are passed through.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use tests::{
    container::ContainerSpec,
    daemon::run,
    handlers::PASSTHROUGH,
    images,
    processes::agent_in,
    suite::{Scenario, Scene, shared, under},
    wait,
};

pub const SCENARIOS: &[Scenario] = &[
    shared("plain::a_container_of_ctr_runs_without_any_agent", ctr),
    under(
        &[PASSTHROUGH],
        "plain::a_pod_of_a_namespace_that_is_passed_through_runs_without_any_agent",
        passed_through,
    ),
];

fn ctr(scene: &Scene) -> Result<()> {
    let namespace = "plain";
    let ctr = |arguments: &[&str]| run(Command::new("ctr").args(["-n", namespace]).args(arguments));
    let image = scene.push(&images::command(&["/bin/sh", "-c", "echo default"]), "app")?;
    ctr(&["images", "pull", "--plain-http", &image.reference])?;
    let runtime = scene.node().handler(scene.handler())?.runtime_type;
    let id = format!("ctr-{}", scene.handler());
    scene.remember_id(&id);
    let output = ctr(&[
        "run",
        "--rm",
        "--runtime",
        runtime,
        &image.reference,
        &id,
        "/bin/sh",
        "-c",
        "echo from ctr; exit 0",
    ])?;
    ensure!(output == "from ctr\n", "{output:?}");
    let failing =
        ctr(&["run", "--rm", "--runtime", runtime, &image.reference, &id, "/bin/sh", "-c", "exit 9"]);
    ensure!(failing.is_err(), "ctr tells no failure of an exit with 9");
    ctr(&["run", "-d", "--runtime", runtime, &image.reference, &id, "/bin/sleep", "100000"])?;
    let exec = ctr(&["tasks", "exec", "--exec-id", "e1", &id, "/bin/sh", "-c", "cat /proc/1/cmdline"])?;
    ensure!(exec.contains("sleep"), "{exec:?}");
    let state = Path::new("/run/enclave-cc").join(namespace).join(&id);
    ensure!(!state.exists(), "{} is there", state.display());
    ctr(&["tasks", "kill", "-s", "KILL", &id])?;
    wait::holds("the task to stop", Duration::from_secs(10), || {
        Ok(ctr(&["tasks", "list"])?.lines().any(|line| line.contains(&id) && line.contains("STOPPED")))
    })?;
    ctr(&["tasks", "delete", &id])
        .or_else(|e| if e.to_string().contains("137") { Ok(String::new()) } else { Err(e) })?;
    ctr(&["containers", "delete", &id])?;
    Ok(())
}

fn passed_through(scene: &Scene) -> Result<()> {
    let image = scene.push(&images::program("passed through")?, "app")?;
    let pod = scene.pod("pod").run()?;
    let container = pod.run(ContainerSpec::new("app", &image.reference))?;
    container.wait_log("passed through")?;
    ensure!(agent_in(pod.cgroup())?.is_none(), "the pod has an agent");
    let root = container.sh("grep ' / / ' /proc/self/mountinfo")?;
    ensure!(root.contains(" overlay "), "the root is not containerd's: {root}");
    let data = &scene.node().handler(scene.handler())?.data_dir;
    let own = data.join("k8s.io").join(&pod.id);
    ensure!(fs::metadata(&own).is_err(), "{} is there", own.display());
    pod.remove().context("removing the pod")
}
