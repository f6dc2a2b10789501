//! What is done to a whole container while it runs: kill all, limits, statistics, pids, checkpoints.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::{
    api,
    cgroups::metrics::Metrics,
    protobuf::{Message, MessageField, well_known_types::any::Any},
    shim::oci::ProcessDetails,
};
use serde_json::json;
use tests::{namespace::cgroup_dirs, wait};
use ttrpc::Code;

use crate::bench::{Bench, Container, alive, refused, scenarios};

scenarios! {
    both "control::kill_all_ends_every_process_of_the_container" => kill_all;
    both "control::in_a_shared_pid_namespace_the_rest_ends_with_init" => shared_pids;
    both "control::an_update_changes_the_limit_of_the_cgroup" => update;
    both "control::an_update_that_is_none_is_refused_and_changes_nothing" => bad_update;
    both "control::statistics_are_containerds_metrics_with_plausible_numbers" => stats;
    both "control::pids_are_those_of_the_container_and_name_the_execs" => pids;
    both "control::a_paused_container_makes_no_progress_until_it_is_resumed" => frozen;
    both "control::a_paused_container_is_ended_by_kill" => kill_paused;
    both "control::a_checkpoint_without_criu_says_so_and_leaves_the_container_running" => checkpoint;
    both "control::the_same_id_in_another_namespace_is_another_container" => namespaces;
}

fn kill_all(bench: &Bench<'_>) -> Result<()> {
    let container = bench.container("a").args(&["sh", "-c", "sleep 100000 & sleep 100001 & wait"]).run()?;
    container.add_exec("e", &["sleep", "100000"])?;
    container.shim.start(&container.id, "e")?;
    let pids = own_pids(&container)?;
    container.shim.kill_all(&container.id, 9)?;
    ensure!(container.wait()? == 137, "Wait");
    ensure!(container.shim.wait(&container.id, "e")? == 137, "Wait for the exec");
    container.shim.delete(&container.id, "e")?;
    wait::holds("all processes to end", Duration::from_secs(10), || Ok(!pids.iter().any(|&pid| alive(pid))))
}

fn own_pids(container: &Container<'_>) -> Result<Vec<u32>> {
    Ok(container.shim.pids(&container.id)?.processes.iter().map(|process| process.pid).collect())
}

fn shared_pids(bench: &Bench<'_>) -> Result<()> {
    let container = bench
        .container("a")
        .args(&["sh", "-c", "sleep 100000 & exec sleep 100001"])
        .edit(|config| {
            let namespaces = ["ipc", "uts", "mount", "network"].map(|kind| json!({ "type": kind }));
            config["linux"]["namespaces"] = json!(namespaces);
        })
        .run()?;
    wait::holds("both processes", Duration::from_secs(10), || Ok(own_pids(&container)?.len() == 2))?;
    let pids = own_pids(&container)?;
    container.kill(9)?;
    ensure!(container.wait()? == 137, "Wait");
    wait::holds("the rest to end", Duration::from_secs(10), || Ok(!pids.iter().any(|&pid| alive(pid))))
}

fn order_update(container: &Container<'_>, resources: &[u8]) -> crate::bench::Answer<()> {
    let resources = Any {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".into(),
        value: resources.to_vec(),
        ..Default::default()
    };
    let request = api::UpdateTaskRequest {
        id: container.id.clone(),
        resources: MessageField::some(resources),
        ..Default::default()
    };
    container.shim.order("Update", &request)
}

/// The memory limit that the kernel has, of either version's file.
fn memory_limit(bench: &Bench<'_>, container: &Container<'_>) -> Result<u64> {
    let dirs = cgroup_dirs(&format!("{}/{}", bench.cgroup(), container.id));
    let files =
        dirs.iter().flat_map(|dir| ["memory.limit_in_bytes", "memory.max"].map(|name| dir.join(name)));
    let text = files.into_iter().find_map(|file| fs::read_to_string(file).ok());
    Ok(text.context("no file with the memory limit")?.trim().parse()?)
}

fn update(bench: &Bench<'_>) -> Result<()> {
    let limit = json!({ "memory": { "limit": 64 << 20 } });
    let container = bench.container("a").edit(|config| config["linux"]["resources"] = limit).run()?;
    ensure!(memory_limit(bench, &container)? == 64 << 20, "{}", memory_limit(bench, &container)?);
    for mib in [32, 96] {
        order_update(&container, json!({ "memory": { "limit": mib << 20 } }).to_string().as_bytes())?;
        ensure!(memory_limit(bench, &container)? == mib << 20, "{}", memory_limit(bench, &container)?);
    }
    Ok(())
}

fn bad_update(bench: &Bench<'_>) -> Result<()> {
    let limit = json!({ "memory": { "limit": 64 << 20 } });
    let container = bench.container("a").edit(|config| config["linux"]["resources"] = limit).run()?;
    let codes = &[Code::UNKNOWN, Code::INVALID_ARGUMENT];
    refused(order_update(&container, b"no json"), codes, &[])?;
    refused(order_update(&container, br#"{"memory":{"limit":"much"}}"#), codes, &[])?;
    ensure!(memory_limit(bench, &container)? == 64 << 20, "{}", memory_limit(bench, &container)?);
    ensure!(container.sh("echo alive")? == "alive\n", "the container");
    Ok(())
}

fn stats(bench: &Bench<'_>) -> Result<()> {
    let limit = json!({ "memory": { "limit": 64 << 20 }, "pids": { "limit": 50 } });
    let container = bench
        .container("a")
        .args(&["sh", "-c", "sleep 100000 & sleep 100001 & wait"])
        .edit(|config| config["linux"]["resources"] = limit)
        .run()?;
    wait::holds("all three processes", Duration::from_secs(10), || Ok(own_pids(&container)?.len() == 3))?;
    container.sh("i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done")?;
    let request = api::StatsRequest { id: container.id.clone(), ..Default::default() };
    let answer: api::StatsResponse = container.shim.call("Stats", &request)?;
    let name = answer.stats.type_url.rsplit('/').next().unwrap_or_default();
    ensure!(name == "io.containerd.cgroups.v1.Metrics", "metrics of type {:?}", answer.stats.type_url);
    let metrics = Metrics::parse_from_bytes(&answer.stats.value)?;
    let (pids, cpu, usage) = (&metrics.pids, &metrics.cpu.usage, &metrics.memory.usage);
    ensure!(pids.current == 3 && pids.limit == 50, "{pids:?}");
    ensure!(cpu.total > 0 && cpu.total >= cpu.user.max(cpu.kernel), "{cpu:?}");
    ensure!(usage.limit == 64 << 20 && (1..=64 << 20).contains(&usage.usage), "{usage:?}");
    ensure!(usage.max >= usage.usage, "{usage:?}");
    Ok(())
}

fn pids(bench: &Bench<'_>) -> Result<()> {
    let container = bench.container("a").args(&["sh", "-c", "sleep 100000 & wait"]).run()?;
    container.add_exec("e", &["sleep", "100000"])?;
    let exec = container.shim.start(&container.id, "e")?;
    wait::holds("all three processes", Duration::from_secs(10), || Ok(own_pids(&container)?.len() == 3))?;
    let init = container.shim.pids_of(&container.id)?.1;
    let answer = container.shim.pids(&container.id)?;
    let mut named = Vec::new();
    for process in &answer.processes {
        ensure!(alive(process.pid), "{} is no process", process.pid);
        if let Some(info) = process.info.as_ref() {
            ensure!(
                info.type_url == "containerd.runc.v1.ProcessDetails",
                "details of type {:?}",
                info.type_url
            );
            named.push((process.pid, ProcessDetails::parse_from_bytes(&info.value)?.exec_id));
        }
    }
    ensure!(named == [(exec, "e".to_owned())], "named are {named:?}, not exec {exec}");
    ensure!(answer.processes.iter().any(|process| process.pid == init), "init {init} is not among them");
    container.shim.kill(&container.id, "e", 9)?;
    container.shim.wait(&container.id, "e")?;
    container.shim.delete(&container.id, "e")?;
    Ok(())
}

fn frozen(bench: &Bench<'_>) -> Result<()> {
    let out = bench.dir.join("out");
    let uri = format!("file://{}", out.display());
    let container = bench
        .container("a")
        .args(&["sh", "-c", "while :; do echo tick; usleep 1000; done"])
        .stdio("", &uri, &uri)
        .run()?;
    let written = || fs::metadata(&out).map_or(0, |file| file.len());
    wait::holds("the first output", Duration::from_secs(10), || Ok(written() > 0))?;
    container.shim.pause(&container.id)?;
    // What was written before is on its way at most.
    wait::holds("the output to stand still", Duration::from_secs(10), || {
        let before = written();
        Ok(wait::stays("the output", Duration::from_millis(300), || Ok(written() == before)).is_ok())
    })?;
    let before = written();
    container.shim.resume(&container.id)?;
    wait::holds("more output", Duration::from_secs(10), || Ok(written() > before))?;
    container.destroy()?;
    container.expect_events(&["create", "start", "paused", "resumed", "exit 137", "delete 137"])
}

fn kill_paused(bench: &Bench<'_>) -> Result<()> {
    let container = bench.container("a").run()?;
    container.shim.pause(&container.id)?;
    container.kill(9)?;
    ensure!(container.wait()? == 137, "Wait");
    ensure!(container.delete()? == 137, "Delete");
    Ok(())
}

fn checkpoint(bench: &Bench<'_>) -> Result<()> {
    if tests::prerequisites::find("criu").is_some() {
        return Ok(());
    }
    let container = bench.container("a").run()?;
    let path = bench.dir.join("image");
    let request = api::CheckpointTaskRequest {
        id: container.id.clone(),
        path: path.display().to_string(),
        ..Default::default()
    };
    refused(container.shim.order("Checkpoint", &request), &[Code::UNKNOWN, Code::UNIMPLEMENTED], &["criu"])?;
    ensure!(container.sh("echo alive")? == "alive\n", "the container");
    container.destroy()?;
    let lines = bench.events.of(&container.id);
    ensure!(!lines.iter().any(|line| line == "checkpointed"), "{lines:?}");
    Ok(())
}

fn namespaces(bench: &Bench<'_>) -> Result<()> {
    let here = bench.container("a").run()?;
    // The same id, bundle and cgroup of its own, as another containerd namespace has them.
    let other = format!("{}x", bench.namespace);
    let dir = bench.dir.join("elsewhere").join(&here.id);
    let config = crate::bench::bundle::config(&["sleep", "100000"], &format!("{}/other", bench.cgroup()));
    crate::bench::bundle::write(&dir, &config)?;
    let shim = bench.start_shim_in(&other, &here.id, &dir, &Any::new())?;
    ensure!(shim.address != here.shim.address, "both namespaces have one shim");
    let request = api::CreateTaskRequest {
        id: here.id.clone(),
        bundle: dir.display().to_string(),
        rootfs: crate::bench::bundle::rootfs()?,
        ..Default::default()
    };
    let there: api::CreateTaskResponse = shim.call("Create", &request)?;
    shim.start(&here.id, "")?;
    shim.kill(&here.id, "", 9)?;
    ensure!(shim.wait(&here.id, "")? == 137, "Wait there");
    shim.delete(&here.id, "")?;
    ensure!(!alive(there.pid), "{} lives", there.pid);
    ensure!(here.sh("echo alive")? == "alive\n", "the container here");
    Ok(())
}
