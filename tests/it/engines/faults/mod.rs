//! What goes wrong around a send, end to end: with the programs as people have them, and real engines.
//!
//! Each fault ends in the right image or in an error that says what it was. Nothing half is visible after it, the agents live on, and the next
//! send works.

mod at_once;
mod damaged;
mod full;
mod hung;
mod killed;
mod liar;
mod removed;
mod rights;
mod sending;
mod stopped;

use tests::engine::containerd::{Containerd, DockerOnContainerd};
use tests::engine::docker::Docker;
use tests::engine::host::{Engine, Host, found};
use tests::engine::podman::Podman;
use tests::sample::{Sample, archive_file, layer_tar, noise};
use tests::skipped;

use super::docker::{busybox, of_layers};

/// What an interruption may cost.
const RESENT_BYTES: u64 = 8 * 1024 * 1024;
/// The layer that is on its way while something happens.
const LARGE_BYTES: u64 = 16_000_000;
/// Slow enough that something can happen.
const RATE: &str = "12MB/s";
/// In the middle of it.
const MIDDLE_BYTES: u64 = 9_000_000;

fn docker() -> Option<Engine> {
    let binary = Docker::system();
    if binary.is_none() {
        skipped("no Docker Engine here (apt-get install docker.io)");
    }
    binary.map(|binary| Engine::Docker(Docker::start(&binary, "overlay2")))
}

fn docker_on_containerd() -> Option<Engine> {
    let engine = DockerOnContainerd::unpacked("trixie");
    if engine.is_none() {
        skipped("no Docker Engine with containerd's image store here (.ci/engines)");
    }
    engine.map(Engine::DockerOnContainerd)
}

fn containerd() -> Option<Engine> {
    let engine = Containerd::of_system();
    if engine.is_none() {
        skipped("no containerd here (apt-get install containerd)");
    }
    engine.map(|engine| Engine::Containerd(engine, "default"))
}

fn podman() -> Option<Engine> {
    if !Podman::is_installed() {
        skipped("no Podman here (apt-get install podman)");
        return None;
    }
    Some(Engine::Podman(Podman::start()))
}

/// A host without an engine that has images to send, and one with this engine.
fn two(engine: Option<Engine>) -> Option<(Host, Host)> {
    let target = Host::start("target", engine?);
    let source = Host::start("source", Engine::Layout);
    found(&[&source, &target]);
    Some((source, target))
}

/// `base:1`, which says something when it runs; `None` where there is no shell for it.
fn base() -> Option<Sample> {
    let layer = busybox();
    if layer.is_none() {
        skipped("no busybox here (apt-get install busybox-static)");
    }
    layer.map(|layer| of_layers("base:1", &[layer]))
}

/// The same with a large layer above.
fn app(name: &str, seed: u64) -> Option<Sample> {
    let base = base()?;
    let below = base.blobs[&base.image.layers()[0].descriptor.digest].clone();
    Some(of_layers(name, &[below, layer_tar("large", &noise(seed, LARGE_BYTES as usize)).into()]))
}

/// The agent of a host reads it from an archive.
fn give(host: &Host, sample: &Sample) {
    host.agent.must(&["load", "-i", archive_file(host.agent.path(), sample).to_str().unwrap()]);
}

/// The image is there, is the right one, runs, and is all that there is.
#[track_caller]
fn arrived(target: &Host, sample: &Sample) {
    let name = sample.image.reference.as_ref().unwrap().familiar();
    assert_eq!(target.config(&name), sample.image_id().to_string());
    if let Some(words) = target.run(&name) {
        assert_eq!(words, "it runs");
    }
    target.has_only(&[&name]);
}

/// Nothing is listed, neither by the agent nor, under a name, by the engine.
#[track_caller]
fn is_empty(target: &Host) {
    assert_eq!(target.rows(), Vec::<serde_json::Value>::new());
    let names = target.names();
    assert!(names.iter().all(|name| name == "<none>:<none>"), "{names:?}");
}
