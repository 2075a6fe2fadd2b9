//! The same image from two hosts at once, to one engine.

use tests::engine::host::{Engine, Host};
use tests::process::{self, Process};

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
