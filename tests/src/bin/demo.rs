//! `make demo`: one confidential pod from registry to teardown, on a private node, with what to see on the way.
//!
//! Every step is verified; the exit code is 0 only when all of them held.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr)] // Its output is what it is for.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use tests::{
    container::{Container, ContainerSpec},
    handlers::{ENCLAVE_CC, Product},
    image::{Image, Layer, Pushed},
    images,
    namespace::{self, Unified},
    node::{Node, REGISTRY},
    pod::Pod,
    processes::{agent_in, shim_of},
    registry::Client,
    suite::Scene,
};

/// What the image's author wants to keep from the host.
const SECRET: &str = "the recipe is 7X-cola";

fn main() -> ExitCode {
    match namespace::enter(Unified::Keep).and_then(|()| demo()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("\nThe demo FAILED: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<()> {
    let begin = Instant::now();
    heading("A private node");
    let node = Arc::new(Node::start(Some(Product::locate()?))?);
    say("containerd, a registry, CNI and a resolver run in network, mount and pid namespaces of their own.");
    say(
        "SGX mode is NONE: everything is real but the enclave. It hides nothing from a host that wants to look.",
    );
    let outcome = pod(&node);
    if outcome.is_err() {
        eprintln!("\ncontainerd's last lines:\n{}", node.containerd_tail(25));
    }
    outcome?;
    println!("\nThe demo is done: every step was verified, in {:.1} s.", begin.elapsed().as_secs_f32());
    Ok(())
}

fn pod(node: &Arc<Node>) -> Result<()> {
    let scene = Scene::new(Arc::clone(node), "demo", ENCLAVE_CC);

    heading("An image, pushed to the private registry");
    let image = node.push(&image()?, "demo/hello", "1")?;
    say(&format!("{} = {}", image.reference, image.digest));

    heading("A pod with runtime handler enclave-cc, through containerd's CRI");
    let pod = scene.pod("hello").run()?;
    say(&format!("RunPodSandbox    {}", short(&pod.id)));
    let container = pod.run(ContainerSpec::new("hello", &image.reference))?;
    say(&format!("StartContainer   {}", short(&container.id)));
    let shim = shim_of(&pod.id)?;
    let agent = agent_in(pod.cgroup())?.context("the pod has no enclave agent")?;
    say(&format!("shim  {:>6}  {}", shim.pid, first_words(&shim.command_line)));
    say(&format!("agent {:>6}  {}", agent.pid, first_words(&agent.command_line)));

    heading("The agent's pull: what the registry's access log tells");
    agents_pull(node, &image)?;

    heading("The encrypted store on the host");
    let stores = node.handler(ENCLAVE_CC)?.data_dir.join("k8s.io").join(&pod.id).join("images");
    encrypted_store(&stores, &container)?;

    heading("The program's output");
    for line in container.wait_log("hello from")?.lines() {
        say(line);
    }

    heading("Exec into it");
    exec(&container)?;

    heading("Teardown");
    teardown(node, &scene, pod, &container)
}

fn image() -> Result<Image> {
    let program = "#!/bin/sh\n\
        echo \"hello from $(cat /etc/image), pid $$, root file system $(grep ' / / ' /proc/self/mountinfo | sed 's/.* - //')\"\n\
        trap 'echo stopped by SIGTERM; exit 0' TERM\nwhile :; do sleep 100000 & wait $!; done\n";
    let layer = Layer::new()
        .file("hello", 0o755, program.as_bytes())?
        .file("etc/image", 0o644, b"demo/hello:1")?
        .file("etc/secret", 0o600, SECRET.as_bytes())?
        .finish()?;
    Ok(images::command(&["/hello"]).layer(layer))
}

fn agents_pull(node: &Node, image: &Pushed) -> Result<()> {
    let accesses = node.registry.accesses(&image.repository)?;
    for access in accesses.iter().filter(|access| access.client == Client::Agent) {
        say(&format!("{:<4} {} {}", access.method, access.status, access.path));
    }
    let fetched = node.registry.distinct_blobs_fetched(&image.repository, Client::Agent)?;
    for layer in &image.layers {
        ensure!(fetched.contains(layer), "the agent did not fetch layer {layer}");
    }
    say(&format!("All {} layers went to the agent, at {REGISTRY}.", image.layers.len()));
    Ok(())
}

fn encrypted_store(stores: &Path, container: &Container) -> Result<()> {
    let mut files = Vec::new();
    list(stores, &mut files)?;
    ensure!(!files.is_empty(), "no store below {}", stores.display());
    say(&format!("{}/", stores.display()));
    let mut bytes = 0;
    for file in &files {
        let content = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        bytes += content.len();
        let name = file.strip_prefix(stores).unwrap_or(file).display().to_string();
        let start: String = content.iter().take(8).map(|byte| format!("{byte:02x} ")).collect();
        // 64 digits of a digest are more than a line has room for.
        let name =
            if name.len() > 40 { format!("{}…{}", &name[..19], &name[71.min(name.len())..]) } else { name };
        say(&format!("  {name:<36} {:>9} bytes  {start}…", content.len()));
        for plain in [SECRET, "hello from"] {
            let found = content.windows(plain.len()).any(|window| window == plain.as_bytes());
            ensure!(!found, "{plain:?} is readable in {}", file.display());
        }
    }
    say(&format!("{SECRET:?}: not found in these {} files ({bytes} bytes).", files.len()));
    let inside = container.sh("cat /etc/secret")?;
    ensure!(inside == SECRET, "in the container /etc/secret is {inside:?}");
    say("The same words, read inside the container: found in /etc/secret.");
    Ok(())
}

fn exec(container: &Container) -> Result<()> {
    let script = "id; hostname; ps";
    say(&format!("$ {script}"));
    let output = container.sh(script)?;
    for line in output.lines() {
        say(line);
    }
    ensure!(output.contains("uid=0(root)") && output.contains("/hello"), "this is not the container");
    let root = container.sh("grep ' / / ' /proc/self/mountinfo")?;
    ensure!(root.contains("- tmpfs"), "the root is not the boot hook's: {root}");
    let output = container.exec(["/bin/sh", "-c", "exit 7"])?;
    ensure!(output.code == 7, "exit code {}", output.code);
    say("An exec that exits with 7 is reported with 7.");
    Ok(())
}

fn teardown(node: &Node, scene: &Scene, pod: Pod<'_>, container: &Container) -> Result<()> {
    container.stop(10)?;
    container.wait_log("stopped by SIGTERM")?;
    let code = container.status()?.exit_code;
    ensure!(code == 0, "the program's exit code is {code}");
    say("StopContainer    the program caught SIGTERM and exited with 0");
    container.remove()?;
    pod.remove()?;
    say("RemovePodSandbox");
    scene.check_nothing_left()?;
    node.check_nothing_left()?;
    say("No mount, process, cgroup, socket, directory, store or network interface of the pod is left.");
    Ok(())
}

fn list(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() { list(&path, found)? } else { found.push(path) }
    }
    Ok(())
}

fn heading(text: &str) {
    println!("\n== {text}");
}

fn say(text: &str) {
    println!("   {text}");
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

fn first_words(command_line: &str) -> String {
    command_line.chars().take(90).collect()
}
