//! From names to images.

use std::any::Any;
use std::sync::{Arc, PoisonError};

use proto::image::{ImageError, Selection};
use proto::peer::ImageRow;
use proto::{Digest, Image, Reference};

use super::inventory::{Inventory, Row};
use super::pin::Pin;
use super::present::Presented;
use super::read::EXPORTED;
use super::{Engine, Shared};
use crate::store::names::{self, Identified, Named};
use crate::store::{Held, Lease, Query, StoreError};

/// What a lease holds.
#[derive(Debug)]
struct Guard {
    _image: Arc<Presented>,
    _pin: Pin,
}

/// One name of one image; an image without a name has one entry.
pub(super) struct Entry<'a> {
    pub(super) reference: Option<&'a Reference>,
    pub(super) row: &'a Row,
}

impl Shared {
    /// See [`crate::store::Store::list`].
    pub(super) async fn list(&self) -> Result<Vec<ImageRow>, StoreError> {
        let inventory = self.inventory().await?;
        let row = |entry: &Entry<'_>| ImageRow {
            reference: entry.reference.cloned(),
            image_id: entry.row.id,
            // The manifest would have to be made: every layer would be read for it.
            root: entry.row.id,
            platforms: entry.row.details.platform.iter().cloned().collect(),
            size_bytes: entry.row.size_bytes,
            complete: entry.row.details.unreadable.is_none()
                && !entry.row.details.diff_ids.iter().any(|diff_id| self.records.may_be_damaged(diff_id)),
            tagged_unix_s: entry.row.details.tagged_unix_s.unwrap_or(entry.row.created_unix_s),
        };
        let mut rows: Vec<ImageRow> = entries(&inventory).iter().map(row).collect();
        names::sort(&mut rows);
        Ok(rows)
    }

    /// See [`crate::store::Store::resolve`].
    pub(super) async fn resolve(&self, query: &Query, selection: Selection) -> Result<Held, StoreError> {
        let inventory = self.inventory().await?;
        let entries = self.find(&inventory, query).await?;
        let entry = entries.last().ok_or_else(|| StoreError::NotFound(query.clone()))?;
        if let Some(reason) = &entry.row.details.unreadable {
            return Err(self.client.refusal(format!("inspect {}", entry.row.id.short()), reason.clone()));
        }
        // By ID the name was not meant, and there may be several.
        let found = entry.reference.zip(query.reference());
        let named = found.filter(|(name, asked)| name.repository() == asked.repository() || is_local(name, asked));
        let reference = named.map(|(_, asked)| asked.without_digest());
        let pin = self.pin(&entry.row.id).await?.ok_or_else(|| StoreError::NotFound(query.clone()))?;
        let presented = self.present(entry.row).await?;
        self.refuse_damaged(&presented).await?;
        let mut image: Image = presented.image.clone();
        // The manifest is made anew here: a name with the digest of another one is none for it.
        image.reference = reference.filter(|reference| reference.fits(&image.root.digest));
        if let (Some(wanted), Some(offered)) = (selection.platform(), &image.manifests[0].platform)
            && wanted.rank(offered).is_none()
        {
            return Err(ImageError::PlatformAbsent { wanted: wanted.clone(), available: vec![offered.clone()] }.into());
        }
        self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(entry.row.id, Arc::downgrade(&presented));
        let guard: Box<dyn Any + Send + Sync> = Box::new(Guard { _image: presented, _pin: pin });
        Ok(Held::whole(image, entry.row.id, Lease::new(guard)))
    }

    /// All entries that a query means; never none.
    pub(super) async fn find<'a>(&self, inventory: &'a Inventory, query: &Query) -> Result<Vec<Entry<'a>>, StoreError> {
        let entries = entries(inventory);
        let is_pinned = query.reference().is_some_and(|reference| reference.digest().is_some());
        let mut roots: Vec<Option<Digest>> = vec![None; entries.len()];
        if is_pinned || query.id_prefix().is_some() {
            for (entry, root) in entries.iter().zip(&mut roots) {
                *root = self.root_at_hand(entry.row).await;
            }
        }
        let mut found = query.reference().map(|reference| by_name(&entries, &roots, reference)).unwrap_or_default();
        if let (true, Engine::Podman, Some(local)) = (found.is_empty(), self.client.engine(), query.reference().and_then(local)) {
            found = by_name(&entries, &roots, &local);
        }
        if let (true, Some(prefix)) = (found.is_empty(), query.id_prefix()) {
            let identify = |(position, (entry, root)): (usize, (&Entry<'_>, &Option<Digest>))| {
                let id = entry.row.id;
                Identified { position, image_id: id, digests: root.iter().copied().chain([id]).collect() }
            };
            let images: Vec<Identified> = entries.iter().zip(&roots).enumerate().map(identify).collect();
            found = names::by_id(&images, prefix, query)?;
        }
        if let (true, Some(asked)) = (found.is_empty(), query.reference().filter(|asked| asked.digest().is_some())) {
            // As compose files and Kubernetes pin it: the engine knows by which digest an image was pulled.
            let is_meant = |name: &&Reference| name.digest() == asked.digest() && name.repository() == asked.repository();
            let pulled = inventory.visible().filter_map(|row| {
                let reference = row.digests.iter().find(is_meant)?;
                Some(Entry { reference: Some(reference), row })
            });
            let pulled: Vec<Entry<'_>> = pulled.collect();
            return if pulled.is_empty() { Err(StoreError::NotFound(query.clone())) } else { Ok(pulled) };
        }
        if found.is_empty() {
            return Err(StoreError::NotFound(query.clone()));
        }
        let is_found = |position: &usize| found.contains(position);
        Ok(entries.into_iter().enumerate().filter(|(position, _)| is_found(position)).map(|(_, entry)| entry).collect())
    }

    /// An image with a layer that was found damaged is not handed out.
    async fn refuse_damaged(&self, presented: &Presented) -> Result<(), StoreError> {
        let layers = presented.image.manifests[0].layers.iter().zip(&presented.chain_ids);
        for (layer, chain_id) in layers.filter(|(layer, _)| self.records.may_be_damaged(&layer.descriptor.digest)) {
            let digest = layer.descriptor.digest;
            let key = self.split(&digest, chain_id).await.map_or_else(|_| EXPORTED.to_owned(), |(_, key)| key);
            if self.records.is_damaged(&digest, &key) {
                return Err(StoreError::Corrupt(digest));
            }
        }
        Ok(())
    }
}

fn entries(inventory: &Inventory) -> Vec<Entry<'_>> {
    let mut entries = vec![];
    for row in inventory.visible() {
        entries.extend(row.names.iter().map(|reference| Entry { reference: Some(reference), row }));
        if row.names.is_empty() {
            // As the engine itself shows it.
            match &row.digests[..] {
                [] => entries.push(Entry { reference: None, row }),
                digests => entries.extend(digests.iter().map(|reference| Entry { reference: Some(reference), row })),
            }
        }
    }
    entries
}

fn by_name(entries: &[Entry<'_>], roots: &[Option<Digest>], reference: &Reference) -> Vec<usize> {
    let find = |root: &dyn Fn(usize) -> Digest| {
        let named = |(position, entry): (usize, &Entry<'_>)| Named { reference: entry.reference.cloned(), root: root(position) };
        let named: Vec<Named> = entries.iter().enumerate().map(named).collect();
        names::by_name(&named, reference)
    };
    let by_root = find(&|position| roots[position].unwrap_or(entries[position].row.id));
    // The ID is a digest, too, that people see and write.
    if by_root.is_empty() { find(&|position| entries[position].row.id) } else { by_root }
}

/// What Podman calls an image that came without a registry in its name.
fn local(reference: &Reference) -> Option<Reference> {
    let rest = reference.to_string();
    let rest = rest.strip_prefix("docker.io/library/")?;
    format!("localhost/{rest}").parse().ok()
}

fn is_local(name: &Reference, asked: &Reference) -> bool {
    local(asked).is_some_and(|local| local.repository() == name.repository())
}
