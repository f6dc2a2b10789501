//! The protocol of containerd's confidential-containers fork: PullImage on the shim's socket, then Create with
//! an empty root file system.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{
    containerd::TASKS,
    images,
    pod::Pod,
    registry::Client,
    shim::Shim,
    suite::{Scenario, Scene, enclave},
    wait,
};

pub const SCENARIOS: &[Scenario] = &[
    enclave("fork::an_image_pulled_over_the_shims_socket_boots_with_an_empty_rootfs", empty_rootfs),
    enclave("fork::the_same_pull_twice_is_one_pull", twice),
    enclave("fork::an_image_that_does_not_exist_is_refused_by_name", missing),
];

const PULL: Duration = Duration::from_secs(60);

fn empty_rootfs(scene: &Scene) -> Result<()> {
    let image = scene.push(&images::program("booted by the fork")?, "app")?;
    let pod = scene.pod("pod").run()?;
    let shim = Shim::of(scene.node(), &pod.id)?;
    let answered = shim.pull_image(&image.reference, PULL)?;
    let id = format!("{}-fork", &pod.id[..20]);
    scene.remember_id(&id);
    let (bundle, output) =
        (bundle(&pod, &id, &answered, &["/app"])?, tests::node::scratch_dir("fork")?.join(&id));
    fs::write(&output, "")?;
    shim.create(&id, &bundle, &output)?;
    shim.start(&id)?;
    wait::holds("the program's output", Duration::from_secs(20), || {
        Ok(fs::read_to_string(&output)?.contains("booted by the fork"))
    })?;
    shim.kill(&id, 9)?;
    let status = shim.wait(&id)?;
    ensure!(status == 137, "exit status {status}");
    let status = shim.delete(&id)?;
    ensure!(status == 137, "exit status of Delete {status}");
    // containerd's part: the bundle is its own.
    fs::remove_dir_all(&bundle).context("removing the bundle")?;
    pod.remove()
}

/// The bundle that the fork makes: command and args of the pod only, root in containerd's directory.
fn bundle(pod: &Pod<'_>, id: &str, image_ref: &str, args: &[&str]) -> Result<PathBuf> {
    let sandbox = PathBuf::from(TASKS).join(&pod.id);
    let text =
        fs::read_to_string(sandbox.join("config.json")).context("reading the sandbox's config.json")?;
    let mut config: Value = serde_json::from_str(&text)?;
    let pid = pod.info()?["pid"].as_u64().context("no pid of the sandbox")?;
    config["process"]["args"] = json!(args);
    config["process"]["env"] = json!(["HOSTNAME=pod", "PATH=/bin"]);
    config["root"] =
        json!({ "path": format!("/run/containerd/io.containerd.grpc.v1.cri/containers/{id}/rootfs") });
    config["annotations"]["io.kubernetes.cri.container-type"] = json!("container");
    config["annotations"]["io.kubernetes.cri.container-name"] = json!("fork");
    config["annotations"]["io.kubernetes.cri.image-name"] = json!(image_ref);
    config["linux"]["cgroupsPath"] = json!(format!("{}/{id}", pod.cgroup()));
    if let Some(hooks) = config.as_object_mut() {
        hooks.remove("hooks");
    }
    let namespaces = [("ipc", "ipc"), ("uts", "uts"), ("net", "network")]
        .map(|(name, kind)| json!({ "type": kind, "path": format!("/proc/{pid}/ns/{name}") }));
    let mut namespaces = namespaces.to_vec();
    namespaces.extend([json!({ "type": "pid" }), json!({ "type": "mount" })]);
    config["linux"]["namespaces"] = json!(namespaces);
    let bundle = PathBuf::from(TASKS).join(id);
    fs::create_dir_all(bundle.join("rootfs"))?;
    fs::write(bundle.join("config.json"), config.to_string())?;
    Ok(bundle)
}

fn twice(scene: &Scene) -> Result<()> {
    let image = scene.push(&images::program("once")?, "app")?;
    let pod = scene.pod("pod").run()?;
    let shim = Shim::of(scene.node(), &pod.id)?;
    let answers = [shim.pull_image(&image.reference, PULL)?, shim.pull_image(&image.reference, PULL)?];
    ensure!(answers[0] == answers[1], "two answers: {answers:?}");
    let fetched = scene.node().registry.blobs_fetched(&image.repository, Client::Agent)?;
    for layer in &image.layers {
        let times = fetched.iter().filter(|blob| *blob == layer).count();
        ensure!(times == 1, "layer {layer} was fetched {times} times");
    }
    pod.remove()
}

fn missing(scene: &Scene) -> Result<()> {
    let pod = scene.pod("pod").run()?;
    let shim = Shim::of(scene.node(), &pod.id)?;
    let reference = format!("{}/{}:none", tests::node::REGISTRY, scene.repository("nothing"));
    let error = shim.pull_image(&reference, PULL).err().context("it was pulled")?;
    let text = format!("{error:#}");
    ensure!(
        text.contains("not found") || text.contains("NOT_FOUND"),
        "the error does not say not found: {text}"
    );
    pod.remove()
}
