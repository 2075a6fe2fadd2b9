//! Taking names away, and what is left when nothing has a name for it.

use std::collections::HashSet;
use std::sync::Arc;

use proto::{Descriptor, Digest, Reference};

use super::Shared;
use super::content::{Infos, Presence};
use super::lease::Abandoned;
use crate::store::{Query, Removed, StoreError};
use crate::sys::blocking;

impl Shared {
    /// See [`crate::store::Store::remove`].
    pub(super) async fn remove(self: &Arc<Self>, query: &Query) -> Result<Removed, StoreError> {
        let records = self.records().await?;
        let positions = self.positions(&records, query).await?;
        let entries: Vec<_> = positions.iter().filter_map(|&position| records.entries.get(position)).collect();
        let Some(first) = entries.first() else { return Err(StoreError::NotFound(query.clone())) };
        let references: Vec<&Reference> = entries.iter().filter_map(|entry| entry.reference.as_ref()).collect();
        let by_name = query.reference().is_some_and(|wanted| references.iter().any(|name| name.repository() == wanted.repository()));
        if references.len() > 1 && !by_name {
            let names = references.iter().map(|reference| reference.familiar()).collect();
            return Err(StoreError::SeveralNames { id: first.root.digest.short(), names });
        }
        let name = references.first().map_or_else(|| first.root.digest.to_string(), |reference| reference.familiar());
        let image_id = first.root.digest;
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
