//! Attacks the loading of archives with archives built from parts, of which a few are absent, damaged, linked or wrongly described.
//!
//! Promises: after an error no image is visible; after success every blob has the bytes that its digest names and every layer its diff ID; a saved
//! archive loads as the same images; staging is empty in either case.
#![no_main]

use std::io::Write;
use std::sync::LazyLock;

use agent::archive::{load, save};
use agent::packing::{Packing, unpacked};
use agent::staging::Staging;
use agent::store::memory::MemoryStore;
use agent::store::{Held, Query, Store};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use fuzz::Choices;
use fuzz::pool::{self, Blob};
use libfuzzer_sys::fuzz_target;
use proto::control::{self, ArchiveFormat};
use proto::image::Selection;
use proto::peer::ImageRow;
use proto::{Digest, Reference};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const NAMES: [&str; 5] = ["demo:1", "quay.io/a/b:2", "docker.io/library/demo:1", "demo", "No Name"];

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime"));

static DIRECTORY: LazyLock<TempDir> = LazyLock::new(fuzz::directory);

/// A tar archive that is being built.
struct Archive(tar::Builder<Vec<u8>>);

impl Archive {
    fn add(&mut self, name: &str, content: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        self.0.append_data(&mut header, name, content).expect("memory");
    }

    fn link(&mut self, name: &str, target: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        self.0.append_link(&mut header, name, target).expect("memory");
    }
}

fn path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn archive(choices: &mut Choices<'_>, pool: &[Blob]) -> Vec<u8> {
    let mut archive = Archive(tar::Builder::new(vec![]));
    if !choices.one_in(8) {
        archive.add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    }
    for blob in pool {
        let path = path(&blob.descriptor.digest);
        match choices.byte() {
            1 => {}
            2 => archive.add(&path, b"other content"),
            3 => {
                archive.add("elsewhere", &blob.bytes);
                archive.link(&path, "../../elsewhere");
            }
            4 => archive.link(&path, NAMES[choices.below(NAMES.len())]),
            _ => archive.add(&path, &blob.bytes),
        }
    }
    let mut entries = vec![];
    for _ in 0..1 + choices.below(3) {
        let mut entry = pool::describe_any(choices, pool);
        if let (Some(name), true) = (NAMES.get(choices.below(8)), entry.is_object()) {
            let key = ["io.containerd.image.name", "org.opencontainers.image.ref.name"][choices.below(2)];
            entry["annotations"] = json!({ key: name });
        }
        entries.push(entry);
    }
    if !choices.one_in(8) {
        archive.add("index.json", json!({"schemaVersion": 2, "manifests": entries}).to_string().as_bytes());
    }
    if choices.one_in(3) {
        archive.add("manifest.json", manifest_list(choices, pool).to_string().as_bytes());
    }
    archive.0.into_inner().expect("memory")
}

/// `manifest.json` as `docker save` writes it for a manifest of the pool; for another blob the config does not fit.
fn manifest_list(choices: &mut Choices<'_>, pool: &[Blob]) -> Value {
    let blob = pool::any(choices, pool);
    let manifest = serde_json::from_slice::<Value>(&blob.bytes).unwrap_or_default();
    let path = |value: &Value| value["digest"].as_str().map(|digest| format!("blobs/sha256/{}", digest.trim_start_matches("sha256:")));
    let config = path(&manifest["config"]).unwrap_or_else(|| self::path(&blob.descriptor.digest));
    let layers: Vec<String> = manifest["layers"].as_array().into_iter().flatten().filter_map(path).collect();
    let tags: Vec<&str> = (0..choices.below(3)).map(|_| NAMES[choices.below(NAMES.len())]).collect();
    json!([{"Config": config, "RepoTags": tags, "Layers": layers}])
}

fn pack(choices: &mut Choices<'_>, mut archive: Vec<u8>) -> Vec<u8> {
    if choices.one_in(16) {
        archive.truncate(choices.below(1 << 16));
    }
    match choices.below(4) {
        1 => {
            let mut gzip = GzEncoder::new(vec![], Compression::fast());
            gzip.write_all(&archive).expect("memory");
            archive = gzip.finish().expect("memory");
        }
        2 => archive = zstd::bulk::compress(&archive, 1).expect("memory"),
        _ => {}
    }
    if choices.one_in(16) && !archive.is_empty() {
        let at = choices.below(1 << 16) % archive.len();
        archive[at] ^= 1 << choices.below(8);
    }
    archive
}

/// Loads an archive in pieces; the visible images, or `None` after an error.
async fn loaded(store: &MemoryStore, pieces: Vec<Bytes>) -> Option<Vec<ImageRow>> {
    let staging = Staging::open(DIRECTORY.path()).expect("a staging area");
    let (sender, receiver) = mpsc::channel(1);
    let feed = async move {
        for piece in pieces {
            if sender.send(Ok(piece)).await.is_err() {
                return;
            }
        }
    };
    let stop = CancellationToken::new();
    let (loaded, ()) = tokio::join!(load(store, &staging, receiver, &stop, |_| {}), feed);
    let images = store.list().await.expect("a list");
    // An image that cannot be loaded is no error of the archive.
    let is_any = loaded.as_ref().is_ok_and(|report| !report.loaded.is_empty());
    assert_eq!(is_any, !images.is_empty(), "{loaded:?}");
    assert_eq!(std::fs::read_dir(DIRECTORY.path()).expect("a directory").count(), 0);
    is_any.then_some(images)
}

/// Checks every blob of an image against its digest, and every layer against its diff ID.
async fn check(store: &MemoryStore, row: &ImageRow) -> Held {
    let query = row.reference.clone().map(Query::from).or_else(|| Query::parse(&row.root.to_string()).ok()).expect("a query");
    let held = store.resolve(&query, Selection::Present).await.expect("an image");
    assert_eq!(held.image.root.digest, row.root);
    for blob in held.image.blobs() {
        let bytes = store.read(blob, 0..blob.size_bytes).await.expect("a blob").all().await.expect("a blob");
        assert_eq!((Digest::of(&bytes), bytes.len() as u64), (blob.digest, blob.size_bytes));
        for layer in held.image.layers().iter().filter(|layer| layer.descriptor.digest == blob.digest) {
            let mut content = vec![];
            unpacked(&bytes[..], Packing::of(&bytes)).expect("a packing").read_to_end(&mut content).expect("a layer");
            assert!(layer.diff_id.is_none_or(|diff_id| diff_id == Digest::of(&content)), "a layer that is not what the config says");
        }
    }
    held
}

async fn run(choices: &mut Choices<'_>) {
    let pool = pool::pool(choices);
    let archive = archive(choices, &pool);
    let archive = pack(choices, archive);
    let piece = 1 + choices.below(20_000);
    let store = MemoryStore::new();
    let pieces = archive.chunks(piece.max(archive.len() / 200)).map(Bytes::copy_from_slice).collect();
    let Some(images) = loaded(&store, pieces).await else { return };
    let mut held = vec![];
    for row in &images {
        held.push(check(&store, row).await);
    }

    let format = [ArchiveFormat::Docker, ArchiveFormat::Oci][choices.below(2)];
    let compression = [control::Compression::None, control::Compression::Gzip, control::Compression::Zstd][choices.below(3)];
    let (sender, mut receiver) = mpsc::channel(4);
    let collect = async {
        let mut pieces = vec![];
        while let Some(piece) = receiver.recv().await {
            pieces.push(piece);
        }
        pieces
    };
    let (saved, pieces) = tokio::join!(save(&store, &held, format, compression, sender), collect);
    saved.expect("an archive");
    let other = MemoryStore::new();
    let again = loaded(&other, pieces).await.expect("what was saved is loaded");
    let key = |row: &ImageRow| (row.reference.as_ref().map(Reference::to_string), row.root, row.image_id, row.size_bytes, row.complete);
    assert_eq!(again.iter().map(key).collect::<Vec<_>>(), images.iter().map(key).collect::<Vec<_>>());
}

fuzz_target!(|input: &[u8]| RUNTIME.block_on(run(&mut Choices::new(input))));
