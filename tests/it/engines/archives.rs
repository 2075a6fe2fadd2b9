//! Archives, on every kind of store: what one of them saves all of them load, and what tools bundle they take their part of.

use std::path::PathBuf;

use proto::Digest;
use proto::descriptor::media_type;
use serde_json::{Value, json};
use tests::engine::host::Host;
use tests::sample::{Packing, Recipe, Sample, layer_tar};

use super::forms::{four, load, text};
use crate::archives_as_they_are::{config, descriptor, layout, manifest};

#[test]
fn what_is_saved_loads_everywhere() {
    let Some(hosts) = four() else { return };
    let source = &hosts[3];
    let plain = Recipe::new(300, &[50_000, 60_000]).build("plain:1");
    let packed = Recipe::new(301, &[40_000, 1_000]).packed(Packing::Gzip).build("packed:1");
    let several = Sample::index("several:1", &[Recipe::new(303, &[20_000]), Recipe::new(302, &[10_000]).platform("linux/s390x")]);
    let samples = [&plain, &packed, &packed.clone().named("packed:2"), &several];
    samples.iter().for_each(|sample| load(source, sample));
    let nameless = Recipe::new(304, &[5_000]).build("none:1");
    load(source, &nameless);
    let nameless = nameless.image_id().to_string();
    let sets: [(&[&str], &[&str]); 5] = [
        (&["plain:1"], &["plain:1"]),
        (&["packed:1", "packed:2"], &["packed:1", "packed:2"]),
        (&["plain:1", "packed:1", "several:1"], &["plain:1", "packed:1", "several:1"]),
        (&["several:1"], &["several:1"]),
        (&[&nameless], &[]),
    ];
    let id = |name: &str| samples.iter().find(|sample| sample.image.reference.as_ref().unwrap().familiar() == name).unwrap().image_id();
    // First from the store that has everything as it came, then from each to each.
    for (count, from) in [&hosts[3], &hosts[0], &hosts[1], &hosts[2]].into_iter().enumerate() {
        if count > 0 {
            samples.iter().for_each(|sample| load(from, sample));
        }
        for format in ["docker", "oci"] {
            for (asked, names) in &sets[..if count == 0 { sets.len() } else { 4 }] {
                let file = saved(from, format, asked);
                for to in hosts.iter().filter(|host| host.name() != from.name()) {
                    to.agent.must(&["load", "-i", text(&file)]);
                    for name in *names {
                        assert_eq!(to.config(name), id(name).to_string(), "{name} from {} to {} as {format}", from.name(), to.name());
                    }
                    if names.is_empty() {
                        to.agent.must(&["rm", &nameless]);
                    }
                    names.iter().for_each(|name| drop(to.agent.must(&["rm", name])));
                }
            }
        }
        if count > 0 {
            samples.iter().for_each(|sample| drop(from.agent.must(&["rm", &sample.image.reference.as_ref().unwrap().familiar()])));
        }
    }
}

fn saved(host: &Host, format: &str, images: &[&str]) -> PathBuf {
    let file = host.agent.path().join("saved.tar");
    host.agent.must(&[&["save", "-o", text(&file), "--format", format], images].concat());
    file
}

/// An index of an image and its attestation, as BuildKit makes it, and another one in place of an artifact that is no image at all.
#[test]
fn attestations_and_artifacts() {
    let Some(hosts) = four() else { return };
    let layer = layer_tar("hello", b"attested");
    let (config, id) = config(&[&layer]);
    let image = manifest(&config, &[&layer]);
    let statement = br#"{"_type":"https://in-toto.io/Statement/v0.1"}"#;
    let attestation = json!({"schemaVersion": 2, "mediaType": media_type::MANIFEST, "config": descriptor("application/vnd.oci.empty.v1+json", b"{}"),
        "layers": [descriptor("application/vnd.in-toto+json", statement)]});
    let attestation = attestation.to_string().into_bytes();
    let entry = |bytes: &[u8], architecture: &str, os: &str| {
        let mut entry = descriptor(media_type::MANIFEST, bytes);
        entry["platform"] = json!({"architecture": architecture, "os": os});
        entry
    };
    let mut about = entry(&attestation, "unknown", "unknown");
    about["annotations"] =
        json!({"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": Digest::of(&image).to_string()});
    let index = json!({"schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": [about, entry(&image, "amd64", "linux")]});
    let index = index.to_string().into_bytes();
    let named = |media_type: &str, bytes: &[u8], name: &str| -> Value {
        let mut entry = descriptor(media_type, bytes);
        entry["annotations"] = json!({"io.containerd.image.name": format!("docker.io/library/{name}")});
        entry
    };
    let file = |name: &str, archive: Vec<u8>| {
        let file = hosts[3].agent.path().join(name);
        std::fs::write(&file, archive).unwrap();
        file
    };
    let entries = [named(media_type::INDEX, &index, "attested:1"), named(media_type::MANIFEST, &attestation, "artifact:1")];
    let whole = file("whole.tar", layout(&entries[..1], &[&index, &image, &attestation, &config, &layer, b"{}", statement]));
    let pruned = file("pruned.tar", layout(&entries[..1], &[&index, &image, &config, &layer]));
    for archive in [&whole, &pruned] {
        for host in &hosts {
            host.agent.must(&["load", "-i", text(archive)]);
            assert_eq!(host.config("attested:1"), id.to_string(), "{}", host.name());
            let listed = host.agent.must(&["ls"]);
            assert!(!listed.contains("unknown"), "{listed}");
        }
        hosts.iter().for_each(|host| drop(host.agent.must(&["rm", "attested:1"])));
    }
    // They go along with their image, to who keeps them.
    let [_, _, containerd, origin] = &hosts;
    let has_attestation = |host: &Host| {
        let archive = std::fs::read(saved(host, "oci", &["attested:1"])).unwrap();
        archive.windows(statement.len()).any(|bytes| bytes == statement)
    };
    origin.agent.must(&["load", "-i", text(&pruned)]);
    for host in &hosts[..3] {
        origin.send("attested:1", host);
        assert_eq!(host.config("attested:1"), id.to_string(), "{}", host.name());
    }
    assert!(!has_attestation(containerd));
    origin.agent.must(&["load", "-i", text(&whole)]);
    for host in &hosts[..3] {
        origin.send("attested:1", host);
        assert_eq!(host.config("attested:1"), id.to_string(), "{}", host.name());
    }
    assert!(has_attestation(containerd));
    origin.agent.must(&["rm", "attested:1"]);
    origin.agent.must(&["pull", "attested:1", "--from", "containerd"]);
    assert!(has_attestation(origin));
    hosts[0].agent.must(&["rm", "attested:1"]);
    hosts[0].agent.must(&["pull", "attested:1", "--from", "containerd"]);
    hosts.iter().for_each(|host| drop(host.agent.must(&["rm", "attested:1"])));
    // An artifact is kept where blobs are, refused by name elsewhere, and not saved as what it is not.
    let artifact = file("artifact.tar", layout(&entries, &[&index, &image, &attestation, &config, &layer, b"{}", statement]));
    for host in &hosts[..2] {
        let output = host.agent.run(&["load", "-i", text(&artifact)]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(7), "{said}");
        assert!(said.contains("loaded attested:1") && said.contains("not loaded artifact:1"), "{said}");
    }
    for host in &hosts[2..] {
        host.agent.must(&["load", "-i", text(&artifact)]);
        let output = host.agent.run(&["save", "-o", text(&host.agent.path().join("a.tar")), "artifact:1"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("--format oci"), "{said}");
        let file = saved(host, "oci", &["artifact:1"]);
        hosts[3].agent.must(&["load", "-i", text(&file)]);
    }
}

/// Only what the archive has is for other hosts: nothing that runs here.
#[test]
fn several_platforms_and_none_of_this_host() {
    let Some(hosts) = four() else { return };
    let foreign = Sample::index(
        "foreign:1",
        &[Recipe::new(310, &[10_000]).platform("linux/s390x"), Recipe::new(311, &[9_000]).platform("linux/ppc64le")],
    );
    load(&hosts[3], &foreign);
    let file = saved(&hosts[3], "oci", &["foreign:1"]);
    for host in &hosts[..2] {
        let output = host.agent.run(&["load", "-i", text(&file)]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(6) && said.contains("linux/s390x, linux/ppc64le"), "{said}");
    }
    hosts[2].agent.must(&["load", "-i", text(&file)]);
}
