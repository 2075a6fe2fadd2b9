//! Images in other forms than the one in which a store keeps them: packed layers, several platforms, archives, and what other tools build.

use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use tests::engine::containerd::Containerd;
use tests::engine::docker::Docker;
use tests::engine::host::{Engine, Host, found, has};
use tests::engine::podman::Podman;
use tests::sample::{Packing, Recipe, Sample, archive_file, layer_tar, noise};
use tests::skipped;

use super::docker::of_layers;

/// Documents only: a manifest and a config.
const DOCUMENTS_BYTES: u64 = 5_000;

/// Hosts with the system's Docker Engine, Podman and containerd, and one without an engine, in a fleet.
pub(super) fn four() -> Option<[Host; 4]> {
    let (Some(docker), Some(containerd), true) = (Docker::system(), Containerd::of_system(), Podman::is_installed()) else {
        skipped("no Docker Engine, containerd or Podman here (apt-get install docker.io containerd podman)");
        return None;
    };
    let hosts = [
        Host::start("docker", Engine::Docker(Docker::start(&docker, "overlay2"))),
        Host::start("podman", Engine::Podman(Podman::start())),
        Host::start("containerd", Engine::Containerd(containerd, "k8s.io")),
        Host::start("layout", Engine::Layout),
    ];
    found(&hosts.each_ref());
    Some(hosts)
}

/// The agent of a host reads it from an archive.
pub(super) fn load(host: &Host, sample: &Sample) {
    host.agent.must(&["load", "-i", text(&archive_file(host.agent.path(), sample))]);
}

pub(super) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn forms_of_images() {
    let Some(hosts) = four() else { return };
    layers_that_are_there_in_another_form(&hosts);
    layers_that_are_there_only_unpacked(&hosts);
    several_platforms(&hosts);
    a_name_that_moves(&hosts);
    archives_of_an_engine(&hosts);
    one_archive_of_two_images(&hosts);
    if has("buildah") {
        what_buildah_builds(&hosts);
    } else {
        skipped("no buildah here (apt-get install buildah)");
    }
}

/// Engines that unpack layers have a layer whatever it was packed in; where blobs are kept, plain is made of packed and not the other way round.
fn layers_that_are_there_in_another_form([docker, podman, containerd, layout]: &[Host; 4]) {
    for (seed, packing) in [(200, Packing::Gzip), (202, Packing::Zstd)] {
        let recipe = Recipe::new(seed, &[300_000, 400_000]);
        let mut other = recipe.clone();
        other.note = format!("the layers of {seed}");
        let plain = recipe.build(&format!("plain:{seed}"));
        let packed = other.packed(packing).build(&format!("packed:{seed}"));
        let (plain_name, packed_name) = (&format!("plain:{seed}"), &format!("packed:{seed}"));
        for host in [docker, podman] {
            load(host, &plain);
        }
        for host in [containerd, layout] {
            load(host, &packed);
        }
        let bytes = |from: &Host, image: &str, to: &Host| {
            let done = from.send(image, to);
            done["bytes_sent"].as_u64().unwrap()
        };
        assert!(bytes(containerd, packed_name, docker) < DOCUMENTS_BYTES);
        assert!(bytes(layout, packed_name, podman) < DOCUMENTS_BYTES);
        assert!(bytes(docker, plain_name, containerd) < DOCUMENTS_BYTES, "a plain layer is made of the packed one");
        assert!(bytes(docker, plain_name, layout) < DOCUMENTS_BYTES, "a plain layer is made of the packed one");
        // The packed blobs are what a root names that stays as it is: nothing here can make them.
        let third = plain.clone().named(&format!("third:{seed}"));
        for host in [docker, podman] {
            assert_eq!(host.id(packed_name), packed.image_id().to_string());
            host.agent.must(&["rm", packed_name]);
            load(host, &third);
        }
        assert_eq!(containerd.config(plain_name), plain.image_id().to_string());
        assert_eq!(layout.id(plain_name), plain.image_id().to_string());
        for host in [docker, podman, containerd, layout] {
            for row in host.rows() {
                host.agent.must(&["rm", row["name"].as_str().unwrap()]);
            }
            host.has_only(&[]);
        }
    }
}

/// containerd fetches no layer of which it has the snapshot: an image that is pulled after its layers have come in another form runs, and has no blobs.
fn layers_that_are_there_only_unpacked([docker, podman, containerd, layout]: &[Host; 4]) {
    let recipe = Recipe::new(204, &[300_000, 200_000]);
    let mut other = recipe.clone();
    other.note = "the same layers".to_owned();
    let plain = recipe.build("plain:204");
    let packed = other.packed(Packing::Gzip).build("packed:204");
    let id = packed.image_id().to_string();
    let blobs: Vec<String> = packed.image.layers().iter().map(|layer| layer.descriptor.digest.to_string()).collect();
    let refused = |host: &Host, arguments: &[&str]| {
        let output = host.agent.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("only unpacked") && said.contains("content fetch IMAGE"), "{said}");
    };
    load(containerd, &packed);
    blobs.iter().for_each(|blob| drop(containerd.ctr(&["content", "rm", blob])));
    assert!(!containerd.agent.must(&["ls"]).contains("incomplete"));
    // What has every layer needs none of these blobs, and what has none cannot get them.
    load(podman, &plain);
    let done = containerd.send("packed:204", podman);
    assert!(done["bytes_sent"].as_u64().unwrap() < DOCUMENTS_BYTES, "{done}");
    assert_eq!(podman.id("packed:204"), id);
    let root = containerd.id("packed:204");
    refused(containerd, &["send", "packed:204", "docker"]);
    refused(containerd, &["send", "--dry-run", "packed:204", "docker"]);
    refused(docker, &["pull", "packed:204", "--from", "containerd"]);
    refused(containerd, &["save", "packed:204", "-o", text(&containerd.agent.path().join("packed.tar"))]);
    // Another blob of the same layer does for stores that know layers by what is in them.
    load(containerd, &plain);
    assert_eq!(containerd.send("packed:204", docker)["bytes_sent"].as_u64().unwrap() / 100_000, 5);
    assert_eq!(docker.id("packed:204"), id);
    docker.agent.must(&["rm", "packed:204"]);
    docker.agent.must(&["pull", "packed:204", "--from", "containerd"]);
    assert_eq!(docker.id("packed:204"), id);
    refused(containerd, &["send", "packed:204", "layout"]);
    refused(layout, &["pull", "packed:204", "--from", "containerd"]);
    assert_eq!(containerd.agent.run(&["send", "packed:204", "docker", "layout"]).status.code(), Some(7));
    layout.has_only(&[]);
    // A host that has all of it fills the gap.
    load(layout, &packed);
    layout.send("packed:204", containerd);
    layout.agent.must(&["rm", "packed:204"]);
    containerd.send("packed:204", layout);
    assert_eq!((containerd.id("packed:204"), layout.id("packed:204")), (root, id));
    for host in [docker, podman, containerd, layout] {
        for row in host.rows() {
            host.agent.must(&["rm", row["name"].as_str().unwrap()]);
        }
        host.has_only(&[]);
        assert!(host.leases().is_empty(), "{:?}", host.leases());
    }
}

/// An index stays what it is where indexes are kept; elsewhere this host's image comes out of it.
fn several_platforms([docker, podman, containerd, layout]: &[Host; 4]) {
    let here = Recipe::new(210, &[100_000]);
    let sample = Sample::index("index:1", &[here.clone(), Recipe::new(211, &[100_000]).platform("linux/s390x")]);
    let index = sample.image.root.digest.to_string();
    load(layout, &sample);
    let done = layout.agent.json(&["send", "--all-platforms", "index:1", "containerd"], "done");
    assert_eq!((done["image_id"].as_str(), done["layers_sent"].as_u64()), (Some(&*index), Some(2)), "{done}");
    assert_eq!(containerd.id("index:1"), index);
    layout.agent.must(&["rm", "index:1"]);
    let back = containerd.agent.json(&["send", "--all-platforms", "index:1", "layout"], "done");
    assert_eq!(back["layers_total"], 2, "{back}");
    assert_eq!(layout.row("index:1")["digest"], index.as_str());
    assert_eq!(layout.row("index:1")["platforms"].as_array().unwrap().len(), 2);
    for (source, target) in [(containerd, docker), (layout, podman)] {
        let done = source.send("index:1", target);
        assert_eq!(done["layers_total"], 1, "{done}");
        assert_eq!(target.id("index:1"), sample.image_id().to_string());
        // All of them are more than it can keep: that is said before anything moves.
        let all = source.agent.run(&["send", "--all-platforms", "index:1", target.name()]);
        let error = String::from_utf8_lossy(&all.stderr).into_owned();
        assert!(error.contains("cannot keep an image for several platforms"), "{error}");
        assert_eq!(all.status.code(), Some(6), "{error}");
    }
    for host in [docker, podman, containerd, layout] {
        host.has_only(&["index:1"]);
        host.agent.must(&["rm", "index:1"]);
    }
}

/// A name that moves leaves the image that it named without one, as `docker load` does.
fn a_name_that_moves([docker, _, _, layout]: &[Host; 4]) {
    let [old, new] = [220, 221].map(|seed| Recipe::new(seed, &[50_000]).build("moves:1"));
    load(layout, &old);
    layout.send("moves:1", docker);
    load(layout, &new);
    let done = layout.send("moves:1", docker);
    assert_eq!(done["replaced"], old.image_id().to_string(), "{done}");
    assert_eq!(docker.id("moves:1"), new.image_id().to_string());
    docker.has_only(&["<none>:<none>", "moves:1"]);
    assert_eq!(docker.said(&["images", "--filter", "dangling=true", "--quiet", "--no-trunc"]), old.image_id().to_string());
    docker.said(&["rmi", &old.image_id().to_string()]);
    docker.said(&["rmi", "moves:1"]);
    layout.agent.must(&["rm", "moves:1"]);
}

/// Into an engine from an archive, and out of it into one that another engine reads.
fn archives_of_an_engine([docker, podman, containerd, _]: &[Host; 4]) {
    let Some(sample) = Sample::speaking("spoken:1", "out of an archive") else {
        return skipped("no busybox here (apt-get install busybox-static)");
    };
    for host in [docker, podman, containerd] {
        load(host, &sample.packed(Packing::Gzip));
        assert_eq!(host.config("spoken:1"), sample.image_id().to_string());
        assert_eq!(host.run("spoken:1").unwrap(), "out of an archive");
    }
    for (source, reader) in [(docker, podman), (podman, docker), (containerd, docker)] {
        let file = source.agent.path().join("out.tar");
        source.agent.must(&["save", "-o", text(&file), "spoken:1"]);
        reader.agent.must(&["rm", "spoken:1"]);
        reader.load(&file);
        assert_eq!(reader.config("spoken:1"), sample.image_id().to_string(), "{} to {}", source.name(), reader.name());
        assert_eq!(reader.run("spoken:1").unwrap(), "out of an archive");
    }
    for host in [docker, podman, containerd] {
        host.has_only(&["spoken:1"]);
        host.agent.must(&["rm", "spoken:1"]);
    }
}

/// Engines that unpack layers know one by those below it too: here each layer is needed twice.
fn one_archive_of_two_images([docker, podman, containerd, layout]: &[Host; 4]) {
    let [below, above] = [230, 231].map(|seed| Bytes::from(layer_tar("file", &noise(seed, 100_000))));
    let images = [of_layers("one:1", &[below.clone(), above.clone()]), of_layers("other:1", &[above, below])];
    images.iter().for_each(|image| load(layout, image));
    let file = layout.agent.path().join("both.tar");
    layout.agent.must(&["save", "-o", text(&file), "one:1", "other:1"]);
    for host in [docker, podman, containerd] {
        host.agent.must(&["load", "-i", text(&file)]);
        assert_eq!(host.config("one:1"), images[0].image_id().to_string());
        assert_eq!(host.config("other:1"), images[1].image_id().to_string());
        host.has_only(&["one:1", "other:1"]);
    }
    for host in [docker, podman, containerd, layout] {
        host.agent.must(&["rm", "one:1"]);
        host.agent.must(&["rm", "other:1"]);
    }
}

/// Hard links, a file that a layer takes away, and a directory that it replaces.
fn what_buildah_builds([docker, podman, containerd, layout]: &[Host; 4]) {
    let directory = tempfile::tempdir().unwrap();
    let archive = built(directory.path());
    let all = [docker, podman, containerd, layout];
    docker.agent.must(&["load", "-i", text(&archive)]);
    // Everything but the last goes on to the next, each time into another kind of store.
    for hop in all.windows(2) {
        hop[0].send("built:1", hop[1]);
    }
    for host in all {
        assert_eq!(host.config("built:1"), docker.id("built:1"), "{}", host.name());
        if let Some(listed) = host.run("built:1") {
            let words: Vec<&str> = listed.split_whitespace().collect();
            assert_eq!(words, ["2", "/etc/stays", "/new", "/new/inside"], "{}", host.name());
        }
        host.has_only(&["built:1"]);
    }
}

/// An archive of `built:1`, in two layers.
fn built(directory: &Path) -> PathBuf {
    let buildah = |arguments: &[&str]| {
        let mut command = Command::new("buildah");
        command.arg("--root").arg(directory.join("root")).arg("--runroot").arg(directory.join("run")).args(["--storage-driver", "vfs"]);
        let output = command.args(arguments).output().unwrap();
        assert!(output.status.success(), "buildah {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let below = buildah(&["from", "scratch"]);
    let root = PathBuf::from(buildah(&["mount", &below]));
    for directory in ["bin", "etc", "old"] {
        std::fs::create_dir(root.join(directory)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    std::fs::hard_link(root.join("bin/busybox"), root.join("bin/sh")).unwrap();
    for file in ["etc/goes", "etc/stays", "old/file"] {
        std::fs::write(root.join(file), file).unwrap();
    }
    buildah(&["umount", &below]);
    let command = r#"["/bin/sh", "-c", "/bin/busybox stat -c %h /bin/sh; /bin/busybox find /etc/goes /etc/stays /old /new 2>/dev/null | /bin/busybox sort"]"#;
    buildah(&["config", "--cmd", command, &below]);
    buildah(&["commit", "--quiet", &below, "below"]);
    let above = buildah(&["from", "--pull-never", "localhost/below"]);
    let root = PathBuf::from(buildah(&["mount", &above]));
    std::fs::remove_file(root.join("etc/goes")).unwrap();
    std::fs::remove_dir_all(root.join("old")).unwrap();
    std::fs::create_dir(root.join("new")).unwrap();
    std::fs::write(root.join("new/inside"), "new").unwrap();
    buildah(&["umount", &above]);
    let name = "docker.io/library/built:1";
    buildah(&["commit", "--quiet", &above, name]);
    let archive = directory.join("built.tar");
    buildah(&["push", "--quiet", name, &format!("docker-archive:{}:{name}", archive.display())]);
    buildah(&["rm", "--all"]);
    archive
}
