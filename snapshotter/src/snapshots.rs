//! The rules of snapshots, as containerd's own snapshotters have them, and the one that is ours: image layers
//! are committed empty.
//!
//! Order of locks: `creating`, then the store's. A directory belongs to a snapshot that is in the store, or to a
//! call that holds `creating` shared.

mod open;

use std::{
    fs::File,
    path::PathBuf,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

pub use open::OpenError;

use crate::{
    api::Mount,
    disk::Disk,
    error::{SnapshotError, chain},
    filter::Filters,
    mounts::{Stack, mounts},
    snapshot::{Content, Kind, Labels, Snapshot, Usage, now_nanos},
    store::{Changes, Index, Store},
    volume,
};

/// The label with which containerd says which layer it is about to fetch.
pub const SNAPSHOT_REF: &str = "containerd.io/snapshot.ref";
/// containerd's limit for a label with its value.
const MAX_LABEL_BYTES: usize = 4096;

/// A snapshot with its name.
pub type Named = (String, Arc<Snapshot>);

/// All snapshots below one directory. One process at a time.
pub struct Snapshotter {
    store: Store,
    disk: Disk,
    next_id: AtomicU64,
    /// Held shared from the making of a directory until its snapshot is noted.
    creating: RwLock<()>,
    _lock: File,
}

fn existing<'a>(index: &'a Index, name: &str) -> Result<&'a Arc<Snapshot>, SnapshotError> {
    index.get(name).ok_or_else(|| SnapshotError::NotFound(name.to_owned()))
}

/// Labels as they are kept: containerd drops those without value.
fn checked(mut labels: Labels) -> Result<Labels, SnapshotError> {
    labels.retain(|_, value| !value.is_empty());
    match labels.iter().find(|(key, value)| key.len() + value.len() > MAX_LABEL_BYTES) {
        Some((key, _)) => Err(SnapshotError::LabelTooLong(key.clone())),
        None => Ok(labels),
    }
}

fn check_parent(index: &Index, name: &str, parent: Option<&str>) -> Result<(), SnapshotError> {
    let Some(parent) = parent else { return Ok(()) };
    match index.get(parent).map(|snapshot| snapshot.kind) {
        Some(Kind::Committed) => Ok(()),
        Some(_) => {
            Err(SnapshotError::ParentNotCommitted { name: name.to_owned(), parent: parent.to_owned() })
        }
        None => Err(SnapshotError::ParentNotFound { name: name.to_owned(), parent: parent.to_owned() }),
    }
}

impl Snapshotter {
    /// Makes an active snapshot. With the label [`SNAPSHOT_REF`] it stands for an image layer: then a committed
    /// snapshot is made instead, and the answer is [`SnapshotError::AlreadyExists`].
    ///
    /// # Errors
    /// When the key exists, the parent is missing or not committed, or nothing can be written.
    pub fn prepare(
        &self,
        key: &str,
        parent: Option<&str>,
        labels: Labels,
    ) -> Result<Vec<Mount>, SnapshotError> {
        let labels = checked(labels)?;
        match labels.get(SNAPSHOT_REF).cloned() {
            Some(target) => Err(self.leave_to_enclave(&target, key, parent, labels)),
            None => self.create(Kind::Active, key, parent, labels),
        }
    }

    /// Makes a view.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    pub fn view(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>, SnapshotError> {
        self.create(Kind::View, key, parent, checked(labels)?)
    }

    fn new_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Commits an image layer without content. containerd looks for it by label, parent and kind.
    fn leave_to_enclave(
        &self,
        target: &str,
        key: &str,
        parent: Option<&str>,
        labels: Labels,
    ) -> SnapshotError {
        let id = self.new_id();
        let made = self.store.update(|index| {
            check_parent(index, target, parent)?;
            let known = index.referring(target).find(|(_, snapshot)| {
                snapshot.kind == Kind::Committed && snapshot.parent.as_deref() == parent
            });
            let change = match known {
                // The image that is being pulled is the one whose reference and digest count from now on.
                Some((name, known)) => {
                    let mut renewed = Snapshot::clone(known);
                    renewed.labels.extend(labels);
                    if renewed.labels == known.labels {
                        return Ok((Changes::new(), ()));
                    }
                    renewed.updated_nanos = now_nanos();
                    (name.clone(), Some(Arc::new(renewed)))
                }
                // Another snapshot may have the name, with another parent: the key is unique.
                None => {
                    let name = if index.get(target).is_none() { target } else { key };
                    if name.is_empty() {
                        return Err(SnapshotError::NoName);
                    }
                    if index.get(name).is_some() {
                        return Err(SnapshotError::AlreadyExists(name.to_owned()));
                    }
                    let parent = parent.map(str::to_owned);
                    let layer = Snapshot::new(id, Kind::Committed, Content::Enclave, parent, labels);
                    (name.to_owned(), Some(Arc::new(layer)))
                }
            };
            Ok((vec![change], ()))
        });
        match made {
            Ok(()) => SnapshotError::AlreadyExists(target.to_owned()),
            Err(error) => error,
        }
    }

    fn create(
        &self,
        kind: Kind,
        key: &str,
        parent: Option<&str>,
        labels: Labels,
    ) -> Result<Vec<Mount>, SnapshotError> {
        if key.is_empty() {
            return Err(SnapshotError::NoName);
        }
        let id = self.new_id();
        let snapshot = Arc::new(Snapshot::new(id, kind, Content::Host, parent.map(str::to_owned), labels));
        let acceptable = |index: &Index| {
            check_parent(index, key, parent)?;
            match index.get(key) {
                Some(_) => Err(SnapshotError::AlreadyExists(key.to_owned())),
                None => Ok(lowers(index, &snapshot)),
            }
        };
        let lower = self.store.read(acceptable)?.first().copied();
        let creating = self.creating.read().unwrap_or_else(PoisonError::into_inner);
        let noted = self.disk.make(id, lower.filter(|_| kind == Kind::Active)).and_then(|()| {
            self.store.update(|index| {
                acceptable(index)?;
                Ok((vec![(key.to_owned(), Some(snapshot.clone()))], self.stack(index, &snapshot)))
            })
        });
        drop(creating);
        if noted.is_err() {
            self.discard(id);
        }
        noted
    }

    /// The mounts of an active snapshot or view.
    ///
    /// # Errors
    /// When there is none, or it is committed.
    pub fn mounts(&self, key: &str) -> Result<Vec<Mount>, SnapshotError> {
        self.store.read(|index| {
            let snapshot = existing(index, key)?;
            if snapshot.kind == Kind::Committed {
                return Err(SnapshotError::NotMountable(key.to_owned()));
            }
            Ok(self.stack(index, snapshot))
        })
    }

    fn stack(&self, index: &Index, snapshot: &Snapshot) -> Vec<Mount> {
        let lowers: Vec<PathBuf> =
            lowers(index, snapshot).into_iter().map(|lower| self.disk.files(lower)).collect();
        let image = index.ancestors(snapshot).find(|layer| layer.content == Content::Enclave);
        mounts(Stack {
            kind: snapshot.kind,
            own: &self.disk.files(snapshot.id),
            work: &self.disk.work(snapshot.id),
            lowers: &lowers,
            volume: image.map(|layer| volume::option(&layer.labels)),
            index_option: self.disk.index_option,
        })
    }

    /// Makes an active snapshot a committed one, with labels of its own.
    ///
    /// # Errors
    /// When `key` is missing or not active, or `name` exists.
    pub fn commit(&self, name: &str, key: &str, labels: Labels) -> Result<(), SnapshotError> {
        if name.is_empty() {
            return Err(SnapshotError::NoName);
        }
        let labels = checked(labels)?;
        let acceptable = |index: &Index| {
            if index.get(name).is_some() {
                return Err(SnapshotError::AlreadyExists(name.to_owned()));
            }
            let active = existing(index, key)?.clone();
            match active.kind {
                Kind::Active => Ok(active),
                _ => Err(SnapshotError::NotActive(key.to_owned())),
            }
        };
        let usage = self.disk.usage(self.store.read(acceptable)?.id)?;
        self.store.update(|index| {
            let active = acceptable(index)?;
            let mut committed =
                Snapshot::new(active.id, Kind::Committed, active.content, active.parent.clone(), labels);
            committed.usage = usage;
            Ok((vec![(key.to_owned(), None), (name.to_owned(), Some(Arc::new(committed)))], ()))
        })
    }

    /// Removes a snapshot on which no other is based.
    ///
    /// # Errors
    /// When there is none, or others are based on it.
    pub fn remove(&self, key: &str) -> Result<(), SnapshotError> {
        let removed = self.store.update(|index| {
            let snapshot = existing(index, key)?.clone();
            match index.children(key) {
                0 => Ok((vec![(key.to_owned(), None)], snapshot)),
                children => Err(SnapshotError::HasChildren { name: key.to_owned(), children }),
            }
        })?;
        if removed.content == Content::Host {
            self.discard(removed.id);
        }
        Ok(())
    }

    /// Removes the directory of no snapshot. If that fails it is a stray, which the next clean-up tries again.
    fn discard(&self, id: u64) {
        if let Err(error) = self.disk.remove(id) {
            tracing::warn!(id, "a removed snapshot's directory stays: {}", chain(&error));
        }
    }

    /// The snapshot of that name.
    ///
    /// # Errors
    /// When there is none.
    pub fn stat(&self, key: &str) -> Result<Arc<Snapshot>, SnapshotError> {
        self.store.read(|index| existing(index, key).cloned())
    }

    /// Sets labels: all of them when `fields` is empty or says `labels`, else those it names as `labels.<key>`.
    ///
    /// # Errors
    /// When there is no such snapshot, or a field is not a label.
    pub fn update(
        &self,
        name: &str,
        labels: Labels,
        fields: &[String],
    ) -> Result<Arc<Snapshot>, SnapshotError> {
        self.store.update(|index| {
            let mut updated = Snapshot::clone(existing(index, name)?);
            if fields.is_empty() {
                updated.labels.clone_from(&labels);
            }
            for field in fields {
                if let Some(key) = field.strip_prefix("labels.") {
                    updated.labels.insert(key.to_owned(), labels.get(key).cloned().unwrap_or_default());
                } else if field == "labels" {
                    updated.labels.clone_from(&labels);
                } else {
                    return Err(SnapshotError::Immutable { name: name.to_owned(), field: field.clone() });
                }
            }
            updated.labels = checked(updated.labels)?;
            updated.updated_nanos = now_nanos();
            let updated = Arc::new(updated);
            Ok((vec![(name.to_owned(), Some(updated.clone()))], updated))
        })
    }

    /// What matches any of the filters, ordered by name.
    ///
    /// # Errors
    /// When a filter is not understood.
    pub fn list(&self, filters: &[String]) -> Result<Vec<Named>, SnapshotError> {
        let filters = Filters::parse(filters)?;
        let mut found = self.store.read(|index| index.candidates(&filters));
        found.retain(|(name, snapshot)| filters.matches(name, snapshot));
        Ok(found)
    }

    /// Space of a snapshot alone, without what it is based on.
    ///
    /// # Errors
    /// When there is none, or its files can't be counted.
    pub fn usage(&self, key: &str) -> Result<Usage, SnapshotError> {
        let snapshot = self.stat(key)?;
        match snapshot.kind {
            Kind::Active => self.disk.usage(snapshot.id),
            Kind::View | Kind::Committed => Ok(snapshot.usage),
        }
    }
}

/// Ids of the ancestors that have files on this side, nearest first.
fn lowers(index: &Index, snapshot: &Snapshot) -> Vec<u64> {
    index.ancestors(snapshot).filter(|layer| layer.content == Content::Host).map(|layer| layer.id).collect()
}
