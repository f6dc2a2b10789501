//! A fake OCI backend: runc, with a fault injected into the verb that a test names.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use tests::wait;

use super::bundle::fifo;

/// What the backend says when it fails on purpose.
pub const WORDS: &str = "injected failure";

/// What happens instead of the verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Says [`WORDS`] in its log and fails.
    Fail,
    /// Fails without a word.
    Silent,
    /// Does its work and fails then.
    FailAfter,
    /// Writes noise to its log and its output and fails.
    Garbage,
    /// Pretends success without having done anything.
    Lie,
    /// Is killed by a signal.
    Die,
    /// Waits for [`Backend::release`], and then does its work.
    Hang,
}

/// The fake backend of one bench.
pub struct Backend {
    dir: PathBuf,
}

impl Backend {
    /// Writes the program below `dir`.
    pub fn new(dir: &Path) -> Result<Self> {
        let dir = dir.join("backend");
        fs::create_dir_all(dir.join("faults"))?;
        let script = format!(
            r#"#!/bin/sh
dir={dir}
verb= log= option=
for word; do
    [ "$option" = --log ] && log=$word
    [ -n "$option" ] && {{ option=; continue; }}
    case $word in
    --root | --log | --log-format) option=$word ;;
    --*) ;;
    *) verb=$word; break ;;
    esac
done
say() {{ printf '{{"level":"error","msg":"{WORDS} of %s","time":"2026-01-01T00:00:00Z"}}\n' "$verb" >> "$log"; }}
if [ -e $dir/faults/$verb ]; then
    read -r fault < $dir/faults/$verb
    case $fault in
    Fail) say; exit 1 ;;
    Silent) exit 1 ;;
    FailAfter) runc "$@"; say; exit 1 ;;
    Garbage) head -c 5000 /dev/urandom | tee -a "$log"; exit 1 ;;
    Lie) exit 0 ;;
    Die) kill -9 $$ ;;
    Hang) : > $dir/hanging-$verb; read -r _ < $dir/release-$verb; rm -f $dir/hanging-$verb ;;
    esac
fi
exec runc "$@"
"#,
            dir = dir.display()
        );
        let backend = Self { dir };
        // Written under another name first: a program that is open for writing can't be run.
        let program = backend.program();
        let draft = program.with_extension("draft");
        fs::write(&draft, script)?;
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o755))?;
        fs::rename(&draft, &program)?;
        Ok(backend)
    }

    /// The program's path.
    pub fn program(&self) -> PathBuf {
        self.dir.join("runc")
    }

    /// From now on `verb` has this fault.
    pub fn set(&self, verb: &str, fault: Fault) -> Result<()> {
        let release = self.dir.join(format!("release-{verb}"));
        if fault == Fault::Hang && !release.exists() {
            fifo(&release)?;
        }
        let draft = self.dir.join(format!("draft-{verb}"));
        fs::write(&draft, format!("{fault:?}\n"))?;
        fs::rename(&draft, self.dir.join("faults").join(verb)).context("setting a fault")
    }

    /// `verb` is runc's again.
    pub fn clear(&self, verb: &str) -> Result<()> {
        fs::remove_file(self.dir.join("faults").join(verb)).context("clearing a fault")
    }

    /// Waits until a call of `verb` hangs.
    pub fn wait_hanging(&self, verb: &str) -> Result<()> {
        let file = self.dir.join(format!("hanging-{verb}"));
        wait::holds(&format!("{verb} to hang"), Duration::from_secs(20), || Ok(file.exists()))
    }

    /// Lets the call of `verb` that hangs go on, and clears the fault.
    pub fn release(&self, verb: &str) -> Result<()> {
        self.clear(verb)?;
        let release = self.dir.join(format!("release-{verb}"));
        // Reading as well: the open does not wait should the reader be gone.
        let mut gate: File = OpenOptions::new().read(true).write(true).open(&release)?;
        std::io::Write::write_all(&mut gate, b"go\n")?;
        let file = self.dir.join(format!("hanging-{verb}"));
        wait::holds(&format!("{verb} to go on"), Duration::from_secs(20), || Ok(!file.exists()))
    }
}
