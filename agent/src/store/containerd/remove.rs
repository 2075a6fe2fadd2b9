//! Taking names away, and what is left when nothing has a name for it.

use std::collections::HashSet;
use std::sync::Arc;

use proto::{Descriptor, Digest, Reference};

use super::Shared;
use super::content::{Infos, Presence};
use super::lease::Abandoned;
use crate::store::{Query, Removed, StoreError, names};
use crate::sys::blocking;

impl Shared {
    /// See [`crate::store::Store::remove`].
    pub(super) async fn remove(self: &Arc<Self>, query: &Query) -> Result<Removed, StoreError> {
        let records = self.records().await?;
        if let Some((pinned, image_id)) = query.reference().and_then(|wanted| records.alias(wanted)) {
            // The image has other names.
            self.delete_records(std::slice::from_ref(&pinned)).await?;
            return Ok(Removed { name: query.to_string(), image_id, freed_bytes: 0 });
        }
        let found = self.positions(&records, query).await?;
        let Some(first) = found.first().and_then(|&position| records.entries.get(position)) else {
            return Err(StoreError::NotFound(query.clone()));
        };
        let image_id = first.root.digest;
        let positions =
            names::to_remove(&records.named(), &found, query).map_err(|names| StoreError::SeveralNames { id: image_id.short(), names })?;
        let entries: Vec<_> = positions.iter().filter_map(|&position| records.entries.get(position)).collect();
        let name = entries.iter().find_map(|entry| entry.reference.as_ref()).map_or_else(|| image_id.to_string(), Reference::familiar);
        let mut presence = Presence::default();
        for entry in &entries {
            if let Some(image) = self.present_or_nothing(&entry.root, &mut presence).await? {
                for blob in image.blobs() {
                    presence.look(self, blob).await?;
                }
            }
        }
        self.release().await?;
        self.delete_records(&records.to_remove(&positions)).await?;
        Ok(Removed { name, image_id, freed_bytes: self.freed_bytes(presence.infos).await? })
    }

    /// See [`crate::store::Store::maintain`].
    pub(super) async fn maintain(self: &Arc<Self>) -> Result<u64, StoreError> {
        self.sweep(Abandoned::Day).await?;
        self.collect_unkept().await
    }

    /// See [`crate::store::Store::reclaim`].
    pub(super) async fn reclaim(self: &Arc<Self>) -> Result<u64, StoreError> {
        self.sweep(Abandoned::Nothing).await?;
        self.collect_unkept().await
    }

    async fn collect_unkept(self: &Arc<Self>) -> Result<u64, StoreError> {
        let before = self.every_info(vec![]).await?;
        self.collect().await?;
        let kept: HashSet<Digest> = self.every_info(vec![]).await?.into_keys().collect();
        let (shared, recorded) = (Arc::clone(self), kept.clone());
        blocking(move || {
            shared.quarantine.retain(&recorded);
            shared.hashes.retain(&recorded)
        })
        .await?;
        Ok(before.iter().filter(|(digest, _)| !kept.contains(digest)).map(|(_, info)| info.size_bytes).sum())
    }

    async fn freed_bytes(&self, before: Infos) -> Result<u64, StoreError> {
        let descriptor = |(digest, info): (Digest, super::content::BlobInfo)| Descriptor {
            media_type: String::new(),
            digest,
            size_bytes: info.size_bytes,
        };
        let blobs: Vec<Descriptor> = before.into_iter().map(descriptor).collect();
        let after = self.infos(&blobs).await?;
        Ok(blobs.iter().filter(|blob| !after.contains_key(&blob.digest)).map(|blob| blob.size_bytes).sum())
    }
}
