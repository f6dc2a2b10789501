//! A file of changes, written ahead of the database.
//!
//! ```text
//! file  = record* (rest: older records, or zeros)
//! record = length u32 LE, CRC-32 u32 LE (of the payload), payload = state::Batch
//! ```
//! A record is in the page cache when [`Journal::append`] returns, so a killed process loses nothing. The file
//! is not shortened: after [`Journal::rewind`] new records overwrite old ones, which costs no change of the
//! file's size and so no commit of the file system's own journal. What ends the valid records is a
//! length, a checksum or a sequence number that does not continue.

use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::Arc,
};

use prost::Message;

use crate::api::state::Batch;

const HEADER_BYTES: usize = 8;
/// Allocated when the file is made, so that ordinary appends do not grow it.
const INITIAL_BYTES: usize = 1 << 20;
/// More than any batch; a length above it is garbage.
const MAX_PAYLOAD_BYTES: u32 = 16 << 20;

/// The journal, open for writing.
#[derive(Debug)]
pub struct Journal {
    file: Arc<File>,
    /// Where the next record goes.
    end: u64,
}

impl Journal {
    /// Opens or makes the file and reads what is valid in it. The next record goes behind that.
    ///
    /// # Errors
    /// When the file can't be made, read or written.
    pub fn open(path: &Path) -> io::Result<(Self, Vec<Batch>)> {
        let file =
            File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        if file.metadata()?.len() == 0 {
            file.write_all_at(&vec![0; INITIAL_BYTES], 0)?;
            file.sync_all()?;
        }
        let bytes = std::fs::read(path)?;
        let (batches, end) = valid(&bytes);
        Ok((Self { file: Arc::new(file), end }, batches))
    }

    /// Adds a record. When that fails, the journal is as before.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn append(&mut self, batch: &Batch) -> io::Result<()> {
        let payload = batch.encode_to_vec();
        let length = u32::try_from(payload.len())
            .ok()
            .filter(|&length| length <= MAX_PAYLOAD_BYTES)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let mut record = Vec::with_capacity(HEADER_BYTES + payload.len());
        record.extend_from_slice(&length.to_le_bytes());
        record.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
        record.extend_from_slice(&payload);
        // A part that was written stays behind the end, where its checksum betrays it.
        self.file.write_all_at(&record, self.end)?;
        self.end += record.len() as u64;
        Ok(())
    }

    /// Forgets all records: the database has them.
    pub fn rewind(&mut self) {
        self.end = 0;
    }

    /// Bytes of valid records.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.end
    }

    /// The file, to be synchronised without holding the journal.
    #[must_use]
    pub fn file(&self) -> Arc<File> {
        self.file.clone()
    }
}

/// The valid records and the offset behind them.
fn valid(bytes: &[u8]) -> (Vec<Batch>, u64) {
    let mut batches: Vec<Batch> = Vec::new();
    let mut end = 0;
    while let Some(header) = bytes[end..].first_chunk::<HEADER_BYTES>() {
        let [l0, l1, l2, l3, c0, c1, c2, c3] = *header;
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        if length == 0 || length > MAX_PAYLOAD_BYTES {
            break;
        }
        let start = end + HEADER_BYTES;
        let Some(payload) = bytes.get(start..start + length as usize) else { break };
        if crc32fast::hash(payload) != u32::from_le_bytes([c0, c1, c2, c3]) {
            break;
        }
        let Ok(batch) = Batch::decode(payload) else { break };
        if batches.last().is_some_and(|last| batch.sequence != last.sequence + 1) {
            break;
        }
        batches.push(batch);
        end = start + length as usize;
    }
    (batches, end as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::state::Change;

    fn batch(sequence: u64) -> Batch {
        Batch { sequence, changes: vec![Change { name: format!("name-{sequence}"), record: None }] }
    }

    fn sequences(path: &Path) -> Vec<u64> {
        Journal::open(path).unwrap().1.iter().map(|batch| batch.sequence).collect()
    }

    #[test]
    fn records_are_read_again_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut journal, read) = Journal::open(&path).unwrap();
        assert!(read.is_empty());
        for sequence in 5..8 {
            journal.append(&batch(sequence)).unwrap();
        }
        assert_eq!(sequences(&path), [5, 6, 7]);
    }

    #[test]
    fn records_of_before_the_rewind_do_not_follow_newer_ones() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut journal, _) = Journal::open(&path).unwrap();
        for sequence in 1..10 {
            journal.append(&batch(sequence)).unwrap();
        }
        journal.rewind();
        journal.append(&batch(10)).unwrap();
        // Records are of one size nearly always: the second old one stands exactly behind the new one.
        journal.append(&batch(11)).unwrap();
        assert_eq!(sequences(&path), [10, 11]);
    }

    #[test]
    fn a_torn_or_altered_record_ends_the_journal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut journal, _) = Journal::open(&path).unwrap();
        journal.append(&batch(1)).unwrap();
        let first = journal.len_bytes();
        journal.append(&batch(2)).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for position in first..journal.len_bytes() {
            let mut bytes = whole.clone();
            bytes[usize::try_from(position).unwrap()] ^= 0x40;
            assert_eq!(valid(&bytes).1, first, "byte {position} altered");
            bytes.truncate(usize::try_from(position).unwrap());
            assert_eq!(valid(&bytes).1, first, "cut at {position}");
        }
    }
}
