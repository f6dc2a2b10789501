//! Names, parents and labels of all snapshots: fast, and not lost.
//!
//! ```text
//! update ──▶ journal (page cache) ──▶ memory ──▶ answer
//!               │ fdatasync, at once, in the background
//!               └──▶ database (redb, durable), when nothing happens or the journal has grown
//! ```
//! Requests are answered from memory. A change is answered when it is in the journal, that is, in the
//! kernel: it survives the end of this process, however it ends, without waiting for a disk. A thread of the
//! store synchronises the journal right away and moves its changes to the database.
//!
//! **Power cut.** What is lost is what the running `fdatasync` had not reached, a few milliseconds. containerd
//! notes a snapshot in its own database after our answer, and waits there for two synchronisations, one
//! after the other, where ours needs one that began before: what containerd knows after the power cut, we know,
//! unless a move to the database was just in the way. Even then it recovers: an active snapshot
//! belonged to a container that is gone too, and its removal tolerates a backend that never heard of it; an image
//! whose layer is unknown here is pulled again after `crictl rmi`.
//!
//! One lock, [`Store::inner`], protects memory and journal together; it is never held during a
//! synchronisation, a database transaction or another file operation than the journal's write.

mod database;
mod index;
mod journal;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use database::Database;
pub use index::Index;
use journal::Journal;

use crate::{
    api::state::{Batch, Change},
    error::chain,
    snapshot::Snapshot,
};

const DATABASE_FILE: &str = "metadata.redb";
const JOURNAL_FILE: &str = "journal";
/// Changes move to the database when none has come for this long…
const IDLE: Duration = Duration::from_millis(500);
/// …or when the journal is this long.
const JOURNAL_LIMIT_BYTES: u64 = 4 << 20;

/// The store can't be opened, or a change not be kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The journal.
    #[error("journal {path}", path = path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The database.
    #[error("database {path}", path = path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What the database said.
        #[source]
        source: redb::Error,
    },
    /// Written by another version.
    #[error("database {path} has format {found}, this program knows format 1 only", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// A record that this version does not understand.
    #[error("{path}: the record of snapshot {name:?} is malformed", path = path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// The snapshot.
        name: String,
    },
    /// The thread that keeps changes.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

impl StoreError {
    /// The error of a file, if it is one.
    #[must_use]
    pub fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Journal { source, .. } | Self::Thread(source) => Some(source),
            _ => None,
        }
    }
}

/// Changes that happen together: a name, and what it names from now on.
pub type Changes = Vec<(String, Option<Arc<Snapshot>>)>;

struct Inner {
    index: Index,
    journal: Journal,
    /// Of the last batch in the journal.
    sequence: u64,
    /// What the database does not have yet.
    pending: BTreeMap<String, Option<Arc<Snapshot>>>,
    /// The journal has records that are not known to be on the disk.
    unsynced: bool,
    stop: bool,
}

struct Shared {
    inner: Mutex<Inner>,
    changed: Condvar,
    database: Database,
    journal_path: PathBuf,
}

/// The store, open. One process at a time may have it.
pub struct Store {
    shared: Arc<Shared>,
    flusher: Option<JoinHandle<()>>,
}

impl Store {
    /// Opens or makes the store in `dir`, with every change that was answered.
    ///
    /// # Errors
    /// When a file can't be read or written, or is of another version.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let journal_path = dir.join(JOURNAL_FILE);
        let (database, contents) = Database::open(&dir.join(DATABASE_FILE))?;
        let (journal, batches) = Journal::open(&journal_path)
            .map_err(|source| StoreError::Journal { path: journal_path.clone(), source })?;
        let mut index = Index::default();
        for (name, snapshot) in contents.snapshots {
            index.apply(&name, Some(Arc::new(snapshot)));
        }
        let mut inner = Inner {
            index,
            journal,
            sequence: contents.applied,
            pending: BTreeMap::new(),
            unsynced: false,
            stop: false,
        };
        inner.replay(batches, &journal_path)?;
        let shared = Shared { inner: Mutex::new(inner), changed: Condvar::new(), database, journal_path };
        shared.checkpoint()?;
        let shared = Arc::new(shared);
        let flusher = std::thread::Builder::new()
            .name("flush".to_owned())
            .spawn({
                let shared = shared.clone();
                move || shared.flush()
            })
            .map_err(StoreError::Thread)?;
        Ok(Self { shared, flusher: Some(flusher) })
    }

    /// Looks at the snapshots. `look` must be short: nobody else proceeds meanwhile.
    pub fn read<T>(&self, look: impl FnOnce(&Index) -> T) -> T {
        look(&self.shared.lock().index)
    }

    /// Changes snapshots: `decide` looks at them and says what to change, and nobody else looks or changes
    /// in between. The changes happen together or not at all.
    ///
    /// # Errors
    /// What `decide` returns, or when the changes can't be kept.
    pub fn update<T, E: From<StoreError>>(
        &self,
        decide: impl FnOnce(&Index) -> Result<(Changes, T), E>,
    ) -> Result<T, E> {
        let mut inner = self.shared.lock();
        let (changes, result) = decide(&inner.index)?;
        if changes.is_empty() {
            return Ok(result);
        }
        let batch = Batch {
            sequence: inner.sequence + 1,
            changes: changes
                .iter()
                .map(|(name, snapshot)| Change {
                    name: name.clone(),
                    record: snapshot.as_ref().map(|snapshot| snapshot.to_record()),
                })
                .collect(),
        };
        inner
            .journal
            .append(&batch)
            .map_err(|source| StoreError::Journal { path: self.shared.journal_path.clone(), source })?;
        inner.sequence = batch.sequence;
        for (name, snapshot) in changes {
            inner.index.apply(&name, snapshot.clone());
            inner.pending.insert(name, snapshot);
        }
        inner.unsynced = true;
        self.shared.changed.notify_one();
        Ok(result)
    }
}

impl Drop for Store {
    /// Moves everything to the database.
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_one();
        if let Some(flusher) = self.flusher.take()
            && flusher.join().is_err()
        {
            tracing::error!("the thread that keeps changes has panicked");
        }
    }
}

impl Inner {
    /// Takes over what the journal has and the database has not.
    fn replay(&mut self, batches: Vec<Batch>, path: &Path) -> Result<(), StoreError> {
        for batch in batches {
            if batch.sequence <= self.sequence {
                continue;
            }
            self.sequence = batch.sequence;
            for Change { name, record } in batch.changes {
                let snapshot = record
                    .map(|record| {
                        Snapshot::from_record(record)
                            .ok_or_else(|| StoreError::Record { path: path.to_owned(), name: name.clone() })
                    })
                    .transpose()?
                    .map(Arc::new);
                self.index.apply(&name, snapshot.clone());
                self.pending.insert(name, snapshot);
            }
        }
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while it is held is a panic between journal and memory at worst: the journal is right.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread: synchronises the journal after each change, moves changes to the database now and then.
    fn flush(&self) {
        loop {
            let mut inner = self.lock();
            let mut idle = false;
            while !(inner.unsynced || inner.stop || idle) {
                if inner.pending.is_empty() {
                    inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
                } else {
                    let waited = self.changed.wait_timeout(inner, IDLE);
                    let (guard, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                    inner = guard;
                    idle = timeout.timed_out();
                }
            }
            let stop = inner.stop;
            let unsynced = std::mem::take(&mut inner.unsynced);
            let file = inner.journal.file();
            let mut due = idle || stop || inner.journal.len_bytes() > JOURNAL_LIMIT_BYTES;
            drop(inner);
            if unsynced && let Err(error) = file.sync_data() {
                tracing::error!("cannot synchronise {}: {error}", self.journal_path.display());
                due = true;
            }
            if due && let Err(error) = self.checkpoint() {
                tracing::error!("cannot move changes to the database, will try again: {}", chain(&error));
            }
            if stop {
                return;
            }
        }
    }

    /// Moves all changes to the database.
    fn checkpoint(&self) -> Result<(), StoreError> {
        let (changes, sequence) = {
            let mut inner = self.lock();
            (std::mem::take(&mut inner.pending), inner.sequence)
        };
        let written = if changes.is_empty() {
            Ok(())
        } else {
            let entries = changes.iter().map(|(name, snapshot)| (name.as_str(), snapshot.as_deref()));
            self.database.write(entries, sequence)
        };
        let mut inner = self.lock();
        match written {
            // Records that came meanwhile keep the journal; the database's sequence number skips the others.
            Ok(()) if inner.sequence == sequence => inner.journal.rewind(),
            Ok(()) => {}
            Err(source) => {
                for (name, snapshot) in changes {
                    inner.pending.entry(name).or_insert(snapshot);
                }
                return Err(StoreError::Database {
                    path: self.journal_path.with_file_name(DATABASE_FILE),
                    source,
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Content, Kind, Labels};

    fn snapshot(id: u64) -> Option<Arc<Snapshot>> {
        Some(Arc::new(Snapshot::new(id, Kind::Active, Content::Host, None, Labels::new())))
    }

    fn set(store: &Store, name: &str, snapshot: Option<Arc<Snapshot>>) {
        store.update::<_, StoreError>(|_| Ok((vec![(name.to_owned(), snapshot)], ()))).unwrap();
    }

    fn names(store: &Store) -> Vec<String> {
        store.read(|index| index.iter().map(|(name, _)| name.clone()).collect())
    }

    /// The files as a killed process leaves them.
    fn copy(from: &Path) -> tempfile::TempDir {
        let to = tempfile::tempdir().unwrap();
        for file in [DATABASE_FILE, JOURNAL_FILE] {
            std::fs::copy(from.join(file), to.path().join(file)).unwrap();
        }
        to
    }

    #[test]
    fn each_answered_change_survives_a_kill() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut expected: Vec<String> = Vec::new();
        for n in 0..30 {
            let name = format!("s{n:02}");
            set(&store, &name, snapshot(n));
            expected.push(name);
            if n % 3 == 0 {
                set(&store, &expected.remove(0), None);
            }
            let killed = copy(dir.path());
            assert_eq!(names(&Store::open(killed.path()).unwrap()), expected);
        }
    }

    #[test]
    fn a_closed_store_has_everything_in_the_database() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        set(&store, "a", snapshot(1));
        set(&store, "b", snapshot(2));
        set(&store, "a", None);
        drop(store);
        let (_, contents) = Database::open(&dir.path().join(DATABASE_FILE)).unwrap();
        assert_eq!(contents.snapshots.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["b"]);
        assert_eq!(contents.applied, 3);
    }

    #[test]
    fn an_old_journal_does_not_undo_the_database() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        set(&store, "a", snapshot(1));
        let journal = std::fs::read(dir.path().join(JOURNAL_FILE)).unwrap();
        set(&store, "a", None);
        drop(store);
        // As if the power cut had taken the journal's last writes, but not the database's.
        std::fs::write(dir.path().join(JOURNAL_FILE), journal).unwrap();
        assert!(names(&Store::open(dir.path()).unwrap()).is_empty());
    }

    #[test]
    fn changes_after_a_restart_follow_those_in_the_journal() {
        let dir = tempfile::tempdir().unwrap();
        drop(Store::open(dir.path()).unwrap());
        for round in 0..5 {
            let store = Store::open(dir.path()).unwrap();
            set(&store, &format!("r{round}"), snapshot(round));
            let killed = copy(dir.path());
            drop(store);
            std::fs::copy(killed.path().join(JOURNAL_FILE), dir.path().join(JOURNAL_FILE)).unwrap();
            std::fs::copy(killed.path().join(DATABASE_FILE), dir.path().join(DATABASE_FILE)).unwrap();
        }
        assert_eq!(names(&Store::open(dir.path()).unwrap()).len(), 5);
    }

    #[test]
    fn a_refused_change_leaves_no_trace() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let refused = store.update::<(), StoreError>(|_| {
            Err(StoreError::Record { path: PathBuf::new(), name: "x".to_owned() })
        });
        assert!(refused.is_err());
        assert!(names(&store).is_empty());
        assert_eq!(store.shared.lock().sequence, 0);
    }
}
