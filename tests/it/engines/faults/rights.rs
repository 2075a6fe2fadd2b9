//! Sockets that the agent may not use.

use std::os::unix::fs::{PermissionsExt, chown};

use tests::engine::host::{Engine, Host, found};
use tests::skipped;

use super::sending::Sending;
use super::{RATE, arrived, base, containerd, docker, give, podman};

/// A user that is not ours.
const NOBODY: u32 = 65534;

fn may_not(engine: Option<Engine>, name: &str, remedy: &str) {
    let (Some(sample), Some(engine)) = (base(), engine) else { return };
    let socket = engine.socket();
    std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o600)).unwrap();
    if chown(&socket, Some(NOBODY), Some(NOBODY)).is_err() {
        return skipped("a socket of another user needs root");
    }
    let mut target = Host::new("target", engine);
    target.agent.without("dac_override");
    target.agent.start();
    let source = Host::start("source", Engine::Layout);
    found(&[&source, &target]);
    give(&source, &sample);

    let denied = format!("{name} cannot be reached");
    let output = target.agent.run(&["ls"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    let socket_name = socket.to_str().unwrap();
    for part in [denied.as_str(), socket_name, "Permission denied", "\n\nhint: imgctl doctor"] {
        assert!(error.contains(part), "{part} is not in {error}");
    }
    let doctor = target.agent.run(&["doctor"]);
    let told = String::from_utf8_lossy(&doctor.stdout).into_owned();
    for part in [denied.as_str(), socket_name, "ermission denied", remedy] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
    let refused = Sending::begin(&source, "base:1", "target", RATE).end().failed(1, &denied);
    assert!(refused.contains("ermission denied"), "{refused}");

    // It is looked at again, without a restart.
    chown(&socket, Some(0), Some(0)).unwrap();
    source.send("base:1", &target);
    arrived(&target, &sample);
}

#[test]
fn a_socket_of_docker() {
    may_not(docker(), "Docker Engine", "group docker");
}

#[test]
fn a_socket_of_podman() {
    may_not(podman(), "Podman", "run imgd as root");
}

#[test]
fn a_socket_of_containerd() {
    may_not(containerd(), "containerd", "run imgd as root");
}
