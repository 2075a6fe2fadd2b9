//! What engines that keep layers unpacked are asked for beyond the promises of every store. Each check takes an engine without images.

use std::collections::BTreeMap;

use agent::store::engine::EngineStore;
use agent::store::{Import, Ingest, Meter, Store, StoreError};
use bytes::Bytes;
use proto::descriptor::media_type;
use proto::document::make_manifest;
use proto::image::{Selection, Walk};
use proto::{Descriptor, Digest};
use serde_json::json;
use tests::conformance::{bring, content, query};
use tests::sample::{Packing, Recipe, Sample, layer_tar};

const MIB: usize = 1 << 20;

/// Brings in one blob.
pub(crate) async fn feed<I: Import>(import: &I, blob: &Descriptor, bytes: &Bytes) -> Result<(), StoreError> {
    let Some(mut ingest) = import.ingest(blob).await? else { return Ok(()) };
    for block in bytes.chunks(512 << 10) {
        ingest.append(bytes.slice_ref(block)).await?;
    }
    ingest.commit().await
}

async fn assert_layers<S: Store>(store: &S, sample: &Sample, name: &str) {
    let held = store.resolve(&query(name), Selection::All).await.unwrap();
    assert_eq!(held.image_id, sample.image_id());
    let diff_ids: Vec<_> = sample.image.layers().iter().map(|layer| layer.diff_id).collect();
    let layers = held.image.layers();
    assert_eq!(layers.iter().map(|layer| layer.diff_id).collect::<Vec<_>>(), diff_ids);
    for layer in layers {
        assert_eq!(Some(Digest::of(&content(store, &layer.descriptor).await.unwrap())), layer.diff_id);
        store.hashes(&layer.descriptor, &Meter::default()).await.unwrap();
    }
}

/// Whole layers of a send that broke off stay, and nothing but the image stays of one that did not. Blobs come in any order, in tasks of their own.
pub(crate) async fn layers_are_loaded_as_they_come(store: &EngineStore, list_all: impl Fn() -> String) {
    let sample = Recipe::new(50, &[MIB, 12 * MIB, 100, 9 * MIB, 5_000]).build("demo:large");
    let blob = |layer: usize| sample.image.layers()[layer].descriptor.clone();
    {
        let mut import = store.import(sample.image.clone()).await.unwrap();
        assert_eq!(import.missing().await.unwrap().len(), 7);
        for layer in [0, 1, 2] {
            feed(&import, &blob(layer), &sample.blobs[&blob(layer).digest]).await.unwrap();
        }
        let mut broken = import.ingest(&blob(3)).await.unwrap().unwrap();
        broken.append(sample.blobs[&blob(3).digest].slice(..5 * MIB)).await.unwrap();
        assert!(store.list().await.unwrap().is_empty(), "parts are hidden");
    }
    let mut import = store.import(sample.image.clone()).await.unwrap();
    let missing = import.missing().await.unwrap();
    assert!(!missing.iter().any(|missing| [blob(0), blob(1)].contains(missing)), "what was loaded is not asked for again");
    assert_eq!(missing.len(), 5);
    {
        // The highest begins first and waits for the others.
        let feeds = missing.iter().rev().map(|missing| feed(&import, missing, &sample.blobs[&missing.digest]));
        let mut tasks = feeds.map(Box::pin).collect::<Vec<_>>();
        while !tasks.is_empty() {
            let (done, at) = first(&mut tasks).await;
            done.unwrap();
            drop(tasks.swap_remove(at));
        }
    }
    import.commit().await.unwrap();
    let left = list_all();
    assert_eq!(left.lines().count(), 1, "{left}");
    assert_layers(store, &sample, "demo:large").await;
}

async fn first<F: Future + Unpin>(tasks: &mut [F]) -> (F::Output, usize) {
    std::future::poll_fn(|context| {
        for (at, task) in tasks.iter_mut().enumerate() {
            if let std::task::Poll::Ready(output) = std::pin::Pin::new(task).poll(context) {
                return std::task::Poll::Ready((output, at));
            }
        }
        std::task::Poll::Pending
    })
    .await
}

/// Wrong bytes in the middle of a load: the engine keeps nothing of it, and the right ones are taken next.
pub(crate) async fn a_streamed_layer_is_checked(store: &EngineStore, list_all: impl Fn() -> String) {
    let sample = Recipe::new(51, &[10 * MIB]).build("demo:checked");
    let layer = sample.image.layers()[0].descriptor.clone();
    let good = &sample.blobs[&layer.digest];
    let mut wrong = good.to_vec();
    wrong[9 * MIB] ^= 1;
    let import = store.import(sample.image.clone()).await.unwrap();
    let result = feed(&import, &layer, &wrong.into()).await;
    assert!(matches!(result, Err(StoreError::Corrupt(digest)) if digest == layer.digest), "{result:?}");
    assert_eq!(list_all().lines().count(), 0);
    feed(&import, &layer, good).await.unwrap();
    drop(import);
    bring(store, &sample).await.unwrap();
    assert_layers(store, &sample, "demo:checked").await;
}

/// Layers that come packed are unpacked on the way, large and small ones.
pub(crate) async fn packed_layers(store: &EngineStore) {
    for (seed, packing) in [(52, Packing::Gzip), (53, Packing::Zstd)] {
        let name = format!("demo:{seed}");
        let sample = Recipe::new(seed, &[1000, 9 * MIB, 10]).packed(packing).build(&name);
        bring(store, &sample).await.unwrap();
        assert_layers(store, &sample, &name).await;
        // The documents are those of another manifest than the one that is made here, the layers are here.
        let mut import = store.import(sample.image.clone()).await.unwrap();
        assert_eq!(import.missing().await.unwrap(), std::slice::from_ref(&sample.image.root));
    }
    let mut broken = Recipe::new(54, &[1000]).packed(Packing::Gzip).build("demo:broken");
    let layer = broken.image.layers()[0].descriptor.clone();
    let mut bytes = broken.blobs[&layer.digest].to_vec();
    let end = bytes.len();
    bytes[end / 2] ^= 0xff;
    broken.blobs.insert(layer.digest, bytes.into());
    assert!(matches!(bring(store, &broken).await, Err(StoreError::Corrupt(digest)) if digest == layer.digest));
}

/// The same layer twice, and a layer that is there on top of others.
pub(crate) async fn layers_that_repeat(store: &EngineStore) {
    let once = Recipe::new(55, &[2000, 9 * MIB, 3000]);
    let mut twice = once.clone();
    twice.layers.push(once.layers[0].clone());
    twice.layers.insert(0, once.layers[1].clone());
    // Layers are named by their place, so that equal content alone does not make an equal layer.
    let twice = repeated(&twice);
    bring(store, &once.build("demo:once")).await.unwrap();
    bring(store, &twice).await.unwrap();
    assert_layers(store, &twice, "demo:twice").await;
}

fn repeated(recipe: &Recipe) -> Sample {
    let layers: Vec<Bytes> = recipe.layers.iter().map(|(content, _)| Bytes::from(layer_tar("file", content))).collect();
    let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    let platform = &recipe.platform;
    let config = json!({"architecture": platform.architecture, "os": platform.os, "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    sample("demo:twice", &layers, config)
}

/// An image of these plain layers with this config.
pub(crate) fn sample(name: &str, layers: &[Bytes], config: serde_json::Value) -> Sample {
    let config = config.to_string().into_bytes();
    let descriptors: Vec<Descriptor> = layers.iter().map(|layer| Descriptor::of(media_type::LAYER, layer)).collect();
    let config_descriptor = Descriptor::of(media_type::CONFIG, &config);
    let manifest = make_manifest(&config_descriptor, &descriptors);
    let root = Descriptor::of(media_type::MANIFEST, &manifest);
    let mut blobs: BTreeMap<Digest, Bytes> = layers.iter().map(|layer| (Digest::of(layer), layer.clone())).collect();
    blobs.insert(config_descriptor.digest, config.into());
    blobs.insert(root.digest, manifest.into());
    let mut walk = Walk::new(Some(name.parse().unwrap()), root, Selection::All);
    while let Some(document) = walk.next() {
        let bytes = blobs[&document.digest].clone();
        walk.supply(Some(&bytes)).unwrap();
    }
    Sample { image: walk.finish().unwrap(), blobs }
}

/// What the engine removed behind our back between question and commit is told as gone, and the next import sends everything.
pub(crate) async fn what_goes_meanwhile_comes_again(store: &EngineStore, remove_by_force: impl Fn(&str)) {
    let below = Recipe::new(56, &[50_000]).build("demo:below");
    let mut recipe = Recipe::new(56, &[50_000, 60_000]);
    recipe.note = "above".to_owned();
    let above = recipe.build("demo:above");
    bring(store, &below).await.unwrap();
    let mut import = store.import(above.image.clone()).await.unwrap();
    let missing = import.missing().await.unwrap();
    assert_eq!(missing.len(), 3);
    for blob in &missing {
        feed(&import, blob, &above.blobs[&blob.digest]).await.unwrap();
    }
    remove_by_force(&below.image_id().to_string());
    let result = import.commit().await;
    assert!(matches!(result, Err(StoreError::Gone(_))), "{result:?}");
    bring(store, &above).await.unwrap();
    assert_layers(store, &above, "demo:above").await;
}
