//! One image to every store at once: what an engine cannot serve while it loads comes from where it arrived.

use std::path::Path;
use std::time::{Duration, Instant};

use tests::engine::host::{Engine, found};
use tests::sample::{Packing, Sample, archive_file};
use tests::skipped;

use super::pairs;

#[test]
fn one_send_reaches_every_store() {
    if !Path::new("/bin/busybox").exists() {
        return skipped("no busybox here (apt-get install busybox-static)");
    }
    let hosts = pairs::all();
    found(&hosts.iter().collect::<Vec<_>>());
    let (source, others): (Vec<_>, Vec<_>) = hosts.iter().partition(|host| matches!(host.engine, Engine::Layout));
    let source = source[0];
    let image = "shared:1";
    let sample = Sample::speaking(image, "everywhere").unwrap().packed(Packing::Gzip);
    let size_bytes = sample.image.size_bytes();
    source.load(&archive_file(source.agent.path(), &sample));
    let names: Vec<&str> = others.iter().map(|host| host.name()).collect();
    let summary = source.agent.json(&[&["send", image, "--limit", "1MB/s"], &names[..]].concat(), "summary");
    assert_eq!(summary["done"], names.len(), "{summary}");
    let egress_bytes = summary["egress_bytes"].as_u64().unwrap();
    assert!(egress_bytes < size_bytes * 2, "{egress_bytes} bytes of {size_bytes} left the source for {} hosts", names.len());
    for target in others {
        assert_eq!(target.config(image), source.config(image), "{}", target.name());
        if let Some(words) = target.run(image) {
            assert_eq!(words, "everywhere", "{}", target.name());
        }
        target.has_only(&[image]);
        // What was kept for the others goes when the job is over.
        let staging = target.agent.path().join("state/staging");
        let deadline = Instant::now() + Duration::from_secs(10);
        let is_empty = || std::fs::read_dir(&staging).map_or(true, |mut files| files.next().is_none());
        while !is_empty() {
            assert!(Instant::now() < deadline, "{} has files in {}", target.name(), staging.display());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
