//! A child process whose output is collected line by line and which dies with the test.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

/// The longest that a test waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Output {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

pub struct Process {
    child: Child,
    output: Arc<Output>,
}

impl Process {
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let output = Arc::<Output>::default();
        collect(child.stdout.take().unwrap(), output.clone());
        collect(child.stderr.take().unwrap(), output.clone());
        Self { child, output }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn lines(&self) -> Vec<String> {
        self.output.lines.lock().unwrap().clone()
    }

    /// Waits until `wanted` holds for a line and returns the line.
    pub fn line(&self, wanted: impl Fn(&str) -> bool) -> String {
        let lines = self.output.lines.lock().unwrap();
        let none = |lines: &mut Vec<String>| !lines.iter().any(|line| wanted(line));
        let (lines, wait) = self.output.more.wait_timeout_while(lines, PATIENCE, none).unwrap();
        assert!(!wait.timed_out(), "no such line in {lines:#?}");
        lines.iter().find(|line| wanted(line)).unwrap().clone()
    }

    /// Waits until `count` lines contain `part`.
    pub fn wait_for(&self, part: &str, count: usize) {
        let lines = self.output.lines.lock().unwrap();
        let fewer = |lines: &mut Vec<String>| lines.iter().filter(|line| line.contains(part)).count() < count;
        let (lines, wait) = self.output.more.wait_timeout_while(lines, PATIENCE, fewer).unwrap();
        assert!(!wait.timed_out(), "not {count} times {part:?} in {lines:#?}");
    }

    pub fn terminate(&mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.wait()
    }

    pub fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "does not end: {:#?}", self.lines());
            std::thread::yield_now();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(stream: impl Read + Send + 'static, output: Arc<Output>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            output.lines.lock().unwrap().push(line);
            output.more.notify_all();
        }
    });
}
