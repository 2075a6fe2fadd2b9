//! The promises of every store, on one engine after the other.

use std::time::Instant;

use agent::store::engine::EngineStore;
use tempfile::TempDir;
use tests::conformance;

/// Every check on a store of its own, one after the other on one engine, without images of the one before.
pub(crate) async fn conforms(fresh: impl Fn() -> (EngineStore, TempDir), clear: impl Fn()) {
    macro_rules! checks {
        ($($check:ident),*) => { $({
            let started = Instant::now();
            let (store, _state) = fresh();
            println!("{}", stringify!($check));
            Box::pin(conformance::$check(&store)).await;
            drop(store);
            clear();
            println!("{}: {} ms", stringify!($check), started.elapsed().as_millis());
        })* };
    }
    checks!(
        round_trip,
        a_second_import_writes_nothing,
        an_ingest_resumes,
        wrong_bytes_are_refused,
        false_images_are_refused,
        invisible_before_commit,
        a_name_moves,
        a_lease_keeps_blobs,
        removal_frees_what_is_not_shared,
        removal_by_id,
        short_ids_are_ambiguous,
        ranges_anywhere,
        hashes_are_those_of_the_ranges,
        untagged_images,
        several_platforms,
        imports_at_once,
        empty_things,
        a_list_is_sorted,
        staged_files_are_adopted
    );
}
