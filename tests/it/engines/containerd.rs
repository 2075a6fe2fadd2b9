//! containerd on its own, and as Docker's image store.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use agent::store::containerd::{ContainerdStore, Flavour};
use tests::engine::containerd::{Containerd, DockerOnContainerd};
use tests::engine::skipped;

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
