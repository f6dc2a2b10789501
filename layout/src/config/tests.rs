use super::*;

fn parsed(text: &str) -> Config {
    Config::parse(text, Path::new("/etc/c.toml")).unwrap_or_else(|error| panic!("{text}\n{error}"))
}

fn refused(text: &str) -> String {
    match Config::parse(text, Path::new("/etc/c.toml")) {
        Ok(config) => panic!("accepted: {text}\n{config:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn an_empty_file_means_the_defaults() {
    assert_eq!(parsed(""), Config { file: Some("/etc/c.toml".into()), ..Config::default() });
}

#[test]
fn the_file_of_the_go_implementation_is_accepted_as_it_is() {
    let config = parsed(
        r#"
        log_level = "debug" # "debug" "info" "warn" "error"
        sgx_mode = "SIM"
        runtime_class = "enclave-cc"

        [containerd]
            agent_container_instance = "/opt/confidential-containers/share/enclave-cc/bundles/agent/"
            agent_container_root_dir = "/opt/confidential-containers/share/enclave-cc-agent-containers"
            agent_url = "tcp://0.0.0.0:7788"
            boot_container_instance = "/opt/confidential-containers/share/enclave-cc/bundles/boot-instance"
        "#,
    );
    assert_eq!(config.log_level, LogLevel::Debug);
    assert_eq!(config.sgx_mode, SgxMode::Sim);
    assert_eq!(config.containerd.agent_url, AgentUrl::Tcp("0.0.0.0:7788".parse().unwrap()));
    let section = ContainerdSection::default();
    assert_eq!(config.containerd.agent_container_instance, section.agent_container_instance);
    assert_eq!(config.containerd.boot_container_instance, section.boot_container_instance);
    assert!(config.containerd.agent_container_root_dir.is_some());
}

#[test]
fn every_key_is_read_into_its_field() {
    let config = parsed(
        r#"
        runtime_class = "enclave-cc-none"
        log_level = "trace"
        sgx_mode = "NONE"
        backend = "/usr/local/sbin/runc"
        state_dir = "/run/other"
        data_dir = "/srv/other"
        agent_network = "host"
        passthrough_namespaces = ["kube-system", "monitoring"]
        [containerd]
        agent_container_instance = "/b/agent"
        boot_container_instance = "/b/boot"
        agent_container_root_dir = ""
        agent_url = "unix:///run/agent.sock"
        [agent]
        http_proxy = "http://proxy:3128"
        https_proxy = "http://user:secret@proxy:3129"
        no_proxy = ".svc,10.0.0.0/8"
        ca_files = ["/etc/ssl/own.pem"]
        insecure_registries = ["registry.local:5000", "[::1]:5000", "registry"]
        auth_file = "/root/.docker/config.json"
        decrypt_config = "/etc/enclave-cc/decrypt.conf"
        ocicrypt_config = "/etc/enclave-cc/ocicrypt.conf"
        [timeouts]
        agent_ready_secs = 1
        pull_secs = 3
        backend_secs = 4
        start_secs = 5
        cleanup_secs = 86400
        "#,
    );
    let secs = Duration::from_secs;
    let expected = Config {
        file: Some("/etc/c.toml".into()),
        runtime_class: "enclave-cc-none".into(),
        log_level: LogLevel::Trace,
        sgx_mode: SgxMode::None,
        backend: BackendChoice::Path("/usr/local/sbin/runc".into()),
        state_dir: "/run/other".into(),
        data_dir: "/srv/other".into(),
        agent_network: AgentNetwork::Host,
        passthrough_namespaces: vec!["kube-system".into(), "monitoring".into()],
        containerd: ContainerdSection {
            agent_container_instance: "/b/agent".into(),
            boot_container_instance: "/b/boot".into(),
            agent_container_root_dir: None,
            agent_url: AgentUrl::Unix("/run/agent.sock".into()),
        },
        agent: AgentSection {
            http_proxy: Some("http://proxy:3128".into()),
            https_proxy: Some("http://user:secret@proxy:3129".into()),
            no_proxy: Some(".svc,10.0.0.0/8".into()),
            ca_files: vec!["/etc/ssl/own.pem".into()],
            insecure_registries: vec!["registry.local:5000".into(), "[::1]:5000".into(), "registry".into()],
            auth_file: Some("/root/.docker/config.json".into()),
            decrypt_config: Some("/etc/enclave-cc/decrypt.conf".into()),
            ocicrypt_config: Some("/etc/enclave-cc/ocicrypt.conf".into()),
        },
        timeouts: Timeouts {
            agent_ready: secs(1),
            pull: secs(3),
            backend: secs(4),
            start: secs(5),
            cleanup: secs(86400),
        },
    };
    assert_eq!(config, expected);
}

#[test]
fn a_bad_value_is_named_with_file_line_and_key() {
    let cases = [
        ("sgx_mode = \"hw\"", 1, "sgx_mode", "`HW`, `SIM`, `NONE`"),
        ("\nlog_level = \"loud\"", 2, "log_level", "unknown variant `loud`"),
        ("log_level = 3", 1, "log_level", "wanted string"),
        ("backend = \"docker\"", 1, "backend", "runc, crun, rune or an absolute path"),
        ("backend = \"/usr/../bin/runc\"", 1, "backend", "must not contain '..'"),
        ("state_dir = \"run\"", 1, "state_dir", "must be an absolute path"),
        ("state_dir = \"\"", 1, "state_dir", "must be an absolute path"),
        ("state_dir = \"/\"", 1, "state_dir", "'/' itself"),
        ("data_dir = \"/a/../b\"", 1, "data_dir", "must not contain '..'"),
        ("data_dir = \"/a\\u0000b\"", 1, "data_dir", "control characters"),
        ("data_dir = \"/a\\nb\"", 1, "data_dir", "control characters"),
        ("runtime_class = \"Enclave_CC\"", 1, "runtime_class", "not a name of Kubernetes"),
        ("runtime_class = \"\"", 1, "runtime_class", "not a name of Kubernetes"),
        ("passthrough_namespaces = [\"a\", \"b/c\"]", 1, "passthrough_namespaces", "\"b/c\" is not a name"),
        ("agent_network = \"none\"", 1, "agent_network", "`pod` or `host`"),
        (
            "[containerd]\nagent_url = \"http://x\"",
            2,
            "containerd.agent_url",
            "must begin with tcp:// or unix://",
        ),
        ("[containerd]\nagent_url = \"tcp://localhost:1\"", 2, "containerd.agent_url", "with an IP address"),
        ("[containerd]\nagent_url = \"unix://x\"", 2, "containerd.agent_url", "absolute path"),
        ("[agent]\nca_files = [\n \"/a\",\n \"b\"]", 2, "agent.ca_files", "\"b\" must be an absolute path"),
        (
            "[agent]\ninsecure_registries = [\"http://x\"]",
            2,
            "agent.insecure_registries",
            "host or host:port",
        ),
        ("[agent]\ninsecure_registries = [\"x:0\"]", 2, "agent.insecure_registries", "host or host:port"),
        ("[agent]\nno_proxy = \"a\\nb\"", 2, "agent.no_proxy", "control characters"),
        ("[timeouts]\n\npull_secs = 0", 3, "timeouts.pull_secs", "whole seconds from 1 to 86400"),
        ("[timeouts]\npull_secs = -1", 2, "timeouts.pull_secs", "whole seconds"),
        ("[timeouts]\npull_secs = 1.5", 2, "timeouts.pull_secs", "invalid type: floating point"),
        ("[timeouts]\npull_secs = 86401", 2, "timeouts.pull_secs", "whole seconds"),
        ("timeouts.pull_secs = 0", 1, "timeouts.pull_secs", "whole seconds"),
    ];
    for (text, line, key, problem) in cases {
        let error = refused(text);
        let place = format!("/etc/c.toml, line {line}, key {key}: ");
        assert!(error.starts_with(&place) && error.contains(problem), "{text}\n{error}");
    }
}

#[test]
fn an_unknown_key_is_named_with_file_line_and_key() {
    let cases = [
        ("sgx_mod = \"HW\"", 1, "sgx_mod"),
        ("\n\n[containerd]\nagent_uri = \"tcp://127.0.0.1:0\"", 4, "containerd.agent_uri"),
        ("[agents]\nno_proxy = \"\"", 1, "agents"),
        ("file = \"/x\"", 1, "file"),
    ];
    for (text, line, key) in cases {
        let error = refused(text);
        assert!(
            error.starts_with(&format!("/etc/c.toml, line {line}, key {key}: unknown field")),
            "{text}\n{error}"
        );
    }
}

#[test]
fn broken_toml_is_named_with_file_and_line() {
    for (text, line) in
        [("log_level = ", 1), ("\nx\n", 2), ("[a\n", 1), ("sgx_mode = \"HW\"\nsgx_mode = \"HW\"", 2)]
    {
        let error = refused(text);
        assert!(error.starts_with(&format!("/etc/c.toml, line {line}")), "{text:?}\n{error}");
        assert!(!error.contains('\n'), "an error is one line: {error:?}");
    }
}

#[test]
fn a_proxy_with_a_password_is_not_repeated_in_the_error() {
    let error = refused("[agent]\nhttps_proxy = \"user:secret@proxy\"");
    assert!(error.contains("line 2, key agent.https_proxy") && !error.contains("secret"), "{error}");
}

#[test]
fn debug_output_does_not_show_the_proxies() {
    let config =
        parsed("[agent]\nhttps_proxy = \"http://user:secret@proxy\"\nhttp_proxy = \"http://u:secret@p\"");
    assert!(!format!("{config:?}").contains("secret"));
}

#[test]
fn state_and_data_may_not_lie_in_each_other() {
    for text in [
        "state_dir = \"/x\"\ndata_dir = \"/x\"",
        "state_dir = \"/x\"\ndata_dir = \"/x/y\"",
        "state_dir = \"/x/y/\"\ndata_dir = \"/x\"",
    ] {
        assert!(refused(text).contains("keys state_dir and data_dir"), "{text}");
    }
    parsed("state_dir = \"/xy\"\ndata_dir = \"/x\"");
}

#[test]
fn the_argument_goes_before_the_environment() {
    let file = |file: &str| Some(PathBuf::from(file));
    assert_eq!(named_file(Some(Path::new("/arg")), Some("/env".into())), file("/arg"));
    assert_eq!(named_file(Some(Path::new("/arg")), None), file("/arg"));
    assert_eq!(named_file(None, Some("/env".into())), file("/env"));
    assert_eq!(named_file(None, Some("".into())), None);
    assert_eq!(named_file(None, None), None);
}

#[test]
fn a_named_file_must_exist_and_its_name_be_absolute() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing.toml");
    let error = Config::load(Some(&missing)).unwrap_err();
    assert!(matches!(&error, ConfigError::Read { file, .. } if *file == missing), "{error}");
    let error = Config::load(Some(Path::new("config.toml"))).unwrap_err();
    assert!(matches!(error, ConfigError::RelativePath { .. }), "{error}");
}

#[test]
fn the_named_file_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    fs::write(&file, "sgx_mode = \"NONE\"").unwrap();
    let config = Config::load(Some(&file)).unwrap();
    assert_eq!((config.sgx_mode, config.file), (SgxMode::None, Some(file)));
}

#[test]
fn urls_and_names_are_written_as_they_are_read() {
    for url in ["tcp://127.0.0.1:0", "tcp://[::1]:7788", "unix:///run/agent.sock"] {
        assert_eq!(url.parse::<AgentUrl>().unwrap().to_string(), url);
    }
    for level in ["error", "warn", "info", "debug", "trace"] {
        assert_eq!(parsed(&format!("log_level = \"{level}\"")).log_level.as_str(), level);
    }
    for mode in ["HW", "SIM", "NONE"] {
        assert_eq!(parsed(&format!("sgx_mode = \"{mode}\"")).sgx_mode.as_str(), mode);
    }
}
