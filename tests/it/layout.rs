//! What only the image layout promises: what lies on the disk, and what others do to it.

use std::fs::{File, FileTimes};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use agent::store::layout::LayoutStore;
use agent::store::{Import, Ingest, Meter, Scrubbed, Store, StoreError};
use proto::image::Selection;
use proto::{Descriptor, Digest};
use serde_json::{Value, json};
use tests::conformance::{bring, content, query};
use tests::sample::{Recipe, Sample, descriptor_json, noise};

struct Layout {
    store: LayoutStore,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

fn layout() -> Layout {
    layout_beside(Duration::from_secs(3600))
}

/// See [`LayoutStore::open_beside`].
fn layout_beside(foreign_age: Duration) -> Layout {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("layout");
    Layout { store: LayoutStore::open_beside(&path, foreign_age).unwrap(), path, _directory: directory }
}

impl Layout {
    fn blob(&self, digest: &Digest) -> PathBuf {
        self.path.join("blobs/sha256").join(digest.hex())
    }

    fn index(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.path.join("index.json")).unwrap()).unwrap()
    }
}

async fn scrub(store: &LayoutStore) -> Vec<Scrubbed> {
    let (report, mut results) = tokio::sync::mpsc::channel(100);
    store.scrub(None, report).await.unwrap();
    let mut scrubbed = vec![];
    while let Some(result) = results.recv().await {
        scrubbed.push(result);
    }
    scrubbed
}

fn set_age(path: &Path, age: Duration) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_times(FileTimes::new().set_modified(SystemTime::now() - age)).unwrap();
}

#[tokio::test]
async fn one_agent_at_a_time() {
    let layout = layout();
    assert!(matches!(LayoutStore::open(&layout.path), Err(StoreError::InUse(_))));
    bring(&layout.store, &Sample::small("demo", 1)).await.unwrap();
    let Layout { store, path, _directory } = layout;
    drop(store);
    let again = LayoutStore::open(&path).unwrap();
    assert_eq!(again.list().await.unwrap().len(), 1);
}

/// Without its index nothing would be named, and all of it collected.
#[tokio::test]
async fn a_lost_index_is_not_an_empty_one() {
    let layout = layout();
    bring(&layout.store, &Sample::small("demo", 1)).await.unwrap();
    let Layout { store, path, _directory } = layout;
    drop(store);
    let blobs = || std::fs::read_dir(path.join("blobs/sha256")).unwrap().count();
    let (before, index) = (blobs(), std::fs::read(path.join("index.json")).unwrap());
    std::fs::remove_file(path.join("index.json")).unwrap();
    let refused = LayoutStore::open(&path);
    assert!(matches!(&refused, Err(StoreError::Malformed { path, .. }) if path.ends_with("index.json")), "{refused:?}");
    assert_eq!(blobs(), before);
    std::fs::write(path.join("index.json"), index).unwrap();
    assert_eq!(LayoutStore::open(&path).unwrap().list().await.unwrap().len(), 1);
}

#[test]
fn other_directories_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("thesis.txt"), "years of work").unwrap();
    assert!(matches!(LayoutStore::open(directory.path()), Err(StoreError::Malformed { .. })));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    std::fs::write(directory.path().join("oci-layout"), r#"{"imageLayoutVersion":"9.0.0"}"#).unwrap();
    assert!(matches!(LayoutStore::open(directory.path()), Err(StoreError::Malformed { .. })));
}

#[test]
fn opening_does_not_look_at_the_blobs() {
    let directory = tempfile::tempdir().unwrap();
    drop(LayoutStore::open(directory.path()).unwrap());
    for i in 0..100_000u32 {
        File::create(directory.path().join("blobs/sha256").join(Digest::of(&i.to_le_bytes()).hex())).unwrap();
    }
    let started = Instant::now();
    let store = LayoutStore::open(directory.path()).unwrap();
    let elapsed = started.elapsed();
    assert!(elapsed < Duration::from_millis(20), "{elapsed:?}");
    drop(store);
}

#[tokio::test]
async fn damage_is_found_put_aside_and_mended() {
    let layout = layout();
    let sample = Recipe::new(2, &[100_000, 300_000]).build("demo");
    bring(&layout.store, &sample).await.unwrap();
    let layer = sample.image.layers()[1].descriptor.clone();
    let path = layout.blob(&layer.digest);
    for cut in [false, true] {
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(b"oops", 150_000).unwrap();
        if cut {
            file.set_len(200_000).unwrap();
            let result = layout.store.resolve(&query("demo"), Selection::All).await;
            assert!(matches!(result, Err(StoreError::Corrupt(digest)) if digest == layer.digest), "{result:?}");
        }
        let result = layout.store.hashes(&layer, &Meter::default()).await;
        assert!(matches!(result, Err(StoreError::Corrupt(_) | StoreError::BlobMissing(_))), "{result:?}");
        assert!(layout.path.join(".imgd/quarantine").join(layer.digest.hex()).exists());
        assert!(matches!(content(&layout.store, &layer).await, Err(StoreError::BlobMissing(_))));
        let (_, written) = bring(&layout.store, &sample).await.unwrap();
        assert_eq!(written, [layer.digest], "only the damaged blob is brought again");
        assert_eq!(content(&layout.store, &layer).await.unwrap(), sample.blobs[&layer.digest]);
    }
}

#[tokio::test]
async fn a_damaged_manifest_is_no_image() {
    let layout = layout();
    let sample = Sample::small("demo", 3);
    bring(&layout.store, &sample).await.unwrap();
    let path = layout.blob(&sample.image.root.digest);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let result = layout.store.resolve(&query("demo"), Selection::All).await;
    assert!(matches!(result, Err(StoreError::Corrupt(_))), "{result:?}");
    let rows = layout.store.list().await.unwrap();
    assert_eq!((rows[0].image_id, rows[0].size_bytes), (sample.image.root.digest, 0), "it is shown as what it is");
    bring(&layout.store, &sample).await.unwrap();
    assert_eq!(layout.store.list().await.unwrap()[0].image_id, sample.image_id());
}

#[tokio::test]
async fn a_scrub_reports_every_blob() {
    let layout = layout();
    let sample = Sample::small("demo", 4);
    bring(&layout.store, &sample).await.unwrap();
    let damaged = sample.image.layers()[0].descriptor.digest;
    let mut bytes = sample.blobs[&damaged].to_vec();
    bytes[0] ^= 1;
    std::fs::write(layout.blob(&damaged), bytes).unwrap();
    let scrubbed = scrub(&layout.store).await;
    assert_eq!(scrubbed.len(), sample.blobs.len());
    assert!(scrubbed.iter().all(|result| result.intact == (result.digest != damaged)));
}

#[tokio::test]
async fn what_others_wrote_is_read_and_kept() {
    let layout = layout();
    let sample = Sample::small("theirs", 5);
    for (digest, bytes) in &sample.blobs {
        std::fs::write(layout.blob(digest), bytes).unwrap();
    }
    let mut entry = descriptor_json(&sample.image.root);
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "theirs:v1", "com.example": "note"});
    entry["x-field"] = json!([1, 2]);
    let nonsense = json!({"mediaType": "x/y", "digest": "sha512:00", "size": 1});
    let index = json!({"schemaVersion": 2, "annotations": {"a": "b"}, "manifests": [entry, nonsense]});
    std::fs::write(layout.path.join("index.json"), index.to_string()).unwrap();

    let held = layout.store.resolve(&query("theirs:v1"), Selection::All).await.unwrap();
    assert_eq!(held.image_id, sample.image_id());
    bring(&layout.store, &Sample::small("ours", 6)).await.unwrap();
    layout.store.remove(&query("ours")).await.unwrap();
    assert_eq!(layout.index(), index);
    // What they wrote counts as here only once it was hashed here.
    assert_eq!(bring(&layout.store, &sample).await.unwrap().1, vec![]);
}

#[tokio::test]
async fn unhashed_foreign_blobs_are_not_believed() {
    let layout = layout();
    let sample = Sample::small("demo", 7);
    let layer = sample.image.layers()[0].descriptor.clone();
    std::fs::write(layout.blob(&layer.digest), noise(1, layer.size_bytes as usize)).unwrap();
    let (_, written) = bring(&layout.store, &sample).await.unwrap();
    assert!(written.contains(&layer.digest));
    assert_eq!(content(&layout.store, &layer).await.unwrap(), sample.blobs[&layer.digest]);
}

#[tokio::test]
async fn blobs_of_others_are_collected_only_when_they_are_old() {
    let (patient, impatient) = (layout(), layout_beside(Duration::ZERO));
    let blob = Digest::of(b"theirs");
    for layout in [&patient, &impatient] {
        std::fs::write(layout.blob(&blob), "theirs").unwrap();
        std::fs::write(layout.path.join("blobs/sha256/.tmp-123"), "theirs").unwrap();
        std::fs::create_dir(layout.blob(&Digest::of(b"a directory"))).unwrap();
    }
    // Copied with its time, before the name that leads to it.
    set_age(&patient.blob(&blob), Duration::from_secs(48 * 3600));
    assert_eq!(patient.store.maintain().await.unwrap(), 0);
    assert_eq!(patient.store.reclaim().await.unwrap(), 0);
    assert!(patient.blob(&blob).exists());
    assert_eq!(impatient.store.maintain().await.unwrap(), 6);
    assert!(!impatient.blob(&blob).exists() && impatient.path.join("blobs/sha256/.tmp-123").exists());
}

#[tokio::test]
async fn an_import_that_was_given_up_is_kept_for_a_day() {
    let layout = layout();
    let sample = Sample::small("demo", 8);
    let layer = sample.image.layers()[0].descriptor.clone();
    {
        let mut import = layout.store.import(sample.image.clone()).await.unwrap();
        import.missing().await.unwrap();
        let mut ingest = import.ingest(&layer).await.unwrap().unwrap();
        ingest.append(sample.blobs[&layer.digest].clone()).await.unwrap();
        ingest.commit().await.unwrap();
    }
    assert_eq!(layout.store.maintain().await.unwrap(), 0);
    let announced = layout.path.join(".imgd/imports").join(sample.image.root.digest.hex());
    set_age(&announced, Duration::from_secs(23 * 3600));
    assert_eq!(layout.store.maintain().await.unwrap(), 0);
    set_age(&announced, Duration::from_secs(25 * 3600));
    assert_eq!(layout.store.maintain().await.unwrap(), layer.size_bytes);
    assert!(!announced.exists());
}

#[tokio::test]
async fn damaged_blobs_stay_aside_for_a_week() {
    let layout = layout();
    let aside = |days: u64| layout.path.join(".imgd/quarantine").join(Digest::of(&days.to_le_bytes()).hex());
    for days in [6, 8] {
        std::fs::write(aside(days), "damaged").unwrap();
        set_age(&aside(days), Duration::from_secs(days * 24 * 3600));
    }
    layout.store.maintain().await.unwrap();
    assert!(aside(6).exists() && !aside(8).exists());
}

#[tokio::test]
async fn a_scrub_reads_what_others_have_just_written() {
    let layout = layout();
    let sample = Sample::small("demo", 12);
    for (digest, bytes) in &sample.blobs {
        std::fs::write(layout.blob(digest), bytes).unwrap();
    }
    let index = json!({"schemaVersion": 2, "manifests": [descriptor_json(&sample.image.root)]});
    std::fs::write(layout.path.join("index.json"), index.to_string()).unwrap();
    let damaged = sample.image.layers()[0].descriptor.digest;
    std::fs::write(layout.blob(&damaged), noise(3, sample.blobs[&damaged].len())).unwrap();
    // Without a name it may be half written.
    std::fs::write(layout.blob(&Digest::of(b"half")), "ha").unwrap();
    let scrubbed = scrub(&layout.store).await;
    assert_eq!(scrubbed.len(), sample.blobs.len());
    assert!(scrubbed.iter().all(|result| result.intact == (result.digest != damaged)));
}

#[tokio::test]
async fn a_broken_document_of_others_does_not_stop_collecting() {
    let layout = layout_beside(Duration::ZERO);
    let garbage = Descriptor::of("application/vnd.oci.image.index.v1+json", b"{ not json");
    std::fs::write(layout.blob(&garbage.digest), b"{ not json").unwrap();
    let index = json!({"schemaVersion": 2, "manifests": [descriptor_json(&garbage)]});
    std::fs::write(layout.path.join("index.json"), index.to_string()).unwrap();
    let sample = Sample::small("demo", 9);
    bring(&layout.store, &sample).await.unwrap();
    assert_eq!(layout.store.remove(&query("demo")).await.unwrap().freed_bytes, sample.image.size_bytes());
    assert!(layout.blob(&garbage.digest).exists());
}

#[tokio::test]
async fn staged_files_of_another_file_system_are_copied() {
    use std::os::unix::fs::MetadataExt;
    let layout = layout();
    let Ok(elsewhere) = tempfile::tempdir_in("/dev/shm") else { return };
    if std::fs::metadata(elsewhere.path()).unwrap().dev() == std::fs::metadata(&layout.path).unwrap().dev() {
        return;
    }
    let staging = agent::staging::Staging::open(elsewhere.path()).unwrap();
    let sample = Sample::small("demo", 10);
    let mut import = layout.store.import(sample.image.clone()).await.unwrap();
    for blob in import.missing().await.unwrap() {
        let mut writer = staging.writer().unwrap();
        writer.write(&sample.blobs[&blob.digest]).unwrap();
        import.ingest(&blob).await.unwrap().unwrap().adopt(writer.finish()).await.unwrap();
    }
    import.commit().await.unwrap();
    for blob in sample.image.blobs() {
        assert_eq!(content(&layout.store, blob).await.unwrap(), sample.blobs[&blob.digest]);
    }
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(layout.path.join(".imgd/ingest")).unwrap().count(), 0);
}
