//! A backend that fails in a call on a container that runs: the container stays as it was, and the next call works.

use std::fs;

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::{
    api::{self, Status},
    protobuf::{Message, MessageField, well_known_types::any::Any},
};
use protos::runtimeoptions;
use ttrpc::Code;

use crate::{
    bench::{
        Answer, Bench, Container, ContainerSpec,
        backend::{Backend, Fault, WORDS},
        refused, scenarios,
    },
    differences::{NOISE_IS_ANSWERED, PASSED_ON},
};

scenarios! {
    both "verbs::a_call_that_the_backend_fails_changes_nothing_and_works_the_next_time" => failing;
    both "verbs::the_backends_words_reach_the_caller" => words;
    ours "verbs::a_kill_and_its_wait_do_not_queue_behind_a_hung_pause" => kill_beside;
    ours "verbs::a_backend_that_hangs_is_ended_at_the_deadline_of_the_configuration" => deadline;
}

/// Faults that are an error of the call, whatever the verb.
const FAILURES: [Fault; 4] = [Fault::Fail, Fault::Silent, Fault::Garbage, Fault::Die];

type Call = fn(&Container<'_>) -> Answer<()>;

const CALLS: [(&str, Call); 5] = [
    ("pause", |container| container.shim.pause(&container.id)),
    ("resume", |container| container.shim.resume(&container.id)),
    ("update", |container| {
        let resources = Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".into(),
            value: br#"{"pids":{"limit":100}}"#.to_vec(),
            ..Default::default()
        };
        let request = api::UpdateTaskRequest {
            id: container.id.clone(),
            resources: MessageField::some(resources),
            ..Default::default()
        };
        container.shim.order("Update", &request)
    }),
    ("ps", |container| container.shim.pids(&container.id).map(drop)),
    // The signal that does nothing, to all.
    ("kill", |container| container.shim.kill_all(&container.id, 28)),
];

fn with<'a>(bench: &'a Bench<'a>, backend: &Backend) -> ContainerSpec<'a> {
    let program = backend.program().display().to_string();
    bench.container("a").options(|options| options.binary_name = program)
}

fn failing(bench: &Bench<'_>) -> Result<()> {
    let backend = Backend::new(&bench.dir)?;
    let container = with(bench, &backend).run()?;
    for (verb, call) in CALLS {
        let status = container.status("")?.0;
        let survives = |fault: &Fault| *fault != Fault::Garbage || NOISE_IS_ANSWERED.of(bench);
        for fault in FAILURES.into_iter().filter(survives) {
            backend.set(verb, fault)?;
            refused(call(&container), &[Code::UNKNOWN], &[]).with_context(|| format!("{verb}: {fault:?}"))?;
            ensure!(container.status("")?.0 == status, "{verb}: {fault:?}: {:?}", container.status("")?);
            backend.clear(verb)?;
        }
        call(&container).with_context(|| format!("{verb} after its failures"))?;
    }
    ensure!(container.status("")?.0 == Status::RUNNING, "{:?}", container.status("")?);
    container.destroy()?;
    container.expect_events(&["create", "start", "paused", "resumed", "exit 137", "delete 137"])
}

fn words(bench: &Bench<'_>) -> Result<()> {
    let backend = Backend::new(&bench.dir)?;
    let container = with(bench, &backend).run()?;
    for (verb, call) in CALLS.into_iter().filter(|(verb, _)| PASSED_ON.of(bench).contains(verb)) {
        backend.set(verb, Fault::Fail)?;
        refused(call(&container), &[Code::UNKNOWN], &[WORDS])?;
        backend.clear(verb)?;
    }
    Ok(())
}

fn kill_beside(bench: &Bench<'_>) -> Result<()> {
    let backend = Backend::new(&bench.dir)?;
    let container = with(bench, &backend).run()?;
    backend.set("pause", Fault::Hang)?;
    let request = api::PauseRequest { id: container.id.clone(), ..Default::default() };
    let pause = container.shim.begin::<_, api::Empty>("Pause", &request);
    backend.wait_hanging("pause")?;
    container.kill(9)?;
    ensure!(container.wait()? == 137, "Wait");
    ensure!(container.status("")?.0 == Status::STOPPED, "{:?}", container.status("")?);
    ensure!(pause.is_pending(), "Pause was answered while its backend hangs");
    backend.release("pause")?;
    ensure!(pause.answer()?.is_err(), "Pause of a container that was killed");
    ensure!(container.delete()? == 137, "Delete");
    container.expect_events(&["create", "start", "exit 137", "delete 137"])
}

fn deadline(bench: &Bench<'_>) -> Result<()> {
    let backend = Backend::new(&bench.dir)?;
    let config = bench.dir.join("config.toml");
    let text = format!(
        "sgx_mode = \"NONE\"\nbackend = {:?}\n[timeouts]\nbackend_secs = 1\n",
        backend.program().display().to_string()
    );
    fs::write(&config, text)?;
    let options = runtimeoptions::Options { config_path: config.display().to_string(), ..Default::default() };
    let spec = bench.container("a").any_options("runtimeoptions.v1.Options", options.write_to_bytes()?);
    let container = spec.run()?;
    for (verb, call) in CALLS {
        let status = container.status("")?.0;
        backend.set(verb, Fault::Hang)?;
        refused(call(&container), &[Code::DEADLINE_EXCEEDED], &[verb])?;
        ensure!(container.status("")?.0 == status, "{verb}: {:?}", container.status("")?);
        backend.clear(verb)?;
        call(&container).with_context(|| format!("{verb} after it hung"))?;
    }
    backend.set("exec", Fault::Hang)?;
    container.add_exec("e", &["true"])?;
    refused(container.shim.start(&container.id, "e"), &[Code::DEADLINE_EXCEEDED], &["exec"])?;
    backend.clear("exec")?;
    container.shim.delete(&container.id, "e")?;
    ensure!(container.sh("echo alive")? == "alive\n", "the container");
    container.destroy()?;
    Ok(())
}
