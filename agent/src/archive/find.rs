//! Which images an archive has, and what they are called. Everything here blocks.
//!
//! `index.json` names roots, whose bytes are kept as they are. `manifest.json` has names for the same images by their configs; for
//! an image that only it has, the manifest is made that `docker save` of Docker 25 and later writes, so that both give one digest.

use std::collections::BTreeSet;
use std::sync::Arc;

use proto::descriptor::media_type;
use proto::document::{self, IndexEntry};
use proto::image::Selection;
use proto::limits::{CONFIG_BYTES, IMAGE_BLOBS, LAYERS, MANIFEST_BYTES, NAMES};
use proto::{Descriptor, Digest, Reference, shape};
use serde::Deserialize;
use serde_json::Value;

use super::ArchiveError;
use super::contents::{Contents, Stored};
use crate::packing::Packing;
use crate::staging::Staging;
use crate::store::walk::walk;

/// A root and its names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) root: Descriptor,
    /// None: an untagged image.
    pub(super) references: Vec<Reference>,
}

/// The images of an archive, in its order; at least one.
pub(super) fn find(contents: &Contents, staging: &Arc<Staging>) -> Result<Vec<Found>, ArchiveError> {
    if contents.has("oci-layout") {
        check_version(&contents.document("oci-layout", MANIFEST_BYTES)?)?;
    }
    let mut images = Images::default();
    if contents.has("index.json") {
        images.add_index(&contents.document("index.json", 4 * MANIFEST_BYTES)?, contents)?;
    }
    if contents.has("manifest.json") {
        for item in items(&contents.document("manifest.json", 4 * MANIFEST_BYTES)?)? {
            images.add_item(&item, contents, staging)?;
        }
    }
    images.finish()
}

/// One image while its names are gathered.
struct Candidate {
    root: Descriptor,
    /// In full, from `io.containerd.image.name` or `RepoTags`.
    names: Vec<Reference>,
    /// From `org.opencontainers.image.ref.name`: counts only where there is no better one.
    ref_names: Vec<Reference>,
    /// Of its manifests that are in the archive.
    configs: BTreeSet<Digest>,
}

#[derive(Default)]
struct Images(Vec<Candidate>);

/// One image in `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

impl Images {
    fn add_index(&mut self, bytes: &[u8], contents: &Contents) -> Result<(), ArchiveError> {
        let index = document::parse_layout_index(bytes).map_err(|reason| malformed("index.json", reason))?;
        for IndexEntry { descriptor: root, ref_name, image_name, .. } in index.manifests {
            let name = image_name.filter(|name| !name.is_empty()).map(|name| name.parse::<Reference>()).transpose()?;
            // A ref.name may be anything; where it is no image name, the image has none.
            let ref_name = ref_name.and_then(|name| name.parse::<Reference>().ok());
            let candidate = self.candidate(root, contents);
            candidate.names.extend(name);
            candidate.ref_names.extend(ref_name);
        }
        Ok(())
    }

    fn add_item(&mut self, item: &Item, contents: &Contents, staging: &Arc<Staging>) -> Result<(), ArchiveError> {
        let tags = item.repo_tags.iter().flatten().filter(|tag| *tag != "<none>:<none>");
        let names = tags.map(|tag| tag.parse::<Reference>()).collect::<Result<Vec<_>, _>>()?;
        let config = config_digest(&item.config, contents)?;
        let mut known = false;
        for candidate in self.0.iter_mut().filter(|candidate| candidate.configs.contains(&config)) {
            candidate.names.extend(names.iter().cloned());
            known = true;
        }
        if !known {
            let root = make_manifest(item, contents, staging)?;
            self.candidate(root, contents).names.extend(names);
        }
        Ok(())
    }

    fn candidate(&mut self, root: Descriptor, contents: &Contents) -> &mut Candidate {
        let position = match self.0.iter().position(|candidate| candidate.root.digest == root.digest) {
            Some(position) => position,
            None => {
                let configs = configs(&root, contents);
                self.0.push(Candidate { root, names: vec![], ref_names: vec![], configs });
                self.0.len() - 1
            }
        };
        &mut self.0[position]
    }

    fn finish(self) -> Result<Vec<Found>, ArchiveError> {
        if self.0.is_empty() {
            return Err(ArchiveError::NoManifest);
        }
        let found = self.0.into_iter().map(|candidate| {
            let names = if candidate.names.is_empty() { candidate.ref_names } else { candidate.names };
            if let Some(name) = names.iter().find(|name| !name.fits(&candidate.root.digest)) {
                let reason = format!("it gives the name {} to {}", name.familiar(), candidate.root.digest);
                return Err(malformed("index.json", reason));
            }
            let mut seen = BTreeSet::new();
            let references = names.into_iter().filter(|name| seen.insert(name.clone())).collect();
            Ok(Found { root: candidate.root, references })
        });
        found.collect()
    }
}

fn items(bytes: &[u8]) -> Result<Vec<Item>, ArchiveError> {
    let items: Vec<Item> = shape::read(bytes, &shape::ARCHIVE).map_err(|reason| malformed("manifest.json", reason))?;
    let names: usize = items.iter().map(|item| item.repo_tags.as_ref().map_or(0, Vec::len) + 1).sum();
    let layers: usize = items.iter().map(|item| item.layers.as_ref().map_or(0, Vec::len)).sum();
    if names > NAMES || layers > IMAGE_BLOBS {
        return Err(malformed("manifest.json", format!("{names} images and names, {layers} layers")));
    }
    Ok(items)
}

fn check_version(bytes: &[u8]) -> Result<(), ArchiveError> {
    let value: Value = shape::read(bytes, &shape::LAYOUT).map_err(|reason| malformed("oci-layout", reason))?;
    match value["imageLayoutVersion"].as_str() {
        Some(version) if version.starts_with("1.") => Ok(()),
        Some(version) => Err(malformed("oci-layout", format!("version {version} is not known"))),
        None => Err(malformed("oci-layout", "it names no version".to_owned())),
    }
}

/// The configs of the manifests that are in the archive. What cannot be read here is found wrong when the image is read.
fn configs(root: &Descriptor, contents: &Contents) -> BTreeSet<Digest> {
    let read = |document: &Descriptor| contents.start_of(&document.digest, CONFIG_BYTES + 1);
    let image = walk(None, root, Selection::Present, read);
    image.into_iter().flat_map(|image| image.manifests).map(|manifest| manifest.config.digest).collect()
}

/// In a thin archive the config may be absent; its name is its digest there.
fn config_digest(member: &str, contents: &Contents) -> Result<Digest, ArchiveError> {
    match contents.file(member) {
        Err(ArchiveError::MemberMissing(name)) => {
            let hex = name.strip_prefix("blobs/sha256/");
            hex.and_then(|hex| Digest::from_hex(hex).ok()).ok_or(ArchiveError::MemberMissing(name))
        }
        stored => Ok(stored?.digest),
    }
}

fn make_manifest(item: &Item, contents: &Contents, staging: &Arc<Staging>) -> Result<Descriptor, ArchiveError> {
    let config = contents.file(&item.config)?;
    if config.size_bytes > CONFIG_BYTES {
        let (member, size_bytes) = (item.config.clone(), config.size_bytes);
        return Err(ArchiveError::TooLarge { member, size_bytes, limit_bytes: CONFIG_BYTES });
    }
    let members = item.layers.as_deref().unwrap_or_default();
    if members.len() > LAYERS {
        return Err(malformed("manifest.json", format!("{} layers, the limit is {LAYERS}", members.len())));
    }
    let mut layers = Vec::with_capacity(members.len());
    for member in members {
        let layer = contents.file(member)?;
        let first = contents.start_of(&layer.digest, Packing::MAGIC_BYTES as u64)?.unwrap_or_default();
        let media_type = match Packing::of(&first) {
            Packing::Plain => media_type::LAYER,
            Packing::Gzip => media_type::LAYER_GZIP,
            Packing::Zstd => media_type::LAYER_ZSTD,
        };
        layers.push(described(media_type, layer));
    }
    let config = described(media_type::CONFIG, config);
    contents.add(staging, media_type::MANIFEST, &document::make_manifest(&config, &layers))
}

fn described(media_type: &str, stored: Stored) -> Descriptor {
    Descriptor { media_type: media_type.to_owned(), digest: stored.digest, size_bytes: stored.size_bytes }
}

fn malformed(member: &str, reason: String) -> ArchiveError {
    ArchiveError::Malformed { member: member.to_owned(), reason }
}
