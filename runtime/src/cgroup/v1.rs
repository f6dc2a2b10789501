//! Statistics of cgroup v1, with the fields of containerd's `io.containerd.cgroups.v1.Metrics`.
//!
//! `network` and `cgroup_stats` of that message are not here: the Go shim leaves them empty as well.

use std::{collections::HashMap, fs, path::Path};

use super::{
    CgroupError,
    files::{keyed, number, page_sizes, parse_device, rdma, text, unexpected},
};

pub use super::files::{Rdma, RdmaEntry};

/// Everything that the mounted controllers tell.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metrics {
    /// Per page size.
    pub hugetlb: Vec<Hugetlb>,
    /// Controller `pids`.
    pub pids: Option<Pids>,
    /// Controllers `cpu` and `cpuacct`.
    pub cpu: Option<Cpu>,
    /// Controller `memory`.
    pub memory: Option<Memory>,
    /// Controller `blkio`.
    pub blkio: Option<Blkio>,
    /// Controller `rdma`.
    pub rdma: Option<Rdma>,
    /// `memory.oom_control`.
    pub memory_oom_control: Option<OomControl>,
}

/// `hugetlb.<pagesize>.*`, bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct Hugetlb {
    pub usage: u64,
    /// Highest usage so far.
    pub max: u64,
    pub failcnt: u64,
    /// As in the file's name, such as `2MB`.
    pub pagesize: String,
}

/// `pids.*`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pids {
    /// Tasks now.
    pub current: u64,
    /// Highest number allowed; 0 is no limit.
    pub limit: u64,
}

/// Processor time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cpu {
    /// From `cpuacct`.
    pub usage: CpuUsage,
    /// From `cpu.stat`.
    pub throttling: Throttling,
}

/// Nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct CpuUsage {
    pub total: u64,
    pub kernel: u64,
    pub user: u64,
    pub per_cpu: Vec<u64>,
}

/// Bandwidth control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct Throttling {
    pub periods: u64,
    pub throttled_periods: u64,
    /// Nanoseconds.
    pub throttled_time: u64,
}

/// `memory.stat` in bytes or events, and the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct Memory {
    pub cache: u64,
    pub rss: u64,
    pub rss_huge: u64,
    pub mapped_file: u64,
    pub dirty: u64,
    pub writeback: u64,
    pub pg_pg_in: u64,
    pub pg_pg_out: u64,
    pub pg_fault: u64,
    pub pg_maj_fault: u64,
    pub inactive_anon: u64,
    pub active_anon: u64,
    pub inactive_file: u64,
    pub active_file: u64,
    pub unevictable: u64,
    pub hierarchical_memory_limit: u64,
    pub hierarchical_swap_limit: u64,
    pub total_cache: u64,
    pub total_rss: u64,
    pub total_rss_huge: u64,
    pub total_mapped_file: u64,
    pub total_dirty: u64,
    pub total_writeback: u64,
    pub total_pg_pg_in: u64,
    pub total_pg_pg_out: u64,
    pub total_pg_fault: u64,
    pub total_pg_maj_fault: u64,
    pub total_inactive_anon: u64,
    pub total_active_anon: u64,
    pub total_inactive_file: u64,
    pub total_active_file: u64,
    pub total_unevictable: u64,
    pub usage: Option<MemoryEntry>,
    /// Memory and swap together.
    pub swap: Option<MemoryEntry>,
    pub kernel: Option<MemoryEntry>,
    pub kernel_tcp: Option<MemoryEntry>,
}

/// One of memory's counters, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct MemoryEntry {
    pub limit: u64,
    pub usage: u64,
    /// Highest usage so far.
    pub max: u64,
    pub failcnt: u64,
}

/// `memory.oom_control`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct OomControl {
    pub oom_kill_disable: u64,
    pub under_oom: u64,
    pub oom_kill: u64,
}

/// Block I/O, each list per device and operation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct Blkio {
    pub io_service_bytes_recursive: Vec<BlkioEntry>,
    pub io_serviced_recursive: Vec<BlkioEntry>,
    pub io_queued_recursive: Vec<BlkioEntry>,
    pub io_service_time_recursive: Vec<BlkioEntry>,
    pub io_wait_time_recursive: Vec<BlkioEntry>,
    pub io_merged_recursive: Vec<BlkioEntry>,
    pub io_time_recursive: Vec<BlkioEntry>,
    pub sectors_recursive: Vec<BlkioEntry>,
}

/// A number of a device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlkioEntry {
    /// `Read`, `Write`, `Sync`, …; empty where the kernel does not tell them apart.
    pub op: String,
    /// Path of the device, such as `/dev/sda`; empty when it has gone.
    pub device: String,
    /// Device number.
    pub major: u64,
    /// Device number.
    pub minor: u64,
    /// Bytes, requests or nanoseconds.
    pub value: u64,
}

/// Nanoseconds of a tick in `cpuacct.stat`: `USER_HZ` is 100 on every architecture that containers run on.
const TICK_NANOS: u64 = 10_000_000;

/// Names of block devices by number, from `/proc/diskstats`.
#[derive(Debug, Default)]
pub(super) struct Devices(HashMap<(u64, u64), String>);

impl Devices {
    pub(super) fn of_host() -> Self {
        // Without it entries have a number and no name.
        Self::parse(&fs::read_to_string("/proc/diskstats").unwrap_or_default())
    }

    pub(super) fn parse(diskstats: &str) -> Self {
        let device = |line: &str| {
            let mut fields = line.split_whitespace();
            let number = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            Some((number, format!("/dev/{}", fields.next()?)))
        };
        Self(diskstats.lines().filter_map(device).collect())
    }
}

/// Reads what the controllers say; `directory` leads from a controller's name to the cgroup in its hierarchy.
pub(super) fn read<'a>(
    directory: impl Fn(&str) -> Option<&'a Path>,
    devices: &Devices,
) -> Result<Metrics, CgroupError> {
    let at = |controller| directory(controller);
    Ok(Metrics {
        hugetlb: at("hugetlb").map(read_hugetlb).transpose()?.unwrap_or_default(),
        pids: at("pids").map(read_pids).transpose()?.flatten(),
        cpu: read_cpu(at("cpu"), at("cpuacct"))?,
        memory: at("memory").map(read_memory).transpose()?.flatten(),
        blkio: at("blkio").map(|path| read_blkio(path, devices)).transpose()?,
        rdma: at("rdma").map(rdma).transpose()?.flatten(),
        memory_oom_control: at("memory").map(read_oom_control).transpose()?.flatten(),
    })
}

fn read_hugetlb(directory: &Path) -> Result<Vec<Hugetlb>, CgroupError> {
    let sizes = page_sizes(directory, ".usage_in_bytes")?;
    let read = |pagesize: String| {
        let value = |what| Ok(number(directory, &format!("hugetlb.{pagesize}.{what}"))?.unwrap_or(0));
        Ok(Hugetlb {
            usage: value("usage_in_bytes")?,
            max: value("max_usage_in_bytes")?,
            failcnt: value("failcnt")?,
            pagesize,
        })
    };
    sizes.into_iter().map(read).collect()
}

fn read_pids(directory: &Path) -> Result<Option<Pids>, CgroupError> {
    let Some(current) = number(directory, "pids.current")? else { return Ok(None) };
    // containerd's clients know 0 as "no limit".
    let limit = number(directory, "pids.max")?.filter(|limit| *limit != u64::MAX).unwrap_or(0);
    Ok(Some(Pids { current, limit }))
}

fn read_cpu(cpu: Option<&Path>, cpuacct: Option<&Path>) -> Result<Option<Cpu>, CgroupError> {
    let throttling = cpu.map(|path| keyed(path, "cpu.stat")).transpose()?.flatten().map(|stat| Throttling {
        periods: stat.get("nr_periods"),
        throttled_periods: stat.get("nr_throttled"),
        throttled_time: stat.get("throttled_time"),
    });
    let usage = cpuacct.map(read_cpuacct).transpose()?.flatten();
    Ok((throttling.is_some() || usage.is_some())
        .then(|| Cpu { usage: usage.unwrap_or_default(), throttling: throttling.unwrap_or_default() }))
}

fn read_cpuacct(directory: &Path) -> Result<Option<CpuUsage>, CgroupError> {
    let Some(total) = number(directory, "cpuacct.usage")? else { return Ok(None) };
    let stat = keyed(directory, "cpuacct.stat")?.unwrap_or_default();
    let per_cpu = text(directory, "cpuacct.usage_percpu")?.unwrap_or_default();
    let per_cpu = per_cpu
        .split_whitespace()
        .map(|usage| usage.parse().map_err(|_| unexpected(directory, "cpuacct.usage_percpu", &per_cpu)));
    Ok(Some(CpuUsage {
        total,
        kernel: stat.get("system").saturating_mul(TICK_NANOS),
        user: stat.get("user").saturating_mul(TICK_NANOS),
        per_cpu: per_cpu.collect::<Result<_, _>>()?,
    }))
}

fn read_memory(directory: &Path) -> Result<Option<Memory>, CgroupError> {
    let Some(stat) = keyed(directory, "memory.stat")? else { return Ok(None) };
    Ok(Some(Memory {
        cache: stat.get("cache"),
        rss: stat.get("rss"),
        rss_huge: stat.get("rss_huge"),
        mapped_file: stat.get("mapped_file"),
        dirty: stat.get("dirty"),
        writeback: stat.get("writeback"),
        pg_pg_in: stat.get("pgpgin"),
        pg_pg_out: stat.get("pgpgout"),
        pg_fault: stat.get("pgfault"),
        pg_maj_fault: stat.get("pgmajfault"),
        inactive_anon: stat.get("inactive_anon"),
        active_anon: stat.get("active_anon"),
        inactive_file: stat.get("inactive_file"),
        active_file: stat.get("active_file"),
        unevictable: stat.get("unevictable"),
        hierarchical_memory_limit: stat.get("hierarchical_memory_limit"),
        hierarchical_swap_limit: stat.get("hierarchical_memsw_limit"),
        total_cache: stat.get("total_cache"),
        total_rss: stat.get("total_rss"),
        total_rss_huge: stat.get("total_rss_huge"),
        total_mapped_file: stat.get("total_mapped_file"),
        total_dirty: stat.get("total_dirty"),
        total_writeback: stat.get("total_writeback"),
        total_pg_pg_in: stat.get("total_pgpgin"),
        total_pg_pg_out: stat.get("total_pgpgout"),
        total_pg_fault: stat.get("total_pgfault"),
        total_pg_maj_fault: stat.get("total_pgmajfault"),
        total_inactive_anon: stat.get("total_inactive_anon"),
        total_active_anon: stat.get("total_active_anon"),
        total_inactive_file: stat.get("total_inactive_file"),
        total_active_file: stat.get("total_active_file"),
        total_unevictable: stat.get("total_unevictable"),
        usage: read_memory_entry(directory, "memory")?,
        swap: read_memory_entry(directory, "memory.memsw")?,
        kernel: read_memory_entry(directory, "memory.kmem")?,
        kernel_tcp: read_memory_entry(directory, "memory.kmem.tcp")?,
    }))
}

fn read_memory_entry(directory: &Path, name: &str) -> Result<Option<MemoryEntry>, CgroupError> {
    let value = |what| number(directory, &format!("{name}.{what}"));
    let Some(usage) = value("usage_in_bytes")? else { return Ok(None) };
    Ok(Some(MemoryEntry {
        limit: value("limit_in_bytes")?.unwrap_or(0),
        usage,
        max: value("max_usage_in_bytes")?.unwrap_or(0),
        failcnt: value("failcnt")?.unwrap_or(0),
    }))
}

fn read_oom_control(directory: &Path) -> Result<Option<OomControl>, CgroupError> {
    Ok(keyed(directory, "memory.oom_control")?.map(|control| OomControl {
        oom_kill_disable: control.get("oom_kill_disable"),
        under_oom: control.get("under_oom"),
        oom_kill: control.get("oom_kill"),
    }))
}

fn read_blkio(directory: &Path, devices: &Devices) -> Result<Blkio, CgroupError> {
    // The names of the CFQ scheduler, of its successor BFQ, and those that are there without either. All of them exist at
    // once; the one in use has entries.
    let first = |names: &[&str]| {
        for name in names {
            let entries = read_blkio_file(directory, &format!("blkio.{name}"), devices)?;
            if !entries.is_empty() {
                return Ok(entries);
            }
        }
        Ok(Vec::new())
    };
    Ok(Blkio {
        io_service_bytes_recursive: first(&[
            "io_service_bytes_recursive",
            "bfq.io_service_bytes_recursive",
            "throttle.io_service_bytes_recursive",
            "throttle.io_service_bytes",
        ])?,
        io_serviced_recursive: first(&[
            "io_serviced_recursive",
            "bfq.io_serviced_recursive",
            "throttle.io_serviced_recursive",
            "throttle.io_serviced",
        ])?,
        io_queued_recursive: first(&["io_queued_recursive", "bfq.io_queued_recursive"])?,
        io_service_time_recursive: first(&["io_service_time_recursive", "bfq.io_service_time_recursive"])?,
        io_wait_time_recursive: first(&["io_wait_time_recursive", "bfq.io_wait_time_recursive"])?,
        io_merged_recursive: first(&["io_merged_recursive", "bfq.io_merged_recursive"])?,
        io_time_recursive: first(&["time_recursive", "bfq.time_recursive"])?,
        sectors_recursive: first(&["sectors_recursive", "bfq.sectors_recursive"])?,
    })
}

fn read_blkio_file(directory: &Path, name: &str, devices: &Devices) -> Result<Vec<BlkioEntry>, CgroupError> {
    let entry = |line: &str| {
        let mut fields = line.split_whitespace();
        let (major, minor) = parse_device(fields.next()?)?;
        let (op, value) = match (fields.next()?, fields.next()) {
            (op, Some(value)) => (op, value),
            (value, None) => ("", value),
        };
        let device = devices.0.get(&(major, minor)).cloned().unwrap_or_default();
        Some(BlkioEntry { op: op.to_owned(), device, major, minor, value: value.parse().ok()? })
    };
    let text = text(directory, name)?.unwrap_or_default();
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with("Total"));
    lines.map(|line| entry(line).ok_or_else(|| unexpected(directory, name, line))).collect()
}
