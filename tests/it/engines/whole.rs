//! Docker Engine with containerd's store, where that containerd is out of reach: by save and load.

use agent::store::engine::{Deadlines, Engine, Settings, WholeStore};
use agent::store::{Import, Store, StoreError};
use bytes::Bytes;
use proto::Digest;
use tempfile::TempDir;
use tests::conformance::{self, bring};
use tests::engine::containerd::DockerOnContainerd;
use tests::process::{self, Process};
use tests::sample::{Packing, Recipe, Sample, archive_file, noise};
use tests::skipped;

use super::loads::sample;

fn docker() -> Option<DockerOnContainerd> {
    let docker = DockerOnContainerd::unpacked("trixie");
    if docker.is_none() {
        skipped("no Docker Engine with containerd's image store here: .ci/engines unpacks one");
    }
    docker
}

/// A store on this engine, with an agent's directory of its own.
fn store(docker: &DockerOnContainerd) -> (WholeStore, TempDir) {
    let state = tempfile::tempdir().unwrap();
    let settings =
        Settings { engine: Engine::Docker, socket: docker.docker_socket(), state_dir: state.path(), deadlines: Deadlines::default() };
    (WholeStore::open(settings, "its socket is out of reach".to_owned()).unwrap(), state)
}

fn said(docker: &DockerOnContainerd, arguments: &[&str]) -> String {
    let output = docker.docker(arguments);
    assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn clear(docker: &DockerOnContainerd) {
    for id in said(docker, &["images", "--all", "--quiet", "--no-trunc"]).lines() {
        docker.docker(&["rmi", "--force", id]);
    }
}

/// The promises, one after the other with one engine. A name that moves leaves the old image there, as the engine's own load does: not `a_name_moves`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_archives_keep_the_promises() {
    let Some(docker) = docker() else { return };
    macro_rules! checks {
        ($($check:ident),*) => { $({
            let (store, _state) = store(&docker);
            let started = std::time::Instant::now();
            Box::pin(conformance::$check(&store)).await;
            clear(&docker);
            println!("{}: {} ms", stringify!($check), started.elapsed().as_millis());
        })* };
    }
    checks! {
        round_trip, a_second_import_writes_nothing, an_ingest_resumes, wrong_bytes_are_refused, false_images_are_refused,
        invisible_before_commit, a_lease_keeps_blobs, removal_frees_what_is_not_shared, removal_by_id, short_ids_are_ambiguous,
        ranges_anywhere, hashes_are_those_of_the_ranges, untagged_images, several_platforms, imports_at_once, empty_things, a_list_is_sorted,
        staged_files_are_adopted
    }
}

/// What cannot be unpacked is no image: the name shows what it showed before, and nothing at all where it showed nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_engine_cannot_unpack_gets_no_name() {
    let Some(docker) = docker() else { return };
    let (store, _state) = store(&docker);
    let old = Sample::small("demo:v1", 300);
    bring(&store, &old).await.unwrap();
    for name in ["demo:v1", "demo:other"] {
        let broken = sample(name, &[Bytes::from(noise(301, 5_000))], config(&noise(301, 5_000)));
        let result = bring(&store, &broken).await;
        println!("{result:?}");
        assert!(matches!(result, Err(StoreError::Engine { .. })), "{result:?}");
        assert_eq!(said(&docker, &["images", "--format", "{{.Repository}}:{{.Tag}}"]), "demo:v1");
        let id = said(&docker, &["image", "inspect", "--format", "{{.Id}}", "demo:v1"]);
        assert_eq!(id, old.image.root.digest.to_string());
    }
}

/// An image that is here, and whose name somebody takes away while it is sent again without one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_loses_its_name_meanwhile_stays() {
    let Some(docker) = docker() else { return };
    let (store, _state) = store(&docker);
    let sample = Sample::small("demo:v1", 302);
    bring(&store, &sample).await.unwrap();
    let mut import = store.import(sample.clone().untagged().image).await.unwrap();
    assert_eq!(import.missing().await.unwrap(), vec![]);
    said(&docker, &["rmi", "demo:v1"]);
    import.commit().await.unwrap();
    store.close().await;
    let list = said(&docker, &["images", "--all", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"]);
    assert_eq!(list, format!("<none>:<none> {}", sample.image.root.digest));
    // Under its name again, without a trace of ours.
    bring(&store, &sample).await.unwrap();
    assert_eq!(said(&docker, &["images", "--all", "--format", "{{.Repository}}:{{.Tag}}"]), "demo:v1");
}

fn config(layer: &[u8]) -> serde_json::Value {
    let diff_ids = [Digest::of(layer).to_string()];
    serde_json::json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}})
}

/// From and to a host whose engine is reached in that way, with the programs.
#[test]
fn an_image_goes_in_and_out_whole() {
    let Some(docker) = docker() else { return };
    let Some(sample) = Sample::speaking("demo:nautilus", "ahoy") else {
        return skipped("no busybox here (apt-get install busybox-static)");
    };
    let mut hosts = ["whole", "layout"].map(Process::new);
    hosts[0].argument(&format!("--store=docker:unix://{}?containerd=/nowhere.sock", docker.docker_socket().display()));
    hosts.iter_mut().for_each(Process::start);
    let [whole, layout] = &hosts;
    whole.must(&["fleet", "init"]);
    process::join(whole, layout);
    let doctor = String::from_utf8(whole.run(&["doctor"]).stdout).unwrap();
    assert!(doctor.contains("/nowhere.sock") && doctor.contains("docker save"), "{doctor}");
    layout.must(&["load", "-i", archive_file(layout.path(), &sample).to_str().unwrap()]);
    let done = layout.json(&["send", "demo:nautilus", "whole"], "done");
    assert_eq!(done["image_id"], sample.image.root.digest.to_string().as_str(), "{done}");
    assert_eq!(said(&docker, &["run", "--rm", "--pull", "never", "--network", "none", "demo:nautilus"]), "ahoy");
    let again = layout.json(&["send", "demo:nautilus", "whole"], "done");
    assert_eq!(again["bytes_sent"], 0, "{again}");
    // What the engine alone has comes out of it.
    said(
        &docker,
        &[
            "load",
            "-i",
            archive_file(whole.path(), &Recipe::new(310, &[200_000]).packed(Packing::Gzip).build("other:v1")).to_str().unwrap(),
        ],
    );
    let out = whole.json(&["send", "other:v1", "layout"], "done");
    assert_eq!(out["layers_sent"], 1, "{out}");
    layout.must(&["rm", "demo:nautilus"]);
    assert_eq!(whole.json(&["send", "demo:nautilus", "layout"], "done")["config_digest"], sample.image_id().to_string().as_str());
    let mut names: Vec<String> =
        said(&docker, &["images", "--all", "--format", "{{.Repository}}:{{.Tag}}"]).lines().map(str::to_owned).collect();
    names.sort();
    assert_eq!(names, ["demo:nautilus", "other:v1"]);
}
