//! The image layout and the archives, seen by the tools that people have. A tool that is not installed is said so and skipped.
#![allow(clippy::print_stderr)]

use std::path::Path;
use std::process::Command;

use agent::store::Store;
use agent::store::layout::LayoutStore;
use proto::control::{ArchiveFormat, Compression};
use proto::image::Selection;
use tests::conformance::{bring, query};
use tests::sample::{Packing, Recipe, Sample};

use crate::archive::{load_bytes, save_bytes};

/// Runs a tool; `None` when it is not installed.
fn run(tool: &str, arguments: &[&str]) -> Option<String> {
    let output = match Command::new(tool).args(arguments).output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            tests::skipped(&format!("{tool} is not installed"));
            return None;
        }
        Err(error) => panic!("{tool}: {error}"),
    };
    assert!(output.status.success(), "{tool} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

fn image() -> Sample {
    let mut recipe = Recipe::new(50, &[100_000, 200_000]);
    recipe.layers[1].1 = Packing::Gzip;
    recipe.build("demo:nautilus")
}

fn oci(path: &Path, name: &str) -> String {
    format!("oci:{}:{name}", path.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_reads_and_writes_the_layout_while_it_is_open() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("layout");
    let store = LayoutStore::open(&path).unwrap();
    let sample = image();
    bring(&store, &sample).await.unwrap();
    let ours = oci(&path, "docker.io/library/demo:nautilus");
    let Some(manifest) = run("skopeo", &["inspect", "--raw", &ours]) else { return };
    assert_eq!(manifest.as_bytes(), sample.blobs[&sample.image.root.digest]);

    run("skopeo", &["copy", "-q", &ours, &oci(&path, "copy:v2")]).unwrap();
    let held = store.resolve(&query("copy:v2"), Selection::All).await.unwrap();
    assert_eq!(held.image_id, sample.image_id());
    let other = directory.path().join("other");
    run("skopeo", &["copy", "-q", &ours, &oci(&other, "x")]).unwrap();
    store.remove(&query("demo:nautilus")).await.unwrap();
    assert_eq!(store.list().await.unwrap().len(), 1, "what skopeo named stays");
    run("skopeo", &["copy", "-q", &oci(&other, "x"), &oci(&path, "again:v3")]).unwrap();
    store.resolve(&query("again:v3"), Selection::All).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn umoci_reads_and_writes_the_layout_while_it_is_open() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("layout");
    let store = LayoutStore::open(&path).unwrap();
    let sample = image();
    bring(&store, &sample).await.unwrap();
    let layout = path.to_str().unwrap();
    let Some(list) = run("umoci", &["list", "--layout", layout]) else { return };
    assert_eq!(list.trim(), "docker.io/library/demo:nautilus");
    // It copies our annotations together with the new name.
    run("umoci", &["tag", "--image", &format!("{layout}:docker.io/library/demo:nautilus"), "copied"]).unwrap();
    store.resolve(&query("copied"), Selection::All).await.unwrap();
    store.resolve(&query("demo:nautilus"), Selection::All).await.unwrap();
    run("umoci", &["new", "--image", &format!("{layout}:fresh")]).unwrap();
    let held = store.resolve(&query("fresh"), Selection::All).await.unwrap();
    assert!(held.image.layers().is_empty());
    assert_eq!(store.list().await.unwrap().len(), 3);
    bring(&store, &Sample::small("second", 51)).await.unwrap();
    assert!(run("umoci", &["list", "--layout", layout]).unwrap().contains("fresh"));
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_pulls_from_the_layout_and_loads_archives() {
    // podman makes a name of the path, and names are lower case.
    let directory = tempfile::Builder::new().prefix(&format!("imgd-{}", std::process::id())).rand_bytes(0).tempdir().unwrap();
    let path = directory.path().join("layout");
    let store = LayoutStore::open(&path).unwrap();
    let sample = image();
    bring(&store, &sample).await.unwrap();
    let root = directory.path().join("root").display().to_string();
    let runroot = directory.path().join("runroot").display().to_string();
    let podman = |arguments: &[&str]| {
        let own =
            ["--root", &root, "--runroot", &runroot, "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file"];
        run("podman", &[&own[..], arguments].concat())
    };
    let Some(id) = podman(&["pull", "-q", &oci(&path, "docker.io/library/demo:nautilus")]) else { return };
    assert_eq!(id.trim(), sample.image_id().hex());
    podman(&["rmi", "-f", id.trim()]).unwrap();
    let archive = directory.path().join("demo.tar");
    std::fs::write(&archive, save_bytes(&store, &["demo:nautilus"], ArchiveFormat::Docker, Compression::None).await.unwrap()).unwrap();
    podman(&["load", "-q", "-i", archive.to_str().unwrap()]).unwrap();
    let images = podman(&["images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"]).unwrap();
    assert_eq!(images.trim(), format!("docker.io/library/demo:nautilus sha256:{}", sample.image_id().hex()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_skopeo_archives_is_loaded() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("layout");
    let store = LayoutStore::open(&path).unwrap();
    let sample = image();
    bring(&store, &sample).await.unwrap();
    let ours = oci(&path, "docker.io/library/demo:nautilus");
    for kind in ["docker-archive", "oci-archive"] {
        let archive = directory.path().join(kind);
        let Some(_) = run("skopeo", &["copy", "-q", &ours, &format!("{kind}:{}:demo:copy", archive.display())]) else { return };
        let fresh = directory.path().join(format!("{kind}-store"));
        let fresh = LayoutStore::open(&fresh).unwrap();
        let loaded = load_bytes(&fresh, std::fs::read(&archive).unwrap()).await.unwrap();
        assert_eq!((loaded[0].reference.as_ref().unwrap().familiar().as_str(), loaded[0].image_id), ("demo:copy", sample.image_id()));
    }
}
