//! Taking a container down, by nothing but the state that its bundle holds.
//!
//! One way for all: the undo of a creation that failed, `Delete`, and the `delete` of a
//! fresh process. Every step is idempotent, all steps are tried, and none depends on how
//! large a store is: a tree is renamed aside and removed by a process of its own.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use layout::{AgentRecord, BundleState, Role, SandboxPaths};
use runtime::{
    bundle::{Bundle, BundlePath},
    cgroup::{Cgroup, CgroupError},
    mount,
    oci::{Backend, BackendConfig, Force, OciError},
    process::Reaper,
};

use super::PodError;

/// The action of this program that removes a tree; see [`remove_trash`].
pub const REMOVE_TRASH: &str = "remove-trash";
/// Name, before the sandbox's, of a tree that is to be removed.
const TRASH_PREFIX: &str = ".trash-";

/// Takes a container down, and the agent with all its stores if it is a sandbox's.
///
/// # Errors
/// The first step that failed; the others were tried all the same.
pub async fn container(state: &BundleState, bundle: &Path, reaper: &Reaper) -> Result<(), PodError> {
    let mut outcome = Outcome(None);
    outcome.note(delete(&state.backend, state.container.as_str(), bundle, reaper, state.cleanup()).await);
    outcome.note(leftovers(state, bundle, reaper).await);
    outcome.0.map_or(Ok(()), Err)
}

/// Takes down what is left of a container that its backend has deleted.
///
/// # Errors
/// The first step that failed; the others were tried all the same.
pub async fn leftovers(state: &BundleState, bundle: &Path, reaper: &Reaper) -> Result<(), PodError> {
    let mut outcome = Outcome(None);
    if state.role == Role::Sandbox
        && let Some(paths) = state.sandbox_paths()
    {
        outcome.note(sandbox(&paths, state.agent.as_ref(), reaper, state.cleanup()).await);
    }
    if state.rootfs_mounted {
        outcome.note(mount::unmount_tree(&bundle.join("rootfs")).map_err(PodError::from));
    }
    if state.role == Role::App
        && let Some(paths) = state.sandbox_paths()
    {
        outcome.note(remove_tree(&super::app::overlay_dir(&paths, state.container.as_str())));
    }
    outcome.0.map_or(Ok(()), Err)
}

async fn sandbox(
    paths: &SandboxPaths,
    agent: Option<&AgentRecord>,
    reaper: &Reaper,
    deadline: Duration,
) -> Result<(), PodError> {
    let mut outcome = Outcome(None);
    if let Some(agent) = agent {
        outcome.note(
            delete(&agent.backend, agent.container_id.as_str(), &paths.agent_bundle(), reaper, deadline)
                .await,
        );
    }
    outcome.note(mount::unmount_tree(&paths.agent_rootfs()).map_err(PodError::from));
    for tree in [paths.data_dir(), paths.agent_overlay()] {
        outcome.note(set_aside(tree).map(|trash| {
            if let Some(trash) = trash {
                remove_in_background(&trash, reaper);
            }
        }));
    }
    // Last: it says to the sweep that the rest is still somebody's.
    outcome.note(remove_tree(paths.state_dir()));
    outcome.0.map_or(Ok(()), Err)
}

async fn delete(
    config: &serde_json::Value,
    id: &str,
    bundle: &Path,
    reaper: &Reaper,
    deadline: Duration,
) -> Result<(), PodError> {
    let config: BackendConfig = serde_json::from_value(config.clone())
        .map_err(|source| PodError::Setup(format!("backend of container {id} in its state: {source}")))?;
    let scratch = std::env::temp_dir();
    match Backend::new(config, reaper.clone(), scratch).delete(id, Force::Yes, deadline).await {
        // A creation that was cut short may have made the cgroup before the backend's own record; crun
        // calls it a success to delete what it does not know.
        Ok(()) | Err(OciError::NotFound { .. }) => remove_cgroup(bundle, id),
        Err(error) => Err(error.into()),
    }
}

/// Removes the cgroup that a bundle's spec names, and what is in it; only one that is named after
/// the container, as any other may be shared.
fn remove_cgroup(bundle: &Path, id: &str) -> Result<(), PodError> {
    // Without a bundle or a path in it nothing can have been made.
    let Some(path) = BundlePath::new(bundle)
        .ok()
        .and_then(|path| Bundle::open(&path).ok())
        .and_then(|bundle| bundle.cgroups_path())
        .map(|path| path.in_hierarchy())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(id)))
    else {
        return Ok(());
    };
    let cgroup = match Cgroup::at(&path) {
        Ok(cgroup) => cgroup,
        Err(CgroupError::NotFound { .. }) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    for pid in cgroup.procs()? {
        let pid = nix::unistd::Pid::from_raw(pid.as_raw());
        // It may end by itself at the same moment.
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
    Ok(cgroup.remove()?)
}

/// Renames a tree to a name that is nobody's, in the same directory; `None` if it is not there.
///
/// # Errors
/// [`PodError::File`].
pub fn set_aside(tree: &Path) -> Result<Option<PathBuf>, PodError> {
    let Some(name) = tree.file_name() else { return Ok(None) };
    let mut trash_name = std::ffi::OsString::from(TRASH_PREFIX);
    trash_name.push(name);
    let trash = tree.with_file_name(trash_name);
    match fs::rename(tree, &trash) {
        Ok(()) => Ok(Some(trash)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // An earlier one is still being removed: this one is removed here and now.
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => remove_tree(tree).map(|()| None),
        Err(source) => Err(PodError::file("rename", tree, source)),
    }
}

/// Whether a directory was set aside to be removed.
pub fn is_trash(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(TRASH_PREFIX))
}

fn remove_in_background(trash: &Path, reaper: &Reaper) {
    // Also right when the file was replaced by an upgrade.
    let mut command = Command::new("/proc/self/exe");
    command.arg(REMOVE_TRASH).arg(trash).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Err(error) = reaper.spawn(&mut command) {
        log::warn!("remove {}: {error}; the next sweep does it", trash.display());
    }
}

/// Removes a tree that [`set_aside`] renamed: the action of the process that is started for it.
///
/// # Errors
/// The path is no such tree, or it cannot be removed.
pub fn remove_trash(path: &Path) -> Result<(), PodError> {
    if !path.is_absolute() || !is_trash(path) {
        return Err(PodError::Setup(format!("{} was not set aside to be removed", path.display())));
    }
    remove_tree(path)
}

/// Removes a directory and all in it; one that is not there is fine. Symbolic links are not followed.
///
/// # Errors
/// [`PodError::File`].
pub fn remove_tree(path: &Path) -> Result<(), PodError> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(PodError::file("remove", path, source))
        }
        _ => Ok(()),
    }
}

/// Keeps the first error and logs the others, so that each is told once.
struct Outcome(Option<PodError>);

impl Outcome {
    fn note(&mut self, result: Result<(), PodError>) {
        match result {
            Ok(()) => {}
            Err(error) if self.0.is_none() => self.0 = Some(error),
            Err(error) => log::error!("take down: {}", crate::service::chain(&error)),
        }
    }
}
