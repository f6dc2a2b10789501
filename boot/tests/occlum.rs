//! Occlum's init programs at the boundary of the system calls: the real binaries are traced, and what only Occlum has is
//! answered in its place. Needs root.
#![allow(missing_docs, clippy::unwrap_used)]
#![cfg(target_arch = "x86_64")]

use std::{
    fs::File,
    io::{Read, Write},
    os::unix::{fs::FileExt, process::ExitStatusExt},
    process::{Child, Command, ExitStatus, Stdio},
};

use nix::{
    sys::{
        ptrace::{self, Options},
        wait::{WaitStatus, waitpid},
    },
    unistd::Pid,
};

const KEY: &str = "00-11-22-33-44-55-66-77-88-99-aa-bb-cc-dd-ee-ff\n";

/// What a program asked of the kernel, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
enum Call {
    Mount { source: String, target: String, fs_type: String, flags: u64, data: String },
    Open(String),
    Unmount { target: String, flags: u64 },
    MountRoot { key: Option<Vec<u8>>, config: Option<Config> },
}

/// The 56 bytes of Occlum's `user_rootfs_config`, with its pointers followed.
#[derive(Debug, PartialEq, Eq)]
struct Config {
    len: u64,
    upper_layer_path: Option<String>,
    lower_layer_path: Option<String>,
    entry_point: Option<String>,
    hostfs_source: Option<String>,
    hostfs_target: Option<String>,
    envp: Vec<String>,
}

/// Who answers system call 363.
#[derive(Clone, Copy)]
enum Answer {
    /// The tracer, as Occlum does.
    Occlum,
    /// This kernel, which has no such call.
    Kernel,
}

struct Traced {
    status: ExitStatus,
    stderr: String,
    calls: Vec<Call>,
}

/// Runs a program with `key` at /tmp/key.txt, in a mount namespace of its own.
fn trace(program: &str, key: &str, answer: Answer) -> Traced {
    let script = r#"
        set -e
        mount -t tmpfs program /mnt
        cp "$PROGRAM" /mnt/init
        mount -t tmpfs keys /tmp
        printf %s "$KEY" > /tmp/key.txt
        echo ready
        read go
        exec /mnt/init"#;
    let mut child = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .env("PROGRAM", program)
        .env("KEY", key)
        // cargo's; the loader would look for libraries there.
        .env_remove("LD_LIBRARY_PATH")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    let pid = Pid::from_raw(child.id().cast_signed());
    let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACEEXEC | Options::PTRACE_O_EXITKILL;
    ptrace::seize(pid, options).unwrap();
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    let (status, calls) = follow(pid, answer);
    Traced { status, stderr: stderr(child), calls }
}

fn stderr(mut child: Child) -> String {
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    text
}

fn follow(pid: Pid, answer: Answer) -> (ExitStatus, Vec<Call>) {
    let mut calls = Vec::new();
    let mut executed = false;
    let mut inside = false;
    let mut faked = false;
    loop {
        match waitpid(pid, None).unwrap() {
            WaitStatus::Exited(_, code) => return (ExitStatus::from_raw(code << 8), calls),
            WaitStatus::PtraceEvent(..) => {
                executed = true;
                // The next stop is the exit of execve.
                inside = true;
                ptrace::syscall(pid, None).unwrap();
            }
            WaitStatus::PtraceSyscall(_) => {
                let mut regs = ptrace::getregs(pid).unwrap();
                if inside {
                    if faked {
                        regs.rax = 0;
                        ptrace::setregs(pid, regs).unwrap();
                        faked = false;
                    }
                } else if let Some(call) = read_call(pid, &regs) {
                    faked = match call {
                        Call::Mount { .. } | Call::Unmount { .. } => true,
                        Call::MountRoot { .. } => matches!(answer, Answer::Occlum),
                        Call::Open(_) => false,
                    };
                    if faked {
                        // No such call: the kernel does nothing.
                        regs.orig_rax = u64::MAX;
                        ptrace::setregs(pid, regs).unwrap();
                    }
                    calls.push(call);
                }
                inside = !inside;
                ptrace::syscall(pid, None).unwrap();
            }
            WaitStatus::Stopped(_, signal) if executed => ptrace::syscall(pid, signal).unwrap(),
            WaitStatus::Stopped(_, signal) => ptrace::cont(pid, signal).unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

fn read_call(pid: Pid, regs: &nix::libc::user_regs_struct) -> Option<Call> {
    let memory = Memory(File::open(format!("/proc/{pid}/mem")).unwrap());
    let text = |address| memory.text(address).unwrap_or_default();
    match regs.orig_rax {
        165 => Some(Call::Mount {
            source: text(regs.rdi),
            target: text(regs.rsi),
            fs_type: text(regs.rdx),
            flags: regs.r10,
            data: text(regs.r8),
        }),
        166 => Some(Call::Unmount { target: text(regs.rdi), flags: regs.rsi }),
        257 => Some(text(regs.rsi)).filter(|path| path.starts_with("/tmp")).map(Call::Open),
        363 => Some(Call::MountRoot {
            key: (regs.rdi != 0).then(|| memory.bytes::<16>(regs.rdi).to_vec()),
            config: (regs.rsi != 0).then(|| memory.config(regs.rsi)),
        }),
        _ => None,
    }
}

struct Memory(File);

impl Memory {
    fn bytes<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.read_exact_at(&mut bytes, address).unwrap();
        bytes
    }

    fn number(&self, address: u64) -> u64 {
        u64::from_ne_bytes(self.bytes(address))
    }

    fn text(&self, address: u64) -> Option<String> {
        if address == 0 {
            return None;
        }
        let text = (address..).map(|at| self.bytes::<1>(at)[0]).take_while(|&byte| byte != 0).collect();
        Some(String::from_utf8(text).unwrap())
    }

    fn config(&self, address: u64) -> Config {
        let field = |index: u64| self.number(address + 8 * index);
        let envp = field(6);
        Config {
            len: field(0),
            upper_layer_path: self.text(field(1)),
            lower_layer_path: self.text(field(2)),
            entry_point: self.text(field(3)),
            hostfs_source: self.text(field(4)),
            hostfs_target: self.text(field(5)),
            envp: (0..).map_while(|index| self.text(self.number(envp + 8 * index))).collect(),
        }
    }
}

const BOOT_INIT: &str = env!("CARGO_BIN_EXE_enclave-boot-init");
const AGENT_INIT: &str = env!("CARGO_BIN_EXE_enclave-agent-init");

fn key_calls() -> Vec<Call> {
    vec![
        Call::Mount {
            source: "sefs".to_owned(),
            target: "/tmp".to_owned(),
            fs_type: "sefs".to_owned(),
            flags: 0,
            data: "dir=/keys/sefs/lower".to_owned(),
        },
        Call::Open("/tmp/key.txt".to_owned()),
        Call::Unmount { target: "/tmp".to_owned(), flags: 0 },
    ]
}

#[test]
fn the_app_s_init_unseals_the_key_and_mounts_the_image() {
    let traced = trace(BOOT_INIT, KEY, Answer::Occlum);
    let mut expected = key_calls();
    expected.push(Call::MountRoot {
        key: Some((0..16).map(|byte| byte * 0x11).collect()),
        config: Some(Config {
            len: 56,
            upper_layer_path: Some("/sefs/upper".to_owned()),
            lower_layer_path: Some("/sefs/lower".to_owned()),
            entry_point: Some("/".to_owned()),
            hostfs_source: Some("/tmp".to_owned()),
            hostfs_target: None,
            envp: vec![],
        }),
    });
    assert_eq!(traced.calls, expected);
    assert_eq!((traced.status.code(), traced.stderr.as_str()), (Some(0), ""));
}

#[test]
fn the_agent_s_init_mounts_what_its_instance_names() {
    let traced = trace(AGENT_INIT, KEY, Answer::Occlum);
    assert_eq!(traced.calls, [Call::MountRoot { key: None, config: None }]);
    assert_eq!((traced.status.code(), traced.stderr.as_str()), (Some(0), ""));
}

#[test]
fn outside_of_occlum_both_fail_and_say_so() {
    for program in [BOOT_INIT, AGENT_INIT] {
        let traced = trace(program, KEY, Answer::Kernel);
        assert_eq!(traced.status.code(), Some(1));
        assert!(
            traced.stderr.contains("system call 363") && traced.stderr.contains("not implemented"),
            "{}",
            traced.stderr
        );
        assert_eq!(traced.stderr.lines().count(), 1);
    }
}

#[test]
fn a_bad_key_mounts_nothing_and_is_not_left_mounted() {
    let traced = trace(BOOT_INIT, "00-11-22", Answer::Occlum);
    assert_eq!(traced.calls, key_calls());
    assert_eq!(traced.status.code(), Some(1));
    assert!(!traced.stderr.contains("00-11"), "the key is in {}", traced.stderr);
}
