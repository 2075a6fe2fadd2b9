//! Images of files as real ones have them, as archives that every engine reads.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use proto::descriptor::media_type;
use proto::document::make_manifest;
use proto::{Descriptor, Digest, Platform};
use serde_json::json;
use tests::sample::{descriptor_json, layer_tar, noise};

/// Where this machine has many files.
const TREES: [&str; 3] = ["/usr/share", "/usr/lib", "/usr/bin"];
/// Bytes of a file that is made where the machine has no more of its own.
const FILLER_BYTES: usize = 64 << 10;

/// A layer: its tar.
pub(crate) type Layer = Vec<u8>;

/// Makes layers of this machine's own files, each file once.
pub(crate) struct Files {
    paths: std::vec::IntoIter<PathBuf>,
    fillers: u64,
}

impl Files {
    /// All of them, in the same order every time.
    pub(crate) fn new() -> Self {
        let mut paths = vec![];
        TREES.iter().for_each(|tree| walk(Path::new(tree), &mut paths));
        Self { paths: paths.into_iter(), fillers: 0 }
    }

    /// A layer of about so many bytes.
    pub(crate) fn layer(&mut self, bytes: usize) -> Layer {
        let mut tar = tar::Builder::new(Vec::with_capacity(bytes));
        while tar.get_ref().len() < bytes {
            let left_bytes = bytes - tar.get_ref().len();
            let (path, content) = self.file(left_bytes);
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_mtime(0);
            tar.append_data(&mut header, path.strip_prefix("/").unwrap(), &content[..]).unwrap();
        }
        tar.into_inner().unwrap()
    }

    /// The next file that fits.
    fn file(&mut self, limit_bytes: usize) -> (PathBuf, Vec<u8>) {
        let fits = |path: &PathBuf| path.metadata().is_ok_and(|metadata| metadata.len() <= limit_bytes.max(FILLER_BYTES) as u64);
        let own = self.paths.by_ref().filter(fits).find_map(|path| std::fs::read(&path).ok().map(|content| (path, content)));
        own.unwrap_or_else(|| {
            self.fillers += 1;
            (format!("/usr/filler/{}", self.fillers).into(), noise(self.fillers, FILLER_BYTES))
        })
    }
}

/// A layer with one file that nothing else has.
pub(crate) fn small(name: &str, seed: u64, bytes: usize) -> Layer {
    layer_tar(name, &noise(seed, bytes))
}

/// Writes an archive of an image with these layers, of which only those from `first` on are in it.
pub(crate) fn archive(path: &Path, name: &str, layers: &[&Layer], first: usize) {
    let platform = Platform::host();
    let descriptors: Vec<Descriptor> = layers.iter().map(|layer| Descriptor::of(media_type::LAYER, layer)).collect();
    let diff_ids: Vec<String> = descriptors.iter().map(|layer| layer.digest.to_string()).collect();
    let config = json!({"architecture": platform.architecture, "os": platform.os, "variant": platform.variant, "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let config = config.to_string().into_bytes();
    let config_descriptor = Descriptor::of(media_type::CONFIG, &config);
    let manifest = make_manifest(&config_descriptor, &descriptors);
    let mut root = descriptor_json(&Descriptor::of(media_type::MANIFEST, &manifest));
    let full_name = name.parse::<proto::Reference>().unwrap().to_string();
    root["annotations"] = json!({"io.containerd.image.name": full_name, "org.opencontainers.image.ref.name": full_name});
    let index = json!({"schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": [root]});
    let blob = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
    let paths: Vec<String> = descriptors.iter().map(|layer| blob(&layer.digest)).collect();
    let list = json!([{"Config": blob(&config_descriptor.digest), "RepoTags": [name], "Layers": paths}]);

    let mut tar = tar::Builder::new(BufWriter::new(File::create(path).unwrap()));
    let mut append = |name: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, content).unwrap();
    };
    append("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    append("index.json", index.to_string().as_bytes());
    append("manifest.json", list.to_string().as_bytes());
    append(&blob(&Digest::of(&manifest)), &manifest);
    append(&blob(&config_descriptor.digest), &config);
    for (path, layer) in paths.iter().zip(layers).skip(first) {
        append(path, layer);
    }
    tar.into_inner().unwrap();
}

fn walk(directory: &Path, paths: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = std::fs::read_dir(directory).into_iter().flatten().flatten().collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(&entry.path(), paths),
            Ok(kind) if kind.is_file() => paths.push(entry.path()),
            _ => {}
        }
    }
}

/// Layers of a large image: a distribution, what it needs beside that, two small ones, the application, and some more.
pub(crate) fn large(files: &mut Files, mib: usize) -> Vec<Layer> {
    [170, 46, 0, 0, 764, 20].map(|thousandth| files.layer((mib << 20) / 1000 * thousandth + 50_000)).into()
}

/// The same number of bytes, spread evenly.
pub(crate) fn even(files: &mut Files, mib: usize) -> Vec<Layer> {
    (0..10).map(|_| files.layer((mib << 20) / 10)).collect()
}
