//! A real Docker Engine at both ends of an archive: what it saves is loaded and sent, what we save it loads, and the image ID stays.

use std::path::Path;

use tests::engine;
use tests::engine::docker::Docker;
use tests::process::{self, Process};
use tests::sample::{Recipe, archive_file};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn an_image_keeps_its_id_from_engine_to_engine() {
    let Some(binary) = Docker::system() else { return engine::skipped("no Docker Engine here (apt-get install docker.io)") };
    let docker = Docker::start(&binary, "vfs");
    let mut hosts = ["stapp01", "stapp03"].map(Process::new);
    hosts.iter_mut().for_each(Process::start);
    hosts[0].must(&["fleet", "init"]);
    process::join(&hosts[0], &hosts[1]);

    // The engine gets its first image from an archive of ours, and saves it in its own way.
    let sample = Recipe::new(5, &[3_000_000, 20_000, 100]).build("demo:nautilus");
    hosts[0].must(&["load", "-i", text(&archive_file(hosts[0].path(), &sample))]);
    // Not zstd: engines before 23 cannot read it.
    for (compress, suffix) in [("none", "tar"), ("gzip", "tar.gz")] {
        let ours = hosts[0].path().join(format!("ours.{suffix}"));
        hosts[0].must(&["save", "--compress", compress, "-o", text(&ours), "demo:nautilus"]);
        docker.must(&["load", "-i", text(&ours)]);
        assert_eq!(docker.id("demo:nautilus"), sample.image_id().to_string(), "{compress}");
    }
    docker.must(&["tag", "demo:nautilus", "demo:saved"]);
    let theirs = docker.path("theirs.tar");
    docker.must(&["save", "-o", text(&theirs), "demo:saved", "demo:nautilus"]);
    hosts[0].must(&["load", "-i", text(&theirs)]);

    let done = hosts[0].json(&["send", "demo:saved", "stapp03"], "done");
    assert_eq!(done["image_id"], docker.id("demo:saved"));
    docker.must(&["rmi", "demo:saved", "demo:nautilus"]);
    let back = hosts[1].path().join("back.tar");
    hosts[1].must(&["save", "-o", text(&back), "demo:saved"]);
    docker.must(&["load", "-i", text(&back)]);
    assert_eq!(docker.id("demo:saved"), sample.image_id().to_string());
}
