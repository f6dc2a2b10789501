//! Statistics of cgroup v1, with the fields of containerd's `io.containerd.cgroups.v1.Metrics`.
//!
//! `network` and `cgroup_stats` of that message are not here: the Go shim leaves them empty as well.

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

pub use super::files::{Rdma, RdmaEntry};
