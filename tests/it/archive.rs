//! Archives: every format there and back, and what hostile ones come to.

use std::io;
use std::sync::Arc;

use agent::archive::{ArchiveError, Loaded, Report, load, save};
use agent::staging::Staging;
use agent::store::layout::LayoutStore;
use agent::store::memory::MemoryStore;
use agent::store::{Store, StoreError};
use bytes::Bytes;
use proptest::prelude::*;
use proto::control::{ArchiveFormat, Compression};
use proto::image::{ImageError, Selection};
use proto::{Digest, Platform};
use serde_json::json;
use tests::conformance::{bring, content, query};
use tests::sample::{Packing, Recipe, Sample, append, descriptor_json, gzip, layer_tar, noise, zstd};
use tokio_util::sync::CancellationToken;

/// Loads an archive that is at hand; asserts that nothing stays staged. The first thing that is not loaded is the error.
pub(crate) async fn load_bytes<S: Store>(store: &S, archive: Vec<u8>) -> Result<Vec<Loaded>, ArchiveError> {
    let report = report(store, archive).await?;
    match report.failed.into_iter().next() {
        Some(failed) => Err(failed.error),
        None => Ok(report.loaded),
    }
}

/// The same, with everything that is said of it.
pub(crate) async fn report<S: Store>(store: &S, archive: Vec<u8>) -> Result<Report, ArchiveError> {
    report_until(store, archive, &CancellationToken::new()).await
}

/// The same, stopped in between.
pub(crate) async fn report_until<S: Store>(store: &S, archive: Vec<u8>, stop: &CancellationToken) -> Result<Report, ArchiveError> {
    load_blocks(store, Bytes::from(archive).chunks(70_001).map(|block| Ok(Bytes::copy_from_slice(block))).collect(), stop).await
}

/// The bytes of an archive.
pub(crate) async fn save_bytes<S: Store>(
    store: &S,
    names: &[&str],
    format: ArchiveFormat,
    compression: Compression,
) -> Result<Vec<u8>, ArchiveError> {
    let mut held = vec![];
    for name in names {
        held.push(store.resolve(&query(name), Selection::Present).await?);
    }
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<Bytes>(4);
    let collect = async {
        let mut all = vec![];
        while let Some(bytes) = receiver.recv().await {
            all.extend_from_slice(&bytes);
        }
        all
    };
    let (saved, bytes) = tokio::join!(save(store, &held, format, compression, sender), collect);
    saved.map(|()| bytes)
}

async fn load_blocks<S: Store>(store: &S, blocks: Vec<io::Result<Bytes>>, stop: &CancellationToken) -> Result<Report, ArchiveError> {
    let directory = tempfile::tempdir().unwrap();
    let staging = Staging::open(directory.path()).unwrap();
    let (sender, receiver) = tokio::sync::mpsc::channel(2);
    let feed = async move {
        for block in blocks {
            if sender.send(block).await.is_err() {
                return;
            }
        }
    };
    let mut told = vec![];
    let (loaded, ()) = tokio::join!(load(store, &staging, receiver, stop, |row| told.push(row.clone())), feed);
    if let Ok(report) = &loaded {
        assert_eq!(report.loaded, told);
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing stays staged");
    loaded
}

async fn refused(archive: Vec<u8>) -> ArchiveError {
    let store = MemoryStore::new();
    let error = load_bytes(&store, archive).await.unwrap_err();
    assert!(store.list().await.unwrap().is_empty(), "nothing is visible after an error");
    error
}

pub(crate) fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(vec![]);
    for (path, content) in members {
        append(&mut tar, path, content);
    }
    tar.into_inner().unwrap()
}

pub(crate) fn link(tar: &mut tar::Builder<Vec<u8>>, path: &str, target: &str) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    tar.append_link(&mut header, path, target).unwrap();
}

/// An image as `docker save` up to version 24 writes it, the layers first; the second layer is a link to the first.
fn old_docker(link_target: Option<&str>) -> (Vec<u8>, Digest) {
    let layer = layer_tar("a", &noise(1, 50_000));
    let diff_id = Digest::of(&layer).to_string();
    let config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [diff_id, diff_id]}}).to_string();
    let config_name = format!("{}.json", Digest::of(config.as_bytes()).hex());
    let (one, two) = ("1".repeat(64), "2".repeat(64));
    let layers = [format!("{one}/layer.tar"), format!("{two}/layer.tar")];
    let manifest = json!([{"Config": config_name, "RepoTags": ["demo:old", "demo:older"], "Layers": layers}]).to_string();
    let mut tar = tar::Builder::new(vec![]);
    append(&mut tar, &format!("{one}/VERSION"), b"1.0");
    append(&mut tar, &format!("{one}/json"), b"{}");
    append(&mut tar, &layers[0], &layer);
    link(&mut tar, &layers[1], link_target.unwrap_or(&format!("../{}", layers[0])));
    append(&mut tar, &config_name, config.as_bytes());
    append(&mut tar, "manifest.json", manifest.as_bytes());
    append(&mut tar, "repositories", b"{}");
    (tar.into_inner().unwrap(), Digest::of(config.as_bytes()))
}

#[tokio::test]
async fn every_format_and_compression_there_and_back() {
    let store = MemoryStore::new();
    let mut recipe = Recipe::new(1, &[100_000, 0, 50_000]);
    recipe.layers[1].1 = Packing::Gzip;
    recipe.layers[2].1 = Packing::Zstd;
    let sample = recipe.build("demo:nautilus");
    bring(&store, &sample).await.unwrap();
    bring(&store, &sample.clone().named("quay.io/acme/demo:2")).await.unwrap();
    let multi = Sample::index("multi", &[Recipe::new(2, &[10_000]), Recipe::new(3, &[20_000]).platform("linux/s390x")]);
    bring(&store, &multi).await.unwrap();
    let names = ["demo:nautilus", "quay.io/acme/demo:2", "multi:latest"];
    for format in [ArchiveFormat::Docker, ArchiveFormat::Oci] {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let archive = save_bytes(&store, &names, format, compression).await.unwrap();
            assert_eq!(archive, save_bytes(&store, &names, format, compression).await.unwrap(), "the same images, the same bytes");
            let directory = tempfile::tempdir().unwrap();
            let layout = LayoutStore::open(directory.path()).unwrap();
            let memory = MemoryStore::new();
            let loaded = load_bytes(&layout, archive.clone()).await.unwrap();
            assert_eq!(loaded, load_bytes(&memory, archive).await.unwrap());
            assert_eq!(loaded.iter().map(|row| row.reference.as_ref().unwrap().familiar()).collect::<Vec<_>>(), names);
            assert_eq!(loaded[0].image_id, sample.image_id());
            let held = layout.resolve(&query("multi"), Selection::All).await.unwrap();
            assert_eq!(held.image, multi.image);
            assert_eq!(content(&memory, &sample.image.root).await.unwrap(), sample.blobs[&sample.image.root.digest]);
        }
    }
}

#[tokio::test]
async fn old_docker_archives_give_the_manifest_of_new_ones() {
    let store = MemoryStore::new();
    let (archive, config) = old_docker(None);
    let loaded = load_bytes(&store, archive).await.unwrap();
    assert_eq!(loaded.iter().map(|row| row.image_id).collect::<Vec<_>>(), [config, config]);
    let held = store.resolve(&query("demo:older"), Selection::All).await.unwrap();
    let manifest = content(&store, &held.image.root).await.unwrap();
    let text = String::from_utf8(manifest.to_vec()).unwrap();
    assert!(text.starts_with(r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:"#), "{text}");
    assert!(text.contains(r#""layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:"#), "{text}");
}

#[tokio::test]
async fn names_of_both_lists_meet() {
    let sample = Sample::small("x", 4).untagged();
    let mut entry = descriptor_json(&sample.image.root);
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "nautilus"});
    let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    let config = format!("blobs/sha256/{}", sample.image_id().hex());
    let list = json!([{"Config": config, "RepoTags": ["demo:nautilus", "demo:2"], "Layers": []}]).to_string();
    let blobs: Vec<(String, &[u8])> =
        sample.blobs.iter().map(|(digest, bytes)| (format!("./blobs/sha256/{}", digest.hex()), &bytes[..])).collect();
    let mut members: Vec<(&str, &[u8])> = blobs.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect();
    members.push(("./index.json", index.as_bytes()));
    let names = |loaded: Vec<Loaded>| loaded.into_iter().map(|row| row.reference.unwrap().familiar()).collect::<Vec<_>>();
    assert_eq!(names(load_bytes(&MemoryStore::new(), tar(&members)).await.unwrap()), ["nautilus:latest"]);
    members.push(("./manifest.json", list.as_bytes()));
    assert_eq!(names(load_bytes(&MemoryStore::new(), tar(&members)).await.unwrap()), ["demo:nautilus", "demo:2"]);
}

#[tokio::test]
async fn thin_archives_need_the_rest_here() {
    let full = MemoryStore::new();
    let sample = Sample::small("demo", 5);
    bring(&full, &sample).await.unwrap();
    let layer = sample.image.layers()[0].descriptor.digest;
    let archive = save_bytes(&full, &["demo"], ArchiveFormat::Docker, Compression::None).await.unwrap();
    let thin = without(&archive, &format!("blobs/sha256/{}", layer.hex()));
    assert!(matches!(refused(thin.clone()).await, ArchiveError::BlobMissing(digest) if digest == layer));
    full.remove(&query("demo")).await.unwrap();
    bring(&full, &sample.clone().named("base")).await.unwrap();
    assert_eq!(load_bytes(&full, thin).await.unwrap()[0].image_id, sample.image_id());
}

#[tokio::test]
async fn platforms_that_are_incomplete_are_left_out() {
    let store = MemoryStore::new();
    let multi = Sample::index("multi", &[Recipe::new(6, &[10_000]), Recipe::new(7, &[20_000]).platform("linux/s390x")]);
    bring(&store, &multi).await.unwrap();
    let archive = save_bytes(&store, &["multi"], ArchiveFormat::Oci, Compression::None).await.unwrap();
    let foreign = multi.image.manifests.iter().find(|m| m.platform != Some(Platform::host())).unwrap();
    let thin = without(&archive, &format!("blobs/sha256/{}", foreign.layers[0].descriptor.digest.hex()));
    let fresh = MemoryStore::new();
    load_bytes(&fresh, thin).await.unwrap();
    assert_eq!(fresh.list().await.unwrap()[0].platforms, [Platform::host()]);
}

fn without(archive: &[u8], name: &str) -> Vec<u8> {
    let mut thin = tar::Builder::new(vec![]);
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_str().unwrap().to_owned();
        if path != name {
            let mut content = vec![];
            io::Read::read_to_end(&mut entry, &mut content).unwrap();
            append(&mut thin, &path, &content);
        }
    }
    thin.into_inner().unwrap()
}

#[tokio::test]
async fn what_is_no_image_archive_says_so() {
    assert!(matches!(refused(vec![]).await, ArchiveError::Truncated));
    assert!(matches!(refused(noise(1, 100_000)).await, ArchiveError::NotAnArchive));
    assert!(matches!(refused(tar(&[("hello.txt", b"hi")])).await, ArchiveError::NoManifest));
    assert!(matches!(refused(tar(&[("manifest.json", b"[]")])).await, ArchiveError::NoImage));
    assert!(matches!(refused(tar(&[("manifest.json", b"{")])).await, ArchiveError::Malformed { .. }));
    assert!(matches!(refused(tar(&[("index.json", br#"{"schemaVersion":1,"manifests":[]}"#)])).await, ArchiveError::NoImage));
    assert!(matches!(refused(tar(&[("oci-layout", br#"{"imageLayoutVersion":2}"#)])).await, ArchiveError::Malformed { .. }));
    let nameless = br#"[{"Config":"c.json","RepoTags":["No Name"],"Layers":[]}]"#;
    assert!(matches!(refused(tar(&[("manifest.json", nameless)])).await, ArchiveError::Name(_)));
    let absent = br#"[{"Config":"c.json","RepoTags":null,"Layers":[]}]"#;
    assert!(matches!(refused(tar(&[("manifest.json", absent)])).await, ArchiveError::MemberMissing(name) if name == "c.json"));
}

#[tokio::test]
async fn truncated_archives_load_nothing() {
    let (archive, _) = old_docker(None);
    let packed = [archive.clone(), gzip(&archive), zstd(&archive)];
    for whole in packed {
        load_bytes(&MemoryStore::new(), whole.clone()).await.unwrap();
        for cut in [3, 600, whole.len() / 2, whole.len() - 2_300, whole.len() - 1] {
            let cut = cut.min(whole.len() - 1);
            let result = load_bytes(&MemoryStore::new(), whole[..cut].to_vec()).await;
            // Plain archives end with two blocks of zeros, which are not needed.
            assert!(result.is_err() || whole.len() - cut < 1_024, "{cut} of {}", whole.len());
        }
    }
    let blocks = vec![Ok(Bytes::from(archive).slice(..10_000)), Err(io::Error::other("the line was cut"))];
    assert!(matches!(load_blocks(&MemoryStore::new(), blocks, &CancellationToken::new()).await, Err(ArchiveError::Input(_))));
}

#[tokio::test]
async fn names_and_links_do_not_lead_out() {
    let outside = ["../../layer.tar", "/etc/passwd", "../../../../etc/shadow"];
    for target in outside {
        assert!(matches!(refused(old_docker(Some(target)).0).await, ArchiveError::LinkOutside(_)), "{target}");
    }
    let circle = format!("../{}/layer.tar", "2".repeat(64));
    assert!(matches!(refused(old_docker(Some(&circle)).0).await, ArchiveError::LinkCircle(_)));
    assert!(matches!(refused(old_docker(Some("../nowhere")).0).await, ArchiveError::MemberMissing(_)));
    let mut header = tar::Header::new_gnu();
    header.as_gnu_mut().unwrap().name[..9].copy_from_slice(b"../secret");
    header.set_size(0);
    header.set_mode(0o644);
    header.set_cksum();
    let mut tar = tar::Builder::new(vec![]);
    tar.append(&header, io::empty()).unwrap();
    assert!(matches!(refused(tar.into_inner().unwrap()).await, ArchiveError::NameOutside(_)));
}

#[tokio::test]
async fn members_that_contradict_are_refused() {
    assert!(matches!(refused(tar(&[("a", b"1"), ("a", b"2")])).await, ArchiveError::Duplicate(name) if name == "a"));
    assert!(matches!(refused(tar(&[("a", b"1"), ("./a", b"1")])).await, ArchiveError::NoManifest));
    let name = format!("blobs/sha256/{}", Digest::of(b"other").hex());
    assert!(matches!(refused(tar(&[(&name, b"content")])).await, ArchiveError::DigestMismatch { .. }));
}

#[tokio::test]
async fn layers_must_be_what_the_config_says() {
    let sample = Recipe::new(8, &[1_000]).build("demo");
    let other = Recipe::new(9, &[1_000]).build("demo");
    for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
        let layer = &other.blobs[&other.image.layers()[0].descriptor.digest];
        let layer = match packing {
            Packing::Plain => layer.to_vec(),
            Packing::Gzip => gzip(layer),
            Packing::Zstd => zstd(layer),
        };
        let config = &sample.blobs[&sample.image_id()];
        let list = br#"[{"Config":"config.json","RepoTags":["demo:1"],"Layers":["layer.tar"]}]"#;
        let error = refused(tar(&[("config.json", config), ("layer.tar", &layer), ("manifest.json", list)])).await;
        assert!(matches!(error, ArchiveError::DiffIdMismatch { .. }), "{error}");
        let error = refused(tar(&[("config.json", config), ("layer.tar", &layer[..layer.len() - 9]), ("manifest.json", list)])).await;
        assert!(matches!(error, ArchiveError::DiffIdMismatch { .. } | ArchiveError::Layer { .. }), "{error}");
    }
    let list = br#"[{"Config":"config.json","RepoTags":["demo:1"],"Layers":[]}]"#;
    let error = refused(tar(&[("config.json", &sample.blobs[&sample.image_id()]), ("manifest.json", list)])).await;
    assert!(matches!(error, ArchiveError::Store(StoreError::Image(ImageError::Document(_)))), "{error}");
}

#[tokio::test]
async fn absurd_sizes_are_refused_before_anything_is_read() {
    let mut header = tar::Header::new_gnu();
    header.set_path("layer.tar").unwrap();
    header.set_size(1 << 60);
    header.set_cksum();
    assert!(matches!(refused(header.as_bytes().to_vec()).await, ArchiveError::TooLarge { .. }));
    for kind in [tar::EntryType::GNULongName, tar::EntryType::GNULongLink, tar::EntryType::XHeader, tar::EntryType::XGlobalHeader] {
        header.set_entry_type(kind);
        header.set_size(1 << 40);
        header.set_cksum();
        assert!(matches!(refused(header.as_bytes().to_vec()).await, ArchiveError::Header { .. }));
    }
    header.set_entry_type(tar::EntryType::GNUSparse);
    header.set_size(0);
    header.set_cksum();
    assert!(matches!(refused(header.as_bytes().to_vec()).await, ArchiveError::Unsupported { .. }));
}

#[tokio::test]
async fn damaged_stores_write_no_whole_archive() {
    let store = MemoryStore::new();
    let sample = Sample::small("demo", 10);
    bring(&store, &sample).await.unwrap();
    let layer = sample.image.layers()[0].descriptor.digest;
    store.damage(&layer);
    let result = save_bytes(&store, &["demo"], ArchiveFormat::Docker, Compression::None).await;
    assert!(matches!(result, Err(ArchiveError::Corrupt(digest)) if digest == layer));
    let held = vec![store.resolve(&query("demo"), Selection::Present).await.unwrap()];
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    drop(receiver);
    let result = save(&store, &held, ArchiveFormat::Oci, Compression::Gzip, sender).await;
    assert!(matches!(result, Err(ArchiveError::OutputClosed)), "{result:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3_000)) {
        runtime().block_on(async { refused(bytes).await; });
    }

    #[test]
    fn changed_archives_load_right_or_not_at_all(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), packed in 0..3u8, new in any::<bool>()
    ) {
        runtime().block_on(async {
            let (archive, id) = if new { new_archive().await } else { old_docker(None) };
            let mut archive = match packed { 0 => archive, 1 => gzip(&archive), _ => zstd(&archive) };
            for (place, byte) in changes {
                let place = place.index(archive.len());
                archive[place] = byte;
            }
            let store = Arc::new(MemoryStore::new());
            match load_bytes(&*store, archive).await {
                Ok(loaded) => assert!(loaded.iter().all(|row| row.image_id == id)),
                Err(_) => assert!(store.list().await.unwrap().is_empty()),
            }
        });
    }
}

async fn new_archive() -> (Vec<u8>, Digest) {
    let store = MemoryStore::new();
    let sample = Sample::small("demo", 11);
    bring(&store, &sample).await.unwrap();
    (save_bytes(&store, &["demo"], ArchiveFormat::Docker, Compression::None).await.unwrap(), sample.image_id())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap()
}
