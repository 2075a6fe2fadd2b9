//! Agents that end without a word, and what they leave in an engine.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tests::engine::host::{Engine, Host};
use tests::sample::{Sample, layer_tar, noise};

use super::sending::Sending;
use super::{LARGE_BYTES, RATE, RESENT_BYTES, arrived, containerd, docker, give, podman, two};
use crate::engines::docker::{busybox, of_layers};

/// A lower layer that is worth a load of its own.
const LOWER_BYTES: u64 = 12_000_000;

/// An image with two large layers.
fn tall() -> Option<Sample> {
    let layers = [("lower", LOWER_BYTES), ("large", LARGE_BYTES)];
    let layers = layers.map(|(name, bytes)| layer_tar(name, &noise(bytes, bytes as usize)).into());
    Some(of_layers("app:1", &[&[busybox()?][..], &layers].concat()))
}

fn is_killed(engine: Option<Engine>) {
    let (Some(sample), Some((source, mut target))) = (tall(), two(engine)) else { return };
    give(&source, &sample);
    let mut sending = Sending::begin(&source, "app:1", "target", RATE);
    sending.wait_for_bytes(LOWER_BYTES + LARGE_BYTES / 2);
    wait_for_part(&target);
    target.agent.kill();
    target.agent.start();
    // It listens at another port now, and says so.
    target.agent.must(&["ls", "source"]);
    let sent_bytes = sending.end().done()["bytes_sent"].as_u64().unwrap();
    assert!(sent_bytes < sample.image.size_bytes() + RESENT_BYTES, "the lower layer was there: {sent_bytes} bytes sent");
    arrived(&target, &sample);
}

/// Waits until an engine that keeps layers unpacked has the lower one.
fn wait_for_part(target: &Host) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !target.engine.shows_roots() && target.names().is_empty() {
        assert!(Instant::now() < deadline, "{}", target.agent.log());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn while_docker_loads() {
    is_killed(docker());
}

#[test]
fn while_podman_loads() {
    is_killed(podman());
}

#[test]
fn while_containerd_writes() {
    is_killed(containerd());
}

/// Parts of images that no agent comes back to go after a day, those of today are kept and hidden.
#[test]
fn parts_of_images_go_after_a_day() {
    for engine in [docker(), podman()].into_iter().flatten() {
        let mut target = Host::new("target", engine);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        for (content, unix_s) in [("old", now - 25 * 3600), ("new", now - 3600)] {
            let layer = target.agent.path().join(content);
            std::fs::write(&layer, layer_tar("file", content.as_bytes())).unwrap();
            let label = format!("LABEL imgctl.partial=\"0123456789ab {unix_s}\"");
            target.said(&["import", "--change", &label, layer.to_str().unwrap()]);
        }
        assert_eq!(target.names().len(), 2);
        target.agent.start();
        assert_eq!(target.rows(), Vec::<serde_json::Value>::new());
        target.has_only(&["<none>:<none>"]);
    }
}
