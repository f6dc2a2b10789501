//! The Task methods in each state of a container, and for ids that are none.

use anyhow::{Result, ensure};
use containerd_shim_protos::api::{self, Status};
use ttrpc::Code;

use crate::{
    bench::{Bench, Container, refused, scenarios},
    differences::{CLOSE_OF_NOBODY, WRONG_STATE},
};

scenarios! {
    both "states::a_container_goes_from_created_over_running_and_paused_to_stopped" => whole_life;
    both "states::every_method_says_not_found_for_an_unknown_container" => unknown_container;
    both "states::every_method_says_not_found_for_an_unknown_exec" => unknown_exec;
    both "states::an_id_can_be_created_once_at_a_time_and_again_after_its_deletion" => twice;
    both "states::a_created_container_refuses_what_needs_a_running_one" => created;
    both "states::a_running_container_refuses_start_and_delete_and_resume" => running;
    both "states::a_paused_container_refuses_exec_and_delete_and_pause" => paused;
    both "states::a_stopped_container_refuses_all_but_state_wait_and_delete" => stopped;
    both "states::a_container_that_was_never_started_can_be_killed_and_deleted" => never_started;
    both "states::wait_answers_every_waiter_also_those_who_come_late" => waiters;
    both "states::connect_tells_the_pids_of_shim_and_init" => connect;
    both "states::shutdown_ends_the_shim_only_when_its_last_container_is_gone" => shutdown;
}

fn whole_life(bench: &Bench<'_>) -> Result<()> {
    let container = bench.container("a").create()?;
    let state = container.shim.state(&container.id, "")?;
    ensure!(state.status.enum_value() == Ok(Status::CREATED) && state.pid > 0, "{state:?}");
    ensure!(state.bundle == container.bundle.display().to_string() && state.id == container.id, "{state:?}");
    let pid = container.start()?;
    ensure!(pid == state.pid, "the pid changed from {} to {pid}", state.pid);
    ensure!(container.status("")? == (Status::RUNNING, 0), "{:?}", container.status("")?);
    container.shim.pause(&container.id)?;
    ensure!(container.status("")?.0 == Status::PAUSED, "{:?}", container.status("")?);
    container.shim.resume(&container.id)?;
    ensure!(container.status("")?.0 == Status::RUNNING, "{:?}", container.status("")?);
    container.kill(9)?;
    ensure!(container.wait()? == 137, "Wait");
    ensure!(container.status("")? == (Status::STOPPED, 137), "{:?}", container.status("")?);
    let state = container.shim.state(&container.id, "")?;
    ensure!(state.exited_at.seconds > 1_600_000_000, "no time of the exit: {state:?}");
    ensure!(container.delete()? == 137, "Delete");
    container.expect_events(&["create", "start", "paused", "resumed", "exit 137", "delete 137"])
}

fn unknown_container(bench: &Bench<'_>) -> Result<()> {
    let container = bench.container("a").create()?;
    let (shim, id) = (&container.shim, &bench.id("nobody"));
    let codes = &[Code::NOT_FOUND];
    refused(shim.start(id, ""), codes, &[])?;
    refused(shim.start(id, "e"), codes, &[])?;
    refused(shim.state(id, ""), codes, &[])?;
    refused(shim.kill(id, "", 9), codes, &[])?;
    refused(shim.kill_all(id, 9), codes, &[])?;
    refused(shim.wait(id, ""), codes, &[])?;
    refused(shim.delete(id, ""), codes, &[])?;
    refused(shim.pids(id), codes, &[])?;
    refused(shim.pause(id), codes, &[])?;
    refused(shim.resume(id), codes, &[])?;
    refused(close(&container, id, ""), codes, &[])?;
    refused(resize(&container, id, ""), codes, &[])?;
    let request = api::StatsRequest { id: id.clone(), ..Default::default() };
    refused(shim.call::<_, api::StatsResponse>("Stats", &request), codes, &[])?;
    let request = api::UpdateTaskRequest { id: id.clone(), ..Default::default() };
    refused(shim.order("Update", &request), codes, &[])?;
    let request = api::CheckpointTaskRequest { id: id.clone(), ..Default::default() };
    refused(shim.order("Checkpoint", &request), codes, &[])?;
    let mut request = container.exec_request("e", &serde_json::json!({}));
    request.id.clone_from(id);
    refused(shim.order("Exec", &request), codes, &[])?;
    Ok(())
}

fn close(container: &Container<'_>, id: &str, exec: &str) -> crate::bench::Answer<()> {
    let request =
        api::CloseIORequest { id: id.into(), exec_id: exec.into(), stdin: true, ..Default::default() };
    container.shim.order("CloseIO", &request)
}

fn resize(container: &Container<'_>, id: &str, exec: &str) -> crate::bench::Answer<()> {
    let request = api::ResizePtyRequest {
        id: id.into(),
        exec_id: exec.into(),
        width: 9,
        height: 9,
        ..Default::default()
    };
    container.shim.order("ResizePty", &request)
}

fn unknown_exec(bench: &Bench<'_>) -> Result<()> {
    let container = bench.container("a").run()?;
    let (shim, id) = (&container.shim, &container.id);
    let codes = &[Code::NOT_FOUND];
    refused(shim.start(id, "nobody"), codes, &[])?;
    refused(shim.state(id, "nobody"), codes, &[])?;
    refused(shim.kill(id, "nobody", 9), codes, &[])?;
    refused(shim.wait(id, "nobody"), codes, &[])?;
    refused(shim.delete(id, "nobody"), codes, &[])?;
    refused(close(&container, id, "nobody"), CLOSE_OF_NOBODY.of(bench), &[])?;
    refused(resize(&container, id, "nobody"), codes, &[])?;
    ensure!(container.status("")?.0 == Status::RUNNING, "the container stopped");
    Ok(())
}

fn twice(bench: &Bench<'_>) -> Result<()> {
    let (container, request) = bench.container("a").prepare()?;
    let create = || container.shim.call::<_, api::CreateTaskResponse>("Create", &request);
    let first = create()?.pid;
    refused(create(), crate::differences::CREATED_TWICE.of(bench), &[])?;
    ensure!(container.start()? == first, "the first one was touched");
    container.destroy()?;
    container.expect_events(&["create", "start", "exit 137", "delete 137"])?;
    // The teardown checks that no event comes twice: this one has another id in its own bundle.
    let again = bench.container("b").beside(&container).run()?;
    again.destroy()?;
    let (third, answer) = bench.container("b").beside(&container).try_create()?;
    ensure!(answer? > 0, "no pid");
    third.kill(9)?;
    third.delete()?;
    bench.events.forget(&third.id);
    Ok(())
}

fn created(bench: &Bench<'_>) -> Result<()> {
    let container = bench.container("a").create()?;
    let (shim, id, codes) = (&container.shim, &container.id, WRONG_STATE.of(bench));
    refused(shim.pause(id), codes, &[])?;
    refused(shim.resume(id), codes, &[])?;
    let request = api::CheckpointTaskRequest {
        id: id.clone(),
        path: bench.dir.display().to_string(),
        ..Default::default()
    };
    refused(shim.order("Checkpoint", &request), codes, &[])?;
    ensure!(container.status("")?.0 == Status::CREATED, "{:?}", container.status("")?);
    container.start()?;
    Ok(())
}

fn running(bench: &Bench<'_>) -> Result<()> {
    let container = bench.container("a").run()?;
    let codes = WRONG_STATE.of(bench);
    refused(container.start(), codes, &[])?;
    refused(container.delete(), codes, &[])?;
    refused(container.shim.resume(&container.id), codes, &[])?;
    ensure!(container.status("")?.0 == Status::RUNNING, "{:?}", container.status("")?);
    container.destroy()?;
    container.expect_events(&["create", "start", "exit 137", "delete 137"])
}

fn paused(bench: &Bench<'_>) -> Result<()> {
    let container = bench.container("a").run()?;
    container.shim.pause(&container.id)?;
    let codes = WRONG_STATE.of(bench);
    refused(container.add_exec("e", &["true"]), codes, &[])?;
    refused(container.delete(), codes, &[])?;
    refused(container.shim.pause(&container.id), codes, &[])?;
    refused(container.start(), codes, &[])?;
    container.shim.resume(&container.id)?;
    ensure!(container.sh("echo thawed")? == "thawed\n", "no exec after the thaw");
    Ok(())
}

fn stopped(bench: &Bench<'_>) -> Result<()> {
    let container = bench.container("a").args(&["sh", "-c", "exit 7"]).run()?;
    ensure!(container.wait()? == 7, "Wait");
    let (shim, id, codes) = (&container.shim, &container.id, WRONG_STATE.of(bench));
    refused(container.start(), codes, &[])?;
    refused(shim.pause(id), codes, &[])?;
    refused(shim.resume(id), codes, &[])?;
    refused(container.add_exec("e", &["true"]), codes, &[])?;
    refused(container.kill(9), &[Code::NOT_FOUND], &[])?;
    ensure!(container.status("")? == (Status::STOPPED, 7), "{:?}", container.status("")?);
    ensure!(container.wait()? == 7, "a second Wait");
    ensure!(container.delete()? == 7, "Delete");
    refused(container.delete(), &[Code::NOT_FOUND], &[])?;
    container.expect_events(&["create", "start", "exit 7", "delete 7"])
}

fn never_started(bench: &Bench<'_>) -> Result<()> {
    let killed = bench.container("a").create()?;
    killed.kill(9)?;
    ensure!(killed.wait()? == 137, "Wait");
    ensure!(killed.delete()? == 137, "Delete");
    killed.expect_events(&["create", "exit 137", "delete 137"])?;
    let deleted = bench.container("b").create()?;
    deleted.delete()?;
    refused(deleted.shim.state(&deleted.id, ""), &[Code::NOT_FOUND], &[])?;
    Ok(())
}

fn waiters(bench: &Bench<'_>) -> Result<()> {
    let container = bench.container("a").create()?;
    let early: Vec<_> = (0..20).map(|_| container.shim.begin_wait(&container.id, "")).collect();
    container.start()?;
    // A waiter that goes away takes nothing from the others.
    container.shim.begin_wait(&container.id, "").abandon();
    ensure!(early.iter().all(|wait| wait.is_pending()), "a Wait was answered while the container runs");
    container.kill(15)?;
    container.kill(9)?;
    for wait in early {
        ensure!(wait.answer()??.exit_status == 137, "an early waiter");
    }
    for _ in 0..3 {
        ensure!(container.wait()? == 137, "a late waiter");
    }
    Ok(())
}

fn connect(bench: &Bench<'_>) -> Result<()> {
    let container = bench.container("a").run()?;
    let (shim, init) = container.shim.pids_of(&container.id)?;
    ensure!(shim == container.shim.pid, "the shim's pid is {}, not {shim}", container.shim.pid);
    ensure!(init == container.shim.state(&container.id, "")?.pid, "init's pid is not {init}");
    Ok(())
}

fn shutdown(bench: &Bench<'_>) -> Result<()> {
    let first = bench.container("a").run()?;
    let second = bench.container("b").beside(&first).run()?;
    first.destroy()?;
    first.shim.shutdown(&first.id)?;
    ensure!(second.status("")?.0 == Status::RUNNING, "the shim of a running container does not answer");
    second.destroy()?;
    // The answer may be lost with the connection.
    let _ = second.shim.shutdown(&second.id);
    crate::bench::wait_gone(second.shim.pid)?;
    ensure!(!second.shim.socket().exists(), "the socket is left");
    Ok(())
}
