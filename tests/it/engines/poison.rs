//! Images that an engine takes and stumbles over: none of them keeps the others from being seen, and what would make the engine itself useless never reaches it.

use serde_json::{Value, json};
use tests::engine::host::{Engine, Host};
use tests::engine::podman::Podman;
use tests::sample::layer_tar;
use tests::skipped;

use crate::archive::tar;

/// A docker-archive of one image whose config has this in it.
fn archive(host: &Host, name: &str, with: &Value) -> std::path::PathBuf {
    let layer = layer_tar("hello", name.as_bytes());
    let mut config = json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/x"]},
        "rootfs": {"type": "layers", "diff_ids": [proto::Digest::of(&layer).to_string()]}});
    config.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
    let list = json!([{"Config": "c.json", "RepoTags": [format!("{name}:1")], "Layers": ["l.tar"]}]).to_string();
    let path = host.agent.path().join(format!("{name}.tar"));
    std::fs::write(&path, tar(&[("l.tar", &layer), ("c.json", config.to_string().as_bytes()), ("manifest.json", list.as_bytes())]))
        .unwrap();
    path
}

#[test]
fn one_image_does_not_hide_the_others() {
    if !Podman::is_installed() {
        return skipped("no Podman here (apt-get install podman)");
    }
    let host = Host::start("podman", Engine::Podman(Podman::start()));
    let load = |name: &str, with: Value| host.agent.run(&["load", "-i", archive(&host, name, &with).to_str().unwrap()]);
    assert!(load("good", json!({})).status.success());
    // Podman takes these, and lists nothing from then on.
    for (name, with, field) in [
        ("version", json!({"docker_version": 1.12}), "docker_version"),
        ("health", json!({"config": {"Healthcheck": {"Interval": "30s"}}}), "config.Healthcheck.Interval"),
        ("onbuild", json!({"config": {"OnBuild": "x"}}), "config.OnBuild"),
        ("container", json!({"container_config": "x"}), "container_config"),
    ] {
        let output = load(name, with);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(field), "{said}");
    }
    assert_eq!(host.names(), ["good:1"], "{}", host.said(&["images"]));
    // This one it shows in its list, and not alone.
    let odd = archive(&host, "port", &json!({"config": {"ExposedPorts": {"http": {}}}}));
    host.load(&odd);
    let listed = host.agent.must(&["ls"]);
    assert!(listed.contains("good") && listed.contains("incomplete"), "{listed}");
    assert!(load("better", json!({})).status.success(), "{}", host.agent.log());
    let doctor = host.agent.run(&["doctor"]);
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("podman rmi -f"), "{doctor:?}");
    host.agent.must(&["rm", "port:1"]);
    assert!(!host.agent.must(&["ls"]).contains("incomplete"));
}
