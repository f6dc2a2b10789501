//! Waiting for conditions: polled until they hold or their deadline passes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const POLL: Duration = Duration::from_millis(25);

/// Polls `condition` until it answers `Some`, and returns what it answered.
///
/// # Errors
/// When `deadline` passes first (the message names `what`), or when `condition` itself fails.
pub fn until<T>(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = condition().with_context(|| format!("waiting for {what}"))? {
            return Ok(value);
        }
        if Instant::now() >= end {
            bail!("{what}: not within {deadline:?}");
        }
        std::thread::sleep(POLL);
    }
}

/// Polls `condition` until it is true.
///
/// # Errors
/// As [`until`].
pub fn holds(what: &str, deadline: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    until(what, deadline, || Ok(condition()?.then_some(())))
}

/// Checks that `condition` stays true for all of `period`.
///
/// # Errors
/// When it was false once, or failed.
pub fn stays(what: &str, period: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + period;
    while Instant::now() < end {
        if !condition()? {
            bail!("{what}: no longer so, within {period:?}");
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}
