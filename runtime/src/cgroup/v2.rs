//! Statistics of cgroup v2, with the fields of containerd's `io.containerd.cgroups.v2.Metrics`.
//!
//! `network` of that message is not here: the Go shim leaves it empty as well. A limit of `max` is `u64::MAX`.

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

pub use super::files::{Rdma, RdmaEntry};
