//! Layers that go away, at the receiver while a send counts on them, and at the source while they are read.

use tests::engine::host::{Engine, Host, found};
use tests::sample::Sample;

use super::sending::Sending;
use super::{MIDDLE_BYTES, RATE, app, arrived, base, containerd, docker, give, is_empty, podman, two};

/// What the receiver had of the image goes while the rest is on its way: all of it is sent, without a word.
fn the_base_goes(source: &Host, target: &Host, seed: u64, remove: impl Fn(&Sample)) {
    let (Some(below), Some(sample)) = (base(), app("app:1", seed)) else { return };
    give(source, &below);
    give(source, &sample);
    source.send("base:1", target);
    let mut sending = Sending::begin(source, "app:1", "target", RATE);
    sending.wait_for_bytes(MIDDLE_BYTES);
    remove(&below);
    let done = sending.end().done();
    assert_eq!(done["config_digest"], sample.image_id().to_string());
    arrived(target, &sample);
    target.agent.must(&["rm", "app:1"]);
    target.has_only(&[]);
}

#[test]
fn docker_loses_the_base() {
    let Some((source, target)) = two(docker()) else { return };
    the_base_goes(&source, &target, 320, |base| drop(target.said(&["rmi", "--force", &base.image_id().to_string()])));
    the_base_goes(&source, &target, 321, |_| drop(target.said(&["image", "prune", "--all", "--force"])));
}

#[test]
fn podman_loses_the_base() {
    let Some((source, target)) = two(podman()) else { return };
    the_base_goes(&source, &target, 322, |base| drop(target.said(&["rmi", "--force", &base.image_id().to_string()])));
    the_base_goes(&source, &target, 323, |_| drop(target.said(&["image", "prune", "--all", "--force"])));
}

#[test]
fn containerd_loses_the_base() {
    let Some((source, target)) = two(containerd()) else { return };
    // Only the name: what it named is kept by our lease.
    the_base_goes(&source, &target, 324, |_| drop(target.said(&["images", "rm", "--sync", "docker.io/library/base:1"])));
    the_base_goes(&source, &target, 325, |base| {
        target.said(&["images", "rm", "--sync", "docker.io/library/base:1"]);
        target.said(&["content", "rm", &base.image.layers()[0].descriptor.digest.to_string()]);
    });
}

/// The large layer goes while it is read: the image arrives all the same, or the error names a layer that is gone.
fn the_source_loses_it(engine: Option<Engine>, remove: impl Fn(&Host, &Sample)) {
    let (Some(sample), Some(engine)) = (app("app:1", 326), engine) else { return };
    let (source, target) = (Host::start("source", engine), Host::start("target", Engine::Layout));
    found(&[&source, &target]);
    give(&source, &sample);
    let mut sending = Sending::begin(&source, "app:1", "target", RATE);
    sending.wait_for_bytes(MIDDLE_BYTES);
    remove(&source, &sample);
    if let Err(error) = sending.end().result("sha256:") {
        // The large layer, or what went with it.
        let mut lost: Vec<String> = sample.image.layers().iter().map(|layer| layer.descriptor.digest.to_string()).collect();
        lost.push(sample.image_id().to_string());
        assert!(lost.iter().any(|digest| error.contains(digest)), "{error}");
        assert!(error.contains("not in the store") || error.contains("corrupt"), "{error}");
        is_empty(&target);
        // What is left of it.
        source.agent.run(&["rm", "app:1"]);
        give(&source, &sample);
        source.send("app:1", &target);
    }
    arrived(&target, &sample);
    assert!(!source.names().iter().any(|name| name.contains("<none>")), "nothing stays behind: {:?}", source.names());
}

#[test]
fn docker_loses_what_is_read() {
    the_source_loses_it(docker(), |source, sample| drop(source.said(&["rmi", "--force", &sample.image_id().to_string()])));
}

#[test]
fn docker_loses_a_file_that_is_read() {
    the_source_loses_it(docker(), |source, _| {
        let directory = source.said(&["image", "inspect", "--format", "{{.GraphDriver.Data.UpperDir}}", "app:1"]);
        std::fs::remove_file(std::path::Path::new(&directory).join("large")).unwrap();
    });
}

#[test]
fn podman_loses_what_is_read() {
    the_source_loses_it(podman(), |source, sample| drop(source.said(&["rmi", "--force", &sample.image_id().to_string()])));
}

#[test]
fn containerd_loses_what_is_read() {
    the_source_loses_it(containerd(), |source, sample| {
        drop(source.said(&["content", "rm", &sample.image.layers()[1].descriptor.digest.to_string()]));
    });
}
