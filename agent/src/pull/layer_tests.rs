use std::{io::Write, sync::Mutex};

use bytes::Bytes;

use super::*;

/// Keeps the tar.
#[derive(Default)]
struct Memory(Mutex<Vec<u8>>);

impl StoreInProgress for Memory {
    fn takes_layers_in_parallel(&self) -> bool {
        true
    }

    fn layer(&self, _index: usize, tar: &mut dyn Read) -> Result<LayerStats, Failure> {
        let mut content = Vec::new();
        tar.read_to_end(&mut content).map_err(|_| Failure::Read)?;
        *self.0.lock().unwrap() = content;
        Ok(LayerStats::default())
    }

    fn commit(self: Box<Self>, _record: &store::ImageRecord) -> Result<(), Error> {
        Ok(())
    }
}

fn content() -> Vec<u8> {
    (0..200_000_u32).flat_map(u32::to_le_bytes).collect()
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn layer(blob: &[u8], compression: Compression) -> Layer {
    Layer {
        index: 0,
        digest: Digest::sha256(blob),
        size_bytes: blob.len() as u64,
        compression,
        diff_id: Digest::sha256(&content()),
    }
}

/// Feeds `blob` in chunks; `whole` says whether its end is reported.
fn feed(layer: &Layer, blob: &[u8], whole: bool, max_tar_bytes: u64) -> (Result<u64, Error>, u64) {
    let (sender, chunks) = mpsc::channel(1 << 16);
    for chunk in blob.chunks(1000) {
        sender.try_send(Chunk::Data(Bytes::copy_from_slice(chunk))).ok().unwrap();
    }
    if whole {
        sender.try_send(Chunk::End).ok().unwrap();
    }
    drop(sender);
    let target = Target {
        writer: Arc::new(Box::new(Memory::default())),
        tar_bytes: Arc::default(),
        max_tar_bytes,
        _busy: mpsc::channel(1).0,
    };
    let stored = consume(layer, &target, chunks).map(|stored| stored.record.tar_bytes);
    (stored, target.tar_bytes.load(Ordering::Relaxed))
}

#[test]
fn each_compression_gives_the_same_tar() {
    let tar = content();
    let members = [gzip(&tar[..1234]), gzip(&tar[1234..])].concat();
    let frames =
        [zstd::encode_all(&tar[..99], 3).unwrap(), zstd::encode_all(&tar[99..], 3).unwrap()].concat();
    for (blob, compression) in [
        (tar.clone(), Compression::None),
        (gzip(&tar), Compression::Gzip),
        (members, Compression::Gzip),
        (zstd::encode_all(tar.as_slice(), 3).unwrap(), Compression::Zstd),
        (frames, Compression::Zstd),
    ] {
        let (stored, used) = feed(&layer(&blob, compression), &blob, true, u64::MAX);
        assert_eq!(stored.unwrap(), tar.len() as u64, "{compression:?}");
        assert_eq!(used, tar.len() as u64);
    }
}

#[test]
fn a_changed_blob_is_a_digest_error_whatever_its_decoder_says() {
    for (mut blob, compression) in [
        (content(), Compression::None),
        (gzip(&content()), Compression::Gzip),
        (zstd::encode_all(content().as_slice(), 3).unwrap(), Compression::Zstd),
    ] {
        let layer = layer(&blob, compression);
        for at in [0, 20, blob.len() / 2, blob.len() - 1] {
            blob[at] ^= 0x55;
            let (stored, used) = feed(&layer, &blob, true, u64::MAX);
            let error = stored.unwrap_err();
            assert!(matches!(error, Error::Digest { .. }), "{compression:?} at {at}: {error}");
            assert_eq!(used, 0, "a failed layer gives its bytes back");
            blob[at] ^= 0x55;
        }
    }
}

#[test]
fn a_genuine_blob_with_bad_content_says_what_is_bad() {
    let mut blob = gzip(&content());
    blob.truncate(blob.len() - 20);
    let error = feed(&layer(&blob, Compression::Gzip), &blob, true, u64::MAX).0.unwrap_err();
    assert!(
        matches!(&error, Error::Malformed { reason, .. } if reason.starts_with("bad gzip data")),
        "{error}"
    );

    let blob = gzip(b"other content");
    let error = feed(&layer(&blob, Compression::Gzip), &blob, true, u64::MAX).0.unwrap_err();
    assert!(matches!(&error, Error::Digest { what, .. } if what.starts_with("the content of")), "{error}");
}

#[test]
fn a_short_blob_is_a_digest_error_and_a_long_one_stops_at_its_size() {
    let blob = content();
    let layer = layer(&blob, Compression::None);
    let error = feed(&layer, &blob[..5000], true, u64::MAX).0.unwrap_err();
    assert!(matches!(error, Error::Digest { .. }), "{error}");
    let long = [blob.clone(), vec![0; 5000]].concat();
    let error = feed(&layer, &long, true, u64::MAX).0.unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
}

#[test]
fn a_broken_stream_is_an_interruption() {
    for compression in [Compression::None, Compression::Gzip] {
        let blob = if compression == Compression::None { content() } else { gzip(&content()) };
        let (stored, used) = feed(&layer(&blob, compression), &blob[..blob.len() / 2], false, u64::MAX);
        assert!(matches!(stored, Err(Error::Interrupted)), "{stored:?}");
        assert_eq!(used, 0);
    }
}

#[test]
fn a_bomb_stops_at_the_limit() {
    let blob = gzip(&vec![0; 50 << 20]);
    assert!(blob.len() < 1 << 20);
    let error = feed(&layer(&blob, Compression::Gzip), &blob, true, 1 << 20).0.unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit_bytes: 1_048_576, .. }), "{error}");
}
