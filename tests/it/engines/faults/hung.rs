//! Engines that take connections and answer nothing.

use std::time::{Duration, Instant};

use tests::engine::host::{Engine, Host};

use super::sending::Sending;
use super::{LARGE_BYTES, MIDDLE_BYTES, RATE, app, arrived, containerd, docker, give, is_empty, two};

/// A send to an engine that hangs does not last longer than this.
const BOUND: Duration = Duration::from_secs(300);

fn hangs(engine: Option<Engine>, name: &str) {
    let (Some(sample), Some((source, target))) = (app("app:1", 310), two(engine)) else { return };
    give(&source, &sample);
    let silent = format!("{name} does not answer");

    // For a moment: what comes meanwhile is kept, and goes in when it wakes up.
    let mut sending = Sending::begin(&source, "app:1", "target", RATE);
    sending.wait_for_bytes(MIDDLE_BYTES);
    target.engine.signal("STOP");
    sending.wait_for_bytes(LARGE_BYTES);
    target.engine.signal("CONT");
    sending.end().done();
    arrived(&target, &sample);
    target.agent.must(&["rm", "app:1"]);

    // For good.
    let mut sending = Sending::begin(&source, "app:1", "target", RATE);
    sending.wait_for_bytes(MIDDLE_BYTES);
    target.engine.signal("STOP");
    let stopped = Instant::now();
    lists_nothing(&target, name);
    sending.end().failed(1, &silent);
    assert!(stopped.elapsed() < BOUND, "{:?}", stopped.elapsed());
    target.engine.signal("CONT");
    is_empty(&target);
    let done = source.send("app:1", &target);
    assert!(done["bytes_sent"].as_u64().unwrap() < LARGE_BYTES, "what had arrived was kept: {done}");
    arrived(&target, &sample);
}

#[track_caller]
fn lists_nothing(target: &Host, name: &str) {
    let output = target.agent.run(&["ls"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    let socket = target.engine.socket();
    assert!(error.contains(name) && error.contains("does not answer") && error.contains(socket.to_str().unwrap()), "{error}");
}

#[test]
fn engines_that_hang() {
    // It is mostly waiting: side by side.
    std::thread::scope(|scope| {
        scope.spawn(|| hangs(docker(), "Docker Engine"));
        scope.spawn(|| hangs(containerd(), "containerd"));
    });
}
