//! From names to images.

use std::sync::Arc;

use proto::image::{ImageError, Selection};
use proto::peer::ImageRow;
use proto::{Descriptor, Digest, Image, Manifest, Reference};

use super::Shared;
use super::content::{Infos, Presence, has};
use super::labels::unreached;
use super::lease::{EngineLease, Purpose};
use super::records::{Entry, Records};
use crate::store::names::{self, Identified};
use crate::store::walk::is_mismatch;
use crate::store::{Held, Lease, Meter, Query, StoreError};

impl Shared {
    /// See [`crate::store::Store::list`]: one question for the names, one for the content, and documents that were not read before.
    pub(super) async fn list(self: &Arc<Self>) -> Result<Vec<ImageRow>, StoreError> {
        let records = self.records().await?;
        let mut presence = Presence::of_all(self).await?;
        let mut rows = Vec::with_capacity(records.entries.len());
        for entry in records.entries.iter().filter(|entry| !entry.is_step) {
            rows.push(self.row(entry, &mut presence).await?);
        }
        names::sort(&mut rows);
        Ok(rows)
    }

    /// See [`crate::store::Store::resolve`].
    pub(super) async fn resolve(self: &Arc<Self>, query: &Query, selection: Selection) -> Result<Held, StoreError> {
        let records = self.records().await?;
        let positions = self.positions(&records, query).await?;
        let entry = positions.last().and_then(|&position| records.entries.get(position));
        let entry = entry.ok_or_else(|| StoreError::NotFound(query.clone()))?;
        // By ID the name was not meant, and there may be several.
        let fits = |name: &Reference, wanted: &Reference| {
            name == wanted || (wanted.digest().is_some() && name.repository() == wanted.repository())
        };
        let named = query.reference().filter(|wanted| entry.reference.as_ref().is_some_and(|name| fits(name, wanted)));
        let reference = named.map(Reference::without_digest);
        let lease = Arc::new(EngineLease::take(self, Purpose::Held).await?);
        // Only what is looked for after this is sure to stay.
        lease.add_blob(&entry.root.digest).await?;
        let mut presence = Presence::default();
        let image = match selection {
            Selection::Present => self.present(reference, &entry.root, &mut presence).await?,
            selection => self.walked(reference, &entry.root, selection, &mut presence).await?,
        };
        let blobs = image.blobs();
        let mut infos = presence.infos;
        for blob in &blobs {
            if !infos.contains_key(&blob.digest)
                && let Some(info) = self.info(&blob.digest).await?
            {
                infos.insert(blob.digest, info);
            }
        }
        let loose = unreached(&entry.root.digest, &blobs, &infos);
        for blob in loose.iter().filter(|blob| has(&infos, blob)) {
            lease.add_blob(&blob.digest).await?;
        }
        infos.extend(self.infos(loose.iter().copied()).await?);
        if let Some(absent) = image.documents().into_iter().find(|document| !has(&infos, document)) {
            return Err(StoreError::BlobMissing(absent.digest));
        }
        let mut unpacked_only = vec![];
        for manifest in &image.manifests {
            match self.unpacked_only(manifest, &infos).await? {
                Some(layers) => unpacked_only.extend(layers),
                None => return Err(StoreError::BlobMissing(absent_layer(manifest, &infos).unwrap_or(manifest.descriptor.digest))),
            }
        }
        let other_form = match unpacked_only.is_empty() {
            true => None,
            false => self.other_form(&image, &unpacked_only, &lease).await?,
        };
        Ok(Held { image_id: entry.root.digest, image, unpacked_only, other_form, lease: Lease::new(lease) })
    }

    /// The positions of the entries that a query means; never none.
    pub(super) async fn positions(self: &Arc<Self>, records: &Records, query: &Query) -> Result<Vec<usize>, StoreError> {
        let mut found = query.reference().map(|reference| names::by_name(&records.named(), reference)).unwrap_or_default();
        if let (true, Some(prefix)) = (found.is_empty(), query.id_prefix()) {
            let mut presence = Presence::of_all(self).await?;
            let mut identified = Vec::with_capacity(records.entries.len());
            for (position, entry) in records.entries.iter().enumerate() {
                let image = self.present_or_nothing(&entry.root, &mut presence).await?;
                identified.push(Identified::new(position, entry.root.digest, entry.root.digest, image.as_ref()));
            }
            found = names::by_id(&identified, prefix, query)?;
        }
        if found.is_empty() { Err(StoreError::NotFound(query.clone())) } else { Ok(found) }
    }

    /// The image with those of its manifests that are here with all their layers, be they only unpacked; `None` when there is none.
    pub(super) async fn present_or_nothing(
        self: &Arc<Self>,
        root: &Descriptor,
        presence: &mut Presence,
    ) -> Result<Option<Image>, StoreError> {
        match self.present(None, root, presence).await {
            Ok(image) => Ok(Some(image)),
            Err(StoreError::Image(_) | StoreError::BlobMissing(_) | StoreError::Corrupt(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn present(
        self: &Arc<Self>,
        reference: Option<Reference>,
        root: &Descriptor,
        presence: &mut Presence,
    ) -> Result<Image, StoreError> {
        let mut image = self.walked(reference, root, Selection::Present, presence).await?;
        let mut missing = None;
        let mut kept = vec![];
        for manifest in std::mem::take(&mut image.manifests) {
            for layer in &manifest.layers {
                presence.look(self, &layer.descriptor).await?;
            }
            match self.unpacked_only(&manifest, &presence.infos).await? {
                None => missing = missing.or(absent_layer(&manifest, &presence.infos)),
                Some(_) => kept.push(manifest),
            }
        }
        image.manifests = kept;
        match missing {
            Some(digest) if image.manifests.is_empty() => Err(StoreError::BlobMissing(digest)),
            _ if image.manifests.is_empty() => Err(ImageError::Empty(root.digest).into()),
            _ => Ok(image),
        }
    }

    /// Walks, and puts a document aside that is damaged.
    async fn walked(
        self: &Arc<Self>,
        reference: Option<Reference>,
        root: &Descriptor,
        selection: Selection,
        presence: &mut Presence,
    ) -> Result<Image, StoreError> {
        let walked = self.walk(reference, root, selection, presence).await;
        let Err(Some(digest)) = walked.as_ref().map_err(is_mismatch) else { return walked };
        let size_bytes = presence.infos.get(&digest).map_or(0, |info| info.size_bytes);
        match self.hash(&digest, size_bytes, &Meter::default()).await {
            Err(damaged) => Err(damaged),
            // It is what its digest says, and was described wrongly.
            Ok(_) => walked,
        }
    }

    async fn row(self: &Arc<Self>, entry: &Entry, presence: &mut Presence) -> Result<ImageRow, StoreError> {
        let present = self.present_or_nothing(&entry.root, presence).await?;
        let complete = present.is_some();
        // What its documents say is shown of an image that has lost a layer.
        let image = match present {
            None => self.walk(None, &entry.root, Selection::Present, presence).await.ok(),
            present => present,
        };
        Ok(ImageRow {
            reference: entry.reference.clone(),
            image_id: entry.root.digest,
            root: entry.root.digest,
            platforms: image.as_ref().map(Image::platforms).unwrap_or_default(),
            size_bytes: image.as_ref().map_or(0, Image::size_bytes),
            complete,
            tagged_unix_s: entry.tagged_unix_s,
        })
    }
}

fn absent_layer(manifest: &Manifest, infos: &Infos) -> Option<Digest> {
    manifest.layers.iter().map(|layer| &layer.descriptor).find(|blob| !has(infos, blob)).map(|blob| blob.digest)
}
