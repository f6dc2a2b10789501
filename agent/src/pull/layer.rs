//! One layer: http → digest → decompress → diff id → store, as a stream in bounded memory.
//!
//! The network side is a task; the rest runs on a blocking thread behind a channel of a few chunks. A download that
//! breaks off begins anew, as the store can take a layer again.

use std::{
    io::{self, BufRead, BufReader, Read},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use store::LayerRecord;
use tokio::sync::mpsc;
use unpack::LayerStats;

use super::{
    job::Stored,
    stream::{Budget, Chunk, Chunks, Decoder, Faults, Metered},
};
use crate::{
    digest::Digest,
    error::Error,
    image_store::{Failure, StoreInProgress},
    registry::{Compression, Layer, Session},
};

/// Chunks in flight between network and store; a chunk of hyper's is at most about 400 KiB.
const CHUNKS: usize = 2;
const BUFFER_BYTES: usize = 64 << 10;
/// The largest window that a zstd frame may ask for, 128 MiB: what `zstd -d` accepts by default. The common
/// levels use at most 8 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Where the layers of one image go.
#[derive(Clone)]
pub(super) struct Target {
    pub writer: Arc<Box<dyn StoreInProgress>>,
    /// Bytes that the layers of this image have so far when decompressed.
    pub tar_bytes: Arc<AtomicU64>,
    pub max_tar_bytes: u64,
    /// Held by each thread that uses `writer`. The last field: dropped after the writer.
    pub _busy: mpsc::Sender<()>,
}

/// Pulls one layer.
pub(super) async fn pull(session: Arc<Session>, layer: Layer, target: Target) -> Result<Stored, Error> {
    let url = session.blob_url(&layer.digest);
    let mut attempt = 1;
    loop {
        let mut response = session.blob(&layer.digest).await?;
        let (sender, chunks) = mpsc::channel(CHUNKS);
        let consumer = tokio::task::spawn_blocking({
            let (layer, target) = (layer.clone(), target.clone());
            move || consume(&layer, &target, chunks)
        });
        let broken = loop {
            match response.chunk().await {
                Ok(Some(bytes)) => {
                    // The consumer is gone when it has failed; it says why.
                    if sender.send(Chunk::Data(bytes)).await.is_err() {
                        break None;
                    }
                }
                Ok(None) => {
                    let _ = sender.send(Chunk::End).await;
                    break None;
                }
                Err(failure) => break Some(failure),
            }
        };
        drop(sender);
        let stored = consumer.await.unwrap_or(Err(Error::Interrupted));
        match (broken, stored) {
            // What the store says counts more than a connection that broke meanwhile.
            (None, stored) => return stored,
            (Some(failure), Err(Error::Interrupted)) => {
                session.pause_after(&url, attempt, failure).await?;
            }
            (Some(_), stored) => return stored,
        }
        attempt += 1;
    }
}

/// Reads the layer to its end, checks it and hands it to the store. [`Error::Interrupted`] when the chunks end
/// before the blob does.
fn consume(layer: &Layer, target: &Target, chunks: mpsc::Receiver<Chunk>) -> Result<Stored, Error> {
    let what = format!("layer {}", layer.digest);
    let faults = Faults::default();
    let blob_budget = Budget {
        used: Arc::default(),
        limit_bytes: layer.size_bytes,
        error: Error::TooLarge {
            what: what.clone(),
            limit_bytes: layer.size_bytes,
            hint: ", its size in the manifest",
        },
    };
    let image_budget = Budget {
        used: target.tar_bytes.clone(),
        limit_bytes: target.max_tar_bytes,
        error: Error::TooLarge {
            what: "the decompressed image".to_owned(),
            limit_bytes: target.max_tar_bytes,
            hint: " (--max-image-bytes)",
        },
    };
    let blob = Metered::new(Chunks::new(chunks, &faults), layer.digest.hasher(), blob_budget, &faults);
    let mut blob = BufReader::with_capacity(BUFFER_BYTES, blob);
    let decoder = decoder(layer.compression, &mut blob, &faults)
        .map_err(Error::io("set up zstd for", &layer.digest.to_string()))?;
    let mut tar = Metered::new(decoder, layer.diff_id.hasher(), image_budget, &faults);
    let taken = target.writer.layer(layer.index, &mut tar);
    // What follows the archive belongs to the diff id, and a decoder checks its trailer at the end only.
    let taken = taken.and_then(|stats| drain(&mut tar).map(|()| stats).map_err(|_| Failure::Read));
    let (diff_id, tar_bytes) = tar.finish();

    let stored = judge(layer, &what, &faults, blob, taken).and_then(|stats| {
        expect(&format!("the content of {what}"), &layer.diff_id, diff_id)?;
        let record = LayerRecord { diff_id: layer.diff_id.to_string(), tar_bytes };
        Ok(Stored { index: layer.index, record, unpacked_bytes: stats.unpacked_bytes })
    });
    if stored.is_err() {
        // The layer may come again.
        target.tar_bytes.fetch_sub(tar_bytes, Ordering::Relaxed);
    }
    stored
}

/// The reason that counts: the store's trouble, then the stream's, then a blob that is not what its digest says,
/// and only for a genuine blob what is wrong inside.
fn judge(
    layer: &Layer,
    what: &str,
    faults: &Faults,
    mut blob: BufReader<Metered<'_, Chunks<'_>>>,
    taken: Result<LayerStats, Failure>,
) -> Result<LayerStats, Error> {
    let taken = match taken {
        Err(Failure::Store(error)) => return Err(error),
        taken => taken,
    };
    if faults.stream().is_none() {
        // An error is in `faults` then.
        let _ = drain(&mut blob);
    }
    if let Some(error) = faults.stream() {
        return Err(error);
    }
    let (digest, _) = blob.into_inner().finish();
    expect(what, &layer.digest, digest)?;
    taken.map_err(|failure| match failure {
        Failure::Store(error) => error,
        Failure::Archive(source) => {
            Error::Layer { digest: layer.digest.to_string(), source: Arc::new(source) }
        }
        Failure::Read => Error::Malformed {
            what: what.to_owned(),
            reason: faults.decoder().unwrap_or_else(|| "its archive cannot be read".to_owned()),
        },
    })
}

fn expect(what: &str, expected: &Digest, actual: Digest) -> Result<(), Error> {
    if actual == *expected {
        return Ok(());
    }
    Err(Error::Digest { what: what.to_owned(), expected: expected.to_string(), actual: actual.to_string() })
}

fn decoder<'a, R: BufRead + 'a>(
    compression: Compression,
    blob: R,
    faults: &'a Faults,
) -> io::Result<Decoder<'a, Box<dyn Read + 'a>>> {
    let (name, reader): (_, Box<dyn Read + 'a>) = match compression {
        Compression::None => ("tar", Box::new(blob)),
        Compression::Gzip => ("gzip", Box::new(flate2::bufread::MultiGzDecoder::new(blob))),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(blob)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            ("zstd", Box::new(decoder))
        }
    };
    Ok(Decoder::new(reader, name, faults))
}

fn drain(reader: &mut impl Read) -> io::Result<()> {
    io::copy(reader, &mut io::sink()).map(drop)
}

#[cfg(test)]
#[path = "layer_tests.rs"]
mod tests;
