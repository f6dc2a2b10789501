//! A shim that was killed, and the `delete` that cleans up after it; hostile requests.

use std::thread;

use anyhow::{Result, ensure};
use containerd_shim_protos::{api, protobuf::well_known_types::any::Any};
use ttrpc::Code;

use crate::bench::{Bench, Container, bundle, refused, scenarios, shim::run, wait_gone};

scenarios! {
    both "crash::delete_cleans_up_after_a_shim_killed_in_any_state" => any_state;
    both "crash::delete_is_idempotent_and_can_run_twice_at_once" => idempotent;
    both "crash::a_group_has_one_shim" => group;
    ours "crash::sigterm_ends_the_shim_and_leaves_the_container_to_delete" => terminated;
    ours "crash::start_prints_the_address_and_nothing_else" => bare_address;
    ours "crash::hostile_requests_are_refused_by_field_and_leave_nothing" => hostile;
    ours "crash::bundles_that_are_none_are_refused" => bad_bundles;
}

fn any_state(bench: &Bench<'_>) -> Result<()> {
    type Reach = fn(&Container<'_>) -> Result<()>;
    let states: [(&str, Reach); 5] = [
        ("created", |_| Ok(())),
        ("running", |c| Ok(c.start().map(drop)?)),
        ("paused", |c| {
            c.start()?;
            Ok(c.shim.pause(&c.id)?)
        }),
        ("execing", |c| {
            c.start()?;
            c.add_exec("e", &["sleep", "100000"])?;
            Ok(c.shim.start(&c.id, "e").map(drop)?)
        }),
        ("stopped", |c| {
            c.start()?;
            c.kill(9)?;
            Ok(c.wait().map(drop)?)
        }),
    ];
    for (name, reach) in states {
        let container = bench.container(name).create()?;
        reach(&container)?;
        bench.kill_shim(&container.shim)?;
        let response = bench.program().deleted(&container.id, &container.bundle)?;
        ensure!(response.exit_status == 137, "{name}: {response:?}");
        // As containerd does.
        std::fs::remove_dir_all(&container.bundle)?;
        bench.events.forget(&container.id);
    }
    Ok(())
}

fn idempotent(bench: &Bench<'_>) -> Result<()> {
    let container = bench.container("a").run()?;
    bench.kill_shim(&container.shim)?;
    let outcomes: Vec<Result<_>> = thread::scope(|scope| {
        let call = || bench.program().delete(&container.id, &container.bundle);
        // The two calls borrow nothing of the bench that is not shared.
        let (program, id, dir) = (bench.program(), &container.id, &container.bundle);
        let other = scope.spawn(move || program.delete(id, dir));
        vec![call(), other.join().expect("no panic")]
    });
    ensure!(outcomes.iter().flatten().any(|output| output.status.success()), "{outcomes:?}");
    if !bench.is_runc() {
        ensure!(outcomes.iter().flatten().all(|output| output.status.success()), "{outcomes:?}");
    }
    bench.program().deleted(&container.id, &container.bundle)?;
    std::fs::remove_dir_all(&container.bundle)?;
    if !bench.is_runc() {
        // The Go shim fails for want of the bundle's files.
        bench.program().deleted(&container.id, &container.bundle)?;
    }
    bench.events.forget(&container.id);
    Ok(())
}

fn group(bench: &Bench<'_>) -> Result<()> {
    let group = bench.id("group");
    let first = bench.container("a").group(&group).run()?;
    let second = bench.container("b").group(&group).run()?;
    ensure!(first.shim.address == second.shim.address, "{} {}", first.shim.address, second.shim.address);
    ensure!(first.shim.pid == second.shim.pid, "two shims");
    first.destroy()?;
    ensure!(second.sh("echo alive")? == "alive\n", "the second one");
    Ok(())
}

fn terminated(bench: &Bench<'_>) -> Result<()> {
    let container = bench.container("a").run()?;
    crate::bench::signal(container.shim.pid, nix::sys::signal::Signal::SIGTERM)?;
    wait_gone(container.shim.pid)?;
    bench.program().deleted(&container.id, &container.bundle)?;
    bench.events.forget(&container.id);
    Ok(())
}

fn bare_address(bench: &Bench<'_>) -> Result<()> {
    let container = bench.container("a").run()?;
    let output = bench.program().start(&container.id, &container.bundle, &Any::new())?;
    ensure!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    ensure!(output.stdout == container.shim.address.as_bytes(), "{output:?}");
    let file = std::fs::read(container.bundle.join("address"))?;
    ensure!(file == output.stdout, "the file says {file:?}");
    let version = run(std::process::Command::new(bench.program().path).arg("-v"), &[])?;
    ensure!(
        version.status.success() && version.stdout.starts_with(b"containerd-shim-rune-v2 "),
        "{version:?}"
    );
    Ok(())
}

fn hostile(bench: &Bench<'_>) -> Result<()> {
    let container = bench.container("a").run()?;
    let long = "a".repeat(4096);
    for id in ["", "..", "a/b", "a:b", "a,b", "a\0b", "-a", &long] {
        let request = api::CreateTaskRequest {
            id: id.into(),
            bundle: container.bundle.display().to_string(),
            ..Default::default()
        };
        refused(container.shim.order("Create", &request), &[Code::INVALID_ARGUMENT], &["id"])?;
        if !id.is_empty() {
            let request = container.exec_request(id, &bundle::process(&["true"]));
            refused(container.shim.order("Exec", &request), &[Code::INVALID_ARGUMENT], &["exec_id"])?;
            refused(container.shim.kill(id, "", 9), &[Code::NOT_FOUND], &[])?;
        }
    }
    let mut request = container.exec_request("e", &bundle::process(&["true"]));
    request.spec.as_mut().expect("it was set").value = b"not json".to_vec();
    refused(container.shim.order("Exec", &request), &[Code::INVALID_ARGUMENT], &["spec"])?;
    request = container.exec_request("e", &bundle::process(&["true"]));
    request.stdout = "gopher://x".into();
    refused(container.shim.order("Exec", &request), &[Code::INVALID_ARGUMENT], &["gopher"])?;
    refused(container.kill(12_345), &[Code::INVALID_ARGUMENT, Code::UNKNOWN], &[])?;
    ensure!(container.sh("echo alive")? == "alive\n", "the container");
    Ok(())
}

fn bad_bundles(bench: &Bench<'_>) -> Result<()> {
    let container = bench.container("a").run()?;
    let contents: [(&str, Option<Vec<u8>>); 5] = [
        ("missing", None),
        ("empty", Some(Vec::new())),
        ("garbage", Some(b"{\"ociVersion\":".to_vec())),
        ("wrong", Some(b"{\"ociVersion\":7,\"process\":[]}".to_vec())),
        ("huge", Some(vec![b' '; 20 << 20])),
    ];
    for (name, content) in contents {
        let id = bench.id(name);
        let dir = bench.bundle_dir(&id);
        std::fs::create_dir_all(dir.join("rootfs"))?;
        if let Some(content) = content {
            std::fs::write(dir.join("config.json"), content)?;
        }
        let request = api::CreateTaskRequest {
            id: id.clone(),
            bundle: dir.display().to_string(),
            rootfs: bundle::rootfs()?,
            ..Default::default()
        };
        refused(container.shim.order("Create", &request), &[Code::UNKNOWN], &["config.json"])?;
        refused(container.shim.state(&id, ""), &[Code::NOT_FOUND], &[])?;
    }
    Ok(())
}
