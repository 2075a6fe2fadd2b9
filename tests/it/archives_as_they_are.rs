//! Archives as tools write them and people have them: everything that can be loaded is, and what cannot is named.

use agent::archive::{ArchiveError, Report};
use agent::store::Store as _;
use agent::store::memory::MemoryStore;
use proto::Digest;
use proto::descriptor::media_type;
use proto::image::Selection;
use serde_json::{Value, json};
use tests::conformance::query;
use tests::sample::{append, gzip, layer_tar, zstd};
use tokio_util::sync::CancellationToken;

use crate::archive::{link, report, report_until, tar};

/// A config for these layers, and its digest.
pub(crate) fn config(layers: &[&[u8]]) -> (Vec<u8>, Digest) {
    let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    let config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let bytes = config.to_string().into_bytes();
    let digest = Digest::of(&bytes);
    (bytes, digest)
}

/// A docker-archive of one image of one layer.
fn one(name: &str) -> (Vec<u8>, Digest) {
    let layer = layer_tar("hello", name.as_bytes());
    let (config, id) = config(&[&layer]);
    let list = json!([{"Config": "c.json", "RepoTags": [name], "Layers": ["layer.tar"]}]).to_string();
    (tar(&[("layer.tar", &layer), ("c.json", &config), ("manifest.json", list.as_bytes())]), id)
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(bytes).to_string(), "size": bytes.len()})
}

fn path(bytes: &[u8]) -> String {
    format!("blobs/sha256/{}", Digest::of(bytes).hex())
}

/// An OCI layout with these entries in its index, and these blobs.
pub(crate) fn layout(entries: &[Value], blobs: &[&[u8]]) -> Vec<u8> {
    let index = json!({"schemaVersion": 2, "manifests": entries}).to_string();
    let paths: Vec<String> = blobs.iter().map(|blob| path(blob)).collect();
    let mut members: Vec<(&str, &[u8])> = vec![("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#), ("index.json", index.as_bytes())];
    members.extend(paths.iter().map(String::as_str).zip(blobs.iter().copied()));
    tar(&members)
}

pub(crate) fn manifest(config: &[u8], layers: &[&[u8]]) -> Vec<u8> {
    let layers: Vec<Value> = layers.iter().map(|layer| descriptor(media_type::LAYER, layer)).collect();
    json!({"schemaVersion": 2, "config": descriptor(media_type::CONFIG, config), "layers": layers}).to_string().into_bytes()
}

async fn loads(archive: Vec<u8>, name: &str, id: Digest) -> Report {
    let store = MemoryStore::new();
    let report = report(&store, archive).await.unwrap();
    assert!(report.failed.is_empty(), "{name}: {:?}", report.failed);
    let held = store.resolve(&query(name), Selection::Present).await.unwrap();
    assert_eq!(held.image_id, id, "{name}");
    report
}

async fn refusal(archive: Vec<u8>) -> String {
    match report(&MemoryStore::new(), archive).await {
        Err(error) => error.to_string(),
        Ok(report) => report.failed.first().unwrap().error.to_string(),
    }
}

#[tokio::test]
async fn ends_of_archives() {
    let (whole, id) = one("ends:1");
    let bare = &whole[..whole.len() - 1024];
    let list_bytes = bare.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for end in [0, 512, 1024] {
        loads([bare, &vec![0; end]].concat(), "ends:1", id).await;
    }
    loads(bare[..list_bytes].to_vec(), "ends:1", id).await;
    loads([&whole[..], &b"garbage!".repeat(375)].concat(), "ends:1", id).await;
    for packed in [gzip(&whole), zstd(&whole)] {
        assert!(loads([&packed[..], &[0; 4096]].concat(), "ends:1", id).await.notes.is_empty());
        let noted = loads([&packed[..], b"trailing\n"].concat(), "ends:1", id).await;
        assert!(noted.notes[0].contains("something follows the archive"), "{:?}", noted.notes);
        loads([&packed[..], &packed[..]].concat(), "ends:1", id).await;
        assert!(matches!(report(&MemoryStore::new(), packed[..packed.len() - 3].to_vec()).await, Err(ArchiveError::Truncated)));
    }
    // Cut off behind a member, of which another one speaks.
    let mut cut = tar::Builder::new(vec![]);
    let (config, _) = config(&[&layer_tar("a", b"a")]);
    append(&mut cut, "manifest.json", json!([{"Config": "c.json", "RepoTags": ["ends:2"], "Layers": ["gone.tar"]}]).to_string().as_bytes());
    append(&mut cut, "c.json", &config);
    let cut = cut.into_inner().unwrap();
    let said = refusal(cut[..cut.len() - 1024].to_vec()).await;
    assert!(said.contains("gone.tar") && said.contains("was cut off"), "{said}");
    assert!(!refusal(cut).await.contains("cut off"));
}

#[tokio::test]
async fn names_of_members_and_links() {
    let layer = layer_tar("a", b"a");
    let empty: &[u8] = b"";
    let (config, id) = config(&[&layer, empty, &layer, &layer]);
    let list =
        json!([{"Config": "/c.json", "RepoTags": ["linked:1"], "Layers": ["1/layer.tar", "empty.tar", "2/layer.tar", "3/layer.tar"]}]);
    let mut archive = tar::Builder::new(vec![]);
    for (name, content) in [("./1/layer.tar", &layer[..]), ("empty.tar", empty), ("c.json", &config)] {
        append(&mut archive, name, content);
    }
    // As tar -P writes it.
    let list = list.to_string();
    let mut header = tar::Header::new_gnu();
    header.as_gnu_mut().unwrap().name[..14].copy_from_slice(b"/manifest.json");
    header.set_size(list.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    archive.append(&header, list.as_bytes()).unwrap();
    link(&mut archive, "2/layer.tar", "../1/layer.tar");
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Link);
    header.set_size(0);
    archive.append_link(&mut header, "3/layer.tar", "1/layer.tar").unwrap();
    loads(archive.into_inner().unwrap(), "linked:1", id).await;
}

/// What Docker 25.0 wrote: an OCI manifest that does not fit the config, beside a manifest.json that does.
#[tokio::test]
async fn of_two_lists_the_one_that_fits_is_taken() {
    let layers: Vec<Vec<u8>> = (0..3).map(|i| layer_tar("a", &[i])).collect();
    let right: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    let wrong_order: Vec<&[u8]> = right.iter().rev().copied().collect();
    let (config, id) = config(&right);
    let wrong_size =
        String::from_utf8(manifest(&config, &right)).unwrap().replacen(&format!("\"size\":{}", right[0].len()), "\"size\":7", 9);
    for wrong in [manifest(&config, &wrong_order), manifest(&config, &[]), wrong_size.into_bytes()] {
        let list =
            json!([{"Config": path(&config), "RepoTags": ["d25:1"], "Layers": right.iter().map(|layer| path(layer)).collect::<Vec<_>>()}]);
        let mut entry = descriptor(media_type::MANIFEST, &wrong);
        entry["annotations"] = json!({"io.containerd.image.name": "docker.io/library/d25:1"});
        for entries in [json!([entry]), Value::Null] {
            let index = json!({"schemaVersion": 2, "manifests": entries}).to_string();
            let (list, paths) = (list.to_string(), [path(right[0]), path(right[1]), path(right[2]), path(&config), path(&wrong)]);
            let archive = tar(&[
                ("index.json", index.as_bytes()),
                ("manifest.json", list.as_bytes()),
                (&paths[0], right[0]),
                (&paths[1], right[1]),
                (&paths[2], right[2]),
                (&paths[3], &config),
                (&paths[4], &wrong),
            ]);
            let report = loads(archive, "d25:1", id).await;
            assert_eq!(report.loaded.len(), 1);
            assert_eq!(report.notes.len(), usize::from(!entries.is_null()), "{:?}", report.notes);
        }
    }
}

#[tokio::test]
async fn one_bad_entry_keeps_no_other_out() {
    let (good, bad) = (layer_tar("a", b"good"), layer_tar("a", b"bad"));
    let ((good_config, id), (bad_config, _)) = (config(&[&good]), config(&[&bad]));
    let item = |name: &str, config: &str, layer: &str| json!({"Config": config, "RepoTags": [name], "Layers": [layer]});
    let list = json!([
        item("first:1", "good.json", "good.tar"),
        item("Not A Name", "bad.json", "bad.tar"),
        item("gone:1", "bad.json", "nowhere.tar"),
        item("wrong:1", "bad.json", "good.tar"),
        {"Config": "good.json", "RepoTags": ["second:1", null, "sha256:nonsense/"], "Layers": ["good.tar"]},
        null,
        {"RepoTags": ["no:config"], "Layers": []},
    ]);
    let list = list.to_string();
    let archive = tar(&[
        ("good.tar", &good),
        ("bad.tar", &bad),
        ("good.json", &good_config),
        ("bad.json", &bad_config),
        ("manifest.json", list.as_bytes()),
    ]);
    let store = MemoryStore::new();
    let report = report(&store, archive).await.unwrap();
    let mut loaded: Vec<String> = report.loaded.iter().map(|row| row.reference.as_ref().unwrap().familiar()).collect();
    loaded.sort();
    assert_eq!(loaded, ["first:1", "second:1"]);
    assert!(report.loaded.iter().all(|row| row.image_id == id));
    let mut failed: Vec<&str> = report.failed.iter().map(|failed| failed.name.as_str()).collect();
    failed.sort_unstable();
    assert_eq!(failed, ["Not A Name", "gone:1", "image 6", "image 7", "sha256:nonsense/", "wrong:1"]);
    assert_eq!(store.list().await.unwrap().len(), 2);
}

#[tokio::test]
async fn one_bad_entry_of_an_index_keeps_no_other_out() {
    let layer = layer_tar("a", b"a");
    let (config, id) = config(&[&layer]);
    let root = manifest(&config, &[&layer]);
    let mut good = descriptor(media_type::MANIFEST, &root);
    good["annotations"] = json!({"io.containerd.image.name": "docker.io/library/good:1"});
    let sized = json!({"mediaType": media_type::MANIFEST, "digest": Digest::of(&root).to_string(), "size": -1});
    let long = json!({"mediaType": media_type::MANIFEST, "digest": format!("sha512:{}", "a".repeat(128)), "size": 1});
    let entries = [Value::Null, json!({}), sized, long, json!("x"), good];
    let report = report(&MemoryStore::new(), layout(&entries, &[&root, &config, &layer])).await.unwrap();
    assert_eq!(report.loaded.iter().map(|row| row.image_id).collect::<Vec<_>>(), [id]);
    let failed: Vec<&str> = report.failed.iter().map(|failed| failed.name.as_str()).collect();
    assert_eq!(failed, ["image 1", "image 2", "image 3", "image 4", "image 5"]);
    assert!(report.failed.iter().all(|failed| !failed.error.to_string().contains("Raw")), "{:?}", report.failed);
}

/// A manifest and an index may have the same config: `manifest.json` cannot tell them apart.
#[tokio::test]
async fn a_name_in_the_index_is_that_of_its_entry() {
    let layer = layer_tar("a", b"a");
    let (config, _) = config(&[&layer]);
    let one = manifest(&config, &[&layer]);
    let two = json!({"schemaVersion": 2, "manifests": [descriptor(media_type::MANIFEST, &one)]}).to_string().into_bytes();
    let named = |kind: &str, document: &[u8], name: &str| {
        let mut entry = descriptor(kind, document);
        entry["annotations"] = json!({"io.containerd.image.name": format!("docker.io/library/{name}")});
        entry
    };
    let index = json!({"schemaVersion": 2, "manifests": [
        named(media_type::MANIFEST, &one, "one:1"), named(media_type::INDEX, &two, "two:1"),
    ]});
    let (index, paths) = (index.to_string(), [&one, &two, &config, &layer.to_vec()].map(|blob| path(blob)));
    let list = json!([{"Config": paths[2], "RepoTags": ["one:1", "two:1", "three:1"], "Layers": [paths[3]]}]).to_string();
    let archive = tar(&[
        ("index.json", index.as_bytes()),
        ("manifest.json", list.as_bytes()),
        (&paths[0], &one),
        (&paths[1], &two),
        (&paths[2], &config),
        (&paths[3], &layer),
    ]);
    let store = MemoryStore::new();
    let report = report(&store, archive).await.unwrap();
    assert!(report.failed.is_empty() && report.notes.is_empty(), "{report:?}");
    for (name, root) in [("one:1", &one), ("two:1", &two), ("three:1", &one)] {
        let held = store.resolve(&query(name), Selection::Present).await.unwrap();
        assert_eq!(held.image.root.digest, Digest::of(root), "{name}");
    }
}

#[tokio::test]
async fn names_that_are_none_take_no_other_along() {
    let layer = layer_tar("a", b"a");
    let (config, id) = config(&[&layer]);
    let other = format!("demo@{}", Digest::of(b"another manifest"));
    let list = json!([{"Config": "c.json", "RepoTags": [id.to_string(), other, "demo:1"], "Layers": ["l.tar"]}]).to_string();
    let report =
        report(&MemoryStore::new(), tar(&[("l.tar", &layer), ("c.json", &config), ("manifest.json", list.as_bytes())])).await.unwrap();
    let loaded: Vec<String> = report.loaded.iter().map(|row| row.reference.as_ref().unwrap().familiar()).collect();
    assert_eq!(loaded, ["demo:1"]);
    assert_eq!(report.failed.iter().map(|failed| failed.name.clone()).collect::<Vec<_>>(), [other]);
    // Of an image that was exported by its ID alone.
    let list = json!([{"Config": "c.json", "RepoTags": [id.to_string()], "Layers": ["l.tar"]}]).to_string();
    loads(tar(&[("l.tar", &layer), ("c.json", &config), ("manifest.json", list.as_bytes())]), &id.to_string(), id).await;
}

#[tokio::test]
async fn a_load_ends_with_who_asked_for_it() {
    let (archive, _) = one("demo:1");
    let stop = CancellationToken::new();
    let store = MemoryStore::new();
    stop.cancel();
    assert!(matches!(report_until(&store, archive, &stop).await, Err(ArchiveError::Stopped)));
    assert!(store.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_name_of_two_images_is_that_of_the_last() {
    let layers = [layer_tar("a", b"1"), layer_tar("a", b"2")];
    let configs = [config(&[&layers[0]]), config(&[&layers[1]])];
    let item = |config: &str, layer: &str| json!({"Config": config, "RepoTags": ["app:1"], "Layers": [layer]});
    let list = json!([item("0.json", "0.tar"), item("1.json", "1.tar")]).to_string();
    let archive = tar(&[
        ("0.tar", &layers[0]),
        ("1.tar", &layers[1]),
        ("0.json", &configs[0].0),
        ("1.json", &configs[1].0),
        ("manifest.json", list.as_bytes()),
    ]);
    let report = loads(archive, "app:1", configs[1].1).await;
    assert_eq!(report.loaded.iter().filter(|row| row.reference.is_none()).map(|row| row.image_id).collect::<Vec<_>>(), [configs[0].1]);
    assert!(report.notes[0].contains("app:1 is the name of several images"), "{:?}", report.notes);
}

#[tokio::test]
async fn names_that_containerd_writes_are_names_or_nothing() {
    let layer = layer_tar("a", b"a");
    let (config, id) = config(&[&layer]);
    let root = manifest(&config, &[&layer]);
    let named = |name: String| {
        let mut entry = descriptor(media_type::MANIFEST, &root);
        entry["annotations"] = json!({"io.containerd.image.name": name});
        entry
    };
    let pinned = format!("registry.k8s.io/pause@{}", Digest::of(&root));
    let entries = [named("registry.k8s.io/pause:3.9".to_owned()), named(pinned), named(id.to_string())];
    let report = loads(layout(&entries, &[&root, &config, &layer]), "registry.k8s.io/pause:3.9", id).await;
    assert_eq!(report.loaded.len(), 2);
    let only = loads(layout(&entries[2..], &[&root, &config, &layer]), &id.to_string(), id).await;
    assert_eq!(only.loaded[0].reference, None);
}

#[tokio::test]
async fn more_images_than_an_index_of_platforms_has() {
    let layer = layer_tar("a", b"a");
    let images: Vec<(Vec<u8>, Vec<u8>)> = (0..600)
        .map(|i| {
            let config = json!({"architecture": "amd64", "os": "linux", "author": i.to_string(),
                "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer).to_string()]}});
            let config = config.to_string().into_bytes();
            let manifest = manifest(&config, &[&layer]);
            (config, manifest)
        })
        .collect();
    let entry = |(i, (_, manifest)): (usize, &(Vec<u8>, Vec<u8>))| {
        let mut entry = descriptor(media_type::MANIFEST, manifest);
        entry["annotations"] = json!({"io.containerd.image.name": format!("docker.io/library/many:{i}")});
        entry
    };
    let entries: Vec<Value> = images.iter().enumerate().map(entry).collect();
    let mut blobs: Vec<&[u8]> = vec![&layer];
    images.iter().for_each(|(config, manifest)| blobs.extend([config.as_slice(), manifest.as_slice()]));
    let report = report(&MemoryStore::new(), layout(&entries, &blobs)).await.unwrap();
    assert_eq!((report.loaded.len(), report.failed.len()), (600, 0));
}

#[tokio::test]
async fn what_else_is_in_an_index_is_passed_over() {
    let layer = layer_tar("a", b"a");
    let (config, id) = config(&[&layer]);
    let (image, artifact) = (manifest(&config, &[&layer]), br#"{"mediaType":"application/vnd.oci.artifact.manifest.v1+json"}"#);
    let foreign = descriptor("application/vnd.oci.artifact.manifest.v1+json", artifact);
    let mut entry = descriptor(media_type::MANIFEST, &image);
    entry["platform"] = json!({"os": "linux", "architecture": "amd64", "variant": null});
    let index = json!({"schemaVersion": 2, "manifests": [foreign, entry]}).to_string();
    let mut root = descriptor(media_type::INDEX, index.as_bytes());
    root["annotations"] = json!({"io.containerd.image.name": "docker.io/library/foreign:1"});
    let xml = descriptor("application/xml", b"<x/>");
    for blobs in [&[index.as_bytes(), &image, &config, &layer, artifact][..], &[index.as_bytes(), &image, &config, &layer]] {
        loads(layout(&[xml.clone(), root.clone()], blobs), "foreign:1", id).await;
    }
    assert!(refusal(layout(&[xml], &[])).await.contains("names no image"));
}

#[tokio::test]
async fn what_is_packed_otherwise_is_named_with_the_way_out() {
    for (magic, command) in [(&b"\xfd7zXZ\0\0\x04"[..], "xz -dc FILE | imgctl load"), (b"BZh91AY&SY", "bzip2 -dc FILE | imgctl load")] {
        let said = refusal([magic, &[7; 2000]].concat()).await;
        assert!(said.contains(command), "{said}");
    }
    let layer = [&b"\xfd7zXZ\0"[..], &[7; 2000]].concat();
    let (config, _) = config(&[&layer_tar("a", b"a")]);
    let list = json!([{"Config": "c.json", "RepoTags": ["packed:1"], "Layers": ["layer.tar"]}]).to_string();
    let said = refusal(tar(&[("layer.tar", &layer), ("c.json", &config), ("manifest.json", list.as_bytes())])).await;
    assert!(said.contains("packed with xz") && said.contains("docker load"), "{said}");
    // A frame that asks for 256 MiB.
    let mut frame = zstd::stream::write::Encoder::new(vec![], 1).unwrap();
    frame.window_log(28).unwrap();
    frame.long_distance_matching(true).unwrap();
    std::io::Write::write_all(&mut frame, &one("window:1").0.repeat(10)).unwrap();
    let said = refusal(frame.finish().unwrap()).await;
    assert!(said.contains("128 MiB") && said.contains("--long=31"), "{said}");
}

#[tokio::test]
async fn the_files_of_a_container_are_told_from_an_image() {
    let said = refusal(tar(&[("etc/passwd", b"root"), ("bin/sh", b"#"), (".dockerenv", b"")])).await;
    assert!(said.contains("docker export") && said.contains("docker import"), "{said}");
}
