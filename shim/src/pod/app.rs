//! An app container: booted from the agent's store of its image, never from the host's files.

use std::path::{Path, PathBuf};

use agent_client::PulledImage;
use layout::{Config, SandboxPaths};
use runtime::{bundle::Bundle, container::ContainerError};
use serde::Deserialize;

use super::{
    PodError,
    libos::{self, App},
};

/// Who has put the process together that the spec describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecFrom {
    /// containerd, which has the image's config: the process is complete.
    ImageAndPod,
    /// The fork of containerd, which has not: the process is the pod's part.
    PodOnly,
}

/// Where the writable layer of a container is kept, if its LibOS needs one on the host.
pub fn overlay_dir(paths: &SandboxPaths, container_id: &str) -> PathBuf {
    paths.data_dir().join("containers").join(container_id)
}

/// Makes the container's bundle boot from the image's store.
///
/// # Errors
/// The store is not where the agent said, the image's config makes no sense, a mount fails.
pub fn prepare(
    config: &Config,
    paths: &SandboxPaths,
    bundle: &mut Bundle,
    container_id: &str,
    image: &PulledImage,
    spec_from: SpecFrom,
) -> Result<(), PodError> {
    let store = paths.images().join(&image.store_dir);
    check_store(&store)?;
    if spec_from == SpecFrom::PodOnly {
        complete(bundle, &image.image_config)?;
    }
    let app =
        App { store: &store, overlay: &overlay_dir(paths, container_id), boot_within: config.timeouts.start };
    libos::of(config).prepare_app(bundle, &app)?;
    Ok(bundle.save()?)
}

/// Adds what the boot side says to the backend's error about a container that could not be created.
pub fn explain(bundle: &Path, error: ContainerError) -> PodError {
    let report = std::fs::read_to_string(bundle.join(libos::BOOT_REPORT)).unwrap_or_default();
    let report = report.trim();
    if report.is_empty() || error.to_string().contains(report) {
        return error.into();
    }
    PodError::Boot { report: report.to_owned(), source: error }
}

/// The agent writes below the stores: what it made must be a directory and no way out of there.
fn check_store(store: &Path) -> Result<(), PodError> {
    let kind = std::fs::symlink_metadata(store).map_err(|e| PodError::file("find the store", store, e))?;
    if kind.is_dir() {
        return Ok(());
    }
    Err(PodError::Setup(format!("the store {} is not a directory", store.display())))
}

/// The part of an OCI image config that a process is made from.
#[derive(Debug, Default, Deserialize)]
struct ImageConfig {
    #[serde(default)]
    config: Option<Execution>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Execution {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
}

/// Adds the image's part to a process that only the pod has described, as the CRI does it: the
/// pod's arguments and variables win.
fn complete(bundle: &mut Bundle, image_config: &str) -> Result<(), PodError> {
    let image = |reason: String| PodError::Image { reason };
    let parsed: ImageConfig = serde_json::from_str(image_config).map_err(|e| image(e.to_string()))?;
    let execution = parsed.config.unwrap_or_default();

    if bundle.args().is_empty() {
        let mut args = execution.entrypoint.unwrap_or_default();
        args.extend(execution.cmd.unwrap_or_default());
        if args.is_empty() {
            return Err(image("neither the pod nor the image says what to run".to_owned()));
        }
        bundle.set_args(&args);
    }
    // containerd sets PATH whether the pod names it or not; the image's is the better one.
    let pods: Vec<String> = bundle
        .env()
        .iter()
        .filter_map(|entry| entry.split_once('='))
        .map(|(name, _)| name.to_owned())
        .collect();
    for entry in execution.env.unwrap_or_default() {
        if let Some((name, value)) = entry.split_once('=')
            && (name == "PATH" || !pods.iter().any(|pods| pods == name))
        {
            bundle.set_env(name, value)?;
        }
    }
    if bundle.cwd().is_none_or(|cwd| cwd == Path::new("/") || cwd.as_os_str().is_empty())
        && let Some(dir) = execution.working_dir.filter(|dir| !dir.is_empty())
    {
        bundle.set_cwd(Path::new(&dir))?;
    }
    let is_root = bundle.spec().process.as_ref().is_none_or(|process| process.user.uid == 0);
    if is_root
        && let Some(user) = execution.user.filter(|user| !user.is_empty() && user != "root" && user != "0")
    {
        let (uid, gid) = numeric(&user).ok_or_else(|| {
            image(format!("its user {user:?} is a name, which the host cannot look up: set runAsUser"))
        })?;
        bundle.set_user(uid, gid);
    }
    Ok(())
}

/// `uid[:gid]`, both as numbers.
fn numeric(user: &str) -> Option<(u32, u32)> {
    match user.split_once(':') {
        None => Some((user.parse().ok()?, 0)),
        Some((uid, gid)) => Some((uid.parse().ok()?, gid.parse().ok()?)),
    }
}

#[cfg(test)]
mod tests {
    use runtime::bundle::BundlePath;

    use super::*;

    fn bundle(dir: &Path, process: &str) -> Bundle {
        let config = format!(r#"{{"ociVersion":"1.0.2","process":{process},"root":{{"path":"rootfs"}}}}"#);
        std::fs::write(dir.join("config.json"), config).unwrap();
        Bundle::open(&BundlePath::new(dir).unwrap()).unwrap()
    }

    const IMAGE: &str = r#"{"config":{"Entrypoint":["/app"],"Cmd":["serve"],"Env":["PATH=/app/bin","A=image","B=2"],
        "WorkingDir":"/srv","User":"1000:2000"}}"#;

    #[test]
    fn what_the_pod_leaves_open_comes_from_the_image() {
        let dir = tempfile::tempdir().unwrap();
        let mut bundle = bundle(dir.path(), r#"{"cwd":"/","env":["PATH=/bin","A=pod"],"args":[]}"#);
        complete(&mut bundle, IMAGE).unwrap();
        assert_eq!(bundle.args(), ["/app", "serve"]);
        let mut env = bundle.env().to_vec();
        env.sort();
        assert_eq!(env, ["A=pod", "B=2", "PATH=/app/bin"]);
        assert_eq!(bundle.cwd(), Some(Path::new("/srv")));
        let user = &bundle.spec().process.as_ref().unwrap().user;
        assert_eq!((user.uid, user.gid), (1000, 2000));
    }

    #[test]
    fn what_the_pod_says_wins() {
        let dir = tempfile::tempdir().unwrap();
        let process = r#"{"cwd":"/pod","env":[],"args":["/other"],"user":{"uid":7,"gid":8}}"#;
        let mut bundle = bundle(dir.path(), process);
        complete(&mut bundle, IMAGE).unwrap();
        assert_eq!(bundle.args(), ["/other"]);
        assert_eq!(bundle.cwd(), Some(Path::new("/pod")));
        assert_eq!(bundle.spec().process.as_ref().unwrap().user.uid, 7);
    }

    #[test]
    fn a_user_by_name_is_refused_instead_of_run_as_root() {
        let dir = tempfile::tempdir().unwrap();
        let mut bundle = bundle(dir.path(), r#"{"cwd":"/","args":["/x"]}"#);
        let error = complete(&mut bundle, r#"{"config":{"User":"nginx"}}"#).unwrap_err();
        assert!(error.to_string().contains("nginx"), "{error}");
    }

    #[test]
    fn a_store_that_is_a_link_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("sha256-0");
        std::os::unix::fs::symlink("/etc", &link).unwrap();
        assert!(check_store(&link).is_err());
        assert!(check_store(&dir.path().join("missing")).is_err());
        assert!(check_store(dir.path()).is_ok());
    }
}
