//! From every store to every other one, with the programs as people have them.

use std::path::Path;

use proto::descriptor::media_type;
use proto::document::make_manifest;
use proto::{Descriptor, Digest};
use tests::engine::containerd::{Containerd, DockerOnContainerd};
use tests::engine::docker::Docker;
use tests::engine::host::{Engine, Host, found};
use tests::engine::podman::Podman;
use tests::sample::{Packing, Sample, archive_file};
use tests::skipped;

/// Starts an engine, where it is installed.
type Start = fn() -> Option<Engine>;

/// One host for each store that can be had here. Daemons start side by side.
pub(super) fn all() -> Vec<Host> {
    let starts: [(&str, Start, &str); 7] = [
        ("docker", || Docker::system().map(|binary| Engine::Docker(Docker::start(&binary, "overlay2"))), "apt-get install docker.io"),
        ("newdocker", || Docker::unpacked("trixie").map(|binary| Engine::Docker(Docker::start(&binary, "overlay2"))), ".ci/engines"),
        ("dockerd", || DockerOnContainerd::unpacked("trixie").map(Engine::DockerOnContainerd), ".ci/engines"),
        ("containerd", || Containerd::of_system().map(|engine| Engine::Containerd(engine, "default")), "apt-get install containerd"),
        ("kubernetes", || Containerd::unpacked("trixie").map(|engine| Engine::Containerd(engine, "k8s.io")), ".ci/engines"),
        ("podman", || Podman::is_installed().then(|| Engine::Podman(Podman::start())), "apt-get install podman"),
        ("layout", || Some(Engine::Layout), ""),
    ];
    let engines: Vec<_> = std::thread::scope(|scope| {
        let starting: Vec<_> = starts.iter().map(|(.., start, _)| scope.spawn(start)).collect();
        starting.into_iter().map(|engine| engine.join().unwrap()).collect()
    });
    let mut hosts = vec![];
    for ((name, _, remedy), engine) in starts.iter().zip(engines) {
        match engine {
            Some(engine) => hosts.push(Host::start(name, engine)),
            None => skipped(&format!("no {name} here ({remedy})")),
        }
    }
    hosts
}

/// An image that says the name of its host, made by the host's own engine where that builds.
fn made(host: &Host) -> String {
    let name = format!("{}:1", host.name());
    let context = host.agent.path();
    match host.engine {
        Engine::Docker(_) | Engine::DockerOnContainerd(_) | Engine::Podman(_) => {
            std::fs::copy("/bin/busybox", context.join("busybox")).unwrap();
            let command = format!("FROM scratch\nCOPY busybox /bin/\nCMD [\"/bin/busybox\", \"echo\", \"{}\"]\n", host.name());
            std::fs::write(context.join("Dockerfile"), command).unwrap();
            host.said(&["build", "--network", "none", "--tag", &host.own_name(&name), context.to_str().unwrap()]);
        }
        Engine::Containerd(..) => host.load(&archive_file(context, &speaking(&host.own_name(&name), host.name(), Packing::Gzip))),
        Engine::Layout => host.load(&archive_file(context, &speaking(&name, host.name(), Packing::Zstd))),
    }
    name
}

fn speaking(name: &str, words: &str, packing: Packing) -> Sample {
    Sample::speaking(name, words).unwrap().packed(packing)
}

#[test]
fn every_store_to_every_other() {
    if !Path::new("/bin/busybox").exists() {
        return skipped("no busybox here (apt-get install busybox-static)");
    }
    let hosts = all();
    found(&hosts.iter().collect::<Vec<_>>());
    let images: Vec<String> = hosts.iter().map(made).collect();
    // With the steps of its builds.
    let own: Vec<Vec<String>> = hosts.iter().map(Host::names).collect();
    for (source, image) in hosts.iter().zip(&images) {
        for target in hosts.iter().filter(|target| target.name() != source.name()) {
            arrives(source, image, target);
        }
        let others: Vec<&str> = hosts.iter().map(Host::name).filter(|name| *name != source.name()).collect();
        let again = source.agent.must(&[&["--json", "send", image], &others[..]].concat());
        // A manifest does: engines that keep layers unpacked make their own.
        let none = again.lines().filter(|line| line.contains("\"event\":\"done\"") && line.contains("\"layers_sent\":0,")).count();
        assert_eq!(none, others.len(), "no layer travels twice: {again}");
    }
    as_docker_writes_it(&hosts);
    for (host, own) in hosts.iter().zip(&own) {
        let others = images.iter().filter(|image| !own.contains(image));
        host.has_only(&own.iter().chain(others).map(String::as_str).collect::<Vec<_>>());
        assert_eq!(host.rows().len(), images.len(), "steps of builds are not listed: {:?}", host.rows());
        assert!(host.rows().iter().all(|row| row["complete"] == true), "{:?}", host.rows());
    }
}

/// The manifest that is made of an image which came without one is, byte for byte, what Docker writes when it saves the image (since version 25).
fn as_docker_writes_it(hosts: &[Host]) {
    let named = |name: &str| hosts.iter().find(|host| host.name() == name);
    let (Some(classic), Some(containerd)) = (named("newdocker"), named("containerd")) else { return };
    let file = classic.agent.path().join("saved.tar");
    classic.said(&["save", "-o", file.to_str().unwrap(), "docker:1"]);
    let mut archive = tar::Archive::new(std::fs::File::open(file).unwrap());
    let mut index = archive.entries().unwrap().map(Result::unwrap).find(|entry| entry.path().unwrap().ends_with("index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_reader(&mut index).unwrap();
    assert_eq!(index["manifests"][0]["digest"], containerd.id("docker:1").as_str());
}

/// The image goes from one to the other, is the same there, and runs.
fn arrives(source: &Host, image: &str, target: &Host) {
    let pair = format!("{} to {}", source.name(), target.name());
    let done = source.send(image, target);
    let config = source.config(image);
    assert_eq!(done["config_digest"], config.as_str(), "{pair}");
    assert_eq!(target.config(image), config, "{pair}");
    assert_eq!(done["source_image_id"], source.id(image).as_str(), "{pair}");
    assert_eq!(done["image_id"], target.id(image).as_str(), "{pair}");
    assert_eq!(target.row(image)["image_id"], target.id(image).as_str(), "{pair}");
    if target.engine.shows_roots() {
        roots(&pair, source, image, target);
    }
    if let Some(words) = target.run(image) {
        assert_eq!(words, source.name(), "{pair}");
    }
    if let Engine::Containerd(_, namespace) = target.engine {
        let listed = target.ctr(&["images", "ls", &format!("name=={}", target.own_name(image))]);
        assert_eq!(listed.contains("io.cri-containerd.image=managed"), namespace == "k8s.io", "{pair}: {listed}");
    }
}

/// What containerd shows: the root of the source, or of a source that keeps none the manifest that is made for it.
fn roots(pair: &str, source: &Host, image: &str, target: &Host) {
    let root = target.id(image);
    match source.engine {
        Engine::Docker(_) | Engine::Podman(_) => {
            let manifest = target.document(&root);
            let descriptor = |json: &serde_json::Value, kind| {
                let digest: Digest = json["digest"].as_str().unwrap().parse().unwrap();
                Descriptor { media_type: kind, digest, size_bytes: json["size"].as_u64().unwrap() }
            };
            let layers = manifest["layers"].as_array().unwrap().iter();
            let layers: Vec<Descriptor> = layers.map(|layer| descriptor(layer, media_type::LAYER.to_owned())).collect();
            let made = make_manifest(&descriptor(&manifest["config"], media_type::CONFIG.to_owned()), &layers);
            assert_eq!(root, Digest::of(&made).to_string(), "{pair}");
        }
        Engine::DockerOnContainerd(_) | Engine::Containerd(..) => assert_eq!(root, source.id(image), "{pair}"),
        Engine::Layout => assert_eq!(root, speaking(image, source.name(), Packing::Zstd).image.root.digest.to_string(), "{pair}"),
    }
}
