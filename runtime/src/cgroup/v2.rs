//! Statistics of cgroup v2, with the fields of containerd's `io.containerd.cgroups.v2.Metrics`.
//!
//! `network` of that message is not here: the Go shim leaves it empty as well. A limit of `max` is `u64::MAX`.

use std::path::Path;

use super::{
    CgroupError,
    files::{keyed, number, page_sizes, parse_device, rdma, text, unexpected},
};

pub use super::files::{Rdma, RdmaEntry};

/// Everything that the enabled controllers tell.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metrics {
    /// Controller `pids`.
    pub pids: Option<Pids>,
    /// `cpu.stat`, there without the controller as well.
    pub cpu: Option<Cpu>,
    /// Controller `memory`.
    pub memory: Option<Memory>,
    /// Controller `rdma`.
    pub rdma: Option<Rdma>,
    /// Controller `io`.
    pub io: Option<Io>,
    /// Per page size.
    pub hugetlb: Vec<Hugetlb>,
    /// `memory.events`
    pub memory_events: Option<MemoryEvents>,
}

/// One line of a `*.pressure` file.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[allow(missing_docs)]
pub struct PsiData {
    /// Percent.
    pub avg10: f64,
    /// Percent.
    pub avg60: f64,
    /// Percent.
    pub avg300: f64,
    /// Microseconds.
    pub total: u64,
}

/// A `*.pressure` file.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Psi {
    /// Some task was stalled.
    pub some: Option<PsiData>,
    /// All tasks were stalled.
    pub full: Option<PsiData>,
}

/// `pids.*`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pids {
    /// Tasks now.
    pub current: u64,
    /// Highest number allowed.
    pub limit: u64,
}

/// `cpu.stat`, microseconds, and `cpu.pressure`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[allow(missing_docs)]
pub struct Cpu {
    pub usage_usec: u64,
    pub user_usec: u64,
    pub system_usec: u64,
    pub nr_periods: u64,
    pub nr_throttled: u64,
    pub throttled_usec: u64,
    pub psi: Option<Psi>,
    pub nr_bursts: u64,
    pub burst_usec: u64,
}

/// `memory.stat` in bytes or events, the counters, and `memory.pressure`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[allow(missing_docs)]
pub struct Memory {
    pub anon: u64,
    pub file: u64,
    pub kernel_stack: u64,
    pub slab: u64,
    pub sock: u64,
    pub shmem: u64,
    pub file_mapped: u64,
    pub file_dirty: u64,
    pub file_writeback: u64,
    pub anon_thp: u64,
    pub inactive_anon: u64,
    pub active_anon: u64,
    pub inactive_file: u64,
    pub active_file: u64,
    pub unevictable: u64,
    pub slab_reclaimable: u64,
    pub slab_unreclaimable: u64,
    pub pgfault: u64,
    pub pgmajfault: u64,
    pub workingset_refault: u64,
    pub workingset_activate: u64,
    pub workingset_nodereclaim: u64,
    pub pgrefill: u64,
    pub pgscan: u64,
    pub pgsteal: u64,
    pub pgactivate: u64,
    pub pgdeactivate: u64,
    pub pglazyfree: u64,
    pub pglazyfreed: u64,
    pub thp_fault_alloc: u64,
    pub thp_collapse_alloc: u64,
    pub usage: u64,
    pub usage_limit: u64,
    pub swap_usage: u64,
    pub swap_limit: u64,
    /// Highest usage so far.
    pub max_usage: u64,
    /// Highest swap usage so far.
    pub swap_max_usage: u64,
    pub psi: Option<Psi>,
}

/// `memory.events`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct MemoryEvents {
    pub low: u64,
    pub high: u64,
    pub max: u64,
    pub oom: u64,
    pub oom_kill: u64,
    pub oom_group_kill: u64,
}

/// `io.stat` and `io.pressure`.
#[derive(Debug, Clone, PartialEq, Default)]
#[allow(missing_docs)]
pub struct Io {
    pub usage: Vec<IoEntry>,
    pub psi: Option<Psi>,
}

/// A device's line of `io.stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct IoEntry {
    pub major: u64,
    pub minor: u64,
    pub rbytes: u64,
    pub wbytes: u64,
    pub rios: u64,
    pub wios: u64,
}

/// `hugetlb.<pagesize>.*`, bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct Hugetlb {
    pub current: u64,
    pub max: u64,
    /// As in the file's name, such as `2MB`.
    pub pagesize: String,
    pub failcnt: u64,
}

pub(super) fn read(directory: &Path) -> Result<Metrics, CgroupError> {
    Ok(Metrics {
        pids: read_pids(directory)?,
        cpu: read_cpu(directory)?,
        memory: read_memory(directory)?,
        rdma: rdma(directory)?,
        io: read_io(directory)?,
        hugetlb: read_hugetlb(directory)?,
        memory_events: read_memory_events(directory)?,
    })
}

fn read_pids(directory: &Path) -> Result<Option<Pids>, CgroupError> {
    let Some(current) = number(directory, "pids.current")? else { return Ok(None) };
    Ok(Some(Pids { current, limit: number(directory, "pids.max")?.unwrap_or(u64::MAX) }))
}

fn read_cpu(directory: &Path) -> Result<Option<Cpu>, CgroupError> {
    let Some(stat) = keyed(directory, "cpu.stat")? else { return Ok(None) };
    let value = |key| stat.get(key);
    Ok(Some(Cpu {
        usage_usec: value("usage_usec"),
        user_usec: value("user_usec"),
        system_usec: value("system_usec"),
        nr_periods: value("nr_periods"),
        nr_throttled: value("nr_throttled"),
        throttled_usec: value("throttled_usec"),
        psi: read_psi(directory, "cpu.pressure")?,
        nr_bursts: value("nr_bursts"),
        burst_usec: value("burst_usec"),
    }))
}

fn read_memory(directory: &Path) -> Result<Option<Memory>, CgroupError> {
    let Some(stat) = keyed(directory, "memory.stat")? else { return Ok(None) };
    let value = |name| Ok(number(directory, name)?.unwrap_or(0));
    // Since 5.9 these are counted separately for anonymous and file pages.
    let both = |key: &str| {
        let parts = stat.get(&format!("{key}_anon")).saturating_add(stat.get(&format!("{key}_file")));
        stat.find(key).unwrap_or(parts)
    };
    Ok(Some(Memory {
        anon: stat.get("anon"),
        file: stat.get("file"),
        kernel_stack: stat.get("kernel_stack"),
        slab: stat.get("slab"),
        sock: stat.get("sock"),
        shmem: stat.get("shmem"),
        file_mapped: stat.get("file_mapped"),
        file_dirty: stat.get("file_dirty"),
        file_writeback: stat.get("file_writeback"),
        anon_thp: stat.get("anon_thp"),
        inactive_anon: stat.get("inactive_anon"),
        active_anon: stat.get("active_anon"),
        inactive_file: stat.get("inactive_file"),
        active_file: stat.get("active_file"),
        unevictable: stat.get("unevictable"),
        slab_reclaimable: stat.get("slab_reclaimable"),
        slab_unreclaimable: stat.get("slab_unreclaimable"),
        pgfault: stat.get("pgfault"),
        pgmajfault: stat.get("pgmajfault"),
        workingset_refault: both("workingset_refault"),
        workingset_activate: both("workingset_activate"),
        workingset_nodereclaim: stat.get("workingset_nodereclaim"),
        pgrefill: stat.get("pgrefill"),
        pgscan: stat.get("pgscan"),
        pgsteal: stat.get("pgsteal"),
        pgactivate: stat.get("pgactivate"),
        pgdeactivate: stat.get("pgdeactivate"),
        pglazyfree: stat.get("pglazyfree"),
        pglazyfreed: stat.get("pglazyfreed"),
        thp_fault_alloc: stat.get("thp_fault_alloc"),
        thp_collapse_alloc: stat.get("thp_collapse_alloc"),
        usage: value("memory.current")?,
        usage_limit: value("memory.max")?,
        swap_usage: value("memory.swap.current")?,
        swap_limit: value("memory.swap.max")?,
        max_usage: value("memory.peak")?,
        swap_max_usage: value("memory.swap.peak")?,
        psi: read_psi(directory, "memory.pressure")?,
    }))
}

fn read_memory_events(directory: &Path) -> Result<Option<MemoryEvents>, CgroupError> {
    Ok(keyed(directory, "memory.events")?.map(|events| MemoryEvents {
        low: events.get("low"),
        high: events.get("high"),
        max: events.get("max"),
        oom: events.get("oom"),
        oom_kill: events.get("oom_kill"),
        oom_group_kill: events.get("oom_group_kill"),
    }))
}

fn read_io(directory: &Path) -> Result<Option<Io>, CgroupError> {
    let Some(text) = text(directory, "io.stat")? else { return Ok(None) };
    let entry = |line: &str| {
        let mut fields = line.split_whitespace();
        let (major, minor) = parse_device(fields.next()?)?;
        let mut entry = IoEntry { major, minor, ..IoEntry::default() };
        for field in fields {
            let (key, value) = field.split_once('=')?;
            let target = match key {
                "rbytes" => &mut entry.rbytes,
                "wbytes" => &mut entry.wbytes,
                "rios" => &mut entry.rios,
                "wios" => &mut entry.wios,
                _ => continue,
            };
            *target = value.parse().ok()?;
        }
        Some(entry)
    };
    let usage = text.lines().map(|line| entry(line).ok_or_else(|| unexpected(directory, "io.stat", line)));
    Ok(Some(Io { usage: usage.collect::<Result<_, _>>()?, psi: read_psi(directory, "io.pressure")? }))
}

fn read_hugetlb(directory: &Path) -> Result<Vec<Hugetlb>, CgroupError> {
    let read = |pagesize: String| {
        let value = |what| number(directory, &format!("hugetlb.{pagesize}.{what}"));
        let events = keyed(directory, &format!("hugetlb.{pagesize}.events"))?.unwrap_or_default();
        let (current, max) = (value("current")?.unwrap_or(0), value("max")?.unwrap_or(u64::MAX));
        Ok(Hugetlb { current, max, pagesize, failcnt: events.get("max") })
    };
    page_sizes(directory, ".current")?.into_iter().map(read).collect()
}

fn read_psi(directory: &Path, name: &str) -> Result<Option<Psi>, CgroupError> {
    let Some(text) = text(directory, name)? else { return Ok(None) };
    let mut psi = Psi::default();
    for line in text.lines() {
        let parsed = parse_psi(line).ok_or_else(|| unexpected(directory, name, line))?;
        match parsed {
            ("some", data) => psi.some = Some(data),
            ("full", data) => psi.full = Some(data),
            _ => {}
        }
    }
    Ok(Some(psi))
}

fn parse_psi(line: &str) -> Option<(&str, PsiData)> {
    let (kind, fields) = line.split_once(' ')?;
    let mut data = PsiData::default();
    for field in fields.split_whitespace() {
        match field.split_once('=')? {
            ("avg10", value) => data.avg10 = value.parse().ok()?,
            ("avg60", value) => data.avg60 = value.parse().ok()?,
            ("avg300", value) => data.avg300 = value.parse().ok()?,
            ("total", value) => data.total = value.parse().ok()?,
            _ => {}
        }
    }
    Some((kind, data))
}
