//! Podman.

use std::path::PathBuf;

use agent::store::engine::{Deadlines, Engine, EngineStore, Settings};
use agent::store::{Meter, Store};
use proto::image::Selection;
use tempfile::TempDir;
use tests::conformance::{bring, query};
use tests::engine::podman::Podman;
use tests::sample::{Recipe, archive_file};
use tests::skipped;

use super::docker::{busybox, of_layers};
use super::{loads, pins, unpacked};

/// A store on this engine, with an agent's directory of its own.
fn store(socket: PathBuf) -> (EngineStore, TempDir) {
    let state = tempfile::tempdir().unwrap();
    let settings = Settings { engine: Engine::Podman, socket, state_dir: state.path(), deadlines: Deadlines::default() };
    (EngineStore::open(settings).unwrap(), state)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_keeps_the_promises() {
    if !Podman::is_installed() {
        return skipped("no Podman here (apt-get install podman)");
    }
    let podman = Podman::start();
    Box::pin(unpacked::conforms(|| store(podman.socket()), || podman.clear())).await;
    let list_all = || podman.must(&["images", "--all", "--noheading"]);
    let (store, _state) = store(podman.socket());
    loads::layers_are_loaded_as_they_come(&store, list_all).await;
    podman.clear();
    loads::a_streamed_layer_is_checked(&store, list_all).await;
    loads::packed_layers(&store).await;
    loads::layers_that_repeat(&store).await;
    podman.clear();
    loads::what_goes_meanwhile_comes_again(&store, |id| drop(podman.must(&["rmi", "--force", id]))).await;
    local_names(&podman, &store).await;
    layers_that_buildah_made(&podman, &store).await;
    an_image_runs(&podman, &store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pins_go_alone() {
    if !Podman::is_installed() {
        return skipped("no Podman here (apt-get install podman)");
    }
    let podman = Podman::start();
    let tool =
        pins::Tool { engine: Engine::Podman, socket: podman.socket(), run: &|arguments| podman.must(arguments), clear: &|| podman.clear() };
    Box::pin(pins::check(tool)).await;
}

async fn layers_that_buildah_made(podman: &Podman, store: &EngineStore) {
    let Some(buildah) = podman.buildah() else { return skipped("no buildah here (apt-get install buildah)") };
    let context = podman.path("context");
    std::fs::create_dir_all(context.join("deep")).unwrap();
    std::fs::write(context.join("deep/a"), vec![1; 70_000]).unwrap();
    std::fs::hard_link(context.join("deep/a"), context.join("b")).unwrap();
    for arguments in [
        &["from", "--name", "work", "scratch"][..],
        &["copy", "work", context.to_str().unwrap(), "/files"],
        &["commit", "--quiet", "work", "built:v1"],
        &["rm", "work"],
    ] {
        buildah(arguments);
    }
    let held = store.resolve(&query("built:v1"), Selection::All).await.unwrap();
    assert_eq!(held.image.layers().len(), 1);
    store.hashes(&held.image.layers()[0].descriptor, &Meter::default()).await.unwrap();
}

async fn an_image_runs(podman: &Podman, store: &EngineStore) {
    let Some(busybox) = busybox() else { return skipped("no static busybox here (apt-get install busybox-static)") };
    bring(store, &of_layers("demo:runs", &[busybox])).await.unwrap();
    let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--net", "host"];
    let output = podman.must(&[&["run", "--rm", "--pull", "never"], &limits[..], &["demo:runs"]].concat());
    assert_eq!(output, "it runs");
}

/// An image that came without a registry in its name is found by the name that people use.
async fn local_names(podman: &Podman, store: &EngineStore) {
    let sample = Recipe::new(70, &[1000]).build("localhost/mine:v1");
    podman.must(&["load", "-i", archive_file(&podman.path(""), &sample).to_str().unwrap()]);
    let held = store.resolve(&query("mine:v1"), Selection::All).await.unwrap();
    assert_eq!(held.image.reference.unwrap().familiar(), "mine:v1");
    assert_eq!(held.image_id, sample.image_id());
    assert_eq!(store.remove(&query("mine:v1")).await.unwrap().name, "localhost/mine:v1");
    bring(store, &sample.named("mine:v1")).await.unwrap();
}
