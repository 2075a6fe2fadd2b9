//! Sample images, made from nothing and the same in every run.

use std::collections::BTreeMap;
use std::io::Write;

use bytes::Bytes;
use proto::descriptor::media_type;
use proto::document::make_manifest;
use proto::image::{Selection, Walk};
use proto::{Descriptor, Digest, Image, Platform, Reference};
use serde_json::{Value, json};

/// How a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// As tar.
    Plain,
    /// gzip, without a time in it.
    Gzip,
    /// zstd.
    Zstd,
}

/// An image and the bytes of all its blobs.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The image, all of it.
    pub image: Image,
    /// Its blobs.
    pub blobs: BTreeMap<Digest, Bytes>,
}

/// What one manifest is made of.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// Of the config.
    pub platform: Platform,
    /// Content of one file for each layer, and how the layer is packed.
    pub layers: Vec<(Vec<u8>, Packing)>,
    /// Anything that makes the config another one.
    pub note: String,
}

impl Recipe {
    /// For this host, with layers of these sizes, whose content depends on `seed`.
    pub fn new(seed: u64, sizes: &[usize]) -> Self {
        let layers = sizes.iter().enumerate().map(|(i, &size)| (noise(seed.wrapping_add(i as u64), size), Packing::Plain)).collect();
        Self { platform: Platform::host(), layers, note: seed.to_string() }
    }

    /// The same for another platform.
    pub fn platform(mut self, platform: &str) -> Self {
        self.platform = platform.parse().unwrap();
        self
    }

    /// The same with all layers packed so.
    pub fn packed(mut self, packing: Packing) -> Self {
        self.layers.iter_mut().for_each(|layer| layer.1 = packing);
        self
    }

    /// The image that this makes.
    pub fn build(&self, name: &str) -> Sample {
        let mut blobs = BTreeMap::new();
        let root = self.manifest(&mut blobs);
        Sample::read(name, root, blobs)
    }

    fn manifest(&self, blobs: &mut BTreeMap<Digest, Bytes>) -> Descriptor {
        let mut put = |media_type: &str, bytes: Vec<u8>| {
            let descriptor = Descriptor::of(media_type, &bytes);
            blobs.insert(descriptor.digest, bytes.into());
            descriptor
        };
        let mut layers = vec![];
        let mut diff_ids = vec![];
        for (i, (content, packing)) in self.layers.iter().enumerate() {
            let tar = layer_tar(&format!("file{i}"), content);
            diff_ids.push(Digest::of(&tar).to_string());
            layers.push(match packing {
                Packing::Plain => put(media_type::LAYER, tar),
                Packing::Gzip => put(media_type::LAYER_GZIP, gzip(&tar)),
                Packing::Zstd => put(media_type::LAYER_ZSTD, zstd(&tar)),
            });
        }
        let config = json!({
            "architecture": self.platform.architecture, "os": self.platform.os, "variant": self.platform.variant,
            "config": {"Labels": {"note": self.note}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = put(media_type::CONFIG, config.to_string().into_bytes());
        // As engines that keep no manifest make it: then the image that comes out of such a store is the one that went in.
        put(media_type::MANIFEST, make_manifest(&config, &layers))
    }
}

impl Sample {
    /// Two layers of a few ranges each.
    pub fn small(name: &str, seed: u64) -> Self {
        Recipe::new(seed, &[100_000, 200_000]).build(name)
    }

    /// An image that says something when it is run; `None` where busybox is not installed as one file.
    pub fn speaking(name: &str, words: &str) -> Option<Self> {
        let program = std::fs::read("/bin/busybox").ok()?;
        let mut tar = tar::Builder::new(vec![]);
        let mut header = tar::Header::new_gnu();
        header.set_size(program.len() as u64);
        header.set_mode(0o755);
        tar.append_data(&mut header, "bin/busybox", &program[..]).unwrap();
        let tar = tar.into_inner().unwrap();
        let platform = Platform::host();
        let config = json!({
            "architecture": platform.architecture, "os": platform.os,
            "config": {"Cmd": ["/bin/busybox", "echo", words]},
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(&tar).to_string()]},
        });
        let config = config.to_string().into_bytes();
        let layer = Descriptor::of(media_type::LAYER, &tar);
        let manifest = make_manifest(&Descriptor::of(media_type::CONFIG, &config), &[layer]);
        let root = Descriptor::of(media_type::MANIFEST, &manifest);
        let blobs = [tar, config, manifest].into_iter().map(|bytes| (Digest::of(&bytes), bytes.into())).collect();
        Some(Self::read(name, root, blobs))
    }

    /// An index of these.
    pub fn index(name: &str, recipes: &[Recipe]) -> Self {
        let mut blobs = BTreeMap::new();
        let entry = |recipe: &Recipe| {
            let mut entry = descriptor_json(&recipe.manifest(&mut blobs));
            entry["platform"] = json!({"os": recipe.platform.os, "architecture": recipe.platform.architecture});
            if !recipe.platform.variant.is_empty() {
                entry["platform"]["variant"] = recipe.platform.variant.clone().into();
            }
            entry
        };
        let manifests: Vec<Value> = recipes.iter().map(entry).collect();
        let index = json!({"schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": manifests}).to_string().into_bytes();
        let root = Descriptor::of(media_type::INDEX, &index);
        blobs.insert(root.digest, index.into());
        Self::read(name, root, blobs)
    }

    /// The same image with all layers packed so: the same config, and another manifest.
    pub fn packed(&self, packing: Packing) -> Self {
        let [manifest] = &self.image.manifests[..] else { panic!("an image for one platform") };
        let config = manifest.config.clone();
        let mut blobs = BTreeMap::from([(config.digest, self.blobs[&config.digest].clone())]);
        let pack = |layer: &proto::image::Layer| {
            let tar = &self.blobs[&layer.descriptor.digest];
            let (media_type, bytes) = match packing {
                Packing::Plain => (media_type::LAYER, tar.to_vec()),
                Packing::Gzip => (media_type::LAYER_GZIP, gzip(tar)),
                Packing::Zstd => (media_type::LAYER_ZSTD, zstd(tar)),
            };
            let descriptor = Descriptor::of(media_type, &bytes);
            blobs.insert(descriptor.digest, bytes.into());
            descriptor
        };
        let layers: Vec<Descriptor> = manifest.layers.iter().map(pack).collect();
        let manifest = make_manifest(&config, &layers);
        let root = Descriptor::of(media_type::MANIFEST, &manifest);
        blobs.insert(root.digest, manifest.into());
        Self { image: walk(self.image.reference.clone(), &root, &blobs, Selection::All), blobs }
    }

    /// The same without a name.
    pub fn untagged(mut self) -> Self {
        self.image.reference = None;
        self
    }

    /// The same under another name.
    pub fn named(mut self, name: &str) -> Self {
        self.image.reference = Some(name.parse().unwrap());
        self
    }

    /// What `selection` makes of it, of the blobs that are in it.
    pub fn select(&self, selection: Selection) -> Image {
        walk(self.image.reference.clone(), &self.image.root, &self.blobs, selection)
    }

    /// What a store for this host shows as its ID.
    pub fn image_id(&self) -> Digest {
        self.image.id(&Platform::host()).unwrap()
    }

    /// The same config and layers as others have, or what somebody says they have: the layers' bytes are not in it.
    pub fn naming(name: &str, layers: &[Descriptor], diff_ids: &[Digest]) -> Self {
        let platform = Platform::host();
        let diff_ids: Vec<String> = diff_ids.iter().map(ToString::to_string).collect();
        let rootfs = json!({"type": "layers", "diff_ids": diff_ids});
        let config = json!({"os": platform.os, "architecture": platform.architecture, "config": {}, "rootfs": rootfs}).to_string();
        let manifest = make_manifest(&Descriptor::of(media_type::CONFIG, config.as_bytes()), layers);
        let root = Descriptor::of(media_type::MANIFEST, &manifest);
        let blobs = [config.into_bytes(), manifest].into_iter().map(|bytes| (Digest::of(&bytes), bytes.into())).collect();
        Self::read(name, root, blobs)
    }

    fn read(name: &str, root: Descriptor, blobs: BTreeMap<Digest, Bytes>) -> Self {
        let image = walk(Some(name.parse().unwrap()), &root, &blobs, Selection::All);
        Self { image, blobs }
    }
}

/// Writes a sample as an archive (OCI image layout in a tar) into a directory, for programs that read files.
pub fn archive_file(directory: &std::path::Path, sample: &Sample) -> std::path::PathBuf {
    let mut index = descriptor_json(&sample.image.root);
    let name = sample.image.reference.as_ref().unwrap().to_string();
    index["annotations"] = json!({ "io.containerd.image.name": name, "org.opencontainers.image.ref.name": name });
    let index = json!({ "schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": [index] });
    let mut archive = tar::Builder::new(vec![]);
    append(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    append(&mut archive, "index.json", index.to_string().as_bytes());
    for (digest, bytes) in &sample.blobs {
        append(&mut archive, &format!("blobs/sha256/{}", digest.hex()), bytes);
    }
    let path = directory.join("archive.tar");
    std::fs::write(&path, archive.into_inner().unwrap()).unwrap();
    path
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// A layer with one file.
pub fn layer_tar(path: &str, content: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(vec![]);
    append(&mut tar, path, content);
    tar.into_inner().unwrap()
}

/// Adds a regular file to an archive.
pub fn append(tar: &mut tar::Builder<Vec<u8>>, path: &str, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    tar.append_data(&mut header, path, content).unwrap();
}

/// gzip, without a time in it.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// zstd.
pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// A descriptor as documents have it.
pub fn descriptor_json(descriptor: &Descriptor) -> Value {
    json!({"mediaType": descriptor.media_type, "digest": descriptor.digest.to_string(), "size": descriptor.size_bytes})
}

fn walk(reference: Option<Reference>, root: &Descriptor, blobs: &BTreeMap<Digest, Bytes>, selection: Selection) -> Image {
    let mut walk = Walk::new(reference, root.clone(), selection);
    while let Some(document) = walk.next() {
        let bytes = blobs.get(&document.digest).cloned();
        walk.supply(bytes.as_deref()).unwrap();
    }
    walk.finish().unwrap()
}
