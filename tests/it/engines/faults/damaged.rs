//! Layers of the source that are not what they were.

use std::path::{Path, PathBuf};

use tests::engine::host::{Engine, Host, found};
use tests::sample::Sample;

use super::sending::Sending;
use super::{LARGE_BYTES, RATE, app, arrived, containerd, docker, give, is_empty};

/// One byte of a file is another one, deep in it.
struct Damage {
    path: PathBuf,
    good: Vec<u8>,
}

impl Damage {
    fn new(path: PathBuf) -> Self {
        Self { good: std::fs::read(&path).unwrap(), path }
    }

    fn make(&self) {
        let mut wrong = self.good.clone();
        wrong[LARGE_BYTES as usize - 5_000] ^= 1;
        std::fs::write(&self.path, wrong).unwrap();
    }

    fn repair(&self) {
        std::fs::write(&self.path, &self.good).unwrap();
    }
}

/// The receiver is an engine, into which the layer flows while it comes.
fn is_found(engine: Option<Engine>, file: impl Fn(&Host, &Sample) -> PathBuf) {
    let (Some(sample), Some(engine), Some(receiver)) = (app("app:1", 330), engine, docker()) else { return };
    let (source, target) = (Host::start("source", engine), Host::start("target", receiver));
    found(&[&source, &target]);
    // Through the engine's own load, so that nothing of it was ever hashed by the agent.
    let maker = Host::start("maker", Engine::Layout);
    give(&maker, &sample);
    let archive = maker.agent.path().join("app.tar");
    maker.agent.must(&["save", "-o", archive.to_str().unwrap(), "app:1"]);
    source.load(&archive);
    let damage = Damage::new(file(&source, &sample));
    let layer = sample.image.layers()[1].descriptor.digest.to_string();

    // Before it was ever read here, and after it was.
    for _ in 0..2 {
        damage.make();
        let error = Sending::begin(&source, "app:1", "target", "50MB/s").end().failed(1, &layer);
        assert!(error.contains("corrupt"), "{error}");
        is_empty(&target);
        target.has_only(&[]);
        // It is known to be damaged: nothing of it is offered any more.
        Sending::begin(&source, "app:1", "target", RATE).end().failed(1, &layer);
        damage.repair();
        source.agent.must(&["scrub"]);
        source.send("app:1", &target);
        arrived(&target, &sample);
        target.agent.must(&["rm", "app:1"]);
    }

    // What is damaged is replaced by what is loaded again.
    damage.make();
    Sending::begin(&source, "app:1", "target", "50MB/s").end().failed(1, &layer);
    source.agent.must(&["rm", "app:1"]);
    give(&source, &sample);
    source.send("app:1", &target);
    arrived(&target, &sample);
}

#[test]
fn a_file_of_docker() {
    is_found(docker(), |source, _| {
        let directory = source.said(&["image", "inspect", "--format", "{{.GraphDriver.Data.UpperDir}}", "app:1"]);
        Path::new(&directory).join("large")
    });
}

#[test]
fn a_blob_of_containerd() {
    is_found(containerd(), |source, sample| match &source.engine {
        Engine::Containerd(containerd, _) => containerd.blob(&sample.image.layers()[1].descriptor.digest),
        _ => panic!("{} has no containerd", source.name()),
    });
}
