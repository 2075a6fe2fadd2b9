//! An image as it is offered, wanted and stored: its name, its root, and all that the root leads to.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::descriptor::media_type;
use crate::document::{self, Document, DocumentError};
use crate::limits::{IMAGE_BLOBS, IMAGE_MANIFESTS, INDEX_DEPTH};
use crate::{Descriptor, Digest, Platform, Reference};

/// What a root descriptor leads to, under one name. Bytes are not in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// `None` for an image that has only an ID.
    pub reference: Option<Reference>,
    /// The manifest or the index that the name points to.
    pub root: Descriptor,
    /// Every index on the way, the root first when it is one.
    pub indexes: Vec<Descriptor>,
    /// The manifests that were selected, at least one.
    pub manifests: Vec<Manifest>,
}

/// One manifest of an image: one platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The manifest itself.
    pub descriptor: Descriptor,
    /// From the config; `None` when the config does not say or is not an image config.
    pub platform: Option<Platform>,
    /// Its digest is the portable image ID.
    pub config: Descriptor,
    /// Lowest first.
    pub layers: Vec<Layer>,
}

/// A layer as it is packed, and the identity of what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// The blob.
    pub descriptor: Descriptor,
    /// Digest of the unpacked tar; `None` for content that is not a root file system (signatures, attestations).
    pub diff_id: Option<Digest>,
}

impl Manifest {
    /// True for the image of a container, and not, say, a signature or an attestation.
    pub fn is_image(&self) -> bool {
        match &self.platform {
            Some(platform) => !platform.is_unknown(),
            None => media_type::is_config(&self.config.media_type),
        }
    }
}

impl Image {
    /// The config digest of the manifest that `platform` would run, else of the first: the ID that the layout store, classic
    /// Docker and Podman show.
    pub fn id(&self, platform: &Platform) -> Option<Digest> {
        self.manifest_for(platform).map(|manifest| manifest.config.digest)
    }

    /// The manifest that fits `platform` best, else the first image of a container, else the first.
    pub fn manifest_for(&self, platform: &Platform) -> Option<&Manifest> {
        let fits = |manifest: &&Manifest| manifest.platform.as_ref().and_then(|offered| platform.rank(offered));
        self.manifests
            .iter()
            .filter(|m| fits(m).is_some())
            .min_by_key(fits)
            .or_else(|| self.manifests.iter().find(|manifest| manifest.is_image()).or(self.manifests.first()))
    }

    /// What it runs on, in the order of its manifests.
    pub fn platforms(&self) -> Vec<Platform> {
        self.manifests.iter().filter_map(|manifest| manifest.platform.clone()).filter(|platform| !platform.is_unknown()).collect()
    }

    /// Leaves out what says something about the image and does not run, for a store that keeps nothing of that kind. An artifact stays what it is.
    pub fn leave_attestations_out(&mut self) {
        if self.manifests.iter().any(Manifest::is_image) {
            self.manifests.retain(Manifest::is_image);
        }
    }

    /// Indexes, manifests and configs, each digest once, parents before children.
    pub fn documents(&self) -> Vec<&Descriptor> {
        let manifests = self.manifests.iter().map(|manifest| &manifest.descriptor);
        let configs = self.manifests.iter().map(|manifest| &manifest.config);
        unique(self.indexes.iter().chain(manifests).chain(configs))
    }

    /// Layers, each digest once, lowest first.
    pub fn layers(&self) -> Vec<&Layer> {
        let mut seen = HashSet::new();
        let layers = self.manifests.iter().flat_map(|manifest| &manifest.layers);
        layers.filter(|layer| seen.insert(layer.descriptor.digest)).collect()
    }

    /// Every blob once: documents first, then layers.
    pub fn blobs(&self) -> Vec<&Descriptor> {
        let layers = self.manifests.iter().flat_map(|manifest| &manifest.layers).map(|layer| &layer.descriptor);
        unique(self.documents().into_iter().chain(layers))
    }

    /// Digests of its configs, by which a store that unpacks layers knows it.
    pub fn configs(&self) -> Vec<Digest> {
        self.manifests.iter().map(|manifest| manifest.config.digest).collect()
    }

    /// Entries of all its documents: a layer counts as often as manifests name it. What an image costs to look at and to keep in memory.
    pub fn entries(&self) -> u64 {
        let manifests = self.manifests.iter().map(|manifest| manifest.layers.len() as u64 + 2);
        manifests.sum::<u64>() + self.indexes.len() as u64 + 1
    }

    /// Bytes of all blobs.
    pub fn size_bytes(&self) -> u64 {
        self.blobs().iter().map(|blob| blob.size_bytes).sum()
    }
}

fn unique<'a>(descriptors: impl Iterator<Item = &'a Descriptor>) -> Vec<&'a Descriptor> {
    let mut seen = HashSet::new();
    descriptors.filter(|descriptor| seen.insert(descriptor.digest)).collect()
}

/// Which manifests of an index are meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Selection {
    /// The best fit for one platform; an image that has none is refused.
    One(Platform),
    /// The same, and those of the attestations about it that are here.
    Attested(Platform),
    /// All of them; one that is absent is an error.
    All,
    /// Those that are here.
    Present,
}

impl Selection {
    /// The one platform that is meant.
    pub fn platform(&self) -> Option<&Platform> {
        match self {
            Self::One(platform) | Self::Attested(platform) => Some(platform),
            Self::All | Self::Present => None,
        }
    }
}

/// Why a root does not lead to an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// A document is not what it should be.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The image is not for the platform that was asked for.
    #[error("no image for {wanted}, only for {}", list(.available))]
    PlatformAbsent {
        /// What was asked for.
        wanted: Platform,
        /// What there is.
        available: Vec<Platform>,
    },
    /// A document that is needed is not there.
    #[error("{digest}, which is a part of it, is not here")]
    Absent {
        /// The one that is missing.
        digest: Digest,
    },
    /// Indexes within indexes, without end.
    #[error("index {0} lies deeper than {INDEX_DEPTH} levels")]
    TooDeep(Digest),
    /// More than an image has.
    #[error("more than {IMAGE_MANIFESTS} manifests or {IMAGE_BLOBS} blobs in one image")]
    TooMany,
    /// The image is not what its documents say.
    #[error("the documents of {0} describe another image")]
    Differs(Digest),
    /// Nothing was selected.
    #[error("no manifest of {0} is here")]
    Empty(Digest),
}

fn list(platforms: &[Platform]) -> String {
    let names: Vec<String> = platforms.iter().map(ToString::to_string).collect();
    if names.is_empty() { "unknown platforms".to_owned() } else { names.join(", ") }
}

/// Walks from a root to its image, asking for one document after the other; whoever drives it does the reading.
///
/// `next` names the document that is needed, `supply` takes its bytes (or `None` when it is absent); when `next`
/// returns `None`, `finish` has the image. Every byte is checked against digest, size and the limits of section 7.
pub struct Walk {
    reference: Option<Reference>,
    root: Descriptor,
    selection: Selection,
    pending: Vec<Step>,
    indexes: Vec<Descriptor>,
    manifests: Vec<Manifest>,
    blobs: usize,
}

enum Step {
    Node { descriptor: Descriptor, depth: usize, optional: bool },
    Config { manifest: document::ManifestDocument, descriptor: Descriptor, optional: bool },
}

impl Walk {
    /// Starts at `root`, a manifest or an index.
    pub fn new(reference: Option<Reference>, root: Descriptor, selection: Selection) -> Self {
        let first = Step::Node { descriptor: root.clone(), depth: 0, optional: false };
        Self { reference, root, selection, pending: vec![first], indexes: vec![], manifests: vec![], blobs: 0 }
    }

    /// The document that is needed next.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&self) -> Option<&Descriptor> {
        self.pending.last().map(|step| match step {
            Step::Node { descriptor, .. } => descriptor,
            Step::Config { manifest, .. } => &manifest.config,
        })
    }

    /// The bytes of [`Walk::next`], or `None` when they are not there.
    pub fn supply(&mut self, bytes: Option<&[u8]>) -> Result<(), ImageError> {
        let Some(step) = self.pending.pop() else { return Ok(()) };
        match step {
            Step::Node { descriptor, depth, optional } => match bytes {
                None if optional => Ok(()),
                None => Err(ImageError::Absent { digest: descriptor.digest }),
                Some(bytes) => self.node(descriptor, depth, optional, bytes),
            },
            Step::Config { manifest, descriptor, optional } => match bytes {
                None if optional => Ok(()),
                None => Err(ImageError::Absent { digest: manifest.config.digest }),
                Some(bytes) => self.config(manifest, descriptor, optional, bytes),
            },
        }
    }

    /// The image, once nothing more is needed.
    pub fn finish(self) -> Result<Image, ImageError> {
        if self.manifests.is_empty() {
            return Err(ImageError::Empty(self.root.digest));
        }
        Ok(Image { reference: self.reference, root: self.root, indexes: self.indexes, manifests: self.manifests })
    }

    fn node(&mut self, descriptor: Descriptor, depth: usize, optional: bool, bytes: &[u8]) -> Result<(), ImageError> {
        match document::parse(&descriptor, bytes)? {
            Document::Index(_) if depth >= INDEX_DEPTH => Err(ImageError::TooDeep(descriptor.digest)),
            Document::Index(index) => {
                self.indexes.push(descriptor);
                let optional = optional || self.selection == Selection::Present;
                let children = self.choose(index)?;
                let step = |entry: document::IndexEntry| {
                    let optional = optional || (entry.about.is_some() && self.selection != Selection::All);
                    Step::Node { descriptor: entry.descriptor, depth: depth + 1, optional }
                };
                self.pending.extend(children.into_iter().rev().map(step));
                if self.pending.len() + self.manifests.len() > IMAGE_MANIFESTS || self.indexes.len() > IMAGE_MANIFESTS {
                    return Err(ImageError::TooMany);
                }
                Ok(())
            }
            Document::Manifest(manifest) => {
                self.pending.push(Step::Config { manifest, descriptor, optional });
                Ok(())
            }
        }
    }

    fn choose(&self, index: document::IndexDocument) -> Result<Vec<document::IndexEntry>, ImageError> {
        let Some(wanted) = self.selection.platform() else { return Ok(index.manifests) };
        // An index that names no platform (a nested index, or one image under several names) is followed to its first entry.
        if index.manifests.iter().all(|entry| entry.platform.is_none()) {
            return Ok(index.manifests.into_iter().take(1).collect());
        }
        let available = || index.manifests.iter().filter_map(|entry| entry.platform.clone()).filter(|p| !p.is_unknown()).collect();
        let absent = ImageError::PlatformAbsent { wanted: wanted.clone(), available: available() };
        let fits = |entry: &document::IndexEntry| entry.platform.as_ref().and_then(|offered| wanted.rank(offered));
        let best = index.manifests.iter().filter(|entry| fits(entry).is_some()).min_by_key(|entry| fits(entry)).ok_or(absent)?;
        let (digest, attested) = (best.descriptor.digest, matches!(self.selection, Selection::Attested(_)));
        let mut chosen = index.manifests;
        // In the order of the index, as whoever receives them walks it.
        let mut is_first = true;
        chosen.retain(|entry| match entry.about {
            Some(about) if entry.descriptor.digest != digest => attested && about == digest,
            _ => entry.descriptor.digest == digest && std::mem::take(&mut is_first),
        });
        Ok(chosen)
    }

    fn config(
        &mut self,
        manifest: document::ManifestDocument,
        descriptor: Descriptor,
        optional: bool,
        bytes: &[u8],
    ) -> Result<(), ImageError> {
        let config = document::parse_config(&manifest, bytes)?;
        if let (Some(wanted), Some(offered)) = (self.selection.platform(), &config.platform)
            && !optional
            && wanted.rank(offered).is_none()
        {
            return Err(ImageError::PlatformAbsent { wanted: wanted.clone(), available: vec![offered.clone()] });
        }
        self.blobs += 2 + manifest.layers.len();
        if self.blobs > IMAGE_BLOBS {
            return Err(ImageError::TooMany);
        }
        let mut diff_ids = config.diff_ids.into_iter();
        let layers = manifest.layers.into_iter().map(|descriptor| Layer { descriptor, diff_id: diff_ids.next() }).collect();
        self.manifests.push(Manifest { descriptor, platform: config.platform, config: manifest.config, layers });
        Ok(())
    }
}
