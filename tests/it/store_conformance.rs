//! Every store keeps the same promises.

use agent::store::layout::LayoutStore;
use agent::store::memory::MemoryStore;
use agent::store::{Store, StoreError};
use proto::Descriptor;
use proto::descriptor::media_type;
use proto::document::make_manifest;
use tests::conformance::bring;
use tests::sample::{Packing, Recipe};

/// One test for each check. `$fresh` makes a store and whatever has to live as long.
macro_rules! conformance {
    ($($store:ident = $fresh:expr;)*) => { $(
        mod $store {
            use super::*;
            conformance! { @checks $fresh;
                round_trip, a_second_import_writes_nothing, an_ingest_resumes, wrong_bytes_are_refused, false_images_are_refused,
                invisible_before_commit, a_name_moves, a_lease_keeps_blobs, removal_frees_what_is_not_shared, removal_by_id,
                short_ids_are_ambiguous, ranges_anywhere, hashes_are_those_of_the_ranges, untagged_images, several_platforms,
                imports_at_once, empty_things, a_list_is_sorted, staged_files_are_adopted
            }
        }
    )* };
    (@checks $fresh:expr; $($check:ident),*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $check() {
            let (store, _guard) = $fresh;
            tests::conformance::$check(&store).await;
        }
    )* };
}

conformance! {
    layout = layout_store();
    memory = (MemoryStore::new(), ());
}

fn layout_store() -> (LayoutStore, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    (LayoutStore::open(&directory.path().join("layout")).unwrap(), directory)
}

#[tokio::test]
async fn a_plain_layer_is_made_from_a_packed_one() {
    let (store, _directory) = layout_store();
    tests::conformance::other_forms_do_not_travel(&store).await;
}

#[tokio::test]
async fn a_false_diff_id_brings_in_nothing_wrong() {
    let (store, _directory) = layout_store();
    let plain = Recipe::new(32, &[300_000]);
    let sample = plain.build("plain");
    // An image whose config says that its compressed layer holds what it does not.
    let mut other = Recipe::new(33, &[300_000]).packed(Packing::Gzip).build("false");
    let config = serde_json::json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [sample.image.layers()[0].descriptor.digest.to_string()]}});
    let config = config.to_string().into_bytes();
    let layer = other.image.layers()[0].descriptor.clone();
    let described = Descriptor::of(media_type::CONFIG, &config);
    let manifest = make_manifest(&described, std::slice::from_ref(&layer));
    other.image.root = Descriptor::of(media_type::MANIFEST, &manifest);
    other.image.manifests[0].descriptor = other.image.root.clone();
    other.image.manifests[0].config = described.clone();
    other.image.manifests[0].platform = Some("linux/amd64".parse().unwrap());
    other.image.manifests[0].layers[0].diff_id = Some(sample.image.layers()[0].descriptor.digest);
    other.blobs.insert(described.digest, config.into());
    other.blobs.insert(other.image.root.digest, manifest.into());
    bring(&store, &other).await.unwrap();

    let error = bring(&store, &sample).await.unwrap_err();
    assert!(matches!(error, StoreError::Gone(digest) if digest == sample.image.layers()[0].descriptor.digest), "{error:?}");
    assert_eq!(store.list().await.unwrap().len(), 1, "nothing became visible");
    let (_, written) = bring(&store, &sample).await.unwrap();
    assert!(written.contains(&sample.image.layers()[0].descriptor.digest), "from now on it travels");
}
