//! One step on the image layout or the staging area of a directory, in a process of its own: for tests that stop it at a system call, or make
//! one fail (`tests::trace`). Exits with 0 when the step succeeded, with 3 when it reported an error.
#![allow(clippy::unwrap_used, clippy::exit, clippy::print_stderr)]

use std::path::Path;
use std::process::exit;

use agent::staging::{Source, Staging};
use agent::store::layout::LayoutStore;
use agent::store::{Import, Ingest, Store, StoreError};
use proto::hash::RangeHasher;
use proto::limits::RANGE_BYTES;
use tests::conformance::{bring, query};
use tests::sample::{Recipe, Sample};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, step, directory] = &arguments[..] else { exit(2) };
    // One thread for all blocking work, so that system calls have an order.
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).enable_all().build().unwrap();
    if let Err(error) = runtime.block_on(run(step, Path::new(directory))) {
        eprintln!("{error}");
        exit(3);
    }
}

async fn run(step: &str, directory: &Path) -> Result<(), StoreError> {
    let store = LayoutStore::open(&directory.join("layout"))?;
    match step {
        "open" => Ok(()),
        // The name of one of two images goes.
        "rm" => store.remove(&query("gone:1")).await.map(drop),
        // A name moves, and what it pointed to is collected.
        "tag" => {
            let held = store.resolve(&query("kept:1"), proto::image::Selection::Present).await?;
            let mut image = held.image.clone();
            image.reference = Some("gone:1".parse().unwrap());
            let mut import = store.import(image).await?;
            match import.missing().await?.first() {
                Some(missing) => Err(StoreError::BlobMissing(missing.digest)),
                None => import.commit().await.map(drop),
            }
        }
        "maintain" => store.maintain().await.map(drop),
        "import" => bring(&store, &Recipe::new(7, &[300_000]).build("new:1")).await.map(drop),
        "adopt" => adopt(&store, directory).await,
        _ => exit(2),
    }
}

/// The last steps of a layer: all of it is staged, and the store takes it over.
async fn adopt(store: &LayoutStore, directory: &Path) -> Result<(), StoreError> {
    let sample = adopted();
    let staging = Staging::open(&directory.join("layout/.imgd/staging"))?;
    let layer = sample.image.layers()[0].descriptor.clone();
    let bytes = &sample.blobs[&layer.digest];
    let mut import = store.import(sample.image.clone()).await?;
    import.missing().await?;
    let staged = staging.claim(&layer, Source::Any, proto::HostId::of_public_key(b"a")).await?;
    let mut hasher = RangeHasher::default();
    hasher.update(bytes);
    let (_, hashes) = hasher.finish();
    for missing in staged.missing() {
        let first = (missing.start / RANGE_BYTES) as usize;
        let last = missing.end.div_ceil(RANGE_BYTES) as usize;
        let before = first.checked_sub(1).map_or(proto::hash::RangeHash::START, |before| hashes[before]);
        let range = missing.start as usize..missing.end as usize;
        assert!(staged.put(missing.start, &bytes[range], before, &hashes[first..last])?.is_ok());
    }
    // Stopped after this, no byte may be lost; the tests know it by this file.
    std::fs::write(directory.join("staged"), b"").map_err(StoreError::io("write", directory))?;
    let Some(ingest) = import.ingest(&layer).await? else { return Ok(()) };
    ingest.adopt(staged.finish()?).await
}

/// The image whose layer is adopted.
fn adopted() -> Sample {
    Recipe::new(9, &[1_000_000]).build("adopted:1")
}
