//! On the hierarchies of this machine, which needs root.

use std::process::{Child, Command, Stdio};
use std::sync::MutexGuard;

use tokio::time::timeout;

use super::{locate::Directory, *};
use crate::process::tests::no_reaper;

/// A cgroup of version 1 below this process' own, in the hierarchies `memory` and `pids`.
struct Live {
    cgroup: Cgroup,
    /// No reaper takes the exits of this test's children.
    _no_reaper: MutexGuard<'static, ()>,
}

impl Live {
    fn new(name: &str) -> Self {
        let no_reaper = no_reaper();
        let own = Cgroup::of(Pid::new(i64::from(std::process::id())).unwrap()).unwrap();
        assert_eq!(own.hierarchy(), Hierarchy::V1, "this test is for version 1");
        let mut directories = own.directories;
        directories
            .retain(|directory| directory.controllers == ["memory"] || directory.controllers == ["pids"]);
        for directory in &mut directories {
            directory.path.push(format!("enclave-cc-test-{name}-{}", std::process::id()));
            directory.is_root = false;
            fs::create_dir(&directory.path).expect("these tests need root");
        }
        Self { cgroup: Cgroup { hierarchy: Hierarchy::V1, directories }, _no_reaper: no_reaper }
    }

    fn memory(&self) -> &Path {
        self.cgroup.controller("memory").unwrap()
    }

    /// A shell in the cgroup that runs `script`.
    fn run(&self, script: &str) -> Child {
        let enter: String = self
            .cgroup
            .directories
            .iter()
            .map(|d| format!("echo $$ > {}/cgroup.procs && ", d.path.display()))
            .collect();
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("{enter} {{ {script}; }}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        command.stderr(Stdio::null()).spawn().unwrap()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.cgroup.remove().unwrap();
    }
}

/// Machines have one version or the other; the rest of a test of the other one is void.
fn is_v1() -> bool {
    mounted().unwrap().iter().any(locate::Hierarchy::has_controllers)
}

async fn next(events: &mut OomEvents) -> Option<OomEvent> {
    timeout(Duration::from_secs(60), events.next()).await.expect("no event").unwrap()
}

#[test]
fn a_live_v1_cgroup_is_found_measured_and_removed() {
    if !is_v1() {
        return;
    }
    let live = Live::new("stats");
    fs::create_dir(live.memory().join("below")).unwrap();
    // It ends when its input does.
    let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let pid = Pid::new(i64::from(child.id())).unwrap();
    live.cgroup.add_process(pid).unwrap();
    assert_eq!(live.cgroup.procs().unwrap(), [pid]);

    let found = Cgroup::of(pid).unwrap();
    assert_eq!(found.controller("memory"), live.cgroup.controller("memory"));
    assert_eq!(found.controller("pids"), live.cgroup.controller("pids"));
    let path = Path::new("/").join(live.cgroup.controller("pids").unwrap().file_name().unwrap());
    if let Ok(at) = Cgroup::at(&path) {
        assert!(at.directories.iter().all(|directory| !directory.is_root));
    }
    let Stats::V1(stats) = found.stats().unwrap() else { panic!("not v1") };
    assert_eq!(stats.pids.unwrap().current, 1);
    assert!(stats.memory.unwrap().usage.is_some());
    assert!(stats.cpu.unwrap().usage.total > 0);

    assert!(matches!(live.cgroup.remove(), Err(CgroupError::Remove { .. })), "a process is in it");
    child.kill().unwrap();
    child.wait().unwrap();
    live.cgroup.remove().unwrap();
    assert!(!live.memory().exists());
    live.cgroup.remove().unwrap();
    assert_eq!(live.cgroup.procs().unwrap(), []);
    assert!(matches!(live.cgroup.add_process(pid), Err(CgroupError::Write { .. })));
}

#[tokio::test]
async fn a_live_v1_kill_is_reported_and_the_watch_ends_with_the_cgroup() {
    if !is_v1() {
        return;
    }
    let live = Live::new("oom");
    fs::write(live.memory().join("memory.limit_in_bytes"), (8 << 20).to_string()).unwrap();
    let mut events = live.cgroup.oom_events().unwrap();
    for _ in 0..2 {
        // Without a file behind it: reads /dev/zero for a last line that never ends.
        let mut child = live.run("tail /dev/zero");
        assert_eq!(next(&mut events).await, Some(OomEvent { kills: 1 }));
        child.wait().unwrap();
        assert_eq!(events.pending(), None);
    }
    // In a cgroup below, as a container's own cgroups are.
    let below = live.memory().join("below");
    fs::create_dir(&below).unwrap();
    let mut child = live.run(&format!("echo $$ > {}/cgroup.procs; exec tail /dev/zero", below.display()));
    child.wait().unwrap();
    assert_eq!(events.pending(), Some(OomEvent { kills: 1 }));
    live.cgroup.remove().unwrap();
    assert_eq!(next(&mut events).await, None);
}

#[test]
fn a_live_v2_cgroup_is_measured_and_removed() {
    let _no_reaper = no_reaper();
    let hierarchies = mounted().unwrap();
    let Some(unified) = hierarchies.iter().find(|hierarchy| hierarchy.controllers.is_empty()) else { return };
    let root = locate::at(std::slice::from_ref(unified), Path::new("/")).remove(0);
    assert!(root.is_root);
    let path = root.path.join(format!("enclave-cc-test-v2-{}", std::process::id()));
    fs::create_dir_all(path.join("below")).unwrap();
    let directories = vec![Directory { path: path.clone(), is_root: false, ..root }];
    let cgroup = Cgroup { hierarchy: Hierarchy::V2, directories };
    let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let pid = Pid::new(i64::from(child.id())).unwrap();
    cgroup.add_process(pid).unwrap();
    assert_eq!(cgroup.procs().unwrap(), [pid]);
    let Stats::V2(stats) = cgroup.stats().unwrap() else { panic!("not v2") };
    assert!(stats.cpu.is_some(), "{stats:?}");
    assert!(matches!(cgroup.remove(), Err(CgroupError::Remove { .. })), "a process is in it");
    child.kill().unwrap();
    child.wait().unwrap();
    cgroup.remove().unwrap();
    assert!(!path.exists());
}
