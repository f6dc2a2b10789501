//! One snapshot as the rules see it, and its form on disk.

use std::{
    collections::HashMap,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::api::state;

/// Labels of a snapshot.
pub type Labels = HashMap<String, String>;

/// What a snapshot is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Mounted read-only, never committed.
    View,
    /// Mounted writable; becomes committed or is removed.
    Active,
    /// Has a name, no mounts; others are based on it.
    Committed,
}

/// Who holds a snapshot's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A directory of this snapshotter.
    Host,
    /// Nobody on this side: the agent fetches the layer itself.
    Enclave,
}

/// Space that a snapshot takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes on disk.
    pub size_bytes: i64,
    /// Files, directories and the like.
    pub inodes: i64,
}

/// A snapshot; its name is kept beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Names the directory; never used twice.
    pub id: u64,
    /// What it is for.
    pub kind: Kind,
    /// Who holds its files.
    pub content: Content,
    /// What it is based on.
    pub parent: Option<String>,
    /// As containerd set them.
    pub labels: Labels,
    /// When it was made or committed, nanoseconds since 1970.
    pub created_nanos: i64,
    /// When it was changed last, nanoseconds since 1970.
    pub updated_nanos: i64,
    /// As counted when it was committed.
    pub usage: Usage,
}

/// Now, in nanoseconds since 1970.
#[must_use]
pub fn now_nanos() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

impl Snapshot {
    /// A snapshot made now, without usage.
    #[must_use]
    pub fn new(id: u64, kind: Kind, content: Content, parent: Option<String>, labels: Labels) -> Self {
        let now = now_nanos();
        Self {
            id,
            kind,
            content,
            parent,
            labels,
            created_nanos: now,
            updated_nanos: now,
            usage: Usage::default(),
        }
    }

    /// The form on disk.
    #[must_use]
    pub fn to_record(&self) -> state::Record {
        state::Record {
            id: self.id,
            kind: match self.kind {
                Kind::View => state::Kind::View,
                Kind::Active => state::Kind::Active,
                Kind::Committed => state::Kind::Committed,
            }
            .into(),
            content: match self.content {
                Content::Host => state::Content::Host,
                Content::Enclave => state::Content::Enclave,
            }
            .into(),
            parent: self.parent.clone().unwrap_or_default(),
            labels: self.labels.clone(),
            created_nanos: self.created_nanos,
            updated_nanos: self.updated_nanos,
            size_bytes: self.usage.size_bytes,
            inodes: self.usage.inodes,
        }
    }

    /// From the form on disk; `None` when kind or content is not of this version.
    #[must_use]
    pub fn from_record(record: state::Record) -> Option<Self> {
        let kind = match record.kind() {
            state::Kind::View => Kind::View,
            state::Kind::Active => Kind::Active,
            state::Kind::Committed => Kind::Committed,
            state::Kind::Unknown => return None,
        };
        let content = match state::Content::try_from(record.content).ok()? {
            state::Content::Host => Content::Host,
            state::Content::Enclave => Content::Enclave,
        };
        Some(Self {
            id: record.id,
            kind,
            content,
            parent: Some(record.parent).filter(|parent| !parent.is_empty()),
            labels: record.labels,
            created_nanos: record.created_nanos,
            updated_nanos: record.updated_nanos,
            usage: Usage { size_bytes: record.size_bytes, inodes: record.inodes },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_keeps_every_field() {
        let labels = Labels::from([("a".to_owned(), "b".to_owned())]);
        let mut snapshot = Snapshot::new(7, Kind::Committed, Content::Enclave, Some("p".to_owned()), labels);
        snapshot.usage = Usage { size_bytes: 5, inodes: 6 };
        assert_eq!(Snapshot::from_record(snapshot.to_record()), Some(snapshot));
    }

    #[test]
    fn record_of_an_unknown_kind_is_refused() {
        let mut record = Snapshot::new(1, Kind::View, Content::Host, None, Labels::new()).to_record();
        record.kind = 99;
        assert_eq!(Snapshot::from_record(record), None);
    }
}
