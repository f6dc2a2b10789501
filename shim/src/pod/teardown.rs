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
    if is_ours(state, bundle, reaper).await {
        outcome.note(delete(&state.backend, state.container.as_str(), bundle, reaper, state.cleanup()).await);
    }
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
        let overlay = super::app::overlay_dir(&paths, state.container.as_str());
        outcome.note(remove_aside(&overlay, reaper));
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
        outcome.note(remove_aside(tree, reaper));
    }
    // Last, and only when nothing is left: by it the agent is found when this is tried again, and the
    // sweep knows that the rest is still somebody's.
    if outcome.0.is_none() {
        outcome.note(remove_tree(paths.state_dir()));
    }
    outcome.0.map_or(Ok(()), Err)
}

/// Whether the backend's container of that id was made from this bundle: another containerd may have
/// one of the same name in the same place.
async fn is_ours(state: &BundleState, bundle: &Path, reaper: &Reaper) -> bool {
    let Ok(backend) = backend(&state.backend, state.container.as_str(), reaper) else { return true };
    match backend.state(state.container.as_str(), state.cleanup()).await {
        Ok(found) => found.bundle == bundle,
        // It has none, or cannot say: then a deletion hurts nobody else.
        Err(_) => true,
    }
}

fn backend(config: &serde_json::Value, id: &str, reaper: &Reaper) -> Result<Backend, PodError> {
    let config: BackendConfig = serde_json::from_value(config.clone())
        .map_err(|source| PodError::Setup(format!("backend of container {id} in its state: {source}")))?;
    Ok(Backend::new(config, reaper.clone(), std::env::temp_dir()))
}

/// Deletes a container and, whatever the backend says, its cgroup: a creation that was cut short may have
/// made it before the backend's own record, and crun calls it a success to delete what it does not know.
async fn delete(
    config: &serde_json::Value,
    id: &str,
    bundle: &Path,
    reaper: &Reaper,
    deadline: Duration,
) -> Result<(), PodError> {
    // Known before the first wait: the bundle may be removed meanwhile.
    let cgroup = cgroup_of(bundle, id);
    let deleted = match backend(config, id, reaper)?.delete(id, Force::Yes, deadline).await {
        Ok(()) | Err(OciError::NotFound { .. }) => Ok(()),
        // To containerd it would mean that there is nothing left to delete.
        Err(error @ OciError::NotRunning { .. }) => Err(PodError::Setup(error.to_string())),
        Err(error) => Err(error.into()),
    };
    let removed = match cgroup {
        Some(path) => remove_cgroup(path).await,
        None => Ok(()),
    };
    deleted.and(removed)
}

/// The cgroup that a bundle's spec names, if it is named after the container: any other may be shared.
fn cgroup_of(bundle: &Path, id: &str) -> Option<PathBuf> {
    let bundle = Bundle::open(&BundlePath::new(bundle).ok()?).ok()?;
    let path = bundle.cgroups_path()?.in_hierarchy();
    let name = path.file_name()?.to_str()?;
    (name == id || name.ends_with(&format!("-{id}.scope"))).then_some(path)
}

/// Kills what is in a cgroup and removes it.
async fn remove_cgroup(path: PathBuf) -> Result<(), PodError> {
    let cgroup = match Cgroup::at(&path) {
        Ok(cgroup) => cgroup,
        Err(CgroupError::NotFound { .. }) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    // What is in it may need a moment to end.
    let removal = tokio::task::spawn_blocking(move || {
        for pid in cgroup.procs()? {
            let pid = nix::unistd::Pid::from_raw(pid.as_raw());
            // It may end by itself at the same moment.
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        cgroup.remove()
    });
    match removal.await {
        Ok(removed) => Ok(removed?),
        Err(error) => Err(PodError::Setup(format!("remove the cgroup {}: {error}", path.display()))),
    }
}

/// Removes a tree without waiting for it.
fn remove_aside(tree: &Path, reaper: &Reaper) -> Result<(), PodError> {
    if let Some(trash) = set_aside(tree)? {
        remove_in_background(&trash, reaper);
    }
    Ok(())
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
