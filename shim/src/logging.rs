//! The shim's log: the fifo `log` in the bundle, which containerd reads into its own log.
//!
//! A line is written whole and without waiting: when containerd does not read, lines
//! are dropped and counted rather than holding up a container.

use std::{
    fmt::Write as _,
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use log::{Level, LevelFilter, Log, Metadata, Record};
use nix::fcntl::OFlag;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// The crates whose details are logged.
const OURS: [&str; 4] = ["containerd_shim_rune_v2", "runtime", "agent_client", "layout"];

/// A line longer than this is cut: PIPE_BUF is what a fifo takes at once or not at all.
const MAX_LINE_BYTES: usize = 4096;

struct FifoLog {
    fifo: Mutex<File>,
    dropped: AtomicU64,
}

/// Sends the log to the fifo at `path`; without one, the log is off.
///
/// # Errors
/// The fifo exists and cannot be opened.
pub fn init(path: &Path, level: LevelFilter) -> io::Result<()> {
    // Read and write: the open does not wait for a reader, and a reader that goes away and
    // comes back, as at a restart of containerd, does not end it.
    let fifo = match OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags((OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).bits())
        .open(path)
    {
        Ok(fifo) => fifo,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let log = FifoLog { fifo: Mutex::new(fifo), dropped: AtomicU64::new(0) };
    if log::set_boxed_logger(Box::new(log)).is_ok() {
        log::set_max_level(level);
    }
    Ok(())
}

/// Logs a panic before the process aborts.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        log::error!("panic: {info}");
        let _ = writeln!(io::stderr(), "containerd-shim-rune-v2: panic: {info}");
    }));
}

impl Log for FifoLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // ttrpc and others log whole messages, secrets included, when they are asked for details.
        metadata.level() <= log::max_level()
            && (metadata.level() <= Level::Info
                || OURS.iter().any(|ours| metadata.target().starts_with(ours)))
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let dropped = self.dropped.load(Ordering::Relaxed);
        let line = format_line(record, dropped);
        let mut fifo = self.fifo.lock().unwrap_or_else(PoisonError::into_inner);
        match fifo.write_all(line.as_bytes()) {
            Ok(()) => drop(self.dropped.fetch_sub(dropped, Ordering::Relaxed)),
            Err(_) => drop(self.dropped.fetch_add(1, Ordering::Relaxed)),
        }
    }

    fn flush(&self) {}
}

/// One line in the format of containerd's own log (logfmt).
fn format_line(record: &Record<'_>, dropped: u64) -> String {
    let now = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
    let mut line = format!(
        "time=\"{now}\" level={} msg={:?} runtime=io.containerd.rune.v2",
        match record.level() {
            Level::Error => "error",
            Level::Warn => "warning",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        },
        record.args().to_string(),
    );
    if dropped > 0 {
        let _ = write!(line, " dropped_lines={dropped}");
    }
    if line.len() >= MAX_LINE_BYTES {
        let mut end = MAX_LINE_BYTES - 5;
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        line.truncate(end);
        line.push_str("…\"");
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_of_other_crates_are_not_logged() {
        log::set_max_level(LevelFilter::Trace);
        let log = FifoLog { fifo: Mutex::new(tempfile::tempfile().unwrap()), dropped: AtomicU64::new(0) };
        let enabled = |level, target| log.enabled(&Metadata::builder().level(level).target(target).build());
        assert!(enabled(Level::Trace, "runtime::oci") && enabled(Level::Warn, "ttrpc::server"));
        assert!(!enabled(Level::Debug, "ttrpc::server") && !enabled(Level::Trace, "ttrpc"));
    }

    #[test]
    fn a_line_is_one_line_and_fits_a_pipe() {
        let text = "a\nb\"c".to_owned() + &"ä".repeat(5_000);
        let line = format_line(&Record::builder().args(format_args!("{text}")).build(), 3);
        assert!(line.len() <= MAX_LINE_BYTES, "{}", line.len());
        assert_eq!(line.matches('\n').count(), 1);
        assert!(line.ends_with("…\"\n"));
    }
}
