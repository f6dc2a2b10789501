//! The database file: every snapshot as of some batch, durable.

use std::path::Path;

use prost::Message;
use redb::{Database as Redb, ReadableDatabase, ReadableTable, TableDefinition};

use super::StoreError;
use crate::{api::state::Record, snapshot::Snapshot};

const SNAPSHOTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("snapshots");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const FORMAT: &str = "format";
const APPLIED: &str = "applied";

/// The version of the tables and of the journal.
const FORMAT_VERSION: u64 = 1;

/// The database, open.
pub struct Database(Redb);

/// What the database holds.
pub struct Contents {
    /// Sequence number of the last batch in it.
    pub applied: u64,
    /// All snapshots.
    pub snapshots: Vec<(String, Snapshot)>,
}

impl Database {
    /// Opens or makes the database and reads all of it.
    ///
    /// # Errors
    /// When it can't be opened or read, or is of another version.
    pub fn open(path: &Path) -> Result<(Self, Contents), StoreError> {
        let failed = |source: redb::Error| StoreError::Database { path: path.to_owned(), source };
        let redb = Redb::create(path).map_err(|error| failed(error.into()))?;
        let format = prepare(&redb).map_err(failed)?;
        if format != FORMAT_VERSION {
            return Err(StoreError::Format { path: path.to_owned(), found: format });
        }
        let (applied, records) = read(&redb).map_err(failed)?;
        let snapshots = records
            .into_iter()
            .map(|(name, bytes)| {
                let snapshot = Record::decode(bytes.as_slice()).ok().and_then(Snapshot::from_record);
                snapshot
                    .map(|snapshot| (name.clone(), snapshot))
                    .ok_or_else(|| StoreError::Record { path: path.to_owned(), name })
            })
            .collect::<Result<_, _>>()?;
        Ok((Self(redb), Contents { applied, snapshots }))
    }

    /// Sets and removes snapshots in one transaction that is on the disk when this returns.
    ///
    /// # Errors
    /// When it can't be written; the database is then as before.
    pub fn write<'a>(
        &self,
        changes: impl Iterator<Item = (&'a str, Option<&'a Snapshot>)>,
        applied: u64,
    ) -> Result<(), redb::Error> {
        let transaction = self.0.begin_write()?;
        {
            let mut table = transaction.open_table(SNAPSHOTS)?;
            for (name, snapshot) in changes {
                match snapshot {
                    Some(snapshot) => {
                        table.insert(name, snapshot.to_record().encode_to_vec().as_slice())?;
                    }
                    None => {
                        table.remove(name)?;
                    }
                }
            }
            transaction.open_table(META)?.insert(APPLIED, applied)?;
        }
        Ok(transaction.commit()?)
    }
}

/// Makes the tables of a new database; returns the format version.
fn prepare(redb: &Redb) -> Result<u64, redb::Error> {
    let transaction = redb.begin_write()?;
    let found = {
        let mut meta = transaction.open_table(META)?;
        let found = meta.get(FORMAT)?.map(|value| value.value());
        if found.is_none() {
            meta.insert(FORMAT, FORMAT_VERSION)?;
        }
        found
    };
    if found.is_none() {
        transaction.open_table(SNAPSHOTS)?;
        transaction.commit()?;
    }
    Ok(found.unwrap_or(FORMAT_VERSION))
}

type Records = Vec<(String, Vec<u8>)>;

fn read(redb: &Redb) -> Result<(u64, Records), redb::Error> {
    let transaction = redb.begin_read()?;
    let applied = transaction.open_table(META)?.get(APPLIED)?.map_or(0, |value| value.value());
    let mut records = Records::new();
    for entry in transaction.open_table(SNAPSHOTS)?.iter()? {
        let (name, record) = entry?;
        records.push((name.value().to_owned(), record.value().to_owned()));
    }
    Ok((applied, records))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Content, Kind, Labels};

    #[test]
    fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let snapshot = Snapshot::new(3, Kind::Active, Content::Host, None, Labels::new());
        {
            let (database, contents) = Database::open(&path).unwrap();
            assert!(contents.snapshots.is_empty() && contents.applied == 0);
            database.write([("a", Some(&snapshot)), ("b", Some(&snapshot))].into_iter(), 4).unwrap();
            database.write([("b", None)].into_iter(), 5).unwrap();
        }
        let (_, contents) = Database::open(&path).unwrap();
        assert_eq!((contents.applied, contents.snapshots), (5, vec![("a".to_owned(), snapshot)]));
    }

    #[test]
    fn a_database_of_another_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        {
            let (database, _) = Database::open(&path).unwrap();
            let transaction = database.0.begin_write().unwrap();
            transaction.open_table(META).unwrap().insert(FORMAT, 9).unwrap();
            transaction.commit().unwrap();
        }
        assert!(matches!(Database::open(&path), Err(StoreError::Format { found: 9, .. })));
    }
}
