//! Reading layers exactly as they came, beside the engine's own way out.

use agent::store::any::AnyStore;
use agent::store::kind::StoreKind;
use agent::store::{Meter, Store};
use proto::image::Selection;
use sha2::Digest as _;
use tests::bench::{median, rounds, seconds};
use tests::conformance::query;
use tokio::runtime::Runtime;

use super::host::Kind;
use super::image::{Files, archive, large};
use super::table::{at_least, beside, time, title};

pub(crate) fn measure(mib: usize) {
    title(&format!("Reading {mib} MiB in six layers out of an engine, byte for byte as they came"));
    let runtime = Runtime::new().unwrap();
    let layers = large(&mut Files::new(), mib);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("archive.tar");
    archive(&path, "demo:read", &layers.iter().collect::<Vec<_>>(), 0);
    let hashing = rounds(|| layers.iter().for_each(|layer| _ = std::hint::black_box(sha2::Sha256::digest(layer))));
    drop(layers);
    beside("limit: SHA-256 of as many bytes in memory, one core", time(hashing));
    for kind in Kind::ALL.into_iter().filter(|kind| kind.is_wanted()) {
        let Some(engine) = kind.start() else { continue };
        engine.load(&path);
        let (mut first, mut again, mut save) = (vec![], vec![], vec![]);
        for _ in 0..tests::bench::ROUNDS {
            // An agent that has never seen the image.
            let state = tempfile::tempdir().unwrap();
            let _entered = runtime.enter();
            let store = AnyStore::open(&StoreKind::parse(&engine.store(), state.path()).unwrap(), state.path()).unwrap();
            first.push(seconds(|| runtime.block_on(hash(&store))));
            again.push(seconds(|| runtime.block_on(read(&store))));
            runtime.block_on(store.close());
            save.push(seconds(|| engine.save("demo:read")));
        }
        let [first, again, save] = [first, again, save].map(median);
        beside(&format!("{}: the engine's own save, to nowhere", kind.name()), time(save));
        beside("  read and hashed by the store, for the first time", time(first));
        beside("  read by the store", time(again));
        // A containerd that is on its own serves its content as it is, to its own tool too.
        match kind {
            Kind::Containerd => beside("  times faster than its own save, hashed", format!("{:.1} ×", save / first)),
            _ => at_least("  times faster than its own save, hashed", save / first, 5.0, " ×"),
        }
    }
}

async fn hash(store: &AnyStore) {
    let held = store.resolve(&query("demo:read"), Selection::All).await.unwrap();
    for layer in held.image.layers() {
        store.hashes(&layer.descriptor, &Meter::default()).await.unwrap();
    }
}

async fn read(store: &AnyStore) {
    let held = store.resolve(&query("demo:read"), Selection::All).await.unwrap();
    for layer in held.image.layers() {
        let blob = &layer.descriptor;
        let mut reader = store.read(blob, 0..blob.size_bytes).await.unwrap();
        let mut read_bytes = 0;
        while let Some(bytes) = reader.next().await.unwrap() {
            read_bytes += bytes.len() as u64;
        }
        assert_eq!(read_bytes, blob.size_bytes);
    }
}
