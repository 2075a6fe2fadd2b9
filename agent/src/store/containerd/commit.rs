//! From blobs to an image with a name.

use std::collections::HashMap;

use bytes::Bytes;
use proto::image::ImageError;
use proto::{Digest, Reference};

use super::content::{Infos, has};
use super::import::ContainerdImport;
use super::{Flavour, labels, records, unpack};
use crate::store::walk::verify;
use crate::store::{Imported, StoreError};

impl ContainerdImport {
    /// See [`crate::store::Import::commit`].
    pub(super) async fn commit_image(mut self) -> Result<Imported, StoreError> {
        let shared = self.shared.clone();
        let infos = self.check().await?;
        let mut documents: HashMap<Digest, Bytes> = HashMap::new();
        for document in self.image.documents() {
            if let Some(bytes) = shared.document(document, &infos).await? {
                documents.insert(document.digest, bytes);
            }
        }
        verify(&self.image, |document| Ok(documents.get(&document.digest).map(|bytes| bytes.to_vec())))?;
        let top = self.unpacked(&infos).await?;
        self.label(&infos, &documents, top.as_ref()).await?;
        let root = self.image.root.clone();
        let (name, replaced) = self.name().await?;
        if shared.target(&name).await?.is_none_or(|target| target.digest != root.digest) {
            return Err(ImageError::Absent { digest: root.digest }.into());
        }
        if let Some(top) = &top {
            let snapshotter = shared.facts().await?.snapshotter.clone();
            if !shared.has_snapshot(&snapshotter, top).await? {
                return Err(StoreError::Gone(*top));
            }
        }
        drop(self.unpacking.take());
        self.finish(&root.digest).await;
        Ok(Imported { image_id: root.digest, replaced })
    }

    /// Every blob is here, or can be made here.
    async fn check(&self) -> Result<Infos, StoreError> {
        let blobs = self.image.blobs();
        let infos = self.shared.infos(blobs.iter().copied()).await?;
        for blob in blobs {
            if has(&infos, blob) || self.forms.contains_key(&blob.digest) {
                continue;
            }
            let was_here = self.were_here.contains(&blob.digest);
            return Err(if was_here { StoreError::Gone(blob.digest) } else { StoreError::BlobMissing(blob.digest) });
        }
        Ok(infos)
    }

    /// Makes what is made here, and waits for the unpacking. The chain ID of all layers of what would run here.
    async fn unpacked(&mut self, infos: &Infos) -> Result<Option<Digest>, StoreError> {
        for blob in self.image.blobs() {
            if has(infos, blob) {
                self.ready.add(blob.digest);
            }
        }
        self.unpack();
        let top = match self.unpacking.take() {
            None => None,
            Some(unpacking) => match unpacking.await {
                Ok(top) => top?,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // Only a runtime that shuts down cancels it; nobody waits for the answer then.
                    Err(_) => std::future::pending().await,
                },
            },
        };
        // Those of other platforms, and those below which everything was unpacked already.
        for layer in self.image.layers() {
            if let Some(packed) = self.forms.get(&layer.descriptor.digest) {
                self.shared.make(&self.lease, &layer.descriptor, packed, &self.ready).await?;
            }
        }
        Ok(top)
    }

    /// Children first: what has its labels keeps what is below.
    async fn label(&self, infos: &Infos, documents: &HashMap<Digest, Bytes>, top: Option<&Digest>) -> Result<(), StoreError> {
        if let (Some(top), Some(manifest)) = (top, unpack::unpackable(&self.image)) {
            let snapshotter = self.shared.facts().await?.snapshotter.clone();
            let digest = manifest.config.digest;
            self.shared.label(&digest, infos.get(&digest), [labels::snapshot(&snapshotter, top)].into()).await?;
        }
        let manifests = self.image.manifests.iter().map(|manifest| &manifest.descriptor);
        for document in manifests.chain(self.image.indexes.iter().rev()) {
            let digest = document.digest;
            let Some(bytes) = documents.get(&digest) else { return Err(StoreError::BlobMissing(digest)) };
            self.shared.label(&digest, infos.get(&digest), labels::references(&self.image, document, bytes)).await?;
        }
        Ok(())
    }

    /// Makes the name point to the image; the name of the record, and what it pointed to before.
    async fn name(&self) -> Result<(String, Option<Digest>), StoreError> {
        let (shared, root) = (&self.shared, &self.image.root);
        let records = shared.records().await?;
        let untagged = records::untagged(shared.flavour, &root.digest);
        let Some(reference) = self.image.reference.as_ref().map(Reference::without_digest) else {
            let other = records.record_of(&root.digest).map(str::to_owned);
            if other.is_none() {
                shared.point(&untagged, root).await?;
            }
            return Ok((other.unwrap_or(untagged), None));
        };
        let name = reference.to_string();
        let before = shared.target(&name).await?.filter(|before| before.digest != root.digest);
        if let Some(before) = &before
            && shared.flavour == Flavour::Docker
            && !records.has_root(&before.digest, &name)
        {
            // As Docker does: an image is not lost with its name.
            shared.point(&records::untagged(Flavour::Docker, &before.digest), before).await?;
        }
        shared.point(&name, root).await?;
        if records.of_root(&root.digest).any(|record| record == untagged) {
            shared.delete_records(std::slice::from_ref(&untagged)).await?;
        }
        Ok((name, before.map(|before| before.digest)))
    }

    /// The image is there; what is left to do is done again by the next one, if it fails.
    async fn finish(self, root: &Digest) {
        let Self { shared, lease, .. } = self;
        let ended = match std::sync::Arc::try_unwrap(lease) {
            Ok(lease) => lease.end(root).await,
            // An ingest of this import is still open.
            Err(_) => shared.collect().await,
        };
        if let Err(error) = ended {
            tracing::warn!(%error, "a lease is left to end by itself");
        }
    }
}
