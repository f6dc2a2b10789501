//! The runtime options, of both types that containerd sends.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    time::Duration,
};

use anyhow::{Result, ensure};
use containerd_shim_protos::protobuf::{Message, MessageField, well_known_types::any::Any};
use protos::runtimeoptions;
use tests::{namespace::cgroup_dirs, wait};
use ttrpc::Code;

use crate::{
    bench::{Bench, refused, scenarios},
    differences::UNKNOWN_OPTIONS,
};

scenarios! {
    both "options::root_is_where_the_backend_keeps_its_state" => root;
    both "options::a_backend_that_does_not_exist_is_named_and_leaves_nothing" => no_backend;
    both "options::io_uid_and_gid_own_the_streams" => io_owner;
    both "options::no_new_keyring_reaches_the_backend" => keyring;
    both "options::shim_cgroup_is_the_shims" => shim_cgroup;
    both "options::an_unknown_type_is_refused_by_its_type_url" => unknown;
    ours "options::a_configuration_file_that_is_missing_or_broken_is_named" => config_file;
}

fn root(bench: &Bench<'_>) -> Result<()> {
    let root = bench.dir.join("root");
    let container =
        bench.container("a").options(|options| options.root = root.display().to_string()).run()?;
    let state = root.join(&bench.namespace).join(&container.id).join("state.json");
    ensure!(state.exists(), "{} is missing", state.display());
    container.destroy()?;
    ensure!(!state.exists(), "{} is left", state.display());
    Ok(())
}

fn no_backend(bench: &Bench<'_>) -> Result<()> {
    let (container, answer) = bench
        .container("a")
        .options(|options| options.binary_name = "/nonexistent/runc".into())
        .try_create()?;
    refused(answer, &[Code::UNKNOWN, Code::NOT_FOUND], &["/nonexistent/runc"])?;
    refused(container.shim.state(&container.id, ""), &[Code::NOT_FOUND], &[])?;
    container.expect_events(&[])
}

fn io_owner(bench: &Bench<'_>) -> Result<()> {
    let out = bench.dir.join("out");
    crate::bench::bundle::fifo(&out)?;
    // The Go shim waits for a reader.
    let _reader = fs::OpenOptions::new().read(true).write(true).open(&out)?;
    let text = out.display().to_string();
    let user = serde_json::json!({ "uid": 1234, "gid": 2345 });
    let container = bench
        .container("a")
        .args(&["sleep", "100000"])
        .stdio("", &text, &text)
        // runc gives the streams to its process's user, the group is left to the shim.
        .edit(|config| config["process"]["user"] = user)
        .options(|options| (options.io_uid, options.io_gid) = (1234, 2345))
        .run()?;
    let pid = container.shim.pids_of(&container.id)?.1;
    for fd in [1, 2] {
        let stream = fs::metadata(format!("/proc/{pid}/fd/{fd}"))?;
        ensure!((stream.uid(), stream.gid()) == (1234, 2345), "{fd} is of {}:{}", stream.uid(), stream.gid());
    }
    Ok(())
}

fn keyring(bench: &Bench<'_>) -> Result<()> {
    // A program that keeps the words it was called with, and is runc then.
    let (program, words) = (bench.dir.join("recording-runc"), bench.dir.join("words"));
    let draft = program.with_extension("draft");
    fs::write(&draft, format!("#!/bin/sh\necho \"$@\" >> {}\nexec runc \"$@\"\n", words.display()))?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o755))?;
    fs::rename(&draft, &program)?;
    let container = bench
        .container("a")
        .options(|options| {
            options.binary_name = program.display().to_string();
            options.no_new_keyring = true;
        })
        .run()?;
    let words = fs::read_to_string(&words)?;
    let create = words.lines().find(|line| line.contains(" create ")).unwrap_or_default();
    ensure!(create.contains("--no-new-keyring"), "called with {create:?}");
    container.destroy()?;
    Ok(())
}

fn shim_cgroup(bench: &Bench<'_>) -> Result<()> {
    let name = format!("{}-shim", bench.cgroup());
    for hierarchy in cgroup_dirs("/") {
        make_cgroup(&hierarchy, &name)?;
    }
    let container = bench.container("a").options(|options| options.shim_cgroup.clone_from(&name)).run()?;
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", container.shim.pid))?;
    ensure!(cgroups.lines().any(|line| line.ends_with(&name)), "the shim is in {cgroups}");
    container.destroy()?;
    // The answer may be lost with the connection.
    let _ = container.shim.shutdown(&container.id);
    crate::bench::wait_gone(container.shim.pid)?;
    // Made here, removed here, once the kernel has buried the shim.
    wait::holds("the cgroup to be empty", Duration::from_secs(10), || {
        Ok(cgroup_dirs(&name).iter().all(|dir| fs::remove_dir(dir).is_ok()))
    })
}

/// Makes the cgroup with its parents. In one of version 1 without processors no process may live: they are the parent's.
fn make_cgroup(hierarchy: &Path, name: &str) -> Result<()> {
    let mut dir = hierarchy.to_owned();
    for part in name.trim_start_matches('/').split('/') {
        let parent = dir.clone();
        dir.push(part);
        fs::create_dir_all(&dir)?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let read = |dir: &Path| fs::read_to_string(dir.join(file)).unwrap_or_default().trim().to_owned();
            let inherited = read(&parent);
            if read(&dir).is_empty() && !inherited.is_empty() {
                fs::write(dir.join(file), inherited)?;
            }
        }
    }
    Ok(())
}

fn unknown(bench: &Bench<'_>) -> Result<()> {
    let (container, mut request) = bench.container("a").prepare()?;
    let options = Any { type_url: "io.example.Unheard".into(), ..Default::default() };
    request.options = MessageField::some(options);
    let answer = container.shim.order("Create", &request);
    refused(answer, UNKNOWN_OPTIONS.of(bench), &["io.example.Unheard"])?;
    refused(container.shim.state(&container.id, ""), &[Code::NOT_FOUND], &[])?;
    container.expect_events(&[])
}

fn config_file(bench: &Bench<'_>) -> Result<()> {
    let broken = bench.dir.join("broken.toml");
    fs::write(&broken, "sgx_mode = [")?;
    for (name, file) in [("missing", bench.dir.join("missing.toml")), ("broken", broken)] {
        let options =
            runtimeoptions::Options { config_path: file.display().to_string(), ..Default::default() };
        let (container, answer) = bench
            .container(name)
            .any_options("runtimeoptions.v1.Options", options.write_to_bytes()?)
            .try_create()?;
        refused(answer, &[Code::INVALID_ARGUMENT], &[&file.display().to_string()])?;
        container.expect_events(&[])?;
    }
    Ok(())
}
