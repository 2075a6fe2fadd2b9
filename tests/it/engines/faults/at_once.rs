//! The same image from two hosts at once, to one engine.

use bytes::Bytes;
use tests::engine::host::{Engine, Host};
use tests::process::{self, Process};
use tests::sample::{Packing, Sample, layer_tar, noise};

use super::super::docker::of_layers;
use super::sending::Sending;
use super::{RATE, app, arrived, containerd, docker, docker_on_containerd, give, podman, two};

fn both_arrive(engine: Option<Engine>) {
    let (Some(sample), Some((source, target))) = (app("app:1", 340), two(engine)) else { return };
    let other = Host::start("other", Engine::Layout);
    process::join(&source.agent, &other.agent);
    give(&source, &sample);
    give(&other, &sample);
    let shown = sample.image_id().to_string();

    // To one agent.
    let sendings = [&source, &other].map(|from| Sending::begin(from, "app:1", "target", RATE));
    let done = sendings.map(|sending| sending.end().done());
    assert!(done.iter().all(|done| done["config_digest"] == shown), "{done:?}");
    arrived(&target, &sample);
    target.agent.must(&["rm", "app:1"]);

    // To two agents of one engine.
    let mut second = Process::new("second");
    second.argument(&format!("--store={}", target.engine.store()));
    second.start();
    process::join(&source.agent, &second);
    // The host that let the second in knows it already.
    let sendings = [(&source, "second"), (&other, "target")].map(|(from, to)| Sending::begin(from, "app:1", to, RATE));
    let done = sendings.map(|sending| sending.end().done());
    assert!(done.iter().all(|done| done["config_digest"] == shown), "{done:?}");
    arrived(&target, &sample);
}

#[test]
fn into_docker() {
    both_arrive(docker());
}

#[test]
fn into_docker_on_containerd() {
    both_arrive(docker_on_containerd());
}

#[test]
fn into_containerd() {
    both_arrive(containerd());
}

#[test]
fn into_podman() {
    both_arrive(podman());
}

/// Four images of six packed layers each, at once: each layer is unpacked on its way in.
fn packed_images_arrive(engine: Option<Engine>) {
    let Some((source, target)) = two(engine) else { return };
    let layer = |seed: u64| layer_tar(&format!("l{seed}"), &noise(seed, 3_000_000)).into();
    let layers = |image: u64| (0..6).map(|number| layer(360 + 6 * image + number)).collect::<Vec<Bytes>>();
    let sample = |image: u64| of_layers(&format!("packed{image}:1"), &layers(image)).packed(Packing::Gzip);
    let samples: Vec<Sample> = (0..4).map(sample).collect();
    samples.iter().for_each(|sample| give(&source, sample));
    let names: Vec<String> = samples.iter().map(|sample| sample.image.reference.as_ref().unwrap().familiar()).collect();
    let sendings: Vec<Sending<'_>> = names.iter().map(|name| Sending::begin(&source, name, "target", "200MB/s")).collect();
    for ((sending, sample), name) in sendings.into_iter().zip(&samples).zip(&names) {
        assert_eq!(sending.end().done()["config_digest"], sample.image_id().to_string());
        assert_eq!(target.config(name), sample.image_id().to_string());
    }
}

#[test]
fn packed_images_into_docker() {
    packed_images_arrive(docker());
}

#[test]
fn packed_images_into_podman() {
    packed_images_arrive(podman());
}
