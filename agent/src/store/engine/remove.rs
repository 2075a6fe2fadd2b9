//! Taking names and images away.

use std::collections::HashSet;

use proto::{Digest, Reference};

use super::Shared;
use super::api::encoded;
use super::find::Entry;
use super::inventory::Inventory;
use crate::store::names::{self, Named};
use crate::store::{Query, Removed, StoreError};

impl Shared {
    /// See [`crate::store::Store::remove`].
    pub(super) async fn remove(&self, query: &Query) -> Result<Removed, StoreError> {
        self.flush_pins().await?;
        let before = self.inventory().await?;
        let found = self.find(&before, query).await?;
        let id = found.first().map(|entry| entry.row.id).ok_or_else(|| StoreError::NotFound(query.clone()))?;
        // What will be freed is only known while it is here.
        let bytes = self.document_bytes(&before, &id).await;
        let name = self.take_away(&id, &found, query).await?;
        let after = self.inventory().await?;
        let freed_bytes = self.freed_bytes(&before, &after, |gone| if *gone == id { bytes } else { 0 });
        Ok(Removed { name, image_id: id, freed_bytes })
    }

    /// Has the engine remove the names that were found of an image, unless they are several and were not meant; says what was removed.
    /// An image that a pin keeps goes with the pin.
    pub(super) async fn take_away(&self, id: &Digest, found: &[Entry<'_>], query: &Query) -> Result<String, StoreError> {
        let named: Vec<Named> = found.iter().map(|entry| Named { reference: entry.reference.cloned(), root: entry.row.id }).collect();
        let all: Vec<usize> = (0..named.len()).collect();
        let meant = names::to_remove(&named, &all, query).map_err(|names| StoreError::SeveralNames { id: id.short(), names })?;
        let references: Vec<&Reference> = meant.iter().filter_map(|&position| found[position].reference).collect();
        let by_name = query.reference().is_some_and(|asked| {
            let name = asked.familiar_repository();
            references.iter().any(|reference| reference.repository() == asked.repository() || reference.familiar_repository() == name)
        });
        let name = references.first().map_or_else(|| id.to_string(), |reference| reference.familiar());
        let _names = self.names.lock().await;
        if references.is_empty() {
            let image = self.inspect(&id.to_string()).await?.ok_or_else(|| StoreError::NotFound(query.clone()))?;
            // What is read or built on now goes with its last pin.
            if image.pins().any(|pin| self.pins.is_known(pin)) {
                self.pins.discard(id);
            } else {
                self.delete(&id.to_string(), &name, query).await?;
            }
            return Ok(name);
        }
        for reference in references {
            // Asked for by its ID, the image may have lost the name to another one since it was found.
            if !by_name && self.named(reference).await? != Some(*id) {
                return Err(StoreError::NotFound(query.clone()));
            }
            self.delete(&reference.to_string(), &name, query).await?;
        }
        if self.inspect(&id.to_string()).await?.is_some_and(|image| image.names().next().is_none()) {
            self.pins.discard(id);
        }
        Ok(name)
    }

    /// Has the engine remove a name, or an image without one.
    async fn delete(&self, target: &str, name: &str, query: &Query) -> Result<(), StoreError> {
        let answer = self.client.delete(&format!("/images/{}", encoded(target)), &format!("remove {name}")).await?;
        if answer.is_absent() {
            return Err(StoreError::NotFound(query.clone()));
        }
        if answer.is_success() { Ok(()) } else { Err(self.client.refusal(format!("remove {name}"), answer.reason())) }
    }

    /// See [`crate::store::Store::maintain`].
    pub(super) async fn maintain(&self) -> Result<u64, StoreError> {
        self.flush_pins().await?;
        let before = self.inventory().await?;
        self.sweep().await?;
        let after = self.inventory().await?;
        let layers: HashSet<Digest> = after.rows.iter().flat_map(|row| row.details.diff_ids.iter().copied()).collect();
        self.records.retain(&layers);
        self.hashes.retain(&layers)?;
        Ok(self.freed_bytes(&before, &after, |_| 0))
    }

    /// See [`crate::store::Store::reclaim`].
    pub(super) async fn reclaim(&self) -> Result<u64, StoreError> {
        let before = self.inventory().await?;
        for row in before.rows.iter().filter(|row| row.is_part_of(&self.agent) && row.names.is_empty() && !self.is_in_use(&row.id)) {
            self.remove_partial(&row.id).await;
        }
        let after = self.inventory().await?;
        Ok(self.freed_bytes(&before, &after, |_| 0))
    }

    /// Layers that are gone, as archives, and what `documents` says of images that are gone.
    fn freed_bytes(&self, before: &Inventory, after: &Inventory, documents: impl Fn(&Digest) -> u64) -> u64 {
        let kept = after.chains();
        let gone = before.chains().into_iter().filter(|(chain_id, _)| !kept.contains_key(chain_id));
        let layers: u64 = gone.map(|(_, diff_id)| self.records.size_bytes(&diff_id).unwrap_or_default()).sum();
        let images = before.rows.iter().filter(|row| after.image(&row.id).is_none());
        layers + images.map(|row| documents(&row.id)).sum::<u64>()
    }

    async fn document_bytes(&self, inventory: &Inventory, id: &Digest) -> u64 {
        let Some(row) = inventory.image(id) else { return 0 };
        match self.present(row).await {
            Ok(presented) => (presented.manifest.len() + presented.config.len()) as u64,
            Err(_) => 0,
        }
    }
}
