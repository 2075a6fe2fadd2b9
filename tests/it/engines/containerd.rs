//! containerd on its own, and as Docker's image store.

use proto::control::Verdict;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use agent::store::containerd::{ContainerdStore, Flavour};
use agent::store::{Held, Import, Ingest, Meter, Scrubbed, Store, StoreError};
use proto::Digest;
use proto::image::Selection;
use tests::conformance::{bring, content, query};
use tests::engine::containerd::{Containerd, DockerOnContainerd, container_name};
use tests::sample::{Packing, Recipe, Sample};
use tests::skipped;

/// A store, and the engine that it needs.
type Guarded = (ContainerdStore, Arc<Containerd>);

/// One engine for all checks that run at a time; it is stopped after the last.
struct Shared {
    running: Mutex<Weak<Containerd>>,
    start: fn() -> Option<Containerd>,
}

/// What Debian 12 has.
static SYSTEM: Shared = Shared { running: Mutex::new(Weak::new()), start: Containerd::of_system };
/// What Debian 13 has.
static TRIXIE: Shared = Shared { running: Mutex::new(Weak::new()), start: || Containerd::unpacked("trixie") };

impl Shared {
    fn get(&self) -> Option<Arc<Containerd>> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let engine = match running.upgrade() {
            Some(engine) => engine,
            None => Arc::new((self.start)()?),
        };
        *running = Arc::downgrade(&engine);
        Some(engine)
    }

    /// A namespace that nothing is in.
    fn fresh(&self, flavour: Flavour) -> Option<Guarded> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let Some(engine) = self.get() else {
            skipped("no containerd here");
            return None;
        };
        let name = format!("check{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        Some((engine.store(&name, flavour, &engine.path(&name)), engine))
    }
}

/// Docker has one namespace, so one check at a time has it, with an engine of its own.
fn docker() -> Option<(ContainerdStore, DockerOnContainerd)> {
    let Some(engine) = DockerOnContainerd::unpacked("trixie") else {
        skipped("no Docker Engine with containerd's image store here: .ci/engines unpacks one");
        return None;
    };
    Some((engine.store(&engine.path("agent")), engine))
}

macro_rules! conformance {
    ($($store:ident = $fresh:expr; $($check:ident),*;)*) => { $(
        mod $store {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $check() {
                    let Some((store, _engine)) = $fresh else { return };
                    tests::conformance::$check(&store).await;
                }
            )*
        }
    )* };
}

conformance! {
    bookworm = SYSTEM.fresh(Flavour::Plain);
        round_trip, a_second_import_writes_nothing, an_ingest_resumes, wrong_bytes_are_refused, false_images_are_refused,
        invisible_before_commit, a_name_moves, a_lease_keeps_blobs, removal_frees_what_is_not_shared, removal_by_id,
        short_ids_are_ambiguous, ranges_anywhere, hashes_are_those_of_the_ranges, untagged_images, several_platforms,
        imports_at_once, empty_things, a_list_is_sorted;
    trixie_under_kubernetes = TRIXIE.fresh(Flavour::Kubernetes);
        round_trip, a_second_import_writes_nothing, an_ingest_resumes, wrong_bytes_are_refused, false_images_are_refused,
        invisible_before_commit, a_name_moves, a_lease_keeps_blobs, removal_frees_what_is_not_shared, removal_by_id,
        short_ids_are_ambiguous, ranges_anywhere, hashes_are_those_of_the_ranges, untagged_images, several_platforms,
        imports_at_once, empty_things, a_list_is_sorted;
    // A name that moves leaves the old image behind without a name there, as with Docker: not a_name_moves.
    docker = docker();
        round_trip, a_second_import_writes_nothing, an_ingest_resumes, wrong_bytes_are_refused, false_images_are_refused,
        invisible_before_commit, a_lease_keeps_blobs, removal_frees_what_is_not_shared, removal_by_id,
        short_ids_are_ambiguous, ranges_anywhere, hashes_are_those_of_the_ranges, untagged_images, several_platforms,
        imports_at_once, empty_things, a_list_is_sorted;
}

/// An engine of its own, for what would disturb others. Samples below are others than those of the conformance suite: namespaces share content.
fn own() -> Option<Containerd> {
    let engine = Containerd::of_system();
    if engine.is_none() {
        skipped("no containerd here");
    }
    engine
}

fn said(output: &std::process::Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

async fn scrubbed(store: &ContainerdStore, blob: Digest) -> Scrubbed {
    let (report, mut reports) = tokio::sync::mpsc::channel(1);
    store.scrub(Some(blob), report).await.unwrap();
    reports.recv().await.unwrap()
}

fn speaking(words: &str) -> Option<Sample> {
    let sample = Sample::speaking("demo:nautilus", words);
    if sample.is_none() {
        skipped("no busybox here (apt-get install busybox-static)");
    }
    sample
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_in_runs() {
    let (Some(sample), Some(engine)) = (speaking("ahoy"), own()) else { return };
    let store = engine.store("default", Flavour::Plain, &engine.path("agent"));
    bring(&store, &sample).await.unwrap();
    let listed = said(&engine.ctr("default", &["images", "check"]));
    assert!(listed.contains("docker.io/library/demo:nautilus") && listed.contains("complete"), "{listed}");
    assert!(listed.trim_end().ends_with("true"), "it is unpacked: {listed}");
    assert_eq!(said(&engine.ctr("default", &["run", "--rm", "docker.io/library/demo:nautilus", &container_name()])), "ahoy");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_in_runs_under_docker() {
    let (Some(old), Some(new), Some((store, engine))) = (speaking("ahoy"), speaking("land ho"), docker()) else { return };
    bring(&store, &old).await.unwrap();
    let run = || said(&engine.docker(&["run", "--rm", "--network", "none", "--pull", "never", "demo:nautilus"]));
    assert_eq!(run(), "ahoy");
    let id = |image: &str| said(&engine.docker(&["image", "inspect", "--format", "{{.Id}}", image]));
    assert_eq!(id("demo:nautilus"), old.image.root.digest.to_string());

    let (imported, written) = bring(&store, &new).await.unwrap();
    assert_eq!((imported.replaced, written.len()), (Some(old.image.root.digest), 2));
    assert_eq!(run(), "land ho");
    // As after a build or a pull: the old image is there without a name.
    assert_eq!(id(&old.image.root.digest.to_string()), old.image.root.digest.to_string());
    let names: Vec<bool> = store.list().await.unwrap().iter().map(|row| row.reference.is_some()).collect();
    assert_eq!(names, [true, false]);
    said(&engine.docker(&["rmi", "demo:nautilus"]));
    assert!(matches!(store.resolve(&query("demo:nautilus"), Selection::All).await, Err(StoreError::NotFound(_))));
    bring(&store, &old).await.unwrap();
    assert_eq!(store.list().await.unwrap().len(), 1, "the name takes the place of the image without one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ingest_goes_on_after_the_engine_was_killed() {
    let Some(mut engine) = own() else { return };
    let store = engine.store("default", Flavour::Plain, &engine.path("agent"));
    let sample = Recipe::new(101, &[6_000_000]).build("demo");
    let layer = sample.image.layers()[0].descriptor.clone();
    let bytes = &sample.blobs[&layer.digest];
    let mut import = store.import(sample.image.clone()).await.unwrap();
    import.missing().await.unwrap();
    let mut ingest = import.ingest(&layer).await.unwrap().unwrap();
    for block in bytes[..5_500_000].chunks(500_000) {
        ingest.append(bytes.slice_ref(block)).await.unwrap();
    }
    // What is on its way.
    tokio::time::sleep(Duration::from_millis(500)).await;
    engine.kill();
    let result = ingest.commit().await;
    assert!(matches!(result, Err(StoreError::Unreachable { .. })), "{result:?}");
    drop(import);
    match store.list().await {
        Err(StoreError::Unreachable { engine: "containerd", source, .. }) => {
            assert_eq!(source.kind(), std::io::ErrorKind::ConnectionRefused);
        }
        other => panic!("{other:?}"),
    }
    engine.restart();
    let import = store.import(sample.image.clone()).await.unwrap();
    let ingest = import.ingest(&layer).await.unwrap().unwrap();
    assert!(ingest.offset() >= 4_000_000, "{}", ingest.offset());
    drop((ingest, import));
    bring(&store, &sample).await.unwrap();
    // It is found again at once, without an error between.
    engine.kill();
    engine.restart();
    assert_eq!(content(&store, &layer).await.unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_that_vanishes_meanwhile_is_an_error() {
    let Some((store, engine)) = SYSTEM.fresh(Flavour::Plain) else { return };
    let sample = Sample::small("demo:v1", 102);
    let other = Sample::small("demo:v2", 102);
    bring(&store, &sample).await.unwrap();
    let mut import = store.import(other.image.clone()).await.unwrap();
    assert_eq!(import.missing().await.unwrap(), vec![]);
    let layer = sample.image.layers()[0].descriptor.digest;
    said(&engine.ctr(store.namespace(), &["content", "rm", &layer.to_string()]));
    assert!(matches!(import.commit().await, Err(StoreError::Gone(digest)) if digest == layer));
    let rows = store.list().await.unwrap();
    // The engine has unpacked it: it runs, and no pull would bring its blob back.
    assert_eq!((rows.len(), rows[0].complete), (1, true));
    assert!(matches!(content(&store, &sample.image.layers()[0].descriptor).await, Err(StoreError::BlobMissing(digest)) if digest == layer));
    let (_, written) = bring(&store, &other).await.unwrap();
    assert_eq!(written, [layer]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_content_is_found_and_replaced() {
    let Some(engine) = own() else { return };
    let store = engine.store("default", Flavour::Plain, &engine.path("agent"));
    let sample = Sample::small("demo:v1", 103);
    bring(&store, &sample).await.unwrap();
    let layer = sample.image.layers()[1].descriptor.clone();
    let mut damaged = sample.blobs[&layer.digest].to_vec();
    damaged[100_000] ^= 1;
    std::fs::write(engine.blob(&layer.digest), damaged).unwrap();
    assert!(matches!(store.hashes(&layer, &Meter::default()).await, Err(StoreError::Corrupt(digest)) if digest == layer.digest));
    assert!(matches!(content(&store, &layer).await, Err(StoreError::BlobMissing(_))));
    assert!(matches!(store.resolve(&query("demo:v1"), Selection::All).await, Err(StoreError::BlobMissing(_))));
    assert!(!store.list().await.unwrap()[0].complete);
    // It is known after a restart too.
    let store = engine.store("default", Flavour::Plain, &engine.path("agent"));
    assert!(matches!(content(&store, &layer).await, Err(StoreError::BlobMissing(_))));
    assert!(!scrubbed(&store, layer.digest).await.intact);
    let (_, written) = bring(&store, &sample).await.unwrap();
    assert_eq!(written, [layer.digest]);
    assert!(scrubbed(&store, layer.digest).await.intact);
    assert_eq!(content(&store, &layer).await.unwrap(), sample.blobs[&layer.digest]);
    assert!(store.hashes(&layer, &Meter::default()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_layer_is_made_of_a_packed_one() {
    let Some((store, _engine)) = SYSTEM.fresh(Flavour::Plain) else { return };
    for (seed, packing) in [(104, Packing::Gzip), (106, Packing::Zstd)] {
        let packed = Recipe::new(seed, &[300_000, 1_500_000]).packed(packing).build("packed");
        let plain = Recipe::new(seed, &[300_000, 1_500_000]).build("plain");
        bring(&store, &packed).await.unwrap();
        let (_, written) = bring(&store, &plain).await.unwrap();
        let layers: Vec<_> = plain.image.layers().iter().map(|layer| layer.descriptor.clone()).collect();
        assert!(layers.iter().all(|layer| !written.contains(&layer.digest)));
        for layer in layers {
            assert_eq!(content(&store, &layer).await.unwrap(), plain.blobs[&layer.digest]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_namespace_has_is_not_ours() {
    let (Some((one, engine)), Some((two, _engine))) = (SYSTEM.fresh(Flavour::Plain), SYSTEM.fresh(Flavour::Kubernetes)) else { return };
    let sample = Recipe::new(108, &[300_000, 0]).build("demo");
    bring(&one, &sample).await.unwrap();
    assert!(matches!(content(&two, &sample.image.root).await, Err(StoreError::BlobMissing(_))), "it is not to be seen before");
    // Whoever names a blob has not got it by that: all of it is written again, though the engine keeps it once.
    let (_, written) = bring(&two, &sample).await.unwrap();
    assert_eq!(written.len(), sample.image.blobs().len());
    let blob = &sample.image.layers()[0].descriptor;
    let third = engine.store("third", Flavour::Plain, &engine.path("third"));
    let import = third.import(sample.image.clone()).await.unwrap();
    let ingest = import.ingest(blob).await.unwrap().expect("it has to be written");
    assert_eq!(ingest.offset(), 0);
    assert!(matches!(ingest.commit().await, Err(StoreError::Corrupt(_))), "nothing was written");
    assert!(matches!(content(&third, blob).await, Err(StoreError::BlobMissing(_))));
    let labels = said(&engine.ctr(two.namespace(), &["images", "ls"]));
    assert!(labels.contains("io.cri-containerd.image=managed"), "{labels}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_outlive_names_and_not_agents() {
    let Some((store, engine)) = SYSTEM.fresh(Flavour::Plain) else { return };
    let sample = Sample::small("demo:v1", 110);
    bring(&store, &sample).await.unwrap();
    let leases = || said(&engine.ctr(store.namespace(), &["leases", "ls", "--quiet"]));
    assert_eq!(leases(), "", "an import leaves none");
    let held = store.resolve(&query("demo:v1"), Selection::All).await.unwrap();
    said(&engine.ctr(store.namespace(), &["images", "rm", "--sync", "docker.io/library/demo:v1"]));
    for blob in held.image.blobs() {
        assert_eq!(content(&store, blob).await.unwrap(), sample.blobs[&blob.digest]);
    }
    // An agent that was killed leaves its lease to the next one. Without a runtime it cannot be deleted.
    std::thread::spawn(move || drop::<Held>(held)).join().unwrap();
    assert_ne!(leases(), "");
    let next = engine.store(store.namespace(), Flavour::Plain, &engine.path(store.namespace()));
    assert_eq!(next.maintain().await.unwrap(), sample.image.size_bytes());
    assert_eq!(leases(), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_is_down_or_hangs_is_told_apart() {
    let Some(engine) = own() else { return };
    let store = engine.store("default", Flavour::Plain, &engine.path("agent"));
    assert!(store.examine().await.iter().all(|finding| finding.verdict == Verdict::Ok));
    engine.signal("STOP");
    // Threads that run on another processor stop a little later.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let listed = store.list().await;
    assert!(matches!(listed, Err(StoreError::Silent { engine: "containerd", .. })), "{listed:?}");
    engine.signal("CONT");
    assert!(store.list().await.unwrap().is_empty());
    drop(engine);
    match store.list().await {
        Err(StoreError::Unreachable { source, .. }) => assert_eq!(source.kind(), std::io::ErrorKind::NotFound),
        other => panic!("{other:?}"),
    }
    let findings = store.examine().await;
    assert!(findings[0].verdict == Verdict::Wrong && findings[0].remedy.is_some(), "{findings:?}");
}
