//! One document, four readers: what Docker, Podman and containerd take for an image is that image here, too, whatever else its config and its manifest
//! say.

use std::process::Output;

use agent::store::Store as _;
use agent::store::memory::MemoryStore;
use proto::Digest;
use proto::descriptor::media_type;
use proto::image::Selection;
use tests::conformance::query;
use tests::engine::containerd::Containerd;
use tests::engine::docker::Docker;
use tests::engine::podman::Podman;
use tests::sample::layer_tar;
use tests::skipped;

use crate::archive::{report, tar};

/// Documents that are tried: each has some of the oddities below, and the first ones have one each.
const DOCUMENTS: usize = 48;

/// What tools and people write into a config, by what it replaces.
const CONFIG: [(&str, &str); 16] = [
    (r#""config":{}"#, r#""config":{"Labels":{"Version":"1","version":"2"},"Volumes":{"/Data":{},"/data":{}}}"#),
    (r#""config":{}"#, r#""config":null"#),
    (r#""config":{}"#, r#""config":{"Cmd":["/x"],"ExposedPorts":{"80/tcp":{}},"Unknown":[[[[[[{"a":[]}]]]]]]}"#),
    (r#""config":{}"#, r#""config":{"Labels":{"lone":"\ud800","pair":"\ud83d\ude00"}}"#),
    (r#""config":{}"#, r#""config":{"Labels":{"lone\udfff":"x"}}"#),
    (r#""os":"#, r#""OS":"#),
    (r#""architecture":"#, r#""ARCHitecture":"#),
    (r#""variant":"""#, r#""variant":null"#),
    (r#""rootfs":"#, r#""rootfS":"#),
    (r#""diff_ids":"#, r#""extra":{"diff_ids":["x"]},"Diff_IDs":"#),
    (r#""history":[]"#, r#""history":null"#),
    (r#""history":[]"#, r#""history":[{"created_by":"a","Created_By":"b","empty_layer":true}]"#),
    (r#""author":"""#, r#""author":"caf\u00e9","comment":"","container_config":{"Labels":{"a":"1","A":"2"}}"#),
    (r#""author":"""#, r#""author":"","moby.buildkit.buildinfo.v1":"e30=","x":{"y":{"z":[1,2.5e10,-7,true,null]}}"#),
    (r#""author":"""#, "\n  \"author\" :\t\"\" "),
    (r#""author":"""#, r#""created":"2020-01-02T03:04:05.123456789Z""#),
];

/// What they write into a manifest.
const MANIFEST: [(&str, &str); 8] = [
    (r#""annotations":{}"#, r#""annotations":{"A":"1","a":"2"}"#),
    (r#""annotations":{}"#, r#""annotations":null"#),
    (r#""layers":"#, r#""Layers":"#),
    (r#""schemaVersion":2"#, r#""SchemaVersion":2"#),
    (r#""mediaType":"application/vnd.oci.image.manifest.v1+json","#, ""),
    (r#""annotations":{}"#, r#""annotations":{},"subject":null,"unknown":{"layers":[],"config":{}}"#),
    (r#""size":"#, r#""annotations":{"x":"\ud800"},"size":"#),
    (r#""annotations":{}"#, r#""artifactType":"","annotations":{"b\u0000":"c"}"#),
];

struct Document {
    name: String,
    config: String,
    manifest: String,
    layer: Vec<u8>,
}

impl Document {
    /// The oddities of a document follow from its number.
    fn new(number: usize) -> Self {
        let layer = layer_tar("which", number.to_string().as_bytes());
        let mut config = format!(
            r#"{{"architecture":"amd64","variant":"","os":"linux","author":"","config":{{}},"history":[],"rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
            Digest::of(&layer)
        );
        let mut seed = number as u64;
        let mut random = |most: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % most
        };
        let single = CONFIG.len() + MANIFEST.len();
        let chosen: Vec<usize> = if number < single { vec![number] } else { (0..3).map(|_| random(single)).collect() };
        for oddity in chosen.iter().filter(|oddity| **oddity < CONFIG.len()) {
            config = config.replacen(CONFIG[*oddity].0, CONFIG[*oddity].1, 1);
        }
        let described = |media_type: &str, bytes: &[u8]| {
            format!(r#"{{"mediaType":"{media_type}","digest":"{}","size":{}}}"#, Digest::of(bytes), bytes.len())
        };
        let mut manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}],"annotations":{{}}}}"#,
            media_type::MANIFEST,
            described(media_type::CONFIG, config.as_bytes()),
            described(media_type::LAYER, &layer)
        );
        for oddity in chosen.iter().filter(|oddity| **oddity >= CONFIG.len()) {
            let (from, to) = MANIFEST[*oddity - CONFIG.len()];
            manifest = manifest.replacen(from, to, 1);
        }
        Self { name: format!("odd:{number}"), config, manifest, layer }
    }

    fn id(&self) -> Digest {
        Digest::of(self.config.as_bytes())
    }

    /// As `docker save` writes it, with the layout beside it.
    fn archive(&self) -> Vec<u8> {
        let path = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::of(bytes).hex());
        let paths = [path(&self.layer), path(self.config.as_bytes()), path(self.manifest.as_bytes())];
        let list = format!(r#"[{{"Config":"{}","RepoTags":["{}"],"Layers":["{}"]}}]"#, paths[1], self.name, paths[0]);
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{}","digest":"{}","size":{},"annotations":{{"io.containerd.image.name":"docker.io/library/{}"}}}}]}}"#,
            media_type::MANIFEST,
            Digest::of(self.manifest.as_bytes()),
            self.manifest.len(),
            self.name
        );
        tar(&[
            ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#),
            ("index.json", index.as_bytes()),
            ("manifest.json", list.as_bytes()),
            (&paths[0], &self.layer),
            (&paths[1], self.config.as_bytes()),
            (&paths[2], self.manifest.as_bytes()),
        ])
    }
}

#[tokio::test]
async fn what_engines_take_for_an_image_is_that_image_here() {
    let (Some(docker), Some(containerd), true) = (Docker::system(), Containerd::of_system(), Podman::is_installed()) else {
        return skipped("no Docker Engine, containerd or Podman here (apt-get install docker.io containerd podman)");
    };
    let (docker, podman) = (Docker::start(&docker, "overlay2"), Podman::start());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("odd.tar");
    let path = file.to_str().unwrap();
    let mut taken = [0; 3];
    for document in (0..DOCUMENTS).map(Document::new) {
        let archive = document.archive();
        std::fs::write(&file, &archive).unwrap();
        let (name, id) = (&document.name, document.id());
        let shown = |output: &Output| output.status.success() && String::from_utf8_lossy(&output.stdout).contains(&id.hex());
        let in_docker = docker.run(&["load", "-i", path]).status.success() && shown(&docker.run(&["images", "--no-trunc", "-q", name]));
        let in_podman = podman.run(&["load", "-i", path]).status.success() && shown(&podman.run(&["images", "--no-trunc", "-q"]));
        let in_containerd = containerd.ctr("default", &["images", "import", "--no-unpack", path]).status.success();
        let engines = [in_docker, in_podman, in_containerd];
        let store = MemoryStore::new();
        let ours = report(&store, archive).await.unwrap();
        let here = store.resolve(&query(name), Selection::Present).await.ok().map(|held| held.image_id);
        if engines.contains(&true) {
            let why = ours.failed.first().map(|failed| failed.error.to_string());
            assert_eq!(here, Some(id), "{engines:?} {why:?}\n{}\n{}", document.config, document.manifest);
        }
        for (taken, engine) in taken.iter_mut().zip(engines) {
            *taken += usize::from(engine);
        }
    }
    // Where an engine refused everything, nothing was compared.
    assert!(taken.iter().all(|taken| *taken > DOCUMENTS / 2), "{taken:?} of {DOCUMENTS}");
}
