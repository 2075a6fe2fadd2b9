//! A fault at every system call of the layout: what is lost must be nothing, whatever fails and wherever the process ends.

use std::path::{Path, PathBuf};
use std::process::Output;

use agent::staging::{Source, Staging};
use agent::store::layout::LayoutStore;
use agent::store::{Meter, Store};
use proto::image::Selection;
use tests::conformance::{bring, content, query};
use tests::sample::{Recipe, Sample};
use tests::skipped;
use tests::trace::{Fate, calls, counts, is_possible, with_fate};

/// Calls that read or look.
const READS: [&str; 5] = ["openat", "read", "statx", "getdents64", "newfstatat"];
/// Calls that change what is on the disk, or make it durable.
const CHANGES: [&str; 9] = ["openat", "write", "pwrite64", "ftruncate", "fsync", "fdatasync", "rename", "unlink", "mkdir"];

fn program() -> PathBuf {
    env!("CARGO_BIN_EXE_store-step").into()
}

/// Two images that share a layer.
fn images() -> [Sample; 2] {
    let kept = Recipe::new(3, &[200_000, 50_000]).build("kept:1");
    let gone = Recipe::new(3, &[200_000, 60_000]).build("gone:1");
    [kept, gone]
}

/// A directory with a layout that has both.
async fn layout() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let store = LayoutStore::open(&directory.path().join("layout")).unwrap();
    for image in images() {
        bring(&store, &image).await.unwrap();
    }
    directory
}

fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    let copied = std::process::Command::new("cp").arg("-a").arg(from.join("layout")).arg(to.path()).status().unwrap();
    assert!(copied.success());
    to
}

fn run(step: &str, name: &str, number: usize, fate: Fate, directory: &Path) -> Output {
    with_fate(name, number, fate, &program(), &[step, directory.to_str().unwrap()])
}

/// Every layer of the image is here, with its content.
async fn assert_whole(store: &LayoutStore, sample: &Sample, what: &str) {
    let held = store.resolve(&query(&sample.image.reference.as_ref().unwrap().familiar()), Selection::Present).await;
    let held = held.unwrap_or_else(|error| panic!("{what}: {error}"));
    for blob in held.image.blobs() {
        assert!(content(store, blob).await.is_ok_and(|bytes| bytes == sample.blobs[&blob.digest]), "{what}: {} is lost", blob.digest);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_failed_call_of_a_collection_costs_a_live_image() {
    if !is_possible() {
        return skipped("strace is not installed, or may not trace");
    }
    let source = layout().await;
    let [kept, gone] = images();
    let mut faults = 0;
    for step in ["rm", "tag", "maintain"] {
        let scratch = copy(source.path());
        let known = counts(&READS, &program(), &[step, scratch.path().to_str().unwrap()]);
        for (name, count) in READS.iter().zip(known) {
            for number in 1..=count {
                for error in ["EIO", "EMFILE"].into_iter().filter(|error| *error == "EIO" || *name == "openat") {
                    let directory = copy(source.path());
                    let output = run(step, name, number, Fate::Fails(error), directory.path());
                    let what = format!("{step}, {name} {number} {error}: {}", String::from_utf8_lossy(&output.stderr));
                    let Ok(store) = LayoutStore::open(&directory.path().join("layout")) else { panic!("{what}: not opened") };
                    assert_whole(&store, &kept, &what).await;
                    // The other one is whole, too, as long as it has its name.
                    let rows = store.list().await.unwrap();
                    if rows.iter().any(|row| row.reference == gone.image.reference && row.root == gone.image.root.digest) {
                        assert_whole(&store, &gone, &what).await;
                    }
                    faults += 1;
                }
            }
        }
    }
    println!("{faults} faults");
    assert!(faults > 100, "{faults} faults are not every system call");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_survives_the_end_of_the_process_at_every_call() {
    if !is_possible() {
        return skipped("strace is not installed, or may not trace");
    }
    let sample = Recipe::new(9, &[1_000_000]).build("adopted:1");
    let layer = sample.image.layers()[0].descriptor.clone();
    let scratch = tempfile::tempdir().unwrap();
    let known = counts(&CHANGES, &program(), &["adopt", scratch.path().to_str().unwrap()]);
    let mut stops = 0;
    for (name, count) in CHANGES.iter().zip(known) {
        for number in 1..=count {
            let directory = tempfile::tempdir().unwrap();
            let output = run("adopt", name, number, Fate::Kills, directory.path());
            if !directory.path().join("staged").exists() {
                continue;
            }
            stops += 1;
            let store = LayoutStore::open(&directory.path().join("layout")).unwrap();
            let staging = Staging::open(&directory.path().join("layout/.imgd/staging")).unwrap();
            let is_stored = store.hashes(&layer, &Meter::default()).await.is_ok();
            let staged_bytes = staging.claim(&layer, Source::Any, proto::HostId::of_public_key(b"a")).await.unwrap().verified_bytes();
            assert!(
                is_stored || staged_bytes == layer.size_bytes,
                "{name} {number}: {staged_bytes} of {} bytes are left: {output:?}",
                layer.size_bytes
            );
        }
    }
    println!("stopped at {stops} calls");
    assert!(stops > 10, "{stops} stops are not the last steps");
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_of_other_tools_are_synced_before_an_image_counts_on_them() {
    if !is_possible() {
        return skipped("strace is not installed, or may not trace");
    }
    let directory = tempfile::tempdir().unwrap();
    let layout = directory.path().join("layout");
    drop(LayoutStore::open(&layout).unwrap());
    // As another tool leaves them: written, and nobody has synced or hashed them.
    let sample = Recipe::new(7, &[300_000]).build("new:1");
    for (digest, bytes) in &sample.blobs {
        std::fs::write(layout.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
    }
    let (output, lines) = calls(&["fsync", "fdatasync", "rename"], &program(), &["import", directory.path().to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let named = lines.iter().position(|line| line.contains("rename(") && line.contains("index.json")).unwrap();
    for digest in sample.blobs.keys() {
        let synced = lines[..named].iter().any(|line| line.contains("sync(") && line.contains(&digest.hex()));
        assert!(synced, "{digest} is not synced before the name: {lines:#?}");
    }
    assert!(lines[..named].iter().any(|line| line.contains("fsync(") && line.contains("blobs/sha256>")), "{lines:#?}");
}

#[tokio::test]
async fn what_cannot_be_followed_keeps_everything() {
    let [kept, gone] = images();
    let directory = layout().await;
    let path = directory.path().join("layout");
    let blob = |digest: &proto::Digest| path.join("blobs/sha256").join(digest.hex());
    let layers = |sample: &Sample| sample.image.layers().iter().all(|layer| blob(&layer.descriptor.digest).exists());
    // The manifest of an image is damaged, found out, and put aside: its layers are worth a new manifest.
    std::fs::write(blob(&kept.image.root.digest), b"{}").unwrap();
    let store = LayoutStore::open(&path).unwrap();
    assert!(store.resolve(&query("kept:1"), Selection::Present).await.is_err());
    let failed = store.remove(&query("gone:1")).await.unwrap_err();
    assert!(failed.to_string().contains("gone:1 is removed"), "{failed}");
    assert!(layers(&kept) && layers(&gone));
    assert!(store.maintain().await.is_err());
    // With the manifest back the rest goes.
    bring(&store, &kept).await.unwrap();
    store.maintain().await.unwrap();
    assert!(layers(&kept) && !layers(&gone));
}

#[tokio::test]
async fn directories_of_ours_that_somebody_removed_are_made_again() {
    let directory = layout().await;
    let path = directory.path().join("layout");
    let store = LayoutStore::open(&path).unwrap();
    let staging = Staging::open(&path.join(".imgd/staging")).unwrap();
    for name in ["hashes", "ingest", "imports", "quarantine", "staging"] {
        std::fs::remove_dir_all(path.join(".imgd").join(name)).unwrap();
    }
    let sample = Recipe::new(5, &[100_000]).build("new:1");
    bring(&store, &sample).await.unwrap();
    assert!(staging.room().is_ok());
    staging.claim(&sample.image.layers()[0].descriptor, Source::Any, proto::HostId::of_public_key(b"a")).await.unwrap().discard();
    staging.writer().unwrap();
    store.maintain().await.unwrap();
    assert_eq!(store.list().await.unwrap().len(), 3);
    // All of it is gone: its file system, perhaps. Nothing is made in its place.
    std::fs::rename(&path, directory.path().join("elsewhere")).unwrap();
    assert!(store.list().await.is_err());
    assert!(staging.room().is_err() && staging.writer().is_err());
    assert!(!path.exists());
    std::fs::rename(directory.path().join("elsewhere"), &path).unwrap();
    assert_eq!(store.list().await.unwrap().len(), 3);
    staging.writer().unwrap();
}
