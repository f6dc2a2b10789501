//! Against recorded trees and plain files.

use super::{locate::Directory, *};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/cgroup")
}

fn recorded_v1() -> Cgroup {
    let directory = |controllers: &[&str], directory: &str| Directory {
        controllers: controllers.iter().map(ToString::to_string).collect(),
        path: data().join("v1").join(directory).join("pod/c1"),
        is_root: false,
    };
    let names = ["memory", "pids", "blkio", "hugetlb", "rdma", "cpu", "cpuacct"];
    Cgroup { hierarchy: Hierarchy::V1, directories: names.map(|name| directory(&[name], name)).to_vec() }
}

fn v2_at(path: PathBuf) -> Cgroup {
    Cgroup {
        hierarchy: Hierarchy::V2,
        directories: vec![Directory { controllers: vec![], path, is_root: false }],
    }
}

fn recorded_v2() -> Cgroup {
    v2_at(data().join("v2/kubepods.slice/c1.scope"))
}

fn numbers(pids: &[Pid]) -> Vec<i32> {
    pids.iter().map(|pid| pid.as_raw()).collect()
}

#[test]
fn v1_statistics_are_complete() {
    let Stats::V1(stats) = recorded_v1().stats().unwrap() else { panic!("not v1") };
    assert_eq!(stats.pids, Some(v1::Pids { current: 3, limit: 0 }));
    let cpu = stats.cpu.unwrap();
    assert_eq!(
        cpu.usage,
        v1::CpuUsage {
            total: 158_551_486,
            kernel: 30_000_000,
            user: 120_000_000,
            per_cpu: vec![104_337_044, 54_214_442]
        }
    );
    assert_eq!(
        cpu.throttling,
        v1::Throttling { periods: 120, throttled_periods: 7, throttled_time: 55_000_000 }
    );
    assert_eq!(
        stats.hugetlb,
        [v1::Hugetlb { usage: 2 << 20, max: 4 << 20, failcnt: 5, pagesize: "2MB".into() }]
    );
    let entry = |device: &str, hca_handles, hca_objects| v1::RdmaEntry {
        device: device.into(),
        hca_handles,
        hca_objects,
    };
    let rdma = stats.rdma.unwrap();
    assert_eq!(rdma.current, [entry("mlx4_0", 2, 2000), entry("ocrdma1", 3, 0)]);
    assert_eq!(rdma.limit[1], entry("ocrdma1", 3, u32::MAX));
    assert_eq!(
        stats.memory_oom_control,
        Some(v1::OomControl { oom_kill_disable: 0, under_oom: 0, oom_kill: 1 })
    );
}

#[test]
fn v1_memory_has_each_counter_in_its_place() {
    let Stats::V1(stats) = recorded_v1().stats().unwrap() else { panic!("not v1") };
    // The recorded counters are 100 + their line's number.
    let unlimited = 9_223_372_036_854_771_712;
    let entry = |limit, usage, max, failcnt| Some(v1::MemoryEntry { limit, usage, max, failcnt });
    assert_eq!(
        stats.memory.unwrap(),
        v1::Memory {
            cache: 101,
            rss: 102,
            rss_huge: 103,
            mapped_file: 105,
            dirty: 106,
            writeback: 107,
            pg_pg_in: 112,
            pg_pg_out: 113,
            pg_fault: 114,
            pg_maj_fault: 115,
            inactive_anon: 116,
            active_anon: 117,
            inactive_file: 118,
            active_file: 119,
            unevictable: 120,
            hierarchical_memory_limit: 8 << 20,
            hierarchical_swap_limit: unlimited,
            total_cache: 123,
            total_rss: 124,
            total_rss_huge: 125,
            total_mapped_file: 127,
            total_dirty: 128,
            total_writeback: 129,
            total_pg_pg_in: 134,
            total_pg_pg_out: 135,
            total_pg_fault: 136,
            total_pg_maj_fault: 137,
            total_inactive_anon: 138,
            total_active_anon: 139,
            total_inactive_file: 140,
            total_active_file: 141,
            total_unevictable: 142,
            usage: entry(8 << 20, 81920, 8 << 20, 37),
            swap: entry(unlimited, 81920, 8_650_752, 0),
            kernel: entry(unlimited, 8192, 90112, 0),
            kernel_tcp: entry(unlimited, 0, 0, 0),
        }
    );
}

#[test]
fn v1_block_io_comes_from_the_files_that_have_entries() {
    let read = |devices: &v1::Devices| v1::read(recorded, devices).unwrap().blkio.unwrap();
    fn recorded(name: &str) -> Option<&'static Path> {
        (name == "blkio")
            .then(|| Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/cgroup/v1/blkio/pod/c1")))
    }
    let devices = v1::Devices::parse("   8      16 sdb 1 2 3\n 254       0 vda 9 9\n");
    let blkio = read(&devices);
    assert_eq!(blkio.io_serviced_recursive.len(), 6);
    assert_eq!(
        blkio.io_serviced_recursive[1],
        v1::BlkioEntry { op: "Write".into(), device: "/dev/vda".into(), major: 254, minor: 0, value: 9 }
    );
    assert_eq!(blkio.io_service_bytes_recursive[0].value, 8 << 20);
    assert_eq!(
        blkio.sectors_recursive,
        [v1::BlkioEntry { op: String::new(), device: "/dev/sdb".into(), major: 8, minor: 16, value: 32768 }]
    );
    assert_eq!(read(&v1::Devices::default()).sectors_recursive[0].device, "");
}

#[test]
fn v2_statistics_are_complete() {
    let Stats::V2(stats) = recorded_v2().stats().unwrap() else { panic!("not v2") };
    let psi = |some: (f64, f64, f64, u64), full: (f64, f64, f64, u64)| {
        let data = |(avg10, avg60, avg300, total)| Some(v2::PsiData { avg10, avg60, avg300, total });
        Some(v2::Psi { some: data(some), full: data(full) })
    };
    assert_eq!(stats.pids, Some(v2::Pids { current: 4, limit: 100 }));
    assert_eq!(
        stats.cpu,
        Some(v2::Cpu {
            usage_usec: 158_551,
            user_usec: 120_000,
            system_usec: 38_551,
            nr_periods: 120,
            nr_throttled: 7,
            throttled_usec: 55_000,
            psi: psi((1.25, 0.5, 0.1, 123_456), (0.0, 0.0, 0.0, 789)),
            nr_bursts: 2,
            burst_usec: 300,
        })
    );
    assert_eq!(
        stats.memory,
        Some(v2::Memory {
            anon: 4_194_304,
            file: 2_097_152,
            kernel_stack: 16_384,
            slab: 397_312,
            sock: 4096,
            shmem: 8192,
            file_mapped: 1_048_576,
            file_dirty: 12_288,
            file_writeback: 20_480,
            anon_thp: 2_097_153,
            inactive_anon: 28_672,
            active_anon: 4_165_632,
            inactive_file: 1_048_577,
            active_file: 1_048_575,
            unevictable: 36_864,
            slab_reclaimable: 196_608,
            slab_unreclaimable: 200_704,
            pgfault: 1001,
            pgmajfault: 17,
            workingset_refault: 24,
            workingset_activate: 3,
            workingset_nodereclaim: 5,
            pgrefill: 73,
            pgscan: 71,
            pgsteal: 72,
            pgactivate: 74,
            pgdeactivate: 75,
            pglazyfree: 76,
            pglazyfreed: 77,
            thp_fault_alloc: 78,
            thp_collapse_alloc: 79,
            usage: 7_864_320,
            usage_limit: 8_388_608,
            swap_usage: 4096,
            swap_limit: u64::MAX,
            max_usage: 8_388_608,
            swap_max_usage: 8192,
            psi: psi((0.0, 0.0, 0.02, 4242), (0.0, 0.0, 0.01, 4200)),
        })
    );
    let io = stats.io.unwrap();
    assert_eq!(io.psi, psi((0.0, 0.0, 0.0, 99), (0.0, 0.0, 0.0, 98)));
    assert_eq!(
        io.usage[0],
        v2::IoEntry { major: 8, minor: 16, rbytes: 1_459_200, wbytes: 314_773_504, rios: 192, wios: 353 }
    );
    assert_eq!(io.usage.len(), 3);
    assert_eq!(
        stats.hugetlb,
        [v2::Hugetlb { current: 1 << 30, max: u64::MAX, pagesize: "1GB".into(), failcnt: 9 }]
    );
    assert_eq!(
        stats.memory_events,
        Some(v2::MemoryEvents { low: 0, high: 1, max: 77, oom: 2, oom_kill: 3, oom_group_kill: 1 })
    );
    let rdma = stats.rdma.unwrap();
    assert_eq!((rdma.current[0].hca_handles, rdma.limit[0].hca_handles), (2, u32::MAX));
}

#[test]
fn a_cgroup_without_controllers_has_empty_statistics() {
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path().to_owned(), dir.path().join("gone")] {
        assert_eq!(v2_at(path).stats().unwrap(), Stats::V2(Box::default()));
    }
    let none = Cgroup { hierarchy: Hierarchy::V1, directories: vec![] };
    assert_eq!(none.stats().unwrap(), Stats::V1(Box::default()));
}

#[test]
fn processes_are_those_of_the_cgroup_and_below() {
    assert_eq!(numbers(&recorded_v2().procs().unwrap()), [10, 20, 30]);
    assert_eq!(numbers(&recorded_v1().procs().unwrap()), [10, 20, 30]);
    assert_eq!(v2_at("/gone".into()).procs().unwrap(), []);
}

#[test]
fn a_hierarchys_root_is_never_removed() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("child")).unwrap();
    let mut cgroup = v2_at(dir.path().to_owned());
    cgroup.directories[0].is_root = true;
    cgroup.remove().unwrap();
    assert!(dir.path().join("child").exists());
}

#[test]
fn paths_that_leave_the_hierarchy_are_refused() {
    for path in ["..", "/a/../..", "/../x"] {
        assert!(matches!(Cgroup::at(Path::new(path)), Err(CgroupError::Outside { .. })), "{path}");
    }
    assert!(matches!(Cgroup::at(Path::new("/no/such/cgroup")), Err(CgroupError::NotFound { .. })));
}

#[test]
fn a_process_that_is_gone_is_named() {
    let gone = Pid::new(i64::from(i32::MAX)).unwrap();
    assert!(matches!(Cgroup::of(gone), Err(CgroupError::NoProcess { pid }) if pid == gone));
}

/// A version 2 cgroup of plain files.
fn v2_files(dir: &Path) -> Cgroup {
    write(dir, "memory.events", "low 0\noom 1\noom_kill 1\n");
    write(dir, "cgroup.events", "populated 1\nfrozen 0\n");
    v2_at(dir.to_owned())
}

fn write(dir: &Path, name: &str, text: &str) {
    // In place, as the kernel's files change; and in one write, so that no reader sees half of it.
    use std::os::unix::fs::FileExt;
    let file = fs::File::options().create(true).write(true).truncate(false).open(dir.join(name)).unwrap();
    file.write_all_at(text.as_bytes(), 0).unwrap();
}

#[tokio::test]
async fn v2_kills_are_reported_once_and_those_before_the_watch_never() {
    let dir = tempfile::tempdir().unwrap();
    let mut events = v2_files(dir.path()).oom_events().unwrap();
    assert_eq!(events.pending(), None);
    write(dir.path(), "memory.events", "low 9\noom 1\noom_kill 1\n");
    write(dir.path(), "memory.events", "low 9\noom 2\noom_kill 3\n");
    assert_eq!(events.next().await.unwrap(), Some(OomEvent { kills: 2 }));
    write(dir.path(), "memory.events", "low 9\noom 2\noom_kill 4\n");
    assert_eq!(events.pending(), Some(OomEvent { kills: 1 }));
    assert_eq!(events.pending(), None);
    write(dir.path(), "cgroup.events", "populated 0\n");
    assert_eq!(events.next().await.unwrap(), None);
}

#[tokio::test]
async fn v2_watch_reports_the_last_kill_before_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let mut events = v2_files(dir.path()).oom_events().unwrap();
    write(dir.path(), "memory.events", "low 0\noom 2\noom_kill 2\n");
    write(dir.path(), "cgroup.events", "populated 0\n");
    assert_eq!(events.next().await.unwrap(), Some(OomEvent { kills: 1 }));
    write(dir.path(), "cgroup.events", "populated 0\n");
    assert_eq!(events.next().await.unwrap(), None);
}

#[tokio::test]
async fn v2_watch_ends_with_the_cgroup() {
    let dir = tempfile::tempdir().unwrap();
    let mut events = v2_files(dir.path()).oom_events().unwrap();
    fs::remove_dir_all(dir.path()).unwrap();
    assert_eq!(events.next().await.unwrap(), None);
    assert!(matches!(v2_at(dir.path().to_owned()).oom_events(), Err(CgroupError::NotFound { .. })));
}
