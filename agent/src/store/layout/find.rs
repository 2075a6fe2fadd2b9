//! From names to images. Everything here blocks.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::time::UNIX_EPOCH;

use proto::image::Selection;
use proto::peer::ImageRow;
use proto::{Descriptor, Digest, Image, Platform, Reference};

use super::Layout;
use super::blobs::Presence;
use super::index::{Entry, Names};
use crate::store::names::{self, Identified};
use crate::store::walk::{is_mismatch, walk};
use crate::store::{Held, Lease, Query, StoreError};

impl Layout {
    /// Every entry; one that leads nowhere is shown as what it is: a root without an image.
    pub(super) fn list(&self, names: &Names) -> Result<Vec<ImageRow>, StoreError> {
        let mut rows = Vec::with_capacity(names.entries.len());
        for entry in &names.entries {
            rows.push(self.row(entry)?);
        }
        names::sort(&mut rows);
        Ok(rows)
    }

    /// See [`crate::store::Store::resolve`].
    pub(super) fn resolve(&self, names: &Names, query: &Query, selection: Selection) -> Result<Held, StoreError> {
        let (reference, root) = self.find(names, query)?;
        let image = match selection {
            Selection::Present => self.present(reference, &root)?,
            selection => self.image(reference, &root, selection)?,
        };
        let leased = self.leases.take(image.blobs().into_iter().map(|blob| blob.digest));
        for blob in image.blobs() {
            if self.blobs.presence(blob)? == Presence::Absent {
                return Err(StoreError::BlobMissing(blob.digest));
            }
        }
        let image_id = self.image_id(&root)?;
        Ok(Held::whole(image, image_id, Lease::new(leased)))
    }

    /// The positions of the entries that a query means, in [`Names::entries`]; never none.
    pub(super) fn positions(&self, names: &Names, query: &Query) -> Result<Vec<usize>, StoreError> {
        let named = names.named();
        let mut found = query.reference().map(|reference| names::by_name(&named, reference)).unwrap_or_default();
        if let (true, Some(prefix)) = (found.is_empty(), query.id_prefix()) {
            found = names::by_id(&self.identified(names)?, prefix, query)?;
        }
        if found.is_empty() { Err(StoreError::NotFound(query.clone())) } else { Ok(found) }
    }

    /// What the store shows as the ID of what a root leads to; the root itself where that is nothing.
    pub(super) fn image_id(&self, root: &Descriptor) -> Result<Digest, StoreError> {
        let image = self.present_or_nothing(root)?;
        Ok(image.and_then(|image| image.id(&Platform::host())).unwrap_or(root.digest))
    }

    /// Reads an image's documents. A damaged one is put aside.
    pub(super) fn image(&self, reference: Option<Reference>, root: &Descriptor, selection: Selection) -> Result<Image, StoreError> {
        walk(reference, root, selection, |document| self.blobs.document(document)).map_err(|error| self.explained(error))
    }

    /// A document that does not fit its descriptor is either damaged, and put aside, or wrongly described.
    pub(super) fn explained(&self, error: StoreError) -> StoreError {
        match is_mismatch(&error).map(|digest| self.blobs.hash(&digest)) {
            Some(Err(damaged)) => damaged,
            Some(Ok(_)) | None => error,
        }
    }

    /// The image with those of its manifests that are here with all their layers.
    fn present(&self, reference: Option<Reference>, root: &Descriptor) -> Result<Image, StoreError> {
        let mut image = self.image(reference, root, Selection::Present)?;
        let mut missing = None;
        let mut kept = Vec::with_capacity(image.manifests.len());
        for manifest in std::mem::take(&mut image.manifests) {
            match self.absent_layer(&manifest)? {
                None => kept.push(manifest),
                Some(digest) => missing = missing.or(Some(digest)),
            }
        }
        image.manifests = kept;
        match missing {
            Some(digest) if image.manifests.is_empty() => Err(StoreError::BlobMissing(digest)),
            _ => Ok(image),
        }
    }

    fn absent_layer(&self, manifest: &proto::Manifest) -> Result<Option<Digest>, StoreError> {
        for layer in &manifest.layers {
            let found = self.blobs.metadata(&layer.descriptor.digest)?;
            if found.is_none_or(|metadata| metadata.len() != layer.descriptor.size_bytes) {
                return Ok(Some(layer.descriptor.digest));
            }
        }
        Ok(None)
    }

    fn present_or_nothing(&self, root: &Descriptor) -> Result<Option<Image>, StoreError> {
        nothing_where_invalid(self.present(None, root))
    }

    fn find(&self, names: &Names, query: &Query) -> Result<(Option<Reference>, Descriptor), StoreError> {
        let positions = self.positions(names, query)?;
        let entry = positions.last().and_then(|&position| names.entries.get(position));
        let entry = entry.ok_or_else(|| StoreError::NotFound(query.clone()))?;
        // By ID the name was not meant, and there may be several.
        let named = query.reference().filter(|reference| entry.reference.as_ref().is_some_and(|name| fits(name, reference)));
        Ok((named.map(Reference::without_digest), entry.root.clone()))
    }

    fn identified(&self, names: &Names) -> Result<Vec<Identified>, StoreError> {
        let mut known: HashMap<Digest, Option<Image>> = HashMap::new();
        let mut identified = Vec::with_capacity(names.entries.len());
        for (position, entry) in names.entries.iter().enumerate() {
            let root = &entry.root;
            let image = match known.entry(root.digest) {
                Slot::Occupied(image) => image.into_mut(),
                Slot::Vacant(slot) => slot.insert(self.present_or_nothing(root)?),
            };
            let image = image.as_ref();
            let image_id = image.and_then(|image| image.id(&Platform::host())).unwrap_or(root.digest);
            identified.push(Identified::new(position, root.digest, image_id, image));
        }
        Ok(identified)
    }

    fn row(&self, entry: &Entry) -> Result<ImageRow, StoreError> {
        let present = self.present_or_nothing(&entry.root)?;
        let complete = present.is_some();
        // What its documents say is shown of an image that has lost a layer.
        let image = match present {
            None => nothing_where_invalid(self.image(None, &entry.root, Selection::Present))?,
            present => present,
        };
        let written = || {
            let metadata = self.blobs.metadata(&entry.root.digest).ok().flatten()?;
            Some(metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_secs())
        };
        Ok(ImageRow {
            reference: entry.reference.clone(),
            image_id: image.as_ref().and_then(|image| image.id(&Platform::host())).unwrap_or(entry.root.digest),
            root: entry.root.digest,
            platforms: image.as_ref().map(Image::platforms).unwrap_or_default(),
            size_bytes: image.as_ref().map_or(0, Image::size_bytes),
            complete,
            tagged_unix_s: entry.tagged_unix_s.or_else(written).unwrap_or(0),
        })
    }
}

/// `None` for an image that is damaged or incomplete; a store that cannot be read is an error.
fn nothing_where_invalid(image: Result<Image, StoreError>) -> Result<Option<Image>, StoreError> {
    match image {
        Ok(image) => Ok(Some(image)),
        Err(StoreError::Image(_) | StoreError::BlobMissing(_) | StoreError::Corrupt(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn fits(name: &Reference, query: &Reference) -> bool {
    name == query || (query.digest().is_some() && name.repository() == query.repository())
}
