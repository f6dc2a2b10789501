//! Statistics of a cgroup in the messages that containerd expects.

use containerd_shim_protos::{
    cgroups::metrics as one,
    cgroups_v2::metrics as two,
    protobuf::{MessageField, MessageFull, well_known_types::any::Any},
};
use runtime::cgroup::{Stats, v1, v2};

use super::Error;

/// A message with the fields that have the same name in a struct of `runtime`, and the given ones.
macro_rules! message {
    ($message:ty, $from:expr, { $($same:ident),* $(,)? } $(, $field:ident: $value:expr)* $(,)?) => {{
        #[allow(unused_variables)]
        let from = &$from;
        <$message>::from_parts(|message| {
            $(message.$same = from.$same.clone();)*
            $(message.$field = $value;)*
        })
    }};
}

/// Builds a message in place: protobuf's structs cannot be written as literals without their private parts.
trait FromParts: Default {
    fn from_parts(fill: impl FnOnce(&mut Self)) -> Self {
        let mut message = Self::default();
        fill(&mut message);
        message
    }
}

impl<M: MessageFull + Default> FromParts for M {}

/// The statistics as containerd takes them, of either version of cgroups.
///
/// # Errors
/// The message cannot be encoded.
pub fn encode(stats: &Stats) -> Result<Any, Error> {
    match stats {
        Stats::V1(metrics) => pack(&version_1(metrics)),
        Stats::V2(metrics) => pack(&version_2(metrics)),
    }
}

fn pack<M: MessageFull>(message: &M) -> Result<Any, Error> {
    let value = message.write_to_bytes().map_err(|e| Error::invalid("stats", e))?;
    // containerd looks types up by their bare name.
    Ok(Any { type_url: M::descriptor().full_name().to_owned(), value, ..Default::default() })
}

fn field<T, M>(value: Option<T>, message: impl FnOnce(T) -> M) -> MessageField<M> {
    value.map(message).into()
}

fn version_1(metrics: &v1::Metrics) -> one::Metrics {
    let rdma = |entry: &v1::RdmaEntry| message!(one::RdmaEntry, entry, { device, hca_handles, hca_objects });
    message!(one::Metrics, metrics, {},
        hugetlb: metrics.hugetlb.iter().map(|h| message!(one::HugetlbStat, h, { usage, max, failcnt, pagesize })).collect(),
        pids: field(metrics.pids, |p| message!(one::PidsStat, p, { current, limit })),
        cpu: field(metrics.cpu.as_ref(), |cpu| message!(one::CPUStat, cpu, {},
            usage: MessageField::some(message!(one::CPUUsage, cpu.usage, { total, kernel, user, per_cpu })),
            throttling: MessageField::some(message!(one::Throttle, cpu.throttling, { periods, throttled_periods, throttled_time })),
        )),
        memory: field(metrics.memory, |memory| memory_1(&memory)),
        blkio: field(metrics.blkio.as_ref(), blkio_1),
        rdma: field(metrics.rdma.as_ref(), |r| message!(one::RdmaStat, r, {},
            current: r.current.iter().map(rdma).collect(),
            limit: r.limit.iter().map(rdma).collect(),
        )),
        memory_oom_control: field(metrics.memory_oom_control, |o| {
            message!(one::MemoryOomControl, o, { oom_kill_disable, under_oom, oom_kill })
        }),
    )
}

fn memory_1(memory: &v1::Memory) -> one::MemoryStat {
    let entry = |entry: v1::MemoryEntry| message!(one::MemoryEntry, entry, { limit, usage, max, failcnt });
    message!(one::MemoryStat, memory, { cache, rss, rss_huge, mapped_file, dirty, writeback, pg_pg_in, pg_pg_out, pg_fault, pg_maj_fault, inactive_anon, active_anon, inactive_file, active_file, unevictable, hierarchical_memory_limit, hierarchical_swap_limit, total_cache, total_rss, total_rss_huge, total_mapped_file, total_dirty, total_writeback, total_pg_pg_in, total_pg_pg_out, total_pg_fault, total_pg_maj_fault, total_inactive_anon, total_active_anon, total_inactive_file, total_active_file, total_unevictable },
        usage: field(memory.usage, entry),
        swap: field(memory.swap, entry),
        kernel: field(memory.kernel, entry),
        kernel_tcp: field(memory.kernel_tcp, entry),
    )
}

fn blkio_1(blkio: &v1::Blkio) -> one::BlkIOStat {
    let entries = |entries: &[v1::BlkioEntry]| {
        entries.iter().map(|e| message!(one::BlkIOEntry, e, { op, device, major, minor, value })).collect()
    };
    message!(one::BlkIOStat, blkio, {},
        io_service_bytes_recursive: entries(&blkio.io_service_bytes_recursive),
        io_serviced_recursive: entries(&blkio.io_serviced_recursive),
        io_queued_recursive: entries(&blkio.io_queued_recursive),
        io_service_time_recursive: entries(&blkio.io_service_time_recursive),
        io_wait_time_recursive: entries(&blkio.io_wait_time_recursive),
        io_merged_recursive: entries(&blkio.io_merged_recursive),
        io_time_recursive: entries(&blkio.io_time_recursive),
        sectors_recursive: entries(&blkio.sectors_recursive),
    )
}

fn version_2(metrics: &v2::Metrics) -> two::Metrics {
    let rdma = |entry: &v2::RdmaEntry| message!(two::RdmaEntry, entry, { device, hca_handles, hca_objects });
    message!(two::Metrics, metrics, {},
        pids: field(metrics.pids, |p| message!(two::PidsStat, p, { current, limit })),
        cpu: field(metrics.cpu, |cpu| message!(two::CPUStat, cpu, { usage_usec, user_usec, system_usec, nr_periods, nr_throttled, throttled_usec, nr_bursts, burst_usec }, psi: field(cpu.psi, psi))),
        memory: field(metrics.memory, |memory| memory_2(&memory)),
        rdma: field(metrics.rdma.as_ref(), |r| message!(two::RdmaStat, r, {},
            current: r.current.iter().map(rdma).collect(),
            limit: r.limit.iter().map(rdma).collect(),
        )),
        io: field(metrics.io.as_ref(), |io| message!(two::IOStat, io, {},
            usage: io.usage.iter().map(|e| message!(two::IOEntry, e, { major, minor, rbytes, wbytes, rios, wios })).collect(),
            psi: field(io.psi, psi),
        )),
        hugetlb: metrics.hugetlb.iter().map(|h| message!(two::HugeTlbStat, h, { current, max, pagesize, failcnt })).collect(),
        memory_events: field(metrics.memory_events, |e| message!(two::MemoryEvents, e, { low, high, max, oom, oom_kill, oom_group_kill })),
    )
}

fn memory_2(memory: &v2::Memory) -> two::MemoryStat {
    message!(two::MemoryStat, memory, {
        anon, file, kernel_stack, slab, sock, shmem, file_mapped, file_dirty, file_writeback, anon_thp,
        inactive_anon, active_anon, inactive_file, active_file, unevictable, slab_reclaimable,
        slab_unreclaimable, pgfault, pgmajfault, workingset_refault, workingset_activate,
        workingset_nodereclaim, pgrefill, pgscan, pgsteal, pgactivate, pgdeactivate, pglazyfree,
        pglazyfreed, thp_fault_alloc, thp_collapse_alloc, usage, usage_limit, swap_usage, swap_limit,
        max_usage, swap_max_usage,
    }, psi: field(memory.psi, psi))
}

fn psi(psi: v2::Psi) -> two::PSIStats {
    let data = |data: v2::PsiData| message!(two::PSIData, data, { avg10, avg60, avg300, total });
    message!(two::PSIStats, psi, {}, some: field(psi.some, data), full: field(psi.full, data))
}

#[cfg(test)]
mod tests {
    use containerd_shim_protos::protobuf::Message;

    use super::*;

    #[test]
    fn both_versions_are_packed_under_the_names_that_containerd_knows() {
        let cpu = v1::Cpu { usage: v1::CpuUsage { total: 7, ..Default::default() }, ..Default::default() };
        let usage = v1::MemoryEntry { limit: 9, usage: 5, ..Default::default() };
        let memory = v1::Memory { rss: 3, usage: Some(usage), ..Default::default() };
        let stats = v1::Metrics { cpu: Some(cpu), memory: Some(memory), ..Default::default() };
        let any = encode(&Stats::V1(Box::new(stats))).unwrap();
        assert_eq!(any.type_url, "io.containerd.cgroups.v1.Metrics");
        let message = one::Metrics::parse_from_bytes(&any.value).unwrap();
        assert_eq!(message.cpu.usage.total, 7);
        assert_eq!((message.memory.rss, message.memory.usage.limit), (3, 9));
        assert!(message.pids.is_none(), "an absent controller is absent");

        let some = v2::PsiData { avg10: 1.5, ..Default::default() };
        let psi = v2::Psi { some: Some(some), full: None };
        let memory = v2::Memory { anon: 4, psi: Some(psi), ..Default::default() };
        let stats = v2::Metrics { memory: Some(memory), ..Default::default() };
        let any = encode(&Stats::V2(Box::new(stats))).unwrap();
        assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
        let message = two::Metrics::parse_from_bytes(&any.value).unwrap();
        assert_eq!(message.memory.anon, 4);
        assert!((message.memory.psi.some.avg10 - 1.5).abs() < f64::EPSILON);
    }
}
