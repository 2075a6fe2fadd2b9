//! Archives from any bytes: nothing visible after an error, nothing staged after either.
#![no_main]

use std::sync::{Arc, LazyLock};

use agent::archive::load;
use agent::staging::Staging;
use agent::store::Store;
use agent::store::memory::MemoryStore;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

struct Bench {
    runtime: Runtime,
    staging: Arc<Staging>,
    directory: TempDir,
}

static BENCH: LazyLock<Bench> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
    let directory = tempfile::tempdir().expect("a directory");
    Bench { runtime, staging: Staging::open(directory.path()).expect("a staging area"), directory }
});

fuzz_target!(|archive: &[u8]| {
    let archive = Bytes::copy_from_slice(archive);
    BENCH.runtime.block_on(async {
        let store = MemoryStore::new();
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let feed = async move {
            let _ = sender.send(Ok(archive)).await;
        };
        let stop = CancellationToken::new();
        let (loaded, ()) = tokio::join!(load(&store, &BENCH.staging, receiver, &stop, |_| {}), feed);
        let images = store.list().await.expect("a list");
        assert_eq!(loaded.is_ok_and(|report| !report.loaded.is_empty()), !images.is_empty());
    });
    assert_eq!(std::fs::read_dir(BENCH.directory.path()).expect("a directory").count(), 0);
});
