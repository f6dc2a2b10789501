use std::{fs, os::unix::fs::PermissionsExt as _};

use super::*;

fn id(text: &str) -> Identifier {
    Identifier::new(text).unwrap()
}

fn bundle_state() -> BundleState {
    BundleState {
        boot_id: BootId::from_text("boot"),
        role: Role::Sandbox,
        namespace: id("k8s.io"),
        container: id("abc"),
        sandbox: Some(id("abc")),
        backend: serde_json::json!({"dialect": "runc", "program": "runc", "root": "/run/runc"}),
        rootfs_mounted: true,
        dirs: Some(SandboxDirs { state: "/s".into(), data: "/d".into(), agent_overlay: "/d/agent".into() }),
        agent: Some(AgentRecord { container_id: id("abc-agent"), backend: serde_json::json!({}) }),
        cleanup_secs: 4,
    }
}

#[test]
fn a_bundles_state_is_read_as_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let state = bundle_state();
    state.write(dir.path()).unwrap();
    assert_eq!(BundleState::read(dir.path()).unwrap(), Some(state));
}

#[test]
fn a_sandboxs_state_is_read_as_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let dirs = SandboxDirs { state: dir.path().into(), data: "/d".into(), agent_overlay: "/d/agent".into() };
    let paths = SandboxPaths::from_dirs(id("k8s.io"), id("abc"), dirs);
    let exit = AgentExit::new(137, UNIX_EPOCH + Duration::from_secs(7), "killed");
    assert_eq!(exit.at_unix_secs, 7);
    let state = SandboxState {
        boot_id: BootId::from_text("boot"),
        namespace: id("k8s.io"),
        sandbox: id("abc"),
        pod: PodIdentity { namespace: "default".into(), name: "app".into(), uid: "1".into() },
        sgx_mode: SgxMode::None,
        bundle: "/b".into(),
        shim_pid: 12,
        agent: Some(AgentStatus {
            container_id: id("abc-agent"),
            state: AgentState::BackingOff,
            url: "tcp://127.0.0.1:1".into(),
            restarts: 2,
            last_exit: Some(exit),
        }),
        images: vec![ImageStatus {
            reference: "a/app:1".into(),
            manifest_digest: "sha256:00".into(),
            store_dir: "sha256-00".into(),
            unpacked_bytes: u64::MAX,
        }],
        containers: vec![ContainerStatus {
            id: id("c1"),
            name: Some("c".into()),
            role: Role::App,
            image: None,
        }],
    };
    assert_eq!(SandboxState::read(&paths).unwrap(), None);
    state.write(&paths).unwrap();
    assert_eq!(SandboxState::read(&paths).unwrap(), Some(state));
}

#[test]
fn a_missing_state_or_bundle_is_none() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(BundleState::read(dir.path()).unwrap(), None);
    assert_eq!(BundleState::read(&dir.path().join("gone")).unwrap(), None);
}

#[test]
fn state_is_for_root_only_and_leaves_no_temporary_file() {
    let dir = tempfile::tempdir().unwrap();
    bundle_state().write(dir.path()).unwrap();
    bundle_state().write(dir.path()).unwrap();
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, [BUNDLE_STATE_FILE]);
    let mode = fs::metadata(dir.path().join(BUNDLE_STATE_FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
}

#[test]
fn a_failed_write_keeps_the_former_state() {
    let dir = tempfile::tempdir().unwrap();
    bundle_state().write(dir.path()).unwrap();
    // A directory in the way of the rename stands for any failure of the last step.
    let blocked = tempfile::tempdir().unwrap();
    fs::create_dir(blocked.path().join(BUNDLE_STATE_FILE)).unwrap();
    let error = bundle_state().write(blocked.path()).unwrap_err();
    assert!(matches!(error, StateError::Write { .. }), "{error}");
    assert_eq!(fs::read_dir(blocked.path()).unwrap().count(), 1, "no temporary file is left");
    assert!(bundle_state().write(&dir.path().join("gone")).is_err());
    assert_eq!(BundleState::read(dir.path()).unwrap(), Some(bundle_state()));
}

#[test]
fn a_newer_version_is_refused_by_its_number() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(BUNDLE_STATE_FILE);
    for version in [0, 2, 99] {
        fs::write(&file, format!(r#"{{"version": {version}, "boot_id": "b", "new": true}}"#)).unwrap();
        match BundleState::read(dir.path()) {
            Err(StateError::UnknownVersion { path, found, known }) => {
                assert_eq!((path, found, known), (file.clone(), version, 1))
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn damage_is_reported_with_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(BUNDLE_STATE_FILE);
    let outside = r#"{"version": 1, "boot_id": "b", "role": "app", "namespace": "../x", "container": "c"}"#;
    for text in ["", "{", "[]", "{}", r#"{"version": 1}"#, r#"{"version": 1, "boot_id": "b"}"#, outside] {
        fs::write(&file, text).unwrap();
        match BundleState::read(dir.path()) {
            Err(error @ StateError::Damaged { .. }) => assert!(error.to_string().contains(BUNDLE_STATE_FILE)),
            other => panic!("{text}: {other:?}"),
        }
    }
}

/// What version 1 looks like on disk: programs of later versions must go on reading it.
#[test]
fn version_1_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let text = r#"{"version":1,"boot_id":"boot","role":"sandbox","namespace":"k8s.io","container":"abc","sandbox":"abc",
        "backend":{"dialect":"runc","program":"runc","root":"/run/runc"},"rootfs_mounted":true,
        "dirs":{"state":"/s","data":"/d","agent_overlay":"/d/agent"},
        "agent":{"container_id":"abc-agent","backend":{}},"cleanup_secs":4}"#;
    fs::write(dir.path().join(BUNDLE_STATE_FILE), text).unwrap();
    assert_eq!(BundleState::read(dir.path()).unwrap(), Some(bundle_state()));
}
