//! Attacks the layout store with any `index.json`, over blobs that name each other in any way, some of them absent or damaged.
//!
//! Promises: listing and collecting do not change `index.json`; a collection removes no blob that an entry leads to or a lease holds, and a failed
//! collection removes no blob; the removal of a name changes no other entry.
#![no_main]

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent::store::layout::LayoutStore;
use agent::store::{Query, Store};
use fuzz::Choices;
use fuzz::pool::{self, Blob};
use libfuzzer_sys::fuzz_target;
use proto::image::Selection;
use proto::{Digest, shape};
use serde_json::{Value, json};

const NAMES: [&str; 6] = ["demo:1", "docker.io/library/demo:1", "demo", "No Name", "", "quay.io/a/b@sha256:00"];

fn path(layout: &Path, digest: &Digest) -> PathBuf {
    layout.join("blobs/sha256").join(digest.hex())
}

fn files(layout: &Path) -> HashSet<String> {
    let entries = std::fs::read_dir(layout.join("blobs/sha256")).expect("a directory");
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name")).collect()
}

/// Writes the blobs of the pool. A few are absent or damaged.
fn write(choices: &mut Choices<'_>, layout: &Path, pool: &[Blob]) {
    for blob in pool {
        let path = path(layout, &blob.descriptor.digest);
        match choices.byte() {
            1 => continue,
            2 => std::fs::write(&path, b"damaged").expect("a file"),
            _ => std::fs::write(&path, &blob.bytes).expect("a file"),
        }
    }
}

/// Entries for blobs of the pool, or any text in which `@0`, `@1` … stand for digests of the pool.
fn index(choices: &mut Choices<'_>, pool: &[Blob]) -> Vec<u8> {
    if choices.one_in(4) {
        let mut text = String::from_utf8_lossy(choices.rest()).into_owned();
        for (number, blob) in pool.iter().enumerate().rev() {
            text = text.replace(&format!("@{number}"), &blob.descriptor.digest.to_string());
        }
        return text.into_bytes();
    }
    let mut entries = vec![];
    for _ in 0..choices.below(6) {
        let mut entry = pool::describe_any(choices, pool);
        if entry.is_object() {
            for key in ["io.containerd.image.name", "org.opencontainers.image.ref.name", "internal.imgd.tagged"] {
                match choices.below(4) {
                    0 => entry["annotations"][key] = NAMES[choices.below(NAMES.len())].into(),
                    1 => entry["annotations"][key] = choices.byte().into(),
                    _ => {}
                }
            }
        }
        entries.push(entry);
    }
    json!({"schemaVersion": 2, "manifests": entries, "foreign": choices.byte()}).to_string().into_bytes()
}

/// Every blob that an entry leads to, by the OCI image specification.
fn named(layout: &Path, index: &[u8]) -> HashSet<String> {
    let mut named = HashSet::new();
    let Ok(index) = serde_json::from_slice::<Value>(index) else { return named };
    let mut pending = vec![index];
    while let Some(document) = pending.pop() {
        let list = |key: &str| document[key].as_array().cloned().unwrap_or_default();
        let digest = |value: &Value| value["digest"].as_str().and_then(|text| text.parse::<Digest>().ok());
        let contents = [list("layers"), list("blobs"), vec![document["config"].clone()]].concat();
        named.extend(contents.iter().filter_map(digest).map(|digest| digest.hex()));
        for digest in [list("manifests"), vec![document["subject"].clone()]].concat().iter().filter_map(digest) {
            if named.insert(digest.hex()) {
                pending.extend(std::fs::read(path(layout, &digest)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()));
            }
        }
    }
    named
}

/// Collects, and checks the promises; true when the collection succeeded.
async fn collect(store: &LayoutStore, layout: &Path, held: &HashSet<String>) -> bool {
    let index = std::fs::read(layout.join("index.json")).expect("an index");
    let (before, mut kept) = (files(layout), named(layout, &index));
    kept.extend(held.iter().cloned());
    let collected = store.maintain().await;
    let after = files(layout);
    assert_eq!(std::fs::read(layout.join("index.json")).expect("an index"), index);
    for removed in before.difference(&after) {
        assert!(collected.is_ok(), "{removed} was removed, although {collected:?}");
        assert!(!kept.contains(removed), "{removed} was removed, but is in use");
    }
    collected.is_ok()
}

fn entries(index: &[u8]) -> Vec<Value> {
    serde_json::from_slice::<Value>(index).ok().and_then(|index| index["manifests"].as_array().cloned()).unwrap_or_default()
}

async fn run(choices: &mut Choices<'_>) {
    let directory = fuzz::directory();
    let layout = directory.path();
    let store = LayoutStore::open_beside(layout, Duration::ZERO).expect("a layout");
    let pool = pool::pool(choices);
    write(choices, layout, &pool);
    let index = index(choices, &pool);
    std::fs::write(layout.join("index.json"), &index).expect("an index");
    let before = files(layout);
    let listed = store.list().await;
    assert!(listed.is_ok() || before == files(layout) || shape::read::<Value>(&index, &shape::DOCUMENT).is_ok());
    let collected = collect(&store, layout, &HashSet::new()).await;
    assert!(
        !collected || shape::read::<Value>(&index, &shape::DOCUMENT).is_ok_and(|index| index.is_object()),
        "it was collected by half an index"
    );
    let Some(row) = listed.into_iter().flatten().next() else { return };

    // Blobs under a lease stay, even when no entry names the image any more.
    let query = row.reference.map(Query::from).or_else(|| Query::parse(&row.image_id.to_string()).ok()).expect("a query");
    if let Ok(held) = store.resolve(&query, Selection::Present).await {
        let blobs: HashSet<String> = held.image.blobs().iter().map(|blob| blob.digest.hex()).collect();
        std::fs::write(layout.join("index.json"), r#"{"schemaVersion":2,"manifests":[]}"#).expect("an index");
        collect(&store, layout, &blobs).await;
        std::fs::write(layout.join("index.json"), &index).expect("an index");
    }
    let before = files(layout);
    let removed = store.remove(&query).await;
    let after = std::fs::read(layout.join("index.json")).expect("an index");
    let (old, new) = (entries(&index), entries(&after));
    let mut rest = old.iter();
    assert!(new.iter().all(|entry| rest.any(|known| known == entry)), "another entry was changed");
    if removed.is_ok() {
        assert!(new.len() < old.len());
        let kept = named(layout, &after);
        assert!(kept.iter().all(|digest| !before.contains(digest) || layout_has(layout, digest)), "a blob that is in use was removed");
    }
}

/// True when the blob is in its place or, damaged, in quarantine.
fn layout_has(layout: &Path, hex: &str) -> bool {
    layout.join("blobs/sha256").join(hex).exists() || layout.join(".imgd/quarantine").join(hex).exists()
}

fuzz_target!(|input: &[u8]| {
    // The store reads an invalid index again after a pause. In virtual time the pause takes no time.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(run(&mut Choices::new(input)));
});
