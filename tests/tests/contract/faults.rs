//! A backend that fails, hangs, lies or dies: a clear error, a clean state, and nobody else is held up.

use anyhow::{Result, ensure};
use containerd_shim_protos::api::Status;
use ttrpc::Code;

use crate::bench::{
    Bench, ContainerSpec,
    backend::{Backend, Fault, WORDS},
    refused, scenarios,
};

scenarios! {
    ours "faults::a_create_that_fails_leaves_nothing_and_the_id_free" => create;
    ours "faults::a_start_that_fails_leaves_a_container_that_can_be_deleted" => start;
    ours "faults::an_exec_that_fails_leaves_the_container_running_and_the_exec_deletable" => exec;
    ours "faults::a_hung_create_is_cancelled_by_delete" => hung_create;
    ours "faults::a_create_whose_caller_is_gone_is_undone" => abandoned_create;
    ours "faults::a_hung_backend_of_one_container_holds_up_no_other" => hung;
    ours "faults::a_delete_that_fails_can_be_tried_again" => delete;
}

const FAULTS: [Fault; 5] = [Fault::Fail, Fault::Silent, Fault::FailAfter, Fault::Garbage, Fault::Die];

fn with<'a>(bench: &'a Bench<'a>, backend: &Backend, name: &str) -> ContainerSpec<'a> {
    let program = backend.program().display().to_string();
    bench.container(name).options(|options| options.binary_name = program)
}

fn create(bench: &Bench<'_>) -> Result<()> {
    let backend = Backend::new(&bench.dir)?;
    let first = with(bench, &backend, "first").run()?;
    for fault in [&FAULTS[..], &[Fault::Lie]].concat() {
        backend.set("create", fault)?;
        let (container, answer) = with(bench, &backend, "a").beside(&first).try_create()?;
        let words: &[&str] = if matches!(fault, Fault::Fail | Fault::FailAfter) { &[WORDS] } else { &[] };
        refused(answer, &[Code::UNKNOWN], words)?;
        refused(container.shim.state(&container.id, ""), &[Code::NOT_FOUND], &[])?;
        backend.clear("create")?;
        let again = with(bench, &backend, "a").beside(&first).run()?;
        again.destroy()?;
        bench.events.wait_for(&again.id, "delete 137")?;
        bench.events.forget(&again.id);
    }
    Ok(())
}

fn start(bench: &Bench<'_>) -> Result<()> {
    let backend = Backend::new(&bench.dir)?;
    let first = with(bench, &backend, "first").run()?;
    for (n, fault) in FAULTS.into_iter().enumerate() {
        let container = with(bench, &backend, &format!("c{n}")).beside(&first).create()?;
        backend.set("start", fault)?;
        refused(container.start(), &[Code::UNKNOWN], &[])?;
        backend.clear("start")?;
        container.delete()?;
    }
    Ok(())
}

fn exec(bench: &Bench<'_>) -> Result<()> {
    let backend = Backend::new(&bench.dir)?;
    let container = with(bench, &backend, "a").run()?;
    for fault in [Fault::Fail, Fault::Silent, Fault::Garbage, Fault::Die, Fault::Lie] {
        backend.set("exec", fault)?;
        container.add_exec("e", &["true"])?;
        refused(container.shim.start(&container.id, "e"), &[Code::UNKNOWN], &[])?;
        container.shim.delete(&container.id, "e")?;
        ensure!(container.status("")?.0 == Status::RUNNING, "{fault:?} stopped the container");
    }
    backend.clear("exec")?;
    ensure!(container.sh("echo $$")?.trim() != "", "exec does not work any more");
    Ok(())
}

fn hung_create(bench: &Bench<'_>) -> Result<()> {
    let backend = Backend::new(&bench.dir)?;
    let first = with(bench, &backend, "first").run()?;
    backend.set("create", Fault::Hang)?;
    let (container, pending) = with(bench, &backend, "a").beside(&first).begin()?;
    backend.wait_hanging("create")?;
    container.delete()?;
    refused(pending.answer()?.map(|answer| answer.pid), &[Code::CANCELLED], &["cancelled"])?;
    refused(container.shim.state(&container.id, ""), &[Code::NOT_FOUND], &[])?;
    Ok(())
}

fn abandoned_create(bench: &Bench<'_>) -> Result<()> {
    let backend = Backend::new(&bench.dir)?;
    let first = with(bench, &backend, "first").run()?;
    backend.set("create", Fault::Hang)?;
    let spec = with(bench, &backend, "a").beside(&first);
    let (container, pending) = spec.begin()?;
    backend.wait_hanging("create")?;
    // Its connection is closed, as that of a containerd that is restarted.
    let other = crate::bench::Shim::connect(bench.scene.node().rt.handle(), &container.shim.address)?;
    drop(pending);
    container.delete()?;
    refused(other.state(&container.id, ""), &[Code::NOT_FOUND], &[])?;
    ensure!(bench.events.of(&container.id).is_empty(), "{:?}", bench.events.of(&container.id));
    Ok(())
}

fn hung(bench: &Bench<'_>) -> Result<()> {
    let backend = Backend::new(&bench.dir)?;
    let first = with(bench, &backend, "first").run()?;
    let hanging = with(bench, &backend, "a").beside(&first).create()?;
    backend.set("start", Fault::Hang)?;
    let request = containerd_shim_protos::api::StartRequest { id: hanging.id.clone(), ..Default::default() };
    let start = hanging.shim.begin::<_, containerd_shim_protos::api::StartResponse>("Start", &request);
    backend.wait_hanging("start")?;

    // The same container answers what needs no backend, and another one lives a whole life of its own.
    ensure!(hanging.status("")?.0 == Status::CREATED, "the hanging one");
    let wait = hanging.shim.begin_wait(&hanging.id, "");
    let other = bench.container("b").beside(&first).run()?;
    ensure!(other.sh("echo hello")? == "hello\n", "an exec of the other");
    ensure!(other.destroy()? == 137, "the end of the other");
    ensure!(start.is_pending() && wait.is_pending(), "the hanging calls were answered");

    hanging.kill(9)?;
    backend.release("start")?;
    // Whether it started before it died is the backend's to say.
    let _ = start.answer()?;
    ensure!(wait.answer()??.exit_status == 137, "Wait of the hanging one");
    Ok(())
}

fn delete(bench: &Bench<'_>) -> Result<()> {
    let backend = Backend::new(&bench.dir)?;
    for fault in [Fault::Fail, Fault::Die] {
        let container = with(bench, &backend, &format!("{fault:?}").to_lowercase()).run()?;
        container.kill(9)?;
        container.wait()?;
        backend.set("delete", fault)?;
        refused(container.delete(), &[Code::UNKNOWN], &[])?;
        backend.clear("delete")?;
        ensure!(container.delete()? == 137, "the second Delete");
        container.expect_events(&["create", "start", "exit 137", "delete 137"])?;
    }
    Ok(())
}
