//! Processes that are added to a container: what they are given, how they end, and what is left when they can't begin.

use std::{
    fs::{self, OpenOptions},
    io::Read,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::api::{self, Status};
use serde_json::json;
use tests::wait;
use ttrpc::Code;

use crate::{
    bench::{
        Bench,
        bundle::{fifo, process},
        refused, scenarios,
    },
    differences::{START_AFTER_FAILURE, STATES_EXEC_ID, WRONG_STATE},
};

scenarios! {
    both "exec::user_groups_directory_environment_and_capabilities_are_those_of_the_request" => surroundings;
    both "exec::with_a_terminal_it_has_one" => terminal;
    both "exec::an_id_is_taken_until_its_exec_is_deleted_and_free_afterwards" => ids;
    both "exec::a_program_that_does_not_exist_fails_the_start_and_leaves_nothing" => no_program;
    both "exec::any_signal_reaches_it_real_time_ones_included" => signals;
    both "exec::state_goes_from_created_over_running_to_stopped" => states;
    both "exec::what_was_never_started_can_be_deleted" => never_started;
    both "exec::killing_one_touches_neither_init_nor_another" => others;
    both "exec::twenty_at_once_each_get_their_own_status_and_output" => twenty;
    both "exec::in_a_created_container_it_runs_before_the_start" => before_start;
}

fn surroundings(bench: &Bench<'_>) -> Result<()> {
    let container = bench.container("a").run()?;
    let mut spec =
        process(&["sh", "-c", "id -u; id -g; id -G; pwd; echo $WHO; grep CapEff /proc/self/status"]);
    spec["user"] = json!({ "uid": 1000, "gid": 1000, "additionalGids": [2000] });
    spec["cwd"] = json!("/home");
    spec["env"] = json!(["PATH=/bin", "WHO=the exec"]);
    spec["capabilities"] = json!({});
    let (status, output) = container.exec("plain", &spec)?;
    let lines: Vec<&str> = output.lines().collect();
    ensure!(
        status == 0
            && lines == ["1000", "1000", "1000 2000", "/home", "the exec", "CapEff:\t0000000000000000"],
        "{status}: {output}"
    );
    let kill = ["CAP_KILL"];
    spec["user"] = json!({ "uid": 0, "gid": 0 });
    spec["capabilities"] = json!({ "bounding": kill, "effective": kill, "permitted": kill });
    let (_, output) = container.exec("capable", &spec)?;
    ensure!(output.ends_with("CapEff:\t0000000000000020\n"), "{output}");
    Ok(())
}

fn terminal(bench: &Bench<'_>) -> Result<()> {
    let container = bench.container("a").run()?;
    let script = "tty; test -t 0 -a -t 1 -a -t 2 && echo all three";
    let mut spec = process(&["sh", "-c", script]);
    spec["terminal"] = json!(true);
    let out = bench.dir.join("tty");
    fifo(&out)?;
    let mut stream = OpenOptions::new().read(true).write(true).open(&out)?;
    let mut request = container.exec_request("tty", &spec);
    request.terminal = true;
    request.stdout = out.display().to_string();
    container.shim.order("Exec", &request)?;
    container.shim.start(&container.id, "tty")?;
    ensure!(container.shim.wait(&container.id, "tty")? == 0, "Wait");
    let expected = b"/dev/pts/0\r\nall three\r\n";
    let mut seen = vec![0; expected.len()];
    stream.read_exact(&mut seen)?;
    ensure!(seen == expected, "{:?}", String::from_utf8_lossy(&seen));
    container.shim.delete(&container.id, "tty")?;
    let (status, output) = container.exec("none", &process(&["tty"]))?;
    ensure!(status != 0 && output == "not a tty\n", "{status}: {output:?}");
    Ok(())
}

fn ids(bench: &Bench<'_>) -> Result<()> {
    let container = bench.container("a").run()?;
    container.add_exec("e", &["sleep", "100000"])?;
    refused(container.add_exec("e", &["true"]), &[Code::ALREADY_EXISTS], &[])?;
    container.shim.start(&container.id, "e")?;
    refused(container.add_exec("e", &["true"]), &[Code::ALREADY_EXISTS], &[])?;
    refused(container.shim.start(&container.id, "e"), WRONG_STATE.of(bench), &[])?;
    refused(container.shim.delete(&container.id, "e"), WRONG_STATE.of(bench), &[])?;
    container.shim.kill(&container.id, "e", 9)?;
    ensure!(container.shim.wait(&container.id, "e")? == 137, "Wait");
    ensure!(container.shim.delete(&container.id, "e")? == 137, "Delete");
    for code in [3, 4] {
        let (status, _) = container.exec("e", &process(&["sh", "-c", &format!("exit {code}")]))?;
        ensure!(status == code, "the id's next exec ended with {status}");
    }
    Ok(())
}

fn no_program(bench: &Bench<'_>) -> Result<()> {
    let container = bench.container("a").run()?;
    container.add_exec("e", &["/bin/nothing-here"])?;
    refused(container.shim.start(&container.id, "e"), &[Code::UNKNOWN], &["/bin/nothing-here"])?;
    if START_AFTER_FAILURE.of(bench) {
        refused(container.shim.start(&container.id, "e"), WRONG_STATE.of(bench), &[])?;
    }
    container.shim.delete(&container.id, "e")?;
    refused(container.shim.state(&container.id, "e"), &[Code::NOT_FOUND], &[])?;
    let (status, _) = container.exec("e", &process(&["true"]))?;
    ensure!(status == 0 && container.status("")?.0 == Status::RUNNING, "the container is not as before");
    Ok(())
}

/// Waits until the process is the program: until then it is runc's, which ignores some signals.
fn wait_program(pid: u32) -> Result<()> {
    wait::holds("the program", Duration::from_secs(10), || {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        Ok(line.starts_with(b"sleep"))
    })
}

fn signals(bench: &Bench<'_>) -> Result<()> {
    let container = bench.container("a").run()?;
    // HUP, INT, USR1, TERM, and the first and the last that the C library leaves to programs.
    for signal in [1, 2, 10, 15, 34, 64] {
        container.add_exec("e", &["sleep", "100000"])?;
        let pid = container.shim.start(&container.id, "e")?;
        wait_program(pid)?;
        container.shim.kill(&container.id, "e", signal)?;
        let status = container.shim.wait(&container.id, "e")?;
        ensure!(status == 128 + signal, "killed by {signal}: {status}");
        refused(container.shim.kill(&container.id, "e", 9), &[Code::NOT_FOUND], &[])?;
        container.shim.delete(&container.id, "e")?;
    }
    Ok(())
}

fn states(bench: &Bench<'_>) -> Result<()> {
    let container = bench.container("a").run()?;
    container.add_exec("e", &["sleep", "100000"])?;
    ensure!(container.status("e")?.0 == Status::CREATED, "{:?}", container.status("e")?);
    let early = container.shim.begin_wait(&container.id, "e");
    let pid = container.shim.start(&container.id, "e")?;
    let state = container.shim.state(&container.id, "e")?;
    ensure!(state.status.enum_value() == Ok(Status::RUNNING) && state.pid == pid, "{state:?}");
    ensure!(state.exec_id == STATES_EXEC_ID.of(bench), "{state:?}");
    ensure!(early.is_pending(), "Wait was answered while the exec runs");
    wait_program(pid)?;
    container.shim.kill(&container.id, "e", 15)?;
    ensure!(early.answer()??.exit_status == 143, "Wait");
    ensure!(container.status("e")? == (Status::STOPPED, 143), "{:?}", container.status("e")?);
    container.shim.delete(&container.id, "e")?;
    Ok(())
}

fn never_started(bench: &Bench<'_>) -> Result<()> {
    let container = bench.container("a").run()?;
    container.add_exec("e", &["true"])?;
    container.shim.delete(&container.id, "e")?;
    refused(container.shim.state(&container.id, "e"), &[Code::NOT_FOUND], &[])?;
    container.add_exec("stays", &["true"])?;
    container.destroy()?;
    container.expect_events(&[
        "create",
        "start",
        "exec-added e",
        "exec-added stays",
        "exit 137",
        "delete 137",
    ])
}

fn others(bench: &Bench<'_>) -> Result<()> {
    let container = bench.container("a").run()?;
    for exec in ["one", "two"] {
        container.add_exec(exec, &["sleep", "100000"])?;
        container.shim.start(&container.id, exec)?;
    }
    container.shim.kill(&container.id, "one", 9)?;
    ensure!(container.shim.wait(&container.id, "one")? == 137, "Wait");
    ensure!(container.status("two")?.0 == Status::RUNNING, "the other exec");
    ensure!(container.status("")?.0 == Status::RUNNING, "init");
    container.shim.kill(&container.id, "two", 9)?;
    for exec in ["one", "two"] {
        ensure!(container.shim.wait(&container.id, exec)? == 137, "Wait for {exec}");
        container.shim.delete(&container.id, exec)?;
    }
    Ok(())
}

fn twenty(bench: &Bench<'_>) -> Result<()> {
    let container = bench.container("a").run()?;
    let files: Vec<_> = (0..20).map(|n| bench.dir.join(format!("e{n}.out"))).collect();
    let mut starts = Vec::new();
    for (n, file) in files.iter().enumerate() {
        let script = format!("echo {n}; exit {n}");
        let mut request = container.exec_request(&format!("e{n}"), &process(&["sh", "-c", &script]));
        request.stdout = format!("file://{}", file.display());
        request.stderr.clone_from(&request.stdout);
        container.shim.order("Exec", &request)?;
        let request =
            api::StartRequest { id: container.id.clone(), exec_id: format!("e{n}"), ..Default::default() };
        starts.push(container.shim.begin::<_, api::StartResponse>("Start", &request));
    }
    for start in starts {
        start.answer()??;
    }
    for (n, file) in files.iter().enumerate() {
        let exec = format!("e{n}");
        let status = container.shim.wait(&container.id, &exec)?;
        ensure!(usize::try_from(status)? == n, "exec {n} ended with {status}");
        container.shim.delete(&container.id, &exec)?;
        let output = fs::read_to_string(file).with_context(|| format!("output of exec {n}"))?;
        ensure!(output == format!("{n}\n"), "output of exec {n}: {output:?}");
    }
    Ok(())
}

fn before_start(bench: &Bench<'_>) -> Result<()> {
    let container = bench.container("a").create()?;
    let (status, output) = container.exec("e", &process(&["echo", "early"]))?;
    ensure!(status == 0 && output == "early\n", "{status}: {output:?}");
    ensure!(container.status("")?.0 == Status::CREATED, "{:?}", container.status("")?);
    container.start()?;
    wait::holds("the container to run", Duration::from_secs(10), || {
        Ok(container.status("")?.0 == Status::RUNNING)
    })
}
