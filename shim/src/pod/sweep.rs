//! Removes what no living pod owns: state and stores of another boot, trees set aside and not
//! removed. Runs in a thread of its own beside the pod's start, which does not wait for it.

use std::{fs, path::Path};

use layout::{BootId, NodePaths};

use super::teardown::{is_trash, remove_tree, set_aside};

/// Sweeps in the background.
pub fn start(paths: NodePaths, boot_id: BootId) {
    let spawned = std::thread::Builder::new().name("sweep".to_owned()).spawn(move || sweep(&paths, &boot_id));
    if let Err(error) = spawned {
        log::warn!("sweep: {error}");
    }
}

fn sweep(paths: &NodePaths, boot_id: &BootId) {
    let orphans = match paths.orphans(boot_id) {
        Ok(orphans) => orphans,
        Err(error) => return log::warn!("sweep: {}", crate::service::chain(&error)),
    };
    for orphan in orphans {
        let orphan = match orphan {
            Ok(orphan) => orphan.paths,
            Err(error) => {
                log::warn!("sweep: {}", crate::service::chain(&error));
                continue;
            }
        };
        log::info!("sweep: sandbox {} of another boot", orphan.sandbox());
        for tree in [orphan.data_dir(), orphan.agent_overlay()] {
            if let Err(error) = set_aside(tree) {
                log::warn!("sweep: {}", crate::service::chain(&error));
            }
        }
        if let Err(error) = remove_tree(orphan.state_dir()) {
            log::warn!("sweep: {}", crate::service::chain(&error));
        }
    }
    remove_all_trash(paths.data_dir());
}

/// Removes the trees that were set aside below `data_dir/<namespace>`.
fn remove_all_trash(data_dir: &Path) {
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    for trash in entries(data_dir).flat_map(|namespace| entries(&namespace)).filter(|path| is_trash(path)) {
        if let Err(error) = remove_tree(&trash) {
            log::warn!("sweep: {}", crate::service::chain(&error));
        }
    }
}
