//! Events: which, in which order, each once; also while containerd is away.

use anyhow::{Result, ensure};
use containerd_shim_protos::api;

use crate::bench::{Bench, bundle::process, scenarios};

scenarios! {
    both "order::an_exec_is_told_of_from_its_addition_to_its_exit" => exec;
    both "order::execs_end_before_their_init" => execs_before_init;
    ours "order::an_out_of_memory_kill_is_told_before_the_exit_it_causes" => out_of_memory;
    ours "order::events_of_a_time_without_containerd_come_later_in_order_and_once" => containerd_away;
    both "order::two_hundred_rounds_in_sixteen_workers_lose_and_double_nothing" => stress;
}

fn exec(bench: &Bench<'_>) -> Result<()> {
    let container = bench.container("a").run()?;
    let (status, _) = container.exec("e", &process(&["sh", "-c", "exit 3"]))?;
    ensure!(status == 3, "the exec ended with {status}");
    container.destroy()?;
    container.expect_events(&[
        "create",
        "start",
        "exec-added e",
        "exec-started e",
        "exit e 3",
        "exit 137",
        "delete 137",
    ])
}

fn execs_before_init(bench: &Bench<'_>) -> Result<()> {
    let container = bench.container("a").run()?;
    for exec in ["e1", "e2"] {
        container.add_exec(exec, &["sleep", "100000"])?;
        container.shim.start(&container.id, exec)?;
    }
    container.kill(9)?;
    container.wait()?;
    bench.events.wait_for(&container.id, "exit 137")?;
    let lines = bench.events.of(&container.id);
    let at = |line: &str| lines.iter().position(|seen| seen == line);
    ensure!(
        at("exit e1 137").is_some() && at("exit e2 137").is_some() && at("exit 137") == Some(lines.len() - 1),
        "{lines:?}"
    );
    for exec in ["e1", "e2"] {
        ensure!(container.shim.delete(&container.id, exec)? == 137, "Delete of {exec}");
    }
    Ok(())
}

fn out_of_memory(bench: &Bench<'_>) -> Result<()> {
    let limit = serde_json::json!({ "memory": { "limit": 16 << 20, "swap": 16 << 20 } });
    let container = bench
        .container("a")
        .args(&["sh", "-c", "x=$(head -c 100000000 /dev/zero | tr '\\0' x); echo $x"])
        .edit(|config| config["linux"]["resources"] = limit)
        .create()?;
    container.start()?;
    ensure!(container.wait()? == 137, "the program was not killed");
    bench.events.wait_for(&container.id, "exit 137")?;
    let lines = bench.events.of(&container.id);
    let (oom, exit) = (
        lines.iter().position(|line| line == "oom"),
        lines.iter().position(|line| line.starts_with("exit ")),
    );
    ensure!(oom.is_some() && oom < exit, "{lines:?}");
    Ok(())
}

fn containerd_away(bench: &Bench<'_>) -> Result<()> {
    let container = bench.container("a").run()?;
    bench.events.wait_for(&container.id, "start")?;
    bench.events.go_away()?;
    let (status, _) = container.exec("e", &process(&["true"]))?;
    ensure!(status == 0, "the exec ended with {status}");
    container.destroy()?;
    bench.events.come_back()?;
    container.expect_events(&[
        "create",
        "start",
        "exec-added e",
        "exec-started e",
        "exit e 0",
        "exit 137",
        "delete 137",
    ])
}

/// All on one shim, as in a pod with many containers.
fn stress(bench: &Bench<'_>) -> Result<()> {
    const WORKERS: usize = 16;
    const ROUNDS: usize = 200;
    let first = bench.container("first").run()?;
    let mut round = 0;
    while round < ROUNDS {
        // Sixteen containers at a time, each call of all of them under way at once.
        let batch: Vec<_> = (round..ROUNDS.min(round + WORKERS))
            .map(|n| bench.container(&format!("c{n}")).beside(&first).begin())
            .collect::<Result<_>>()?;
        round += batch.len();
        let mut containers = Vec::new();
        for (container, pending) in batch {
            pending.answer()??;
            containers.push(container);
        }
        let starts: Vec<_> = containers
            .iter()
            .map(|c| {
                let request = api::StartRequest { id: c.id.clone(), ..Default::default() };
                c.shim.begin::<_, api::StartResponse>("Start", &request)
            })
            .collect();
        for start in starts {
            start.answer()??;
        }
        for container in &containers {
            container.add_exec("e", &["true"])?;
        }
        let execs: Vec<_> = containers
            .iter()
            .map(|c| {
                let request =
                    api::StartRequest { id: c.id.clone(), exec_id: "e".into(), ..Default::default() };
                c.shim.begin::<_, api::StartResponse>("Start", &request)
            })
            .collect();
        for exec in execs {
            exec.answer()??;
        }
        for container in &containers {
            ensure!(container.shim.wait(&container.id, "e")? == 0, "exec of {}", container.id);
            container.shim.delete(&container.id, "e")?;
            container.kill(9)?;
        }
        for container in &containers {
            ensure!(container.wait()? == 137, "exit of {}", container.id);
            container.delete()?;
            container.expect_events(&[
                "create",
                "start",
                "exec-added e",
                "exec-started e",
                "exit e 0",
                "exit 137",
                "delete 137",
            ])?;
        }
    }
    Ok(())
}
