use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use serde_json::json;

use std::os::unix::fs::MetadataExt;

use super::BundlePath;
use super::*;

/// A bundle directory that goes away with the value.
struct Dir {
    dir: tempfile::TempDir,
}

impl Dir {
    fn with(config: impl AsRef<[u8]>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), config).unwrap();
        Self { dir }
    }

    fn path(&self) -> BundlePath {
        BundlePath::new(self.dir.path()).unwrap()
    }

    fn open(&self) -> Result<Bundle, BundleError> {
        Bundle::open(&self.path())
    }

    fn raw(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path().join("config.json")).unwrap()).unwrap()
    }
}

/// As containerd writes it for a pod's container, shortened, with what no version of this program knows.
fn config() -> Value {
    json!({
        "ociVersion": "1.1.0",
        "process": {
            "terminal": true,
            "user": { "uid": 1000, "gid": 1000, "additionalGids": [1000, 3000] },
            "args": ["/bin/sh", "-c", "true"],
            "env": ["PATH=/bin", "A=1", "B=2", "A=3", "ODD"],
            "cwd": "/srv",
            "capabilities": { "bounding": ["CAP_OF_THE_FUTURE"] },
            "oomScoreAdj": 998,
            "fromTheFuture": { "n": 18446744073709551615u64 }
        },
        "root": { "path": "rootfs", "readonly": true },
        "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"] }, { "destination": "/x" }],
        "hooks": { "createContainer": [{ "path": "/usr/bin/other" }], "poststop": null },
        "annotations": { "io.kubernetes.cri.container-type": "container" },
        "linux": {
            "cgroupsPath": "kubepods-pod1.slice:cri-containerd:abc",
            "resources": { "devices": [{ "allow": false, "access": "rwm" }], "memory": { "limit": 67108864 } },
            "namespaces": [
                { "type": "pid" },
                { "type": "network", "path": "/proc/1/ns/net" },
                { "type": "from-the-future" },
                { "type": "mount" }
            ],
            "seccomp": { "defaultAction": "SCMP_ACT_OF_THE_FUTURE" },
            "maskedPaths": ["/proc/kcore"]
        },
        "fromTheFuture": [1, "2", null]
    })
}

fn bundle() -> (Dir, Bundle) {
    let dir = Dir::with(config().to_string());
    let bundle = dir.open().unwrap();
    (dir, bundle)
}

#[test]
fn facts_are_read() {
    let (dir, bundle) = bundle();
    assert_eq!(bundle.args(), ["/bin/sh", "-c", "true"]);
    assert_eq!(bundle.cwd(), Some(Path::new("/srv")));
    assert_eq!(bundle.env().len(), 5);
    assert!(bundle.terminal());
    assert!(bundle.root_is_readonly());
    assert_eq!(bundle.rootfs(), Some(dir.path().join("rootfs")));
    assert_eq!(bundle.annotation("io.kubernetes.cri.container-type"), Some("container"));
    assert_eq!(bundle.annotation("other"), None);
    assert_eq!(bundle.memory_limit(), Some(64 << 20));
    assert!(bundle.cgroups_path().unwrap().is_systemd());
    assert_eq!(bundle.namespace(NamespaceKind::Mount), Some(None));
    assert_eq!(bundle.namespace(NamespaceKind::Network), Some(Some(Path::new("/proc/1/ns/net"))));
    assert_eq!(bundle.namespace(NamespaceKind::Ipc), None);
    assert!(!bundle.has_user_namespace());
    assert_eq!(bundle.spec().mounts[1].destination, Path::new("/x"));
    assert_eq!(bundle.spec().process.as_ref().unwrap().user.additional_gids, [1000, 3000]);
}

#[test]
fn absent_and_null_values_are_the_same() {
    for text in
        ["{}", r#"{"process":null,"root":null,"mounts":null,"hooks":null,"annotations":null,"linux":null}"#]
    {
        let bundle = Dir::with(text).open().unwrap();
        assert_eq!(bundle.spec(), &Spec::default());
        assert_eq!((bundle.rootfs(), bundle.memory_limit(), bundle.cgroups_path()), (None, None, None));
        assert_eq!(bundle.pid_namespace(), PidNamespace::Host);
    }
}

#[test]
fn pid_namespaces_are_own_shared_or_the_hosts() {
    let with = |namespaces: Value| {
        Dir::with(json!({"linux": {"namespaces": namespaces}}).to_string()).open().unwrap()
    };
    assert_eq!(with(json!([{"type": "pid"}])).pid_namespace(), PidNamespace::Own);
    assert_eq!(with(json!([{"type": "pid", "path": ""}])).pid_namespace(), PidNamespace::Own);
    assert_eq!(with(json!([{"type": "ipc"}])).pid_namespace(), PidNamespace::Host);
    let shared = PidNamespace::Shared(PathBuf::from("/proc/7/ns/pid"));
    assert_eq!(with(json!([{"type": "pid", "path": "/proc/7/ns/pid"}])).pid_namespace(), shared);
}

#[test]
fn no_memory_limit_is_told_from_a_limit() {
    for (limit, expect) in [(json!(-1), None), (json!(0), None), (json!(null), None), (json!(1), Some(1))] {
        let bundle =
            Dir::with(json!({"linux": {"resources": {"memory": {"limit": limit}}}}).to_string()).open();
        assert_eq!(bundle.unwrap().memory_limit(), expect);
    }
}

#[test]
fn user_namespaces_are_seen_by_type_or_by_mapping() {
    for linux in [
        json!({"namespaces": [{"type": "user"}]}),
        json!({"uidMappings": [{"containerID": 0, "hostID": 100_000, "size": 65536}]}),
    ] {
        assert!(Dir::with(json!({ "linux": linux }).to_string()).open().unwrap().has_user_namespace());
    }
}

#[test]
fn a_missing_bundle_and_a_missing_config_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let open = |path: &Path| Bundle::open(&BundlePath::new(path).unwrap()).unwrap_err();
    assert!(matches!(open(dir.path()), BundleError::NoConfig { .. }));
    assert!(matches!(open(&dir.path().join("not/there")), BundleError::NoBundle { .. }));
    fs::create_dir(dir.path().join("config.json")).unwrap();
    assert!(matches!(open(dir.path()), BundleError::NotAFile { .. }));
}

#[test]
fn a_fifo_instead_of_a_config_does_not_block() {
    let dir = tempfile::tempdir().unwrap();
    nix::unistd::mkfifo(&dir.path().join("config.json"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let error = Bundle::open(&BundlePath::new(dir.path()).unwrap()).unwrap_err();
    assert!(matches!(error, BundleError::NotAFile { .. }));
}

#[test]
fn a_huge_config_is_refused_without_reading_it_all() {
    let dir = Dir::with("{}");
    fs::File::options().write(true).open(dir.path().join("config.json")).unwrap().set_len(1 << 40).unwrap();
    assert!(matches!(dir.open().unwrap_err(), BundleError::TooLarge { .. }));
}

#[test]
fn garbage_is_refused_with_its_place() {
    for (text, place) in [
        ("", "the text"),
        ("{", "the text"),
        ("\0\u{1}garbage", "the text"),
        ("{} {}", "the text"),
        ("[]", "the top"),
        ("null", "the top"),
        (r#"{"process":{"args":["a",1]}}"#, "process.args[1]"),
        (r#"{"process":{"terminal":"yes"}}"#, "process.terminal"),
        (r#"{"linux":{"namespaces":[{"path":"/x"}]}}"#, "linux.namespaces[0]"),
        (r#"{"annotations":{"a":1}}"#, "annotations.a"),
        (r#"{"mounts":[{"destination":"/a"},{}]}"#, "mounts[1]"),
        (r#"{"linux":{"resources":{"memory":{"limit":"1G"}}}}"#, "linux.resources.memory.limit"),
    ] {
        let dir = Dir::with(text);
        match dir.open() {
            Err(BundleError::Parse { path, at, .. }) => {
                assert_eq!(at, place, "{text}");
                assert_eq!(path, dir.path().join("config.json"));
            }
            other => panic!("{text}: {other:?}"),
        }
    }
    assert!(Dir::with("[".repeat(100_000)).open().is_err(), "deep nesting must not overflow the stack");
}

#[test]
fn what_is_not_changed_survives_byte_for_byte_in_meaning() {
    let (dir, bundle) = bundle();
    bundle.save().unwrap();
    assert_eq!(dir.raw(), config());
}

#[test]
fn changes_show_in_the_facts_and_in_the_file() {
    let (dir, mut bundle) = bundle();
    bundle.set_root_path(Path::new("/other/root")).unwrap();
    bundle.set_root_readonly(false);
    bundle.set_args(&["/init".into(), "x".into()]);
    bundle.set_cwd(Path::new("/run")).unwrap();
    bundle.set_env("A", "new=value").unwrap();
    bundle.set_env("C", "").unwrap();
    bundle.set_terminal(false);
    bundle.set_oom_score_adj(None);
    bundle.set_hostname("pod");
    bundle.set_annotation("a/b~c.d", "e");
    bundle.remove_annotation("io.kubernetes.cri.container-type");
    bundle.set_cgroups_path("/a/b");
    bundle.remove_seccomp();
    bundle.set_namespace_path(NamespaceKind::Network, Path::new("/var/run/netns/x")).unwrap();
    bundle.set_namespace_new(NamespaceKind::Ipc);
    bundle.set_namespace_host(NamespaceKind::Pid);
    bundle
        .add_mount(&SpecMount {
            destination: "/images".into(),
            kind: "bind".into(),
            source: "/store".into(),
            options: vec!["rbind".into(), "ro".into()],
        })
        .unwrap();

    assert_eq!(bundle.rootfs(), Some("/other/root".into()));
    assert_eq!(bundle.args(), ["/init", "x"]);
    assert_eq!(bundle.env(), ["PATH=/bin", "A=new=value", "B=2", "ODD", "C="]);
    assert_eq!(bundle.pid_namespace(), PidNamespace::Host);
    assert_eq!(bundle.cgroups_path(), Some(CgroupsPath::Fs("/a/b".into())));
    assert_eq!(dir.raw(), config(), "nothing is written before save");

    bundle.save().unwrap();
    let raw = dir.raw();
    assert_eq!(raw["root"], json!({"path": "/other/root", "readonly": false}));
    assert_eq!(raw["process"]["oomScoreAdj"], Value::Null);
    assert_eq!(raw["process"]["fromTheFuture"]["n"], json!(u64::MAX));
    assert_eq!(raw["fromTheFuture"], json!([1, "2", null]));
    assert_eq!(raw["annotations"], json!({"a/b~c.d": "e"}));
    assert_eq!(raw["linux"]["seccomp"], Value::Null);
    assert_eq!(raw["linux"]["maskedPaths"], json!(["/proc/kcore"]));
    assert_eq!(
        raw["linux"]["namespaces"],
        json!([{"type": "from-the-future"}, {"type": "mount"}, {"type": "network", "path": "/var/run/netns/x"}, {"type": "ipc"}])
    );
    assert_eq!(raw["mounts"][2]["options"], json!(["rbind", "ro"]));
    assert_eq!(dir.open().unwrap().spec(), bundle.spec());
}

#[test]
fn a_hook_goes_in_front_of_the_others() {
    let (dir, mut bundle) = bundle();
    let hook = Hook {
        path: "/opt/hook".into(),
        args: vec!["hook".into(), "-x".into()],
        env: vec![],
        timeout: Some(120),
    };
    bundle.prepend_create_container_hook(&hook).unwrap();
    bundle.save().unwrap();
    assert_eq!(
        dir.raw()["hooks"]["createContainer"],
        json!([{"path": "/opt/hook", "args": ["hook", "-x"], "timeout": 120}, {"path": "/usr/bin/other"}])
    );
    assert_eq!(bundle.spec().hooks.create_container[0], hook);

    let dir = Dir::with("{}");
    let mut bundle = dir.open().unwrap();
    bundle.prepend_create_container_hook(&hook).unwrap();
    assert_eq!(bundle.spec().hooks.create_container, [hook]);
}

#[test]
fn every_change_works_on_an_empty_config() {
    for text in
        ["{}", r#"{"root":null,"process":null,"linux":{"resources":null,"devices":null},"annotations":null}"#]
    {
        let mut bundle = Dir::with(text).open().unwrap();
        bundle.set_root_readonly(true);
        bundle.set_terminal(true);
        bundle.set_env("A", "1").unwrap();
        bundle.set_annotation("a", "b");
        bundle.set_namespace_new(NamespaceKind::Time);
        bundle.add_device(Path::new("/dev/null"), None, DeviceAccess::Read).unwrap();
        bundle.remove_seccomp();
        assert!(bundle.root_is_readonly() && bundle.terminal());
        assert_eq!(bundle.spec().linux.devices[0].path, Path::new("/dev/null"));
    }
}

#[test]
fn a_device_comes_with_its_numbers_and_a_rule_after_the_others() {
    let (dir, mut bundle) = bundle();
    for _ in 0..2 {
        bundle
            .add_device(Path::new("/dev/null"), Some(Path::new("/dev/sgx")), DeviceAccess::ReadWrite)
            .unwrap();
    }
    bundle.save().unwrap();
    let raw = dir.raw();
    let devices = raw["linux"]["devices"].as_array().unwrap();
    assert_eq!(devices.len(), 1);
    let fields =
        ["path", "type", "major", "minor", "fileMode", "uid", "gid"].map(|key| devices[0][key].clone());
    let node = std::fs::metadata("/dev/null").unwrap();
    let (mode, uid, gid) = (node.mode() & 0o7777, node.uid(), node.gid());
    assert_eq!(
        fields,
        [json!("/dev/sgx"), json!("c"), json!(1), json!(3), json!(mode), json!(uid), json!(gid)]
    );
    assert_eq!(
        raw["linux"]["resources"]["devices"][1],
        json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"})
    );
    assert_eq!(raw["linux"]["resources"]["devices"][0], json!({"allow": false, "access": "rwm"}));
    for bad in ["/dev/missing", "/etc/passwd"] {
        let error = bundle.add_device(Path::new(bad), None, DeviceAccess::Read).unwrap_err();
        assert!(matches!(error, BundleError::Device { .. }));
    }
}

#[test]
fn values_that_would_mean_something_else_are_refused() {
    let (_dir, mut bundle) = bundle();
    let before = bundle.raw().clone();
    for (key, value) in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "x\0y")] {
        assert!(matches!(bundle.set_env(key, value), Err(BundleError::Value { .. })), "{key:?}");
    }
    assert!(bundle.set_cwd(Path::new("relative")).is_err());
    assert!(bundle.set_root_path(Path::new("")).is_err());
    assert!(bundle.add_mount(&SpecMount { destination: "relative".into(), ..SpecMount::default() }).is_err());
    assert!(bundle.prepend_create_container_hook(&Hook::default()).is_err());
    assert_eq!(bundle.raw(), &before);
}

#[test]
fn debug_output_shows_no_environment() {
    let (_dir, mut bundle) = bundle();
    bundle.set_env("TOKEN", "s3cret").unwrap();
    assert!(!format!("{bundle:?} {:?}", bundle.spec()).contains("s3cret"));
}

#[test]
fn an_error_about_a_variable_does_not_show_its_value() {
    let (_dir, mut bundle) = bundle();
    let error = bundle.set_env("TOKEN", "s3cret\0").unwrap_err();
    assert!(!format!("{error} {error:?}").contains("s3cret"));
}

#[test]
fn saving_keeps_the_mode_and_leaves_no_other_file() {
    let (dir, mut bundle) = bundle();
    let file = dir.path().join("config.json");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    bundle = Bundle::open(bundle.path()).unwrap();
    bundle.save().unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o640);
    assert_eq!(fs::read_dir(dir.path().as_path()).unwrap().count(), 1);
}

#[test]
fn a_config_can_be_saved_as_another_bundles() {
    let (dir, mut bundle) = bundle();
    let other = tempfile::tempdir().unwrap();
    bundle.set_hostname("other");
    bundle.save_to(&BundlePath::new(other.path()).unwrap()).unwrap();
    assert_eq!(Bundle::open(&BundlePath::new(other.path()).unwrap()).unwrap().spec(), bundle.spec());
    assert_eq!(dir.raw(), config());
    let missing = BundlePath::new(other.path().join("missing")).unwrap();
    assert!(matches!(bundle.save_to(&missing), Err(BundleError::Write { .. })));
}
