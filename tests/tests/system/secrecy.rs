//! No plaintext of an app's root shows on the host, whatever the pod's mounts propagate.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use k8s_cri::v1::MountPropagation;
use tests::{
    container::{Container, ContainerSpec},
    containerd::TASKS,
    images,
    pod::Pod,
    suite::{Scenario, Scene, enclave, shared},
};

pub const SCENARIOS: &[Scenario] = &[
    shared("secrecy::a_mount_made_in_the_container_propagates_to_the_node_if_asked", propagates),
    shared("secrecy::a_mount_made_on_the_node_propagates_to_the_container_if_asked", arrives),
    enclave("secrecy::the_apps_root_is_not_on_the_host_without_propagation", |scene| hidden(scene, None)),
    enclave("secrecy::the_apps_root_is_not_on_the_host_with_mounts_propagating_to_the_container", |scene| {
        hidden(scene, Some(MountPropagation::PropagationHostToContainer))
    }),
    enclave("secrecy::the_apps_root_is_not_on_the_host_with_mounts_propagating_both_ways", |scene| {
        hidden(scene, Some(MountPropagation::PropagationBidirectional))
    }),
];

/// A directory of the node for this scene's volume.
fn volume(scene: &Scene) -> Result<String> {
    let dir = tests::node::scratch_dir(&format!("volumes/{}", scene.name().replace("::", "-")))?;
    Ok(dir.display().to_string())
}

fn privileged<'a>(
    scene: &'a Scene,
    volume: &str,
    propagation: MountPropagation,
) -> Result<(Pod<'a>, Container)> {
    let image = scene.push(&images::shell(), "app")?;
    let pod = scene.pod("pod").privileged().run()?;
    let spec = ContainerSpec::new("app", &image.reference)
        .script("sleep 100000")
        .security(|context| context.privileged = true)
        .mount(volume, "/volume", propagation);
    let container = pod.run(spec)?;
    Ok((pod, container))
}

fn propagates(scene: &Scene) -> Result<()> {
    let volume = volume(scene)?;
    let (pod, container) = privileged(scene, &volume, MountPropagation::PropagationBidirectional)?;
    container
        .sh("mkdir /volume/inner && mount -t tmpfs none /volume/inner && echo hello > /volume/inner/file")?;
    let seen = fs::read_to_string(Path::new(&volume).join("inner/file"))
        .context("the mount does not show on the node")?;
    ensure!(seen == "hello\n", "{seen:?}");
    container.sh("umount /volume/inner")?;
    pod.remove()
}

fn arrives(scene: &Scene) -> Result<()> {
    let volume = volume(scene)?;
    let (pod, container) = privileged(scene, &volume, MountPropagation::PropagationHostToContainer)?;
    let inner = format!("{volume}/inner");
    tests::namespace::tmpfs(&inner, "mode=755")?;
    fs::write(Path::new(&inner).join("file"), "hello\n")?;
    let seen = container.sh("cat /volume/inner/file");
    nix::mount::umount(inner.as_str()).context("unmounting what the scenario mounted")?;
    ensure!(seen? == "hello\n", "the mount does not show in the container");
    pod.remove()
}

fn hidden(scene: &Scene, propagation: Option<MountPropagation>) -> Result<()> {
    let image = scene.push(&images::program("hidden")?, "app")?;
    let mut pod = scene.pod("pod");
    let mut spec = ContainerSpec::new("app", &image.reference);
    if let Some(propagation) = propagation {
        spec = spec.mount(&volume(scene)?, "/volume", propagation);
        if propagation == MountPropagation::PropagationBidirectional {
            pod = pod.privileged();
            spec = spec.security(|context| context.privileged = true);
        }
    }
    let pod = pod.run()?;
    let container = pod.run(spec)?;
    container.wait_log("hidden")?;
    ensure!(container.sh("ls /app /bin/busybox").is_ok(), "the probe's own files are missing");
    let bundle = Path::new(TASKS).join(&container.id);
    let mut places = vec![bundle.join("rootfs")];
    // Every mount of the node that names the container or the sandbox.
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    places.extend(
        points.filter(|point| point.contains(&container.id) || point.contains(&pod.id)).map(Into::into),
    );
    for place in places {
        // The snapshot that containerd unpacked for itself is not the app's root, and is not mounted.
        for file in ["app", "bin/busybox"] {
            let path = place.join(file);
            let pause = place.ends_with(format!("{}/rootfs", pod.id));
            ensure!(pause || !path.exists(), "{} of the app's root is on the host", path.display());
        }
    }
    pod.remove()
}
