//! Behaviours of snapshotters, first proved against containerd's own overlayfs on the same API, then run against
//! our program by itself and as a proxy plugin behind that containerd. Needs root, containerd and ctr.
//!
//! `CONTAINERD=/path/to/containerd` chooses another version.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod node;
mod own;
mod pull;
mod shared;

use std::{path::Path, sync::Arc};

use libtest_mimic::{Arguments, Trial};
use node::Client;
use tokio::runtime::Runtime;

fn main() {
    let arguments = Arguments::from_args();
    if arguments.list {
        libtest_mimic::run(&arguments, trials(Path::new("/"), &Arc::new(Runtime::new().unwrap()))).exit();
    }
    let dir = tempfile::tempdir().unwrap();
    let runtime = Arc::new(Runtime::new().unwrap());
    let snapshotter = node::start_snapshotter(dir.path());
    let containerd = node::start_containerd(dir.path());
    let conclusion = libtest_mimic::run(&arguments, trials(dir.path(), &runtime));
    drop((containerd, snapshotter));
    drop(dir);
    conclusion.exit();
}

fn trials(dir: &Path, runtime: &Arc<Runtime>) -> Vec<Trial> {
    let containerd = dir.join("containerd.sock");
    let direct = node::snapshotter_socket(dir);
    let sides = [
        ("overlayfs", containerd.clone(), "overlayfs"),
        ("ours", direct.clone(), ""),
        ("behind_containerd", containerd.clone(), "enclave-cc"),
    ];
    let mut trials = Vec::new();
    for (side, socket, snapshotter) in sides {
        for name in shared::NAMES {
            let (runtime, socket) = (runtime.clone(), socket.clone());
            trials.push(Trial::test(format!("{side}::{name}"), move || {
                runtime
                    .block_on(async { shared::run(name, &Client::connect(socket, snapshotter).await).await });
                Ok(())
            }));
        }
    }
    for (side, socket, snapshotter) in
        [("ours", direct, ""), ("behind_containerd", containerd.clone(), "enclave-cc")]
    {
        let (runtime, containerd) = (runtime.clone(), containerd.clone());
        let first = side == "ours";
        trials.push(Trial::test(format!("{side}::layers_are_left_to_the_enclave"), move || {
            runtime.block_on(async {
                let client = Client::connect(socket, snapshotter).await;
                if first {
                    own::a_layer_with_two_parents_is_found_under_both(&client).await;
                    own::a_layer_asked_for_again_takes_the_new_labels(&client).await;
                } else {
                    own::containerd_mounts_what_it_is_told(&client, &containerd).await;
                }
                own::layers_are_left_to_the_enclave(&client).await;
            });
            Ok(())
        }));
    }
    let pull = runtime.clone();
    trials.push(Trial::test("behind_containerd::cri_fetches_no_layer", move || {
        pull.block_on(pull::cri_fetches_no_layer(&containerd));
        Ok(())
    }));
    let own = runtime.clone();
    trials.push(Trial::test("behind_containerd::what_nobody_uses_is_collected", move || {
        let dir = tempfile::tempdir()?;
        own.block_on(own::containerd_collects_what_nobody_uses(dir.path()));
        Ok(())
    }));
    let own = runtime.clone();
    trials.push(Trial::test("ours::nothing_is_lost_between_two_calls", move || {
        let dir = tempfile::tempdir()?;
        own.block_on(own::nothing_is_lost_between_two_calls(dir.path()));
        Ok(())
    }));
    let own = runtime.clone();
    trials.push(Trial::test("ours::ten_thousand_snapshots_do_not_slow_it_down", move || {
        let dir = tempfile::tempdir()?;
        own.block_on(own::ten_thousand_snapshots_do_not_slow_it_down(dir.path()));
        Ok(())
    }));
    trials
}
