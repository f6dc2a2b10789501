//! Which image a container gets, what of it, and who fetched it.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use tests::{
    container::ContainerSpec,
    image::{Image, Layer, Pushed},
    images,
    registry::Client,
    suite::{Scenario, Scene, enclave, shared},
};

pub const SCENARIOS: &[Scenario] = &[
    shared("images::two_images_with_one_last_name_run_their_own_programs", last_names),
    shared("images::a_reference_by_digest_gives_that_image", by_digest),
    shared("images::forty_layers_are_applied_in_order", forty_layers),
    shared("images::files_have_the_images_owners_modes_links_and_times", files),
    shared("images::the_image_says_what_runs_where_and_as_whom", configuration),
    enclave("images::the_root_is_the_agents_pull_not_the_hosts_snapshot", origin),
    enclave("images::two_containers_of_one_image_are_one_pull", one_pull),
    enclave("images::the_store_on_the_host_holds_no_plaintext", no_plaintext),
];

const SNAPSHOTS: &str = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots";

fn last_names(scene: &Scene) -> Result<()> {
    let mut pushed = Vec::new();
    for owner in ["a", "b"] {
        let program = images::program(&format!("program of {owner}"))?;
        pushed.push((owner, scene.push(&program, &format!("{owner}/app"))?));
    }
    let pod = scene.pod("pod").run()?;
    for (owner, image) in &pushed {
        pod.run(ContainerSpec::new(owner, &image.reference))?.wait_log(&format!("program of {owner}"))?;
    }
    pod.remove()
}

fn by_digest(scene: &Scene) -> Result<()> {
    let old = scene.push(&images::program("the old one")?, "app")?;
    let new = scene.push(&images::program("the new one")?, "app")?;
    ensure!(old.digest != new.digest, "two images, one digest");
    let pod = scene.pod("pod").run()?;
    let by_digest = old.by_digest(tests::node::REGISTRY);
    pod.run(ContainerSpec::new("old", &by_digest))?.wait_log("the old one")?;
    pod.run(ContainerSpec::new("new", &new.reference))?.wait_log("the new one")?;
    pod.remove()
}

fn forty_layers(scene: &Scene) -> Result<()> {
    let mut image = images::shell();
    for n in 1..40 {
        let mut layer = Layer::new()
            .dir("layers", 0o755)?
            .file(&format!("layers/{n:02}"), 0o644, n.to_string().as_bytes())?
            .file("layers/last", 0o644, n.to_string().as_bytes())?;
        if n > 1 {
            layer = layer.whiteout("layers", &format!("{:02}", n - 1))?;
        }
        image = image.layer(layer.finish()?);
    }
    let image = scene.push(&image, "app")?;
    ensure!(image.layers.len() == 40, "{} layers", image.layers.len());
    let pod = scene.pod("pod").run()?;
    let container = pod.run(ContainerSpec::new("app", &image.reference).script("sleep 100000"))?;
    let listing = container.sh("cd /layers; ls; cat last")?;
    ensure!(listing == "39\nlast\n39", "{listing:?}");
    pod.remove()
}

fn files(scene: &Scene) -> Result<()> {
    let lower = Layer::new()
        .dir("data", 0o751)?
        .dir("data/gone", 0o755)?
        .file("data/gone/a", 0o644, b"a")?
        .dir("data/opaque", 0o755)?
        .file("data/opaque/old", 0o644, b"old")?
        .owned_file("data/owned", 0o640, (1000, 2000), b"owned")?
        .file("data/setuid", 0o4755, b"#!/bin/sh\n")?
        .hard_link("data/hard", "data/owned", 0o640, (1000, 2000))?
        .symlink("data/absolute", "/data/owned")?
        .symlink("data/relative", "../data/owned")?
        .symlink("data/dangling", "/nowhere")?
        .symlink("data/up", "../../../../etc/passwd")?;
    let upper = Layer::new()
        .whiteout("data", "gone")?
        .dir("data/opaque", 0o700)?
        .file("data/opaque/.wh..wh..opq", 0o644, b"")?
        .file("data/opaque/new", 0o600, b"new")?;
    let image = images::shell().layer(lower.finish()?).layer(upper.finish()?);
    let image = scene.push(&image, "app")?;
    let pod = scene.pod("pod").run()?;
    let container = pod.run(ContainerSpec::new("app", &image.reference).script("sleep 100000"))?;
    let listing = container
        .sh("cd /data; for f in . $(find . -mindepth 1 | sort); do stat -c '%n %a %u:%g %F' $f; done")?;
    let expected = "\
. 751 0:0 directory
./absolute 777 0:0 symbolic link
./dangling 777 0:0 symbolic link
./hard 640 1000:2000 regular file
./opaque 700 0:0 directory
./opaque/new 600 0:0 regular file
./owned 640 1000:2000 regular file
./relative 777 0:0 symbolic link
./setuid 4755 0:0 regular file
./up 777 0:0 symbolic link
";
    ensure!(listing == expected, "{listing}");
    let rest = container.sh("cd /data; cat absolute relative; readlink dangling; readlink up; stat -c '%h %Y' owned hard; cat up | head -n1")?;
    let expected = "ownedowned/nowhere\n../../../../etc/passwd\n2 1700000000\n2 1700000000\nroot:x:0:0:root:/root:/bin/sh\n";
    ensure!(rest == expected, "{rest}");
    pod.remove()
}

fn configuration(scene: &Scene) -> Result<()> {
    let layer = Layer::new().dir("work", 0o777)?.finish()?;
    let image: Image = images::command(&[
        "/bin/sh",
        "-c",
        "echo \"$0 $1 in $(pwd) as $(id -u):$(id -g) with $FROM_IMAGE\"; sleep 100000",
    ])
    .layer(layer)
    .set("Cmd", vec!["first", "second"])
    .set("Env", vec!["PATH=/bin", "FROM_IMAGE=an environment"])
    .set("WorkingDir", "/work")
    .set("User", "user");
    let image = scene.push(&image, "app")?;
    let pod = scene.pod("pod").run()?;
    let container = pod.run(ContainerSpec::new("app", &image.reference))?;
    container.wait_log("first second in /work as 1000:1000 with an environment")?;
    ensure!(container.sh("id -u; pwd")? == "1000\n/work\n", "exec runs elsewhere or as someone else");
    pod.remove()
}

fn marked(scene: &Scene, marker: &str) -> Result<Pushed> {
    let layer = Layer::new().file("origin", 0o644, marker.as_bytes())?.finish()?;
    scene.push(&images::shell().layer(layer), "app")
}

fn origin(scene: &Scene) -> Result<()> {
    let image = marked(scene, "from the registry")?;
    let pod = scene.pod("pod").run()?;
    pod.pull(&image.reference)?;
    // The host changes what it has unpacked; an app that boots from it would show.
    let mut changed = 0;
    for snapshot in fs::read_dir(SNAPSHOTS)?.flatten() {
        let file = snapshot.path().join("fs/origin");
        if fs::read(&file).is_ok_and(|text| text == b"from the registry") {
            fs::write(&file, "from the host")?;
            changed += 1;
        }
    }
    ensure!(changed == 1, "the host's snapshot was found {changed} times");
    let container = pod.create(ContainerSpec::new("app", &image.reference).script("sleep 100000"))?;
    container.start()?;
    let seen = container.sh("cat /origin")?;
    ensure!(seen == "from the registry", "the container's file is {seen:?}");
    let root = container.sh("grep ' / / ' /proc/self/mountinfo")?;
    ensure!(root.contains(" tmpfs ") && !root.contains("containerd"), "the container's root: {root}");
    let fetched = scene.node().registry.distinct_blobs_fetched(&image.repository, Client::Agent)?;
    let missing: BTreeSet<_> = image.layers.iter().filter(|layer| !fetched.contains(*layer)).collect();
    ensure!(missing.is_empty(), "layers that the agent did not fetch: {missing:?}; fetched: {fetched:?}");
    pod.remove()
}

fn one_pull(scene: &Scene) -> Result<()> {
    let image = marked(scene, "one pull")?;
    let pod = scene.pod("pod").run()?;
    let mut containers = Vec::new();
    pod.pull(&image.reference)?;
    for name in ["first", "second"] {
        containers.push(pod.create(ContainerSpec::new(name, &image.reference).script("sleep 100000"))?);
    }
    std::thread::scope(|scope| {
        let starts: Vec<_> = containers.iter().map(|container| scope.spawn(|| container.start())).collect();
        starts
            .into_iter()
            .try_for_each(|start| start.join().map_err(|_| anyhow::anyhow!("a start panicked"))?)
    })?;
    containers[0].sh("echo mine > /tmp/file")?;
    ensure!(containers[1].sh("ls /tmp")?.is_empty(), "the containers share their files");
    let fetched = scene.node().registry.blobs_fetched(&image.repository, Client::Agent)?;
    for layer in &image.layers {
        let times = fetched.iter().filter(|blob| *blob == layer).count();
        ensure!(times == 1, "layer {layer} was fetched {times} times");
    }
    pod.remove()
}

fn no_plaintext(scene: &Scene) -> Result<()> {
    let marker = "f3b1c9: a secret of the image";
    let image = marked(scene, marker)?;
    let pod = scene.pod("pod").run()?;
    let container =
        pod.run(ContainerSpec::new("app", &image.reference).script("cat /origin; echo; sleep 100000"))?;
    container.wait_log(marker)?;
    let data = scene.node().handler(scene.handler())?.data_dir.clone();
    let mut files = Vec::new();
    find_files(&data, &mut files)?;
    let ours: Vec<_> = files.iter().filter(|file| file.to_string_lossy().contains(&pod.id)).collect();
    ensure!(
        ours.iter().any(|file| file.to_string_lossy().contains("/images/")),
        "no store of the pod in {ours:?}"
    );
    for file in ours {
        let bytes = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        let found = bytes.windows(marker.len()).any(|window| window == marker.as_bytes());
        ensure!(!found, "the marker is in {}", file.display());
    }
    container.stop(0)?;
    container.wait_exit(Duration::from_secs(10))?;
    pod.remove()
}

fn find_files(dir: &Path, found: &mut Vec<std::path::PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let entry = entry?;
        // Other scenarios' pods come and go meanwhile.
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => find_files(&entry.path(), found).or_else(ignore_missing)?,
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    Ok(())
}

fn ignore_missing(error: anyhow::Error) -> Result<()> {
    let missing = |e: &std::io::Error| e.kind() == std::io::ErrorKind::NotFound;
    if error.root_cause().downcast_ref().is_some_and(missing) { Ok(()) } else { Err(error) }
}
