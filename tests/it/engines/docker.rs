//! Docker Engine with its classic store.

use std::path::{Path, PathBuf};

use agent::store::engine::{Deadlines, Engine, EngineStore, Settings};
use tempfile::TempDir;
use tests::engine::docker::Docker;
use tests::engine::skipped;

/// A store on this engine, with an agent's directory of its own.
fn store(socket: PathBuf) -> (EngineStore, TempDir) {
    let state = tempfile::tempdir().unwrap();
    let settings = Settings { engine: Engine::Docker, socket, state_dir: state.path(), deadlines: Deadlines::default() };
    (EngineStore::open(settings).unwrap(), state)
}

async fn conforms(binary: &Path) {
    let docker = Docker::start(binary, "overlay2");
    super::unpacked::conforms(|| store(docker.socket()), || docker.clear()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_systems_engine_keeps_the_promises() {
    match Docker::system() {
        Some(binary) => conforms(&binary).await,
        None => skipped("no Docker Engine here (apt-get install docker.io)"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_engine_keeps_the_promises() {
    match Docker::unpacked("trixie") {
        Some(binary) => conforms(&binary).await,
        None => skipped("no newer Docker Engine here (.ci/engines)"),
    }
}
