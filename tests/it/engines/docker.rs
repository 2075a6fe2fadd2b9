//! Docker Engine with its classic store.

use proto::control::Verdict;
use std::path::{Path, PathBuf};

use agent::store::engine::{Deadlines, Engine, EngineStore, Settings};
use agent::store::{Import, Ingest, Meter, Store, StoreError};
use bytes::Bytes;
use proto::image::Selection;
use tempfile::TempDir;
use tests::conformance::{self, bring, content, query};
use tests::engine::docker::Docker;
use tests::sample::{Recipe, Sample, layer_tar};
use tests::skipped;

use super::{loads, odd, pins, unpacked};

/// A store on this engine, with an agent's directory of its own.
fn store(socket: PathBuf) -> (EngineStore, TempDir) {
    store_with(socket, Deadlines::default())
}

fn store_with(socket: PathBuf, deadlines: Deadlines) -> (EngineStore, TempDir) {
    let state = tempfile::tempdir().unwrap();
    let settings = Settings { engine: Engine::Docker, socket, state_dir: state.path(), deadlines };
    (EngineStore::open(settings).unwrap(), state)
}

fn system(driver: &str) -> Option<Docker> {
    let binary = Docker::system();
    if binary.is_none() {
        skipped("no Docker Engine here (apt-get install docker.io)");
    }
    binary.map(|binary| Docker::start(&binary, driver))
}

async fn conforms(binary: &Path) {
    let docker = Docker::start(binary, "overlay2");
    Box::pin(unpacked::conforms(|| store(docker.socket()), || docker.clear())).await;
    let list_all = || docker.must(&["images", "--all", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"]);
    let (store, _state) = store(docker.socket());
    loads::layers_are_loaded_as_they_come(&store, list_all).await;
    docker.clear();
    loads::a_streamed_layer_is_checked(&store, list_all).await;
    loads::packed_layers(&store).await;
    loads::layers_that_repeat(&store).await;
    docker.clear();
    loads::what_goes_meanwhile_comes_again(&store, |id| drop(docker.must(&["rmi", "--force", id]))).await;
    odd_layers(&store).await;
    an_image_runs(&docker, &store).await;
    layers_of_the_engines_own_making(&docker, &store).await;
    a_container_keeps_its_image(&docker, &store).await;
    damage_is_found(&docker, &store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_systems_engine_keeps_the_promises() {
    match Docker::system() {
        Some(binary) => Box::pin(conforms(&binary)).await,
        None => skipped("no Docker Engine here (apt-get install docker.io)"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_engine_keeps_the_promises() {
    match Docker::unpacked("trixie") {
        Some(binary) => Box::pin(conforms(&binary)).await,
        None => skipped("no newer Docker Engine here (.ci/engines)"),
    }
}

async fn pins_go_alone(binary: &Path) {
    let docker = Docker::start(binary, "overlay2");
    let tool =
        pins::Tool { engine: Engine::Docker, socket: docker.socket(), run: &|arguments| docker.must(arguments), clear: &|| docker.clear() };
    Box::pin(pins::check(tool)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pins_of_the_systems_engine_go_alone() {
    match Docker::system() {
        Some(binary) => Box::pin(pins_go_alone(&binary)).await,
        None => skipped("no Docker Engine here (apt-get install docker.io)"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pins_of_a_newer_engine_go_alone() {
    match Docker::unpacked("trixie") {
        Some(binary) => Box::pin(pins_go_alone(&binary)).await,
        None => skipped("no newer Docker Engine here (.ci/engines)"),
    }
}

async fn odd_layers(store: &EngineStore) {
    let sample = of_layers("demo:odd", &[layer_tar("dir/gone", b"below").into(), odd::layer()]);
    bring(store, &sample).await.unwrap();
    let held = store.resolve(&query("demo:odd"), Selection::All).await.unwrap();
    for layer in held.image.layers() {
        assert_eq!(content(store, &layer.descriptor).await.unwrap(), sample.blobs[&layer.descriptor.digest]);
    }
}

/// An image of these layers, which says that it runs.
pub(crate) fn of_layers(name: &str, layers: &[Bytes]) -> Sample {
    let platform = proto::Platform::host();
    let diff_ids: Vec<String> = layers.iter().map(|layer| proto::Digest::of(layer).to_string()).collect();
    let config = serde_json::json!({"architecture": platform.architecture, "os": platform.os, "config": {"Cmd": ["/bin/busybox", "echo", "it", "runs"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    loads::sample(name, layers, config)
}

async fn an_image_runs(docker: &Docker, store: &EngineStore) {
    let Some(busybox) = busybox() else { return skipped("no static busybox here (apt-get install busybox-static)") };
    bring(store, &of_layers("demo:runs", &[busybox])).await.unwrap();
    assert_eq!(docker.must(&["run", "--rm", "--pull", "never", "--network", "none", "demo:runs"]), "it runs");
}

/// A layer with a shell.
pub(crate) fn busybox() -> Option<Bytes> {
    let program = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find_map(|path| std::fs::read(path).ok())?;
    let mut tar = tar::Builder::new(vec![]);
    let mut header = tar::Header::new_gnu();
    header.set_size(program.len() as u64);
    header.set_mode(0o755);
    tar.append_data(&mut header, "bin/busybox", &program[..]).unwrap();
    Some(tar.into_inner().unwrap().into())
}

/// What the engine built itself comes out as it saves it.
async fn layers_of_the_engines_own_making(docker: &Docker, store: &EngineStore) {
    let context = docker.path("context");
    std::fs::create_dir_all(context.join("files/deep")).unwrap();
    std::fs::write(context.join("files/deep/a"), vec![1; 70_000]).unwrap();
    std::fs::hard_link(context.join("files/deep/a"), context.join("files/b")).unwrap();
    let sparse = std::fs::File::create(context.join("files/sparse")).unwrap();
    sparse.set_len(3_000_000).unwrap();
    std::fs::write(context.join("Dockerfile"), "FROM demo:runs\nCOPY files /files\nLABEL built=here\n").unwrap();
    docker.must(&["build", "--network", "none", "--tag", "demo:built", context.to_str().unwrap()]);
    let held = store.resolve(&query("demo:built"), Selection::All).await.unwrap();
    assert_eq!(held.image_id.to_string(), docker.id("demo:built"));
    assert_eq!(held.image.layers().len(), 2);
    for layer in held.image.layers() {
        store.hashes(&layer.descriptor, &Meter::default()).await.unwrap();
    }
    assert!(!docker.must(&["images"]).contains("imgctl.partial"));
}

async fn a_container_keeps_its_image(docker: &Docker, store: &EngineStore) {
    docker.must(&["create", "--name", "user", "--network", "none", "demo:runs"]);
    let result = store.remove(&query("demo:runs")).await;
    assert!(matches!(&result, Err(StoreError::Engine { reason, .. }) if reason.contains("container")), "{result:?}");
    docker.must(&["rm", "user"]);
    docker.must(&["rmi", "demo:built"]);
    store.remove(&query("demo:runs")).await.unwrap();
}

/// A file of a layer was changed under the engine.
async fn damage_is_found(docker: &Docker, store: &EngineStore) {
    let sample = Recipe::new(60, &[50_000]).build("demo:damaged");
    bring(store, &sample).await.unwrap();
    let upper = docker.must(&["image", "inspect", "--format", "{{.GraphDriver.Data.UpperDir}}", "demo:damaged"]);
    let file = Path::new(&upper).join("file0");
    let good = std::fs::read(&file).unwrap();
    let mut wrong = good.clone();
    wrong[100] ^= 1;
    std::fs::write(&file, wrong).unwrap();
    let scrub = || async {
        let (report, mut scrubbed) = tokio::sync::mpsc::channel(100);
        store.scrub(Some(sample.image.layers()[0].descriptor.digest), report).await.unwrap();
        scrubbed.recv().await.unwrap().intact
    };
    assert!(!scrub().await);
    assert!(matches!(store.resolve(&query("demo:damaged"), Selection::All).await, Err(StoreError::Corrupt(_))));
    assert!(!store.list().await.unwrap().iter().any(|row| row.complete && row.image_id == sample.image_id()));
    std::fs::write(&file, good).unwrap();
    assert!(scrub().await);
    store.resolve(&query("demo:damaged"), Selection::All).await.unwrap();
}

/// Layers of another driver are read out of what the engine saves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_whose_files_are_not_understood() {
    let Some(docker) = system("vfs") else { return };
    let (store, state) = store(docker.socket());
    let findings = store.examine().await;
    assert!(
        findings.iter().any(|finding| finding.verdict == Verdict::Warning && finding.text.contains("storage driver vfs")),
        "{findings:?}"
    );
    conformance::round_trip(&store).await;
    docker.clear();
    conformance::ranges_anywhere(&store).await;
    conformance::hashes_are_those_of_the_ranges(&store).await;
    docker.clear();
    conformance::a_lease_keeps_blobs(&store).await;
    drop(store);
    assert_eq!(std::fs::read_dir(state.path().join("docker/spool")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_stops_and_hangs() {
    let Some(mut docker) = system("overlay2") else { return };
    let deadlines = Deadlines { call_ms: 1_500, ping_ms: 300, silence_ms: 1_500 };
    let (store, _state) = store_with(docker.socket(), deadlines);
    let sample = Recipe::new(61, &[12 << 20, 1000]).build("demo:v1");
    let layer = sample.image.layers()[0].descriptor.clone();
    let bytes = &sample.blobs[&layer.digest];

    let mut import = store.import(sample.image.clone()).await.unwrap();
    import.missing().await.unwrap();
    let mut ingest = import.ingest(&layer).await.unwrap().unwrap();
    ingest.append(bytes.slice(..5 << 20)).await.unwrap();
    docker.signal("STOP");
    // What the socket holds is taken without it.
    let rest = async {
        for block in bytes.slice(5 << 20..).chunks(256 << 10) {
            ingest.append(Bytes::copy_from_slice(block)).await?;
        }
        ingest.commit().await
    };
    let result = rest.await;
    assert!(matches!(result, Err(StoreError::Silent { .. })), "{result:?}");
    assert!(matches!(store.list().await, Err(StoreError::Silent { .. })));
    drop(import);
    docker.signal("CONT");

    let mut import = store.import(sample.image.clone()).await.unwrap();
    import.missing().await.unwrap();
    let mut ingest = import.ingest(&layer).await.unwrap().unwrap();
    ingest.append(bytes.slice(..1 << 20)).await.unwrap();
    docker.stop();
    let rest = async {
        ingest.append(bytes.slice(1 << 20..)).await?;
        ingest.commit().await
    };
    let result = rest.await;
    assert!(matches!(result, Err(StoreError::Unreachable { .. } | StoreError::Engine { .. })), "{result:?}");
    drop(import);
    assert!(matches!(store.list().await, Err(StoreError::Unreachable { .. })));
    let findings = store.examine().await;
    assert!(findings[0].remedy.as_deref().is_some_and(|remedy| remedy.contains("systemctl start docker")), "{findings:?}");

    docker.start_again();
    bring(&store, &sample).await.unwrap();
    assert_eq!(docker.must(&["images", "--all", "--quiet"]).lines().count(), 1, "nothing stays of what broke off");
    docker.stop();
    docker.start_again();
    store.resolve(&query("demo:v1"), Selection::All).await.unwrap();
}

/// Pins of an agent that was killed go when it comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_agent_left() {
    let Some(docker) = system("overlay2") else { return };
    let (first, state) = store(docker.socket());
    let sample = Recipe::new(62, &[1000]).build("demo:v1");
    bring(&first, &sample).await.unwrap();
    bring(&first, &Recipe::new(63, &[1000]).build("demo:v1").untagged()).await.unwrap();
    let untagged = first.list().await.unwrap().into_iter().find(|row| row.reference.is_none()).unwrap();
    let held = first.resolve(&query("demo:v1"), Selection::All).await.unwrap();
    let nameless = first.resolve(&query(&untagged.image_id.to_string()), Selection::All).await.unwrap();
    assert_eq!(first.list().await.unwrap().len(), 2);
    // Nobody is left to take the tags away.
    drop(first);
    drop((held, nameless));
    let tags = || docker.must(&["images", "--all", "--format", "{{.Repository}}"]).lines().filter(|name| name.contains("imgctl")).count();
    assert_eq!(tags(), 2);
    // Another agent at the same engine leaves them alone.
    let (other, _state) = store(docker.socket());
    assert_eq!(other.list().await.unwrap().len(), 2);
    assert_eq!(tags(), 2);
    let settings = Settings { engine: Engine::Docker, socket: docker.socket(), state_dir: state.path(), deadlines: Deadlines::default() };
    let second = EngineStore::open(settings).unwrap();
    assert_eq!(second.list().await.unwrap().len(), 2, "the image without a name is still there");
    assert_eq!(tags(), 0);
}
