//! The readers that a layer passes through on its blocking thread.

use std::{
    cell::RefCell,
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

use crate::{
    digest::{Digest, Hasher},
    error::Error,
};

/// What the network side sends.
pub(super) enum Chunk {
    /// Bytes of the blob.
    Data(Bytes),
    /// The blob is complete. A channel that closes without it was interrupted.
    End,
}

/// Why a reader failed, beside the `io::Error` that carries no type through foreign code. The first counts.
#[derive(Default)]
pub(super) struct Faults {
    stream: RefCell<Option<Error>>,
    decoder: RefCell<Option<String>>,
}

impl Faults {
    /// The stream broke off or passed a limit.
    pub fn stream(&self) -> Option<Error> {
        self.stream.borrow().clone()
    }

    /// The compressed data is bad.
    pub fn decoder(&self) -> Option<String> {
        self.decoder.borrow().clone()
    }

    fn set(&self, error: &Error) -> io::Error {
        self.stream.borrow_mut().get_or_insert_with(|| error.clone());
        io::Error::other("the layer's stream failed")
    }
}

/// The chunks as a reader.
pub(super) struct Chunks<'a> {
    receiver: mpsc::Receiver<Chunk>,
    current: Bytes,
    ended: bool,
    faults: &'a Faults,
}

impl<'a> Chunks<'a> {
    pub fn new(receiver: mpsc::Receiver<Chunk>, faults: &'a Faults) -> Self {
        Self { receiver, current: Bytes::new(), ended: false, faults }
    }
}

impl Read for Chunks<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Chunk::Data(bytes)) => self.current = bytes,
                Some(Chunk::End) => self.ended = true,
                None => return Err(self.faults.set(&Error::Interrupted)),
            }
        }
        let length = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// A limit that several readers can share.
pub(super) struct Budget {
    pub used: Arc<AtomicU64>,
    pub limit_bytes: u64,
    /// What passing the limit means.
    pub error: Error,
}

/// Counts and hashes what passes.
pub(super) struct Metered<'a, R> {
    inner: R,
    hasher: Hasher,
    bytes: u64,
    budget: Budget,
    faults: &'a Faults,
}

impl<'a, R> Metered<'a, R> {
    pub fn new(inner: R, hasher: Hasher, budget: Budget, faults: &'a Faults) -> Self {
        Self { inner, hasher, bytes: 0, budget, faults }
    }

    /// Digest and length of what was read.
    pub fn finish(self) -> (Digest, u64) {
        (self.hasher.finish(), self.bytes)
    }
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..length]);
        self.bytes += length as u64;
        let used = self.budget.used.fetch_add(length as u64, Ordering::Relaxed) + length as u64;
        if used > self.budget.limit_bytes {
            return Err(self.faults.set(&self.budget.error));
        }
        Ok(length)
    }
}

/// Notes why the decoder inside failed.
pub(super) struct Decoder<'a, R> {
    inner: R,
    name: &'static str,
    faults: &'a Faults,
}

impl<'a, R> Decoder<'a, R> {
    pub fn new(inner: R, name: &'static str, faults: &'a Faults) -> Self {
        Self { inner, name, faults }
    }
}

impl<R: Read> Read for Decoder<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                let mut reason = self.faults.decoder.borrow_mut();
                reason.get_or_insert_with(|| format!("bad {} data: {error}", self.name));
            }
        })
    }
}
