//! An image of the engine as the rest of the program wants it: a manifest, a config, and layers as plain tar.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError};

use bytes::Bytes;
use proto::descriptor::media_type;
use proto::document::make_manifest;
use proto::image::Selection;
use proto::{Descriptor, Digest, Image};

use super::Shared;
use super::export::Export;
use super::inventory::Row;
use crate::store::StoreError;
use crate::store::walk::walk;
use crate::sys::blocking;

/// What is remembered of manifests to find their images; each is 64 bytes.
const ROOTS: usize = 16 * 1024;

/// An image and its documents.
#[derive(Debug)]
pub(super) struct Presented {
    /// Without a name.
    pub(super) image: Image,
    pub(super) manifest: Bytes,
    pub(super) config: Bytes,
    /// For each layer.
    pub(super) chain_ids: Vec<Digest>,
    /// Where the engine's own files cannot be read.
    pub(super) export: OnceLock<Arc<Export>>,
}

impl Presented {
    /// The image's ID.
    pub(super) fn id(&self) -> Digest {
        self.image.manifests[0].config.digest
    }

    /// One of its documents.
    pub(super) fn document(&self, digest: &Digest) -> Option<Bytes> {
        let manifest = &self.image.manifests[0];
        if manifest.descriptor.digest == *digest {
            return Some(self.manifest.clone());
        }
        (manifest.config.digest == *digest).then(|| self.config.clone())
    }

    /// The chain ID of one of its layers.
    pub(super) fn chain_of(&self, diff_id: &Digest) -> Option<Digest> {
        let at = self.image.manifests[0].layers.iter().position(|layer| layer.descriptor.digest == *diff_id)?;
        self.chain_ids.get(at).copied()
    }
}

impl Shared {
    /// The image of a row of the inventory.
    pub(super) async fn present(&self, row: &Row) -> Result<Arc<Presented>, StoreError> {
        if let Some(known) = self.held_image(&row.id) {
            return Ok(known);
        }
        let mut export = None;
        let config = self.config(&row.id, &mut export).await?;
        let mut layers = Vec::with_capacity(row.details.diff_ids.len());
        for (diff_id, chain_id) in row.details.diff_ids.iter().zip(&row.details.chain_ids) {
            let size_bytes = self.layer_bytes(&row.id, diff_id, chain_id, &mut export).await?;
            layers.push(Descriptor { media_type: media_type::LAYER.to_owned(), digest: *diff_id, size_bytes });
        }
        let manifest: Bytes = make_manifest(&Descriptor::of(media_type::CONFIG, &config), &layers).into();
        let root = Descriptor::of(media_type::MANIFEST, &manifest);
        let image = walk(None, &root, Selection::All, |document| {
            Ok(Some(if document.digest == root.digest { manifest.to_vec() } else { config.to_vec() }))
        })?;
        let mut roots = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        if roots.len() >= ROOTS {
            roots.clear();
        }
        roots.insert(root.digest, row.id);
        drop(roots);
        let export = export.map(OnceLock::from).unwrap_or_default();
        Ok(Arc::new(Presented { image, manifest, config, chain_ids: row.details.chain_ids.clone(), export }))
    }

    /// The manifest of an image, where nothing has to be saved by the engine for it.
    pub(super) async fn root_at_hand(&self, row: &Row) -> Option<Digest> {
        let made = |roots: &HashMap<Digest, Digest>| roots.iter().find(|(_, id)| **id == row.id).map(|(root, _)| *root);
        if let Some(root) = made(&self.roots.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Some(root);
        }
        if !row.details.diff_ids.iter().all(|diff_id| self.records.size_bytes(diff_id).is_some()) {
            return None;
        }
        let (ground, id) = (self.ground().await.ok()?, row.id);
        blocking(move || ground.config(&id)).await.ok()?;
        self.present(row).await.ok().map(|presented| presented.image.root.digest)
    }

    /// An image that somebody holds.
    pub(super) fn held_image(&self, id: &Digest) -> Option<Arc<Presented>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).get(id)?.upgrade()
    }

    /// All images that somebody holds.
    pub(super) fn held_images(&self) -> Vec<Arc<Presented>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|_, image| image.strong_count() > 0);
        held.values().filter_map(std::sync::Weak::upgrade).collect()
    }

    /// An image's config, whose digest is the image's ID, byte for byte.
    async fn config(&self, id: &Digest, export: &mut Option<Arc<Export>>) -> Result<Bytes, StoreError> {
        let ground = self.ground().await?;
        let wanted = *id;
        if let Ok(bytes) = blocking(move || ground.config(&wanted)).await {
            return if Digest::of(&bytes) == *id { Ok(bytes.into()) } else { Err(StoreError::Corrupt(*id)) };
        }
        let exported = self.exported(id, export).await?;
        exported.config(id)
    }

    /// Length of a layer as plain tar.
    async fn layer_bytes(
        &self,
        id: &Digest,
        diff_id: &Digest,
        chain_id: &Digest,
        export: &mut Option<Arc<Export>>,
    ) -> Result<u64, StoreError> {
        if let Some(size_bytes) = self.records.size_bytes(diff_id) {
            return Ok(size_bytes);
        }
        let size_bytes = match self.split(diff_id, chain_id).await {
            Ok((split, _)) => split.size_bytes(),
            Err(error) => {
                tracing::debug!(layer = %diff_id.short(), %error, "not read where it lies");
                self.exported(id, export).await?.layer(diff_id)?.1
            }
        };
        self.records.put_size(diff_id, size_bytes);
        Ok(size_bytes)
    }

    /// The same, of whichever image has it now.
    pub(super) async fn any_layer_bytes(&self, diff_id: &Digest) -> Result<u64, StoreError> {
        let inventory = self.inventory().await?;
        let (row, chain_id) = inventory.layer(diff_id).ok_or(StoreError::Gone(*diff_id))?;
        self.layer_bytes(&row.id, diff_id, &chain_id, &mut None).await
    }

    async fn exported(&self, id: &Digest, export: &mut Option<Arc<Export>>) -> Result<Arc<Export>, StoreError> {
        if let Some(export) = export {
            return Ok(export.clone());
        }
        let fresh = self.export(id).await?;
        *export = Some(fresh.clone());
        Ok(fresh)
    }
}
