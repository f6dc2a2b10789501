//! The program: command line, token, configuration, exit codes.

mod support;

use std::{fs, process::Command};

use support::{
    agent::{Agent, Settings, prepare, request},
    image::{Image, Packing},
    process::Process,
    scripted::{Scripted, registry_of},
};
use ttrpc::Code;

fn ends(command: &mut Command) -> (Option<i32>, String) {
    let mut process = Process::spawn(command);
    let code = process.wait().code();
    // The pipe is read to its end a moment after the process has ended.
    let last = process.line(|line| line.contains("ERROR") || line.contains("error"));
    (code, last)
}

#[tokio::test]
async fn a_call_without_the_token_is_refused() {
    let image = Image::of_files(&[("f", "content")], Packing::Gzip);
    let registry = Scripted::start(move |request| registry_of(&image, &request.path));
    let agent = Agent::insecure(&registry.address);
    for token in ["", "wrong", "a-token-of-this-po", "a-token-of-this-pod2"] {
        let mut call = request(&registry.reference("app:1"));
        call.token = token.into();
        let (code, message) = agent.call(call).await.unwrap_err();
        assert_eq!(code, Code::UNAUTHENTICATED, "{message}");
    }
    assert_eq!(registry.requests(""), 0, "the registry is not even asked");
    agent.pull(&registry.reference("app:1")).await.unwrap();
}

#[tokio::test]
async fn a_bad_request_is_an_invalid_argument() {
    let agent = Agent::insecure("unused.invalid");
    for image in ["", "UPPER/x", "a b", "app@sha256:12", "a\nb"] {
        let (code, message) = agent.pull(image).await.unwrap_err();
        assert_eq!(code, Code::INVALID_ARGUMENT, "{image}: {message}");
    }
    let mut call = request("app:1");
    call.source_creds = ":password".into();
    assert_eq!(agent.call(call).await.unwrap_err().0, Code::INVALID_ARGUMENT);
}

#[tokio::test]
async fn demanded_signature_validation_refuses_every_pull() {
    let image = Image::of_files(&[("f", "content")], Packing::Gzip);
    let registry = Scripted::start(move |request| registry_of(&image, &request.path));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("decrypt_config.conf");
    let start = |content: &str| {
        fs::write(&file, content).unwrap();
        let args = ["-c", file.to_str().unwrap(), "--insecure-registry", &registry.address];
        Agent::start(Settings { args: args.map(String::from).to_vec(), ..Settings::default() })
    };
    let strict = start(r#"{"key_provider":"provider:attestation-agent:cc_kbc::http://127.0.0.1:8080"}"#);
    let (code, message) = strict.pull(&registry.reference("app:1")).await.unwrap_err();
    assert_eq!(code, Code::PERMISSION_DENIED);
    assert!(message.contains("not available in this version"), "{message}");
    let lax = start(r#"{"security_validate":false}"#);
    lax.process.line(|line| line.contains("signatures are not verified"));
    lax.pull(&registry.reference("app:1")).await.unwrap();
}

#[test]
fn bad_settings_end_with_code_2_and_name_the_file() {
    let (dir, mut command) = prepare();
    fs::write(dir.path().join("token"), "\n").unwrap();
    let (code, last) = ends(command.args(["-l", "tcp://127.0.0.1:0"]));
    assert_eq!(code, Some(2));
    assert!(last.contains("token is empty"), "{last}");

    for flag in ["-c", "-o", "--ca-file", "--auth-file", "--seal-key-file"] {
        let (dir, mut command) = prepare();
        let file = dir.path().join("bad");
        fs::write(&file, "no").unwrap();
        if flag == "--seal-key-file" {
            command = Command::new(support::agent::program());
            command.args(["--mode", "none", "--images", "/nonexistent", "--token-file"]);
            command.arg(dir.path().join("token"));
        }
        let (code, last) = ends(command.args(["-l", "tcp://127.0.0.1:0", flag]).arg(&file));
        assert_eq!(code, Some(2), "{flag}: {last}");
        assert!(last.contains(file.to_str().unwrap()), "{flag}: {last}");
    }

    let (_dir, mut command) = prepare();
    assert_eq!(ends(command.args(["-l", "localhost:1"])).0, Some(2));
}

#[test]
fn an_address_in_use_ends_with_code_3() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let (_dir, mut command) = prepare();
    let (code, last) = ends(command.args(["-l", &format!("tcp://{address}")]));
    assert_eq!(code, Some(3));
    assert!(last.contains("cannot listen") && last.contains(&address.to_string()), "{last}");
}

#[tokio::test]
async fn a_unix_socket_works_and_a_stale_one_is_replaced() {
    let image = Image::of_files(&[("f", "content")], Packing::Gzip);
    let registry = Scripted::start(move |request| registry_of(&image, &request.path));
    let (dir, mut command) = prepare();
    let path = dir.path().join("agent.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let address = format!("unix://{}", path.display());
    let mut process =
        Process::spawn(command.args(["-l", &address, "--insecure-registry", &registry.address]));
    process.line(|line| line.contains("listening address="));
    let client = support::agent::connect(&address).await;
    let call = request(&registry.reference("app:1"));
    client.pull_image(support::agent::short_deadline(), &call).await.unwrap();
    assert!(process.terminate().success());
}

#[test]
fn what_a_killed_agent_left_is_swept_at_start() {
    let (dir, mut command) = prepare();
    let left = dir.path().join("images/.tmp-0123/layers");
    fs::create_dir_all(&left).unwrap();
    fs::create_dir(dir.path().join("images/kept")).unwrap();
    let process = Process::spawn(command.args(["-l", "tcp://127.0.0.1:0"]));
    process.line(|line| line.contains("listening address="));
    assert!(!left.exists() && dir.path().join("images/kept").exists());
    let limits = fs::read_to_string(format!("/proc/{}/limits", process.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
}
