//! Which images an archive has, and what they are called. Each is judged for itself. Everything here blocks.
//!
//! `index.json` names roots, whose bytes are kept as they are. `manifest.json` has names for the same images by their configs; for
//! an image that only it has, or of which it alone has the layers, the manifest is made that `docker save` of Docker 25 and later writes, so that both give one digest.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use proto::descriptor::media_type;
use proto::document::{self, Document, IndexEntry, ManifestDocument};
use proto::limits::{CONFIG_BYTES, IMAGE_BLOBS, IMAGE_MANIFESTS, INDEX_DEPTH, LAYERS, MANIFEST_BYTES};
use proto::text::escape_short;
use proto::{Descriptor, Digest, Reference, shape};
use serde::Deserialize;
use serde_json::Value;

use super::contents::{Contents, MEMBERS, Stored};
use super::read::NotLoaded;
use super::{ArchiveError, diff_id};
use crate::packing::{Packing, unpacked_limit_bytes};
use crate::staging::Staging;

/// A root and its names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) root: Descriptor,
    /// None: an untagged image.
    pub(super) references: Vec<Reference>,
}

/// The images of an archive, in its order, and what cannot be one.
#[derive(Debug, Default)]
pub(super) struct All {
    pub(super) images: Vec<Found>,
    pub(super) failed: Vec<NotLoaded>,
    /// What whoever loads the archive should know.
    pub(super) notes: Vec<String>,
}

/// Finds them. An error is about the archive as a whole.
pub(super) fn find(contents: &Contents, staging: &Arc<Staging>) -> Result<All, ArchiveError> {
    let mut images = Images::default();
    if contents.has("oci-layout") {
        images.notes.extend(check_version(&contents.document("oci-layout", MANIFEST_BYTES)?)?);
    }
    if contents.has("index.json") {
        images.add_index(&contents.document("index.json", 4 * MANIFEST_BYTES)?, contents)?;
    }
    if contents.has("manifest.json") {
        for (position, item) in items(&contents.document("manifest.json", 4 * MANIFEST_BYTES)?)?.into_iter().enumerate() {
            let item = match item {
                Ok(item) => item,
                Err(reason) => {
                    images.failed.push(NotLoaded { name: format!("image {}", position + 1), error: malformed("manifest.json", reason) });
                    continue;
                }
            };
            if let Err(error) = images.add_item(&item, contents, staging) {
                let name = item.tags().next().unwrap_or(&item.config).to_owned();
                images.failed.push(NotLoaded { name, error });
            }
        }
    }
    images.finish(contents)
}

/// One image while its names are gathered.
struct Candidate {
    root: Descriptor,
    /// In full, from `io.containerd.image.name` or `RepoTags`.
    names: Vec<Reference>,
    /// From `org.opencontainers.image.ref.name`: counts only where there is no better one.
    ref_names: Vec<Reference>,
    /// Its manifests that are in the archive.
    manifests: Vec<ManifestDocument>,
    /// Names that it has in the archive, and that no image can have.
    bad_names: Vec<NotLoaded>,
}

#[derive(Default)]
struct Images {
    candidates: Vec<Candidate>,
    /// Names that index.json gives.
    indexed: HashSet<Reference>,
    failed: Vec<NotLoaded>,
    notes: Vec<String>,
}

/// One image in `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", expecting = "an image")]
struct Item {
    config: String,
    repo_tags: Option<Vec<Option<String>>>,
    layers: Option<Vec<String>>,
}

impl Item {
    /// What is meant as a name: containerd and Kubernetes write the digest of the config among the names.
    fn tags(&self) -> impl Iterator<Item = &str> {
        let tags = self.repo_tags.iter().flatten().flatten().map(String::as_str);
        tags.filter(|tag| !tag.is_empty() && *tag != "<none>:<none>" && tag.parse::<Digest>().is_err())
    }
}

impl Images {
    fn add_index(&mut self, bytes: &[u8], contents: &Contents) -> Result<(), ArchiveError> {
        let entries = document::parse_layout_entries(bytes).map_err(|reason| malformed("index.json", reason))?;
        let mut indexed = HashSet::new();
        for (position, entry) in entries.into_iter().enumerate() {
            let IndexEntry { descriptor: root, ref_name, image_name, .. } = match entry {
                Ok(entry) => entry,
                Err(reason) => {
                    self.failed.push(NotLoaded { name: format!("image {}", position + 1), error: malformed("index.json", reason) });
                    continue;
                }
            };
            // containerd writes a digest where an image has no name.
            let name = image_name.filter(|name| !name.is_empty() && name.parse::<Digest>().is_err());
            let (name, bad_name) = match name.as_ref().map(|text| text.parse::<Reference>()) {
                Some(Err(error)) => (None, Some(NotLoaded { name: error.text.clone(), error: error.into() })),
                parsed => (parsed.and_then(Result::ok), None),
            };
            // A ref.name may be anything; where it is no image name, the image has none.
            let ref_name = ref_name.and_then(|name| name.parse::<Reference>().ok());
            let candidate = self.candidate(root, contents);
            // Part of a name that no image can have is none either.
            let ref_name = ref_name.filter(|_| bad_name.is_none());
            indexed.extend(ref_name.iter().chain(&name).cloned());
            candidate.ref_names.extend(ref_name);
            candidate.names.extend(name);
            candidate.bad_names.extend(bad_name);
        }
        self.indexed = indexed;
        Ok(())
    }

    fn add_item(&mut self, item: &Item, contents: &Contents, staging: &Arc<Staging>) -> Result<(), ArchiveError> {
        let (mut names, mut bad_names) = (vec![], vec![]);
        for tag in item.tags() {
            match tag.parse::<Reference>() {
                Ok(name) => names.push(name),
                Err(error) => bad_names.push(NotLoaded { name: tag.to_owned(), error: error.into() }),
            }
        }
        if names.is_empty() && !bad_names.is_empty() {
            let bad = bad_names.swap_remove(0);
            self.failed.extend(bad_names);
            return Err(bad.error);
        }
        let config = config_digest(&item.config, contents)?;
        // Several manifests may have one config: whose name it is stands in index.json, where that has the name.
        names.retain(|name| !self.indexed.contains(name));
        let mut known = false;
        for candidate in self.candidates.iter_mut().filter(|candidate| candidate.manifests.iter().any(|own| own.config.digest == config)) {
            if let Some(root) = better(candidate, item, contents, staging)? {
                let name = names.first().map_or_else(|| config.short(), Reference::familiar);
                self.notes
                    .push(format!("{name}: index.json has layers that are not those of its config; those of manifest.json are taken"));
                (candidate.manifests, candidate.root) = (manifests(&root, contents), root);
            }
            // What has no name there gets it, the first one of them.
            candidate.names.append(&mut names);
            candidate.bad_names.append(&mut bad_names);
            known = true;
        }
        if !known {
            let root = make_manifest(item, contents, staging)?;
            let candidate = self.candidate(root, contents);
            candidate.names.extend(names);
            candidate.bad_names.extend(bad_names);
        }
        Ok(())
    }

    fn candidate(&mut self, root: Descriptor, contents: &Contents) -> &mut Candidate {
        let position = match self.candidates.iter().position(|candidate| candidate.root.digest == root.digest) {
            Some(position) => position,
            None => {
                let manifests = manifests(&root, contents);
                self.candidates.push(Candidate { root, names: vec![], ref_names: vec![], manifests, bad_names: vec![] });
                self.candidates.len() - 1
            }
        };
        &mut self.candidates[position]
    }

    fn finish(self, contents: &Contents) -> Result<All, ArchiveError> {
        let mut all = All { images: vec![], failed: self.failed, notes: self.notes };
        for candidate in self.candidates {
            let mut names = if candidate.names.is_empty() { candidate.ref_names } else { candidate.names };
            let (digest, mut bad_names) = (candidate.root.digest, candidate.bad_names);
            names.retain(|name| {
                let fits = name.fits(&digest);
                if !fits {
                    let error = ArchiveError::OtherDigest { name: Box::new(name.clone()), digest };
                    bad_names.push(NotLoaded { name: name.familiar(), error });
                }
                fits
            });
            let is_nameless = names.is_empty() && !bad_names.is_empty();
            all.failed.extend(bad_names);
            if !is_nameless {
                let mut seen = BTreeSet::new();
                let references = names.into_iter().filter(|name| seen.insert(name.clone())).collect();
                all.images.push(Found { root: candidate.root, references });
            }
        }
        match (all.images.is_empty() && all.failed.is_empty(), contents.is_file_system()) {
            (true, true) => Err(ArchiveError::FileSystem),
            (true, false) if contents.has("index.json") || contents.has("manifest.json") => Err(ArchiveError::NoImage),
            (true, false) => Err(ArchiveError::NoManifest),
            _ => {
                all.settle_names();
                Ok(all)
            }
        }
    }
}

impl All {
    /// A name that several images have is that of the last one, as it is for `docker load`.
    fn settle_names(&mut self) {
        let mut taken: HashSet<Reference> = HashSet::new();
        for image in self.images.iter_mut().rev() {
            let notes = &mut self.notes;
            image.references.retain(|name| {
                let is_free = taken.insert(name.clone());
                if !is_free {
                    notes.push(format!("{} is the name of several images in the archive: the last of them has it", name.familiar()));
                }
                is_free
            });
        }
    }
}

/// A manifest for the layers that `manifest.json` names, where they fit the config and those of the candidate do not: Docker 25.0 wrote such archives.
fn better(candidate: &Candidate, item: &Item, contents: &Contents, staging: &Arc<Staging>) -> Result<Option<Descriptor>, ArchiveError> {
    let [own] = &candidate.manifests[..] else { return Ok(None) };
    let named = item.layers.iter().flatten().map(|member| contents.file(member)).collect::<Result<Vec<Stored>, _>>();
    // A thin archive.
    let Ok(named) = named else { return Ok(None) };
    let own_layers: Vec<Stored> = own.layers.iter().map(|layer| Stored { digest: layer.digest, size_bytes: layer.size_bytes }).collect();
    if own_layers == named || !media_type::is_manifest(&candidate.root.media_type) {
        return Ok(None);
    }
    let Some(config) = contents.start_of(&own.config.digest, CONFIG_BYTES + 1)? else { return Ok(None) };
    let layers = named.iter().map(|layer| described(media_type::LAYER, *layer)).collect();
    let as_named = ManifestDocument { config: own.config.clone(), layers };
    let Ok(config) = document::parse_config(&as_named, &config) else { return Ok(None) };
    let fits = |layers: &[Stored]| layers_fit(layers, &config.diff_ids, contents);
    if fits(&named)? && !fits(&own_layers)? { make_manifest(item, contents, staging).map(Some) } else { Ok(None) }
}

/// Whether layers that are in the archive are what a config says.
fn layers_fit(layers: &[Stored], diff_ids: &[Digest], contents: &Contents) -> Result<bool, ArchiveError> {
    if layers.len() != diff_ids.len() {
        return Ok(false);
    }
    for (layer, diff_id) in layers.iter().zip(diff_ids) {
        let staged = contents.files().get(&layer.digest).map(|file| (file.path().to_owned(), file.size_bytes()));
        let Some((path, size_bytes)) = staged.filter(|(_, size_bytes)| *size_bytes == layer.size_bytes) else { return Ok(false) };
        match diff_id::of(&path, layer.digest, unpacked_limit_bytes(size_bytes)) {
            Ok(found) if found == *diff_id => {}
            Ok(_) | Err(ArchiveError::Layer { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Each for itself.
fn items(bytes: &[u8]) -> Result<Vec<Result<Item, String>>, ArchiveError> {
    let items: Vec<Value> = shape::read(bytes, &shape::ARCHIVE).map_err(|reason| malformed("manifest.json", reason))?;
    let items: Vec<Result<Item, String>> =
        items.into_iter().map(|item| serde_json::from_value(item).map_err(|error| error.to_string())).collect();
    let names: usize = items.iter().flatten().map(|item| item.repo_tags.as_ref().map_or(0, Vec::len)).sum::<usize>() + items.len();
    let layers: usize = items.iter().flatten().map(|item| item.layers.as_ref().map_or(0, Vec::len)).sum();
    if names > IMAGE_BLOBS || layers > MEMBERS {
        return Err(malformed("manifest.json", format!("{names} images and names, {layers} layers")));
    }
    Ok(items)
}

/// What has to be said of the version.
fn check_version(bytes: &[u8]) -> Result<Option<String>, ArchiveError> {
    let value: Value = shape::read(bytes, &shape::LAYOUT).map_err(|reason| malformed("oci-layout", reason))?;
    match value["imageLayoutVersion"].as_str() {
        Some(version) if version.starts_with("1.") => Ok(None),
        Some(version) => Ok(Some(format!("the layout says that it is of version {}: it is read as one of 1.0", escape_short(version, 40)))),
        None => Err(malformed("oci-layout", "it names no version".to_owned())),
    }
}

/// The manifests of a root that are in the archive. What cannot be read here is found wrong when the image is read.
fn manifests(root: &Descriptor, contents: &Contents) -> Vec<ManifestDocument> {
    let (mut pending, mut found) = (vec![(root.clone(), 0)], vec![]);
    while let Some((descriptor, depth)) = pending.pop() {
        let Ok(Some(bytes)) = contents.start_of(&descriptor.digest, MANIFEST_BYTES + 1) else { continue };
        match document::parse(&descriptor, &bytes) {
            Ok(Document::Manifest(manifest)) => found.push(manifest),
            Ok(Document::Index(index)) if depth < INDEX_DEPTH && pending.len() + found.len() < IMAGE_MANIFESTS => {
                pending.extend(index.manifests.into_iter().map(|entry| (entry.descriptor, depth + 1)));
            }
            _ => {}
        }
    }
    found
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
