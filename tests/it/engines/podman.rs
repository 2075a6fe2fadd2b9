//! Podman.

use agent::store::engine::{Deadlines, Engine, EngineStore, Settings};
use std::path::PathBuf;
use tempfile::TempDir;
use tests::engine::podman::Podman;
use tests::engine::skipped;

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
    super::unpacked::conforms(|| store(podman.socket()), || podman.clear()).await;
}
