//! Engines whose disk is full, or becomes it.

use std::io::Write;
use std::path::Path;

use tests::engine::containerd::Containerd;
use tests::engine::docker::Docker;
use tests::engine::host::Engine;
use tests::engine::podman::Podman;
use tests::sample::Recipe;
use tests::skipped;

use super::sending::Sending;
use super::{MIDDLE_BYTES, RATE, app, arrived, give, is_empty, two};

/// Of the disk of an engine that unpacks an archive, or what came in packed, on the same disk.
const DISK_MIB: u32 = 100;
/// Of the disk of one that does not.
const SMALL_DISK_MIB: u32 = 64;

fn becomes_full(engine: Option<Engine>) {
    let Some(engine) = engine else { return skipped("an engine with a disk of its own needs root") };
    let filling = engine.path("root/filling");
    let (Some(sample), Some((source, target))) = (app("app:1", 350), two(Some(engine))) else { return };

    // It cannot hold the image: that is known before a byte moves.
    give(&source, &Recipe::new(351, &[60_000_000]).build("large:1"));
    let error = Sending::begin(&source, "large:1", "target", "500MB/s").end().failed(6, "free");
    assert!(error.contains("needed"), "the numbers are told: {error}");
    let status = source.agent.must(&["--json", "status"]);
    let moved = status.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    assert!(moved.filter_map(|row| row["bytes_done"].as_u64()).all(|bytes| bytes == 0), "{status}");
    target.has_only(&[]);

    // Somebody else takes the room while it comes.
    give(&source, &sample);
    let mut sending = Sending::begin(&source, "app:1", "target", RATE);
    sending.wait_for_bytes(MIDDLE_BYTES);
    fill(&filling);
    let ended = sending.end();
    std::fs::remove_file(&filling).unwrap();
    ended.failed(1, "no space left");
    is_empty(&target);
    source.send("app:1", &target);
    arrived(&target, &sample);
}

fn fill(path: &Path) {
    let mut file = std::fs::File::create(path).unwrap();
    for length in [1 << 20, 4096] {
        while file.write_all(&vec![1; length]).is_ok() {}
    }
}

#[test]
fn the_disk_of_docker() {
    becomes_full(Docker::on_disk(DISK_MIB).map(Engine::Docker));
}

#[test]
fn the_disk_of_containerd() {
    becomes_full(Containerd::on_disk(DISK_MIB).map(|containerd| Engine::Containerd(containerd, "default")));
}

#[test]
fn the_disk_of_podman() {
    becomes_full(Podman::on_disk(SMALL_DISK_MIB).map(Engine::Podman));
}
