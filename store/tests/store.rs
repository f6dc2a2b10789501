//! What a store promises, seen from outside.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    error::Error,
    fs,
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use store::{ImageRecord, LayerRecord, SealKey, StoreError, StoreReader, StoreWriter, store_dir_name, sweep};

const CHUNK: usize = 64 << 10;
const HEADER: usize = 17;
const TAG: usize = 16;

struct Node {
    dir: tempfile::TempDir,
    seal: SealKey,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let seal = SealKey::read_or_create(&dir.path().join("data/seal.key")).unwrap();
        Self { dir, seal }
    }

    fn images(&self) -> PathBuf {
        self.dir.path().join("images")
    }

    fn write(&self, digest: &str, layers: &[&[u8]]) -> PathBuf {
        let writer = StoreWriter::create(&self.images(), digest).unwrap();
        for (index, tar) in layers.iter().enumerate() {
            let mut layer = writer.layer(index).unwrap();
            layer.write_all(tar).unwrap();
            layer.finish().unwrap();
        }
        writer.commit(&record(digest, layers), &self.seal).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.images())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn digest(byte: u8) -> String {
    format!("sha256:{}", format!("{byte:02x}").repeat(32))
}

fn record(digest: &str, layers: &[&[u8]]) -> ImageRecord {
    ImageRecord {
        reference: "registry.example:5000/a/app:1".to_owned(),
        manifest_digest: digest.to_owned(),
        image_config: r#"{"config":{"Cmd":["/app"]}}"#.to_owned(),
        unpacked_bytes: 4096,
        layers: layers
            .iter()
            .map(|tar| LayerRecord { diff_id: self::digest(9), tar_bytes: tar.len() as u64 })
            .collect(),
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..=250).cycle().take(length).collect()
}

fn read(store: &Path, seal: &SealKey, index: usize) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut tar = Vec::new();
    StoreReader::open(store, seal)?.layer(index)?.read_to_end(&mut tar)?;
    Ok(tar)
}

/// Reading fails, and the message has the file's name.
fn assert_refused(store: &Path, seal: &SealKey, index: usize, file: &str, what: &str) {
    let error = read(store, seal, index).map(|tar| tar.len()).expect_err(what);
    assert!(error.to_string().contains(file), "{what}: {error}");
}

#[test]
fn what_is_written_is_read_whatever_its_length() {
    let node = Node::new();
    let lengths = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 7];
    let layers: Vec<Vec<u8>> = lengths.iter().map(|&length| pattern(length)).collect();
    let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    let store = node.write(&digest(1), &layers);

    let reader = StoreReader::open(&store, &node.seal).unwrap();
    assert_eq!(*reader.record(), record(&digest(1), &layers));
    for (index, tar) in layers.iter().enumerate() {
        assert!(read(&store, &node.seal, index).unwrap() == *tar, "layer {index}");
    }
    assert!(matches!(reader.layer(layers.len()), Err(StoreError::NoLayer { index: 7, .. })));
    assert_eq!(node.names(), [store_dir_name(&digest(1)).unwrap()]);
}

#[test]
fn the_store_hides_the_image_and_is_for_its_owner_only() {
    let node = Node::new();
    let store = node.write(&digest(1), &[b"plain text of the image".repeat(100).as_slice()]);
    let sealed = fs::read(store.join("sealed")).unwrap();
    let layer = fs::read(store.join("layers/0000")).unwrap();
    let has = |file: &[u8], text: &[u8]| file.windows(text.len()).any(|window| window == text);
    assert!(!has(&sealed, b"registry.example") && !has(&layer, b"plain text"));
    for (path, mode) in [("", 0o700), ("layers", 0o700), ("sealed", 0o600), ("layers/0000", 0o600)] {
        assert_eq!(fs::metadata(store.join(path)).unwrap().mode() & 0o7777, mode, "{path}");
    }
}

#[test]
fn every_changed_byte_is_noticed() {
    let node = Node::new();
    let tar = pattern(2 * CHUNK + 100);
    let store = node.write(&digest(1), &[&tar]);
    let flip = |name: &str, at: usize| {
        let path = store.join(name);
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        bad[at] ^= 0x01;
        fs::write(&path, bad).unwrap();
        assert_refused(&store, &node.seal, 0, name, &format!("{name} byte {at}"));
        fs::write(&path, good).unwrap();
    };
    let length = |name: &str| usize::try_from(fs::metadata(store.join(name)).unwrap().len()).unwrap();
    for at in 0..length("sealed") {
        flip("sealed", at);
    }
    for at in 0..HEADER {
        flip("layers/0000", at);
    }
    for chunk in 0..3 {
        let begin = HEADER + chunk * (CHUNK + TAG);
        let end = (begin + CHUNK + TAG).min(length("layers/0000"));
        for at in [begin, begin + 50, end - TAG, end - 1] {
            flip("layers/0000", at);
        }
    }
    assert!(read(&store, &node.seal, 0).unwrap() == tar);
}

#[test]
fn a_small_layer_is_checked_to_the_last_byte() {
    let node = Node::new();
    let store = node.write(&digest(1), &[b"small"]);
    let path = store.join("layers/0000");
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            fs::write(&path, bad).unwrap();
            assert_refused(&store, &node.seal, 0, "layers/0000", &format!("bit {bit} of byte {at}"));
        }
    }
}

#[test]
fn truncation_and_extension_are_noticed_at_every_boundary() {
    let node = Node::new();
    let store = node.write(&digest(1), &[&pattern(3 * CHUNK)]);
    let path = store.join("layers/0000");
    let good = fs::read(&path).unwrap();
    let boundaries = (0..3).map(|chunk| HEADER + chunk * (CHUNK + TAG));
    for end in boundaries.flat_map(|end| [end - 1, end, end + 1, end + TAG]).chain([0, good.len() - 1]) {
        fs::write(&path, &good[..end]).unwrap();
        assert_refused(&store, &node.seal, 0, "layers/0000", &format!("cut at {end}"));
    }
    for more in [&[0][..], &good[HEADER..HEADER + CHUNK + TAG]] {
        fs::write(&path, [&good[..], more].concat()).unwrap();
        assert_refused(&store, &node.seal, 0, "layers/0000", &format!("{} bytes more", more.len()));
    }
    let sealed = fs::read(store.join("sealed")).unwrap();
    for end in [0, 8, 10, 21, 22, sealed.len() - 1] {
        fs::write(store.join("sealed"), &sealed[..end]).unwrap();
        assert_refused(&store, &node.seal, 0, "sealed", &format!("sealed cut at {end}"));
    }
}

#[test]
fn chunks_and_layers_cannot_change_places() {
    let node = Node::new();
    let tars = [pattern(3 * CHUNK), vec![7; 3 * CHUNK]];
    let tars = [tars[0].as_slice(), tars[1].as_slice()];
    let store = node.write(&digest(1), &tars);
    let other = node.write(&digest(2), &tars);
    let (first, second) = (store.join("layers/0000"), store.join("layers/0001"));
    let good = fs::read(&first).unwrap();

    let mut swapped = good.clone();
    let (one, two) = swapped[HEADER..].split_at_mut(CHUNK + TAG);
    one.swap_with_slice(&mut two[..CHUNK + TAG]);
    fs::write(&first, swapped).unwrap();
    assert_refused(&store, &node.seal, 0, "layers/0000", "chunks of one layer");

    let layer1 = fs::read(&second).unwrap();
    let mut mixed = good.clone();
    mixed[HEADER..HEADER + CHUNK + TAG].copy_from_slice(&layer1[HEADER..HEADER + CHUNK + TAG]);
    fs::write(&first, mixed).unwrap();
    assert_refused(&store, &node.seal, 0, "layers/0000", "chunks of two layers");

    fs::write(&first, &layer1).unwrap();
    fs::write(&second, &good).unwrap();
    assert_refused(&store, &node.seal, 0, "layers/0000", "layers of one image");
    assert_refused(&store, &node.seal, 1, "layers/0001", "layers of one image");

    fs::copy(other.join("layers/0000"), &first).unwrap();
    assert_refused(&store, &node.seal, 0, "layers/0000", "layers of two images");
}

#[test]
fn a_store_opens_under_its_own_name_and_seal_key_only() {
    let node = Node::new();
    let store = node.write(&digest(1), &[b"tar"]);
    let stranger = Node::new();
    assert!(matches!(StoreReader::open(&store, &stranger.seal), Err(StoreError::Forged { .. })));

    let moved = node.images().join(store_dir_name(&digest(2)).unwrap());
    fs::rename(&store, &moved).unwrap();
    assert!(matches!(StoreReader::open(&moved, &node.seal), Err(StoreError::Forged { .. })));
    // Sealed record of one image with the layers of another.
    let other = node.write(&digest(3), &[b"tar"]);
    fs::copy(moved.join("sealed"), other.join("sealed")).unwrap();
    assert!(matches!(StoreReader::open(&other, &node.seal), Err(StoreError::Forged { .. })));
    assert!(matches!(
        StoreReader::open(&node.images().join("x"), &node.seal),
        Err(StoreError::Digest { .. })
    ));
    assert!(matches!(StoreReader::open(&store, &node.seal), Err(StoreError::Missing { .. })));
}

#[test]
fn a_reader_repeats_its_error_and_gives_nothing_more() {
    let node = Node::new();
    let store = node.write(&digest(1), &[&pattern(3 * CHUNK)]);
    let path = store.join("layers/0000");
    let mut bytes = fs::read(&path).unwrap();
    bytes[HEADER + CHUNK + TAG] ^= 1;
    fs::write(&path, bytes).unwrap();
    let mut layer = StoreReader::open(&store, &node.seal).unwrap().layer(0).unwrap();
    let mut first = vec![0; CHUNK];
    layer.read_exact(&mut first).unwrap();
    for _ in 0..3 {
        let error = layer.read(&mut first).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}

#[test]
fn an_interrupted_writer_leaves_no_store() {
    let node = Node::new();
    let writer = StoreWriter::create(&node.images(), &digest(1)).unwrap();
    let mut layer = writer.layer(0).unwrap();
    layer.write_all(&pattern(CHUNK * 2)).unwrap();
    assert_eq!(node.names().len(), 1);
    drop((writer, layer));
    assert!(node.names().is_empty());

    // A killed one runs no destructor.
    let writer = StoreWriter::create(&node.images(), &digest(1)).unwrap();
    std::mem::forget(writer);
    let store = node.write(&digest(2), &[b"tar"]);
    assert_eq!(sweep(&node.images()).unwrap(), 1);
    assert_eq!(node.names(), [store.file_name().unwrap().to_str().unwrap()]);
    assert_eq!(sweep(&node.dir.path().join("none")).unwrap(), 0);
}

#[test]
fn a_record_must_list_the_layers_that_were_finished() {
    let node = Node::new();
    for (listed, unfinished) in
        [(&[&b"tar"[..], b"tar"][..], false), (&[b"longer"], false), (&[], false), (&[b"tar"], true)]
    {
        let writer = StoreWriter::create(&node.images(), &digest(1)).unwrap();
        let mut layer = writer.layer(0).unwrap();
        layer.write_all(b"tar").unwrap();
        if !unfinished {
            layer.finish().unwrap();
        }
        let refused = writer.commit(&record(&digest(1), listed), &node.seal);
        assert!(matches!(refused, Err(StoreError::Record { .. })), "{listed:?}");
    }
    let writer = StoreWriter::create(&node.images(), &digest(1)).unwrap();
    assert!(matches!(writer.commit(&record(&digest(2), &[]), &node.seal), Err(StoreError::Record { .. })));
    assert!(node.names().is_empty());
}

#[test]
fn a_layer_begun_again_starts_anew() {
    let node = Node::new();
    let writer = StoreWriter::create(&node.images(), &digest(1)).unwrap();
    for tar in [&pattern(2 * CHUNK)[..], b"second try"] {
        let mut layer = writer.layer(0).unwrap();
        layer.write_all(tar).unwrap();
        layer.finish().unwrap();
    }
    let store = writer.commit(&record(&digest(1), &[b"second try"]), &node.seal).unwrap();
    assert_eq!(read(&store, &node.seal, 0).unwrap(), b"second try");
}

#[test]
fn concurrent_commits_end_in_one_complete_store() {
    let node = Node::new();
    std::thread::scope(|scope| {
        for writer in 0..8u8 {
            let node = &node;
            scope.spawn(move || node.write(&digest(1), &[&[writer; 1000]]));
        }
    });
    assert_eq!(node.names().len(), 1);
    let store = node.images().join(store_dir_name(&digest(1)).unwrap());
    let tar = read(&store, &node.seal, 0).unwrap();
    assert!(tar.iter().all(|&byte| byte == tar[0]) && tar.len() == 1000);
    // A later one leaves it as it is.
    node.write(&digest(1), &[&[99; 1000]]);
    assert_eq!(read(&store, &node.seal, 0).unwrap(), tar);
}

#[test]
fn layers_are_written_by_several_threads_at_once() {
    let node = Node::new();
    let tars: Vec<Vec<u8>> = (0..8).map(|index| vec![index; CHUNK + usize::from(index)]).collect();
    let writer = StoreWriter::create(&node.images(), &digest(1)).unwrap();
    std::thread::scope(|scope| {
        for (index, tar) in tars.iter().enumerate() {
            let writer = &writer;
            scope.spawn(move || {
                let mut layer = writer.layer(index).unwrap();
                layer.write_all(tar).unwrap();
                layer.finish().unwrap();
            });
        }
    });
    let tars: Vec<&[u8]> = tars.iter().map(Vec::as_slice).collect();
    let store = writer.commit(&record(&digest(1), &tars), &node.seal).unwrap();
    for (index, tar) in tars.iter().enumerate() {
        assert!(read(&store, &node.seal, index).unwrap() == *tar);
    }
}

#[test]
fn a_store_that_cannot_be_opened_is_replaced() {
    let node = Node::new();
    for spoil in [
        (|store: &Path| fs::remove_file(store.join("sealed")).unwrap()) as fn(&Path),
        |store| fs::write(store.join("sealed"), b"garbage").unwrap(),
        |store| {
            fs::remove_dir_all(store).unwrap();
            fs::write(store, b"a file in its place").unwrap();
        },
    ] {
        let store = node.write(&digest(1), &[b"tar"]);
        spoil(&store);
        node.write(&digest(1), &[b"again"]);
        assert_eq!(read(&store, &node.seal, 0).unwrap(), b"again");
        assert_eq!(node.names().len(), 1);
        fs::remove_dir_all(store).unwrap();
    }
}

#[test]
fn a_full_disk_is_told_apart() {
    let node = Node::new();
    let writer = StoreWriter::create(&node.images(), &digest(1)).unwrap();
    let layers = fs::read_dir(node.images()).unwrap().next().unwrap().unwrap().path().join("layers");
    // Every write to /dev/full says that the disk is full.
    std::os::unix::fs::symlink("/dev/full", layers.join("0000")).unwrap();
    let error = writer.layer(0).err().unwrap();
    assert!(error.is_disk_full(), "{error:?}");
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::StorageFull);
}

#[test]
fn a_seal_key_is_made_once_and_only_for_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("made/for/it/seal.key");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| SealKey::read_or_create(&path).unwrap());
        }
    });
    let made = fs::read(&path).unwrap();
    assert_eq!((made.len(), fs::metadata(&path).unwrap().mode() & 0o7777), (32, 0o600));
    assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    SealKey::read_or_create(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), made);
}

#[test]
fn an_unfit_seal_key_is_refused_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("seal.key");
    let refused = |what: &str| {
        for result in [SealKey::read(&path), SealKey::read_or_create(&path)] {
            let error = result.err().unwrap_or_else(|| panic!("{what}"));
            assert!(error.to_string().contains("seal.key"), "{what}: {error}");
        }
    };
    for (length, mode) in [(0, 0o600), (31, 0o600), (33, 0o600), (32, 0o640), (32, 0o604), (32, 0o602)] {
        fs::write(&path, vec![1; length]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        refused(&format!("{length} bytes, mode {mode:o}"));
        assert_eq!(fs::metadata(&path).unwrap().len(), length as u64);
    }
    fs::remove_file(&path).unwrap();
    assert!(SealKey::read(&path).is_err());
    std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
    refused("a symlink");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    refused("a directory");
}

/// Made once by this crate and never again: what is on nodes must stay readable, or the version must change.
#[test]
fn a_store_of_format_version_1_still_opens() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let node = Node::new();
    let key = node.dir.path().join("golden.key");
    fs::write(&key, [7; 32]).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let store = golden.join(store_dir_name(&digest(1)).unwrap());
    let seal = SealKey::read(&key).unwrap();
    assert_eq!(*StoreReader::open(&store, &seal).unwrap().record(), record(&digest(1), &[b"first", b""]));
    assert_eq!(read(&store, &seal, 0).unwrap(), b"first");
    assert_eq!(read(&store, &seal, 1).unwrap(), b"");
}
