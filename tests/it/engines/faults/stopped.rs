//! Engines that are stopped, killed or restarted around a send.

use tests::engine::host::{Engine, Host};

use super::sending::Sending;
use super::{
    LARGE_BYTES, MIDDLE_BYTES, RATE, RESENT_BYTES, app, arrived, containerd, docker, docker_on_containerd, give, is_empty, podman, two,
};

/// What people are told while it is down, and that it is well again when it is back.
fn stops(engine: Option<Engine>, name: &str) {
    let (Some(sample), Some((source, mut target))) = (app("app:1", 300), two(engine)) else { return };
    give(&source, &sample);
    let cannot = format!("{name} cannot be reached").trim_start().to_owned();

    // Before the send.
    target.engine.stop();
    Sending::begin(&source, "app:1", "target", RATE).end().failed(1, &cannot);
    is_down(&target, &cannot);
    target.engine.start_again();
    is_empty(&target);

    // While the large layer goes into it.
    let mut sending = Sending::begin(&source, "app:1", "target", RATE);
    sending.wait_for_bytes(MIDDLE_BYTES);
    target.engine.kill();
    is_down(&target, &cannot);
    sending.wait_for_state("waiting");
    // It is waited for, as a host is that was lost: the same send goes on.
    target.engine.start_again();
    let sent_bytes = sending.end().done()["bytes_sent"].as_u64().unwrap();
    assert!(sent_bytes < LARGE_BYTES + 3_000_000 + RESENT_BYTES, "{sent_bytes} bytes sent");
    arrived(&target, &sample);
    target.agent.must(&["rm", "app:1"]);
    is_empty(&target);

    // Restarted while the rest of it goes in; what has arrived is not sent again.
    let rest_bytes = LARGE_BYTES + 3_000_000 + RESENT_BYTES;
    let mut sending = Sending::begin(&source, "app:1", "target", "4MB/s");
    sending.wait_for_bytes(2_000_000);
    target.engine.stop();
    target.engine.start_again();
    let sent_bytes = sending.end().done()["bytes_sent"].as_u64().unwrap();
    assert!(sent_bytes < rest_bytes, "{sent_bytes} bytes sent");
    arrived(&target, &sample);

    // After it.
    target.engine.stop();
    is_down(&target, &cannot);
    target.engine.start_again();
    arrived(&target, &sample);
    assert_eq!(source.send("app:1", &target)["layers_sent"], 0);
}

/// The error of a list names the engine and its socket, or that of its containerd, and `imgctl doctor` has a remedy.
#[track_caller]
fn is_down(target: &Host, cannot: &str) {
    let output = target.agent.run(&["ls"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    let socket = target.engine.socket();
    assert!(error.contains(cannot) && error.contains(socket.parent().unwrap().to_str().unwrap()), "{error}");
    assert!(error.contains("\n\nhint: imgctl doctor"), "{error}");
    let doctor = target.agent.run(&["doctor"]);
    let told = String::from_utf8_lossy(&doctor.stdout);
    assert!(told.contains(cannot) && told.contains("systemctl"), "{told}");
}

#[test]
fn docker_stops() {
    stops(docker(), "Docker Engine");
}

#[test]
fn docker_on_containerd_stops() {
    // Which of its two sockets is missed first depends on what was asked last.
    stops(docker_on_containerd(), "");
}

#[test]
fn containerd_stops() {
    stops(containerd(), "containerd");
}

#[test]
fn podman_stops() {
    stops(podman(), "Podman");
}
