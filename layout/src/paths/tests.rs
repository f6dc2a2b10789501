use super::*;
use crate::{
    config::SgxMode,
    state::{PodIdentity, SandboxState},
};

fn id(text: &str) -> Identifier {
    Identifier::new(text).unwrap()
}

fn node(dir: &Path) -> NodePaths {
    NodePaths { state_dir: dir.join("run"), data_dir: dir.join("lib"), agent_root: None }
}

fn state(paths: &SandboxPaths, boot: &str) -> SandboxState {
    SandboxState {
        boot_id: BootId::from_text(boot),
        namespace: paths.namespace().clone(),
        sandbox: paths.sandbox().clone(),
        pod: PodIdentity::default(),
        sgx_mode: SgxMode::None,
        bundle: "/bundle".into(),
        shim_pid: 1,
        agent: None,
        images: Vec::new(),
        containers: Vec::new(),
    }
}

/// A sandbox as a shim of the boot `boot` makes it.
fn made(node: &NodePaths, sandbox: &str, boot: &str) -> SandboxPaths {
    let paths = node.sandbox(&id("k8s.io"), &id(sandbox));
    paths.create_state_dir().unwrap();
    state(&paths, boot).write(&paths).unwrap();
    paths.create_data_dirs().unwrap();
    paths
}

fn orphans(node: &NodePaths) -> Vec<(String, Option<String>)> {
    let orphans = node.orphans(&BootId::from_text("now")).unwrap();
    orphans
        .map(|orphan| {
            let Orphan { paths, boot_id } = orphan.unwrap();
            (paths.sandbox().to_string(), boot_id.map(|id| id.to_string()))
        })
        .collect()
}

#[test]
fn paths_follow_namespace_and_id() {
    let paths = NodePaths::new(&Config::default()).sandbox(&id("k8s.io"), &id("abc"));
    let shown = |path: PathBuf| path.to_str().unwrap().to_owned();
    assert_eq!(shown(paths.state_file()), "/run/enclave-cc/k8s.io/abc/sandbox.json");
    assert_eq!(shown(paths.token()), "/run/enclave-cc/k8s.io/abc/token");
    assert_eq!(shown(paths.agent_rootfs()), "/run/enclave-cc/k8s.io/abc/agent/rootfs");
    assert_eq!(shown(paths.images()), "/var/lib/enclave-cc/k8s.io/abc/images");
    assert_eq!(shown(paths.agent_upper()), "/var/lib/enclave-cc/k8s.io/abc/agent/upper");
    assert_eq!(shown(paths.agent_work()), "/var/lib/enclave-cc/k8s.io/abc/agent/work");
}

#[test]
fn the_agents_overlay_goes_where_the_config_says() {
    let mut config = Config::default();
    config.containerd.agent_container_root_dir = Some("/mnt/agents".into());
    let paths = NodePaths::new(&config).sandbox(&id("k8s.io"), &id("abc"));
    assert_eq!(paths.agent_overlay(), Path::new("/mnt/agents/k8s.io/abc"));
}

#[test]
fn directories_are_for_root_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path());
    let paths = made(&node, "a", "now");
    for made in [node.state_dir(), node.data_dir(), paths.state_dir(), &paths.images(), &paths.agent_upper()]
    {
        assert_eq!(fs::metadata(made).unwrap().permissions().mode() & 0o7777, 0o700, "{}", made.display());
    }
}

#[test]
fn sandboxes_of_other_boots_are_orphans_and_those_of_this_one_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path());
    made(&node, "a", "now");
    made(&node, "b", "earlier");
    assert_eq!(orphans(&node), [("b".into(), Some("earlier".into()))]);
}

#[test]
fn data_is_an_orphan_when_its_state_was_lost_with_the_reboot() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path());
    let paths = made(&node, "a", "earlier");
    fs::remove_dir_all(node.state_dir()).unwrap();
    assert_eq!(orphans(&node), [("a".into(), None)]);
    // The same with the agent's overlay alone.
    fs::remove_dir_all(paths.images()).unwrap();
    assert_eq!(orphans(&node), [("a".into(), None)]);
}

#[test]
fn an_overlay_elsewhere_is_found_as_an_orphan() {
    let dir = tempfile::tempdir().unwrap();
    let node = NodePaths { agent_root: Some(dir.path().join("agents")), ..node(dir.path()) };
    let paths = made(&node, "a", "earlier");
    fs::remove_dir_all(node.state_dir()).unwrap();
    fs::remove_dir_all(node.data_dir()).unwrap();
    assert_eq!(orphans(&node), [("a".into(), None)]);
    assert!(paths.agent_upper().exists());
}

#[test]
fn a_sandbox_that_is_just_being_made_is_no_orphan() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path());
    node.sandbox(&id("k8s.io"), &id("a")).create_state_dir().unwrap();
    assert_eq!(node.sandboxes().unwrap().len(), 1);
    assert_eq!(orphans(&node), []);
}

#[test]
fn the_boot_of_a_newer_versions_state_is_known_too() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path());
    let paths = made(&node, "a", "earlier");
    fs::write(paths.state_file(), r#"{"version": 99, "boot_id": "earlier", "shape": [1]}"#).unwrap();
    assert_eq!(orphans(&node), [("a".into(), Some("earlier".into()))]);
    fs::write(paths.state_file(), r#"{"version": 99, "boot_id": "now"}"#).unwrap();
    assert_eq!(orphans(&node), []);
}

#[test]
fn a_damaged_state_is_reported_and_hides_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path());
    let damaged = made(&node, "a", "earlier");
    made(&node, "b", "earlier");
    fs::write(damaged.state_file(), "{").unwrap();
    let found: Vec<_> = node.orphans(&BootId::from_text("now")).unwrap().collect();
    assert!(matches!(&found[..], [Err(PathsError::State { .. }), Ok(_)]), "{found:?}");
}

#[test]
fn what_is_not_ours_in_the_directories_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path());
    assert_eq!(node.sandboxes().unwrap(), [], "missing directories are empty");
    made(&node, "a", "now");
    fs::write(node.seal_key(), "").unwrap();
    fs::create_dir(node.data_dir().join("lost+found")).unwrap();
    fs::create_dir(node.data_dir().join("k8s.io/.tmp-1")).unwrap();
    std::os::unix::fs::symlink("/", node.data_dir().join("k8s.io/root")).unwrap();
    let found: Vec<_> = node.sandboxes().unwrap().iter().map(|paths| paths.sandbox().to_string()).collect();
    assert_eq!(found, ["a"]);
}
