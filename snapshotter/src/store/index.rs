//! All snapshots in memory, with the look-ups that requests need.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use crate::{
    filter::{Filters, Lookup},
    snapshot::Snapshot,
    snapshots::SNAPSHOT_REF,
};

/// Names with their snapshots, children and references.
#[derive(Debug, Default)]
pub struct Index {
    entries: BTreeMap<String, Arc<Snapshot>>,
    /// Parent → children.
    children: HashMap<String, BTreeSet<String>>,
    /// Value of the label `containerd.io/snapshot.ref` → names.
    references: HashMap<String, BTreeSet<String>>,
}

impl Index {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The snapshot of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Snapshot>> {
        self.entries.get(name)
    }

    /// All, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Arc<Snapshot>)> {
        self.entries.iter()
    }

    /// How many have `name` as their parent.
    #[must_use]
    pub fn children(&self, name: &str) -> usize {
        self.children.get(name).map_or(0, BTreeSet::len)
    }

    /// Those that were made for the reference `target`.
    pub fn referring(&self, target: &str) -> impl Iterator<Item = (&String, &Arc<Snapshot>)> {
        self.references.get(target).into_iter().flatten().filter_map(|name| self.entries.get_key_value(name))
    }

    /// What is below `snapshot`, its parent first.
    pub fn ancestors<'a>(&'a self, snapshot: &'a Snapshot) -> impl Iterator<Item = &'a Arc<Snapshot>> {
        let mut next = snapshot.parent.as_deref();
        std::iter::from_fn(move || {
            let parent = self.entries.get(next?)?;
            next = parent.parent.as_deref();
            Some(parent)
        })
    }

    /// Those that may match `filters`, and certainly all that do.
    #[must_use]
    pub fn candidates(&self, filters: &Filters) -> Vec<(String, Arc<Snapshot>)> {
        let owned = |(name, snapshot): (&String, &Arc<Snapshot>)| (name.clone(), snapshot.clone());
        let Some(lookups) = filters.lookups() else {
            return self.entries.iter().map(owned).collect();
        };
        let mut names = BTreeSet::new();
        for lookup in lookups {
            match lookup {
                Lookup::Name(name) => names.extend(self.entries.get_key_value(name).map(|(name, _)| name)),
                Lookup::Parent(parent) => names.extend(self.children.get(parent).into_iter().flatten()),
                Lookup::Reference(target) => {
                    names.extend(self.references.get(target).into_iter().flatten());
                }
            }
        }
        names.into_iter().filter_map(|name| self.entries.get_key_value(name)).map(owned).collect()
    }

    /// Sets or removes one snapshot.
    pub fn apply(&mut self, name: &str, snapshot: Option<Arc<Snapshot>>) {
        if let Some(old) = self.entries.remove(name) {
            if let Some(parent) = &old.parent {
                unlink(&mut self.children, parent, name);
            }
            if let Some(target) = old.labels.get(SNAPSHOT_REF) {
                unlink(&mut self.references, target, name);
            }
        }
        let Some(new) = snapshot else { return };
        if let Some(parent) = &new.parent {
            self.children.entry(parent.clone()).or_default().insert(name.to_owned());
        }
        if let Some(target) = new.labels.get(SNAPSHOT_REF) {
            self.references.entry(target.clone()).or_default().insert(name.to_owned());
        }
        self.entries.insert(name.to_owned(), new);
    }
}

fn unlink(map: &mut HashMap<String, BTreeSet<String>>, key: &str, name: &str) {
    if let Some(names) = map.get_mut(key) {
        names.remove(name);
        if names.is_empty() {
            map.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Content, Kind, Labels};

    fn snapshot(id: u64, parent: Option<&str>, target: Option<&str>) -> Option<Arc<Snapshot>> {
        let labels: Labels =
            target.map(|target| (SNAPSHOT_REF.to_owned(), target.to_owned())).into_iter().collect();
        Some(Arc::new(Snapshot::new(
            id,
            Kind::Committed,
            Content::Enclave,
            parent.map(str::to_owned),
            labels,
        )))
    }

    #[test]
    fn replaced_and_removed_snapshots_leave_no_link() {
        let mut index = Index::default();
        index.apply("a", snapshot(1, None, None));
        index.apply("b", snapshot(2, Some("a"), Some("t")));
        assert_eq!((index.children("a"), index.referring("t").count()), (1, 1));
        index.apply("b", snapshot(2, Some("a"), Some("u")));
        assert_eq!(
            (index.children("a"), index.referring("t").count(), index.referring("u").count()),
            (1, 0, 1)
        );
        index.apply("b", None);
        assert_eq!((index.children("a"), index.referring("u").count(), index.len()), (0, 0, 1));
        assert!(index.children.is_empty() && index.references.is_empty());
    }

    #[test]
    fn ancestors_come_nearest_first() {
        let mut index = Index::default();
        index.apply("a", snapshot(1, None, None));
        index.apply("b", snapshot(2, Some("a"), None));
        index.apply("c", snapshot(3, Some("b"), None));
        let top = index.get("c").unwrap().clone();
        assert_eq!(index.ancestors(&top).map(|snapshot| snapshot.id).collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn look_ups_find_what_a_full_scan_finds() {
        let mut index = Index::default();
        index.apply("a", snapshot(1, None, None));
        for n in 0..20 {
            let parent = if n % 2 == 0 { None } else { Some("a") };
            index.apply(&format!("s{n}"), snapshot(n + 2, parent, Some(&format!("t{}", n % 3))));
        }
        for text in [
            "name==s3",
            r#"parent=="a""#,
            r#"labels."containerd.io/snapshot.ref"==t1,parent==a"#,
            r#"labels."containerd.io/snapshot.ref"==t1,parent=="""#,
            "name==absent",
        ] {
            let filters = Filters::parse(&[text.to_owned()]).unwrap();
            assert!(filters.lookups().is_some(), "{text} uses an index");
            let found: Vec<_> = index
                .candidates(&filters)
                .into_iter()
                .filter(|(name, snapshot)| filters.matches(name, snapshot))
                .map(|(name, _)| name)
                .collect();
            let scanned: Vec<_> = index
                .iter()
                .filter(|(name, snapshot)| filters.matches(name, snapshot))
                .map(|(name, _)| name.clone())
                .collect();
            assert_eq!(found, scanned, "{text}");
        }
    }
}
