//! The processes of the node, found in `/proc`.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// One process of the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its command line, words separated by spaces; empty for zombies.
    pub command_line: String,
    /// The text of `/proc/<pid>/cgroup`.
    pub cgroups: String,
}

impl Process {
    /// Sends SIGKILL.
    ///
    /// # Errors
    /// When it is gone.
    pub fn kill(&self) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.pid)?), Signal::SIGKILL)
            .with_context(|| format!("killing {self:?}"))
    }

    /// Whether it is still there.
    #[must_use]
    pub fn exists(&self) -> bool {
        read(self.pid).is_some_and(|now| now.command_line == self.command_line)
    }

    /// Where `/proc/<pid>/ns/<kind>` leads, such as `net:[4026531840]`.
    ///
    /// # Errors
    /// When it is gone.
    pub fn namespace(&self, kind: &str) -> Result<PathBuf> {
        let path = format!("/proc/{}/ns/{kind}", self.pid);
        fs::read_link(&path).with_context(|| format!("reading {path}"))
    }
}

/// All processes; one that ends meanwhile is left out.
///
/// # Errors
/// When `/proc` can't be read.
pub fn all() -> Result<Vec<Process>> {
    let entries = fs::read_dir("/proc").context("reading /proc")?;
    Ok(entries.flatten().filter_map(|entry| read(entry.file_name().to_str()?.parse().ok()?)).collect())
}

/// The shim of the sandbox `id`.
///
/// # Errors
/// When there is none.
pub fn shim_of(id: &str) -> Result<Process> {
    all()?
        .into_iter()
        .find(|process| {
            process.command_line.contains("containerd-shim-") && process.command_line.contains(id)
        })
        .with_context(|| format!("no shim of sandbox {id}"))
}

/// The enclave agent in the pod's `cgroup`.
///
/// # Errors
/// When `/proc` can't be read.
pub fn agent_in(cgroup: &str) -> Result<Option<Process>> {
    let agents = all()?.into_iter().filter(|process| process.command_line.contains("enclave-agent"));
    Ok(agents.into_iter().find(|process| process.cgroups.contains(cgroup)))
}

fn read(pid: u32) -> Option<Process> {
    let command_line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let words: Vec<String> = command_line
        .split(|&byte| byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    Some(Process { pid, command_line: words.join(" "), cgroups })
}
