//! Every store keeps the same promises.

use agent::store::layout::LayoutStore;
use agent::store::memory::MemoryStore;

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
