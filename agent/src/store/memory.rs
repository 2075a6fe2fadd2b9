//! A store in memory, with the guarantees of the others: for tests, and to show what a store has to do when there is no disk.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use proto::document::DocumentError;
use proto::hash::{RangeHash, RangeHasher};
use proto::image::{ImageError, Selection};
use proto::limits::BLOCK_BYTES;
use proto::peer::ImageRow;
use proto::{Descriptor, Digest, Image, Platform, Reference};
use tokio::sync::mpsc;

use super::leases::{Leased, Leases};
use super::names::{self, Identified, Named};
use super::turns::{Turn, Turns};
use super::walk::{verify, walk};
use super::{
    Finding, Form, Held, Identity, Import, Imported, Ingest, Lease, Meter, Properties, Query, Reader, Removed, Room, Scrubbed, Store,
    StoreError,
};
use crate::staging::StagedFile;

/// Images in memory. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

/// An import into a [`MemoryStore`].
#[derive(Debug)]
pub struct MemoryImport {
    shared: Arc<Shared>,
    image: Image,
    _leased: Leased,
}

/// An ingest into a [`MemoryStore`].
#[derive(Debug)]
pub struct MemoryIngest {
    shared: Arc<Shared>,
    blob: Descriptor,
    start: u64,
    bytes: Vec<u8>,
    _turn: Turn,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    leases: Arc<Leases>,
    turns: Arc<Turns>,
}

#[derive(Debug, Default)]
struct State {
    blobs: HashMap<Digest, Blob>,
    /// The first bytes of blobs whose ingest was dropped.
    parts: HashMap<Digest, Vec<u8>>,
    /// Blobs of imports that have not ended or were given up.
    announced: HashMap<Digest, Vec<Digest>>,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Blob {
    bytes: Bytes,
    hashes: Arc<[RangeHash]>,
}

#[derive(Debug)]
struct Entry {
    reference: Option<Reference>,
    root: Descriptor,
    tagged_unix_s: u64,
}

impl MemoryStore {
    /// Nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Changes the bytes of a blob, as a failing disk would; for tests of what follows.
    pub fn damage(&self, digest: &Digest) {
        if let Some(blob) = self.shared.state().blobs.get_mut(digest) {
            blob.bytes = blob.bytes.iter().map(|byte| !byte).collect();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn has(&self, blob: &Descriptor) -> bool {
        self.blobs.get(&blob.digest).is_some_and(|found| found.bytes.len() as u64 == blob.size_bytes)
    }

    fn image(&self, reference: Option<Reference>, root: &Descriptor, selection: Selection) -> Result<Image, StoreError> {
        walk(reference, root, selection, |document| Ok(self.blobs.get(&document.digest).map(|blob| blob.bytes.to_vec())))
    }

    fn present(&self, reference: Option<Reference>, root: &Descriptor) -> Result<Image, StoreError> {
        let mut image = self.image(reference, root, Selection::Present)?;
        image.manifests.retain(|manifest| manifest.layers.iter().all(|layer| self.has(&layer.descriptor)));
        if image.manifests.is_empty() {
            return Err(ImageError::Empty(root.digest).into());
        }
        Ok(image)
    }

    fn image_id(&self, root: &Descriptor) -> Digest {
        self.present(None, root).ok().and_then(|image| image.id(&Platform::host())).unwrap_or(root.digest)
    }

    fn named(&self) -> Vec<Named> {
        self.entries.iter().map(|entry| Named { reference: entry.reference.clone(), root: entry.root.digest }).collect()
    }

    fn positions(&self, query: &Query) -> Result<Vec<usize>, StoreError> {
        let named = self.named();
        let mut found = query.reference().map(|reference| names::by_name(&named, reference)).unwrap_or_default();
        if let (true, Some(prefix)) = (found.is_empty(), query.id_prefix()) {
            let identify = |(position, entry): (usize, &Entry)| {
                let image = self.present(None, &entry.root).ok();
                Identified::new(position, entry.root.digest, self.image_id(&entry.root), image.as_ref())
            };
            let images: Vec<Identified> = self.entries.iter().enumerate().map(identify).collect();
            found = names::by_id(&images, prefix, query)?;
        }
        if found.is_empty() { Err(StoreError::NotFound(query.clone())) } else { Ok(found) }
    }

    fn collect(&mut self, leases: &Leases) -> u64 {
        let mut kept: HashSet<Digest> = self.announced.values().flatten().copied().collect();
        for entry in &self.entries {
            kept.insert(entry.root.digest);
            if let Ok(image) = self.image(None, &entry.root, Selection::Present) {
                kept.extend(image.blobs().into_iter().map(|blob| blob.digest));
            }
        }
        let mut freed_bytes = 0;
        self.blobs.retain(|digest, blob| {
            let free = || freed_bytes += blob.bytes.len() as u64;
            kept.contains(digest) || leases.unless_leased(digest, free).is_none()
        });
        freed_bytes
    }
}

impl Store for MemoryStore {
    type Import = MemoryImport;

    fn properties(&self) -> Properties {
        Properties {
            kind: "memory",
            form: Form::Packed,
            identity: Identity::Config,
            resumable_ingests: true,
            adopts_files: false,
            durable_ingests: true,
        }
    }

    async fn examine(&self) -> Vec<Finding> {
        vec![]
    }

    async fn list(&self) -> Result<Vec<ImageRow>, StoreError> {
        let state = self.shared.state();
        let row = |entry: &Entry| {
            let present = state.present(None, &entry.root).ok();
            let complete = present.is_some();
            let image = present.or_else(|| state.image(None, &entry.root, Selection::Present).ok());
            ImageRow {
                reference: entry.reference.clone(),
                image_id: image.as_ref().and_then(|image| image.id(&Platform::host())).unwrap_or(entry.root.digest),
                root: entry.root.digest,
                platforms: image.as_ref().map(Image::platforms).unwrap_or_default(),
                size_bytes: image.as_ref().map_or(0, Image::size_bytes),
                complete,
                tagged_unix_s: entry.tagged_unix_s,
            }
        };
        let mut rows: Vec<ImageRow> = state.entries.iter().map(row).collect();
        names::sort(&mut rows);
        Ok(rows)
    }

    async fn resolve(&self, query: &Query, selection: Selection) -> Result<Held, StoreError> {
        let state = self.shared.state();
        let positions = state.positions(query)?;
        let entry = &state.entries[positions[positions.len() - 1]];
        // By ID the name was not meant, and there may be several.
        let named =
            query.reference().filter(|reference| entry.reference.as_ref().is_some_and(|n| n.repository() == reference.repository()));
        let reference = named.map(Reference::without_digest);
        let image = match selection {
            Selection::Present => state.present(reference, &entry.root)?,
            selection => state.image(reference, &entry.root, selection)?,
        };
        if let Some(absent) = image.blobs().into_iter().find(|blob| !state.has(blob)) {
            return Err(StoreError::BlobMissing(absent.digest));
        }
        let leased = self.shared.leases.take(image.blobs().into_iter().map(|blob| blob.digest));
        Ok(Held::whole(image, state.image_id(&entry.root), Lease::new(leased)))
    }

    async fn hashes(&self, blob: &Descriptor, _: &Meter) -> Result<Arc<[RangeHash]>, StoreError> {
        let state = self.shared.state();
        let found = state.blobs.get(&blob.digest).ok_or(StoreError::BlobMissing(blob.digest))?;
        Ok(found.hashes.clone())
    }

    async fn read(&self, blob: &Descriptor, range: Range<u64>) -> Result<Reader, StoreError> {
        let bytes = {
            let state = self.shared.state();
            let found = state.blobs.get(&blob.digest).ok_or(StoreError::BlobMissing(blob.digest))?;
            found.bytes.clone()
        };
        if bytes.len() as u64 != blob.size_bytes {
            return Err(ImageError::Document(DocumentError::DigestMismatch { digest: blob.digest }).into());
        }
        let end = range.end.min(blob.size_bytes) as usize;
        let wanted = bytes.slice((range.start as usize).min(end)..end);
        let too_short = (range.end > blob.size_bytes).then_some(StoreError::Corrupt(blob.digest));
        let (sender, reader) = Reader::channel();
        tokio::spawn(async move {
            for block in wanted.chunks(BLOCK_BYTES as usize) {
                if sender.send(Ok(wanted.slice_ref(block))).await.is_err() {
                    return;
                }
            }
            if let Some(error) = too_short {
                let _ = sender.send(Err(error)).await;
            }
        });
        Ok(reader)
    }

    async fn import(&self, image: Image) -> Result<MemoryImport, StoreError> {
        let leased = self.shared.leases.take(image.blobs().into_iter().map(|blob| blob.digest));
        Ok(MemoryImport { shared: self.shared.clone(), image, _leased: leased })
    }

    async fn remove(&self, query: &Query) -> Result<Removed, StoreError> {
        let mut state = self.shared.state();
        let positions = state.positions(query)?;
        let image_id = state.image_id(&state.entries[positions[0]].root);
        let positions = names::to_remove(&state.named(), &positions, query)
            .map_err(|names| StoreError::SeveralNames { id: image_id.short(), names })?;
        let name = positions.iter().find_map(|&position| state.entries[position].reference.as_ref());
        let name = name.map_or_else(|| image_id.to_string(), Reference::familiar);
        let mut position = 0;
        state.entries.retain(|_| {
            position += 1;
            !positions.contains(&(position - 1))
        });
        let freed_bytes = state.collect(&self.shared.leases);
        Ok(Removed { name, image_id, freed_bytes })
    }

    async fn room(&self) -> Result<Vec<Room>, StoreError> {
        Ok(vec![])
    }

    async fn maintain(&self) -> Result<u64, StoreError> {
        Ok(self.shared.state().collect(&self.shared.leases))
    }

    async fn reclaim(&self) -> Result<u64, StoreError> {
        let mut state = self.shared.state();
        Ok(std::mem::take(&mut state.parts).values().map(|part| part.len() as u64).sum())
    }

    async fn scrub(&self, blob: Option<Digest>, report: mpsc::Sender<Scrubbed>) -> Result<(), StoreError> {
        let mut scrubbed = vec![];
        {
            let mut state = self.shared.state();
            if let Some(digest) = blob.filter(|digest| !state.blobs.contains_key(digest)) {
                return Err(StoreError::BlobMissing(digest));
            }
            state.blobs.retain(|digest, found| {
                if blob.is_some_and(|wanted| wanted != *digest) {
                    return true;
                }
                let intact = Digest::of(&found.bytes) == *digest;
                scrubbed.push(Scrubbed { digest: *digest, size_bytes: found.bytes.len() as u64, intact });
                intact
            });
        }
        for result in scrubbed {
            let _ = report.send(result).await;
        }
        Ok(())
    }
}

impl Import for MemoryImport {
    type Ingest = MemoryIngest;

    async fn missing(&mut self) -> Result<Vec<Descriptor>, StoreError> {
        let state = self.shared.state();
        Ok(self.image.blobs().into_iter().filter(|blob| !state.has(blob)).cloned().collect())
    }

    async fn ingest(&self, blob: &Descriptor) -> Result<Option<MemoryIngest>, StoreError> {
        let turn = self.shared.turns.take(blob.digest).await;
        let bytes: Vec<u8> = {
            let mut state = self.shared.state();
            if state.has(blob) {
                return Ok(None);
            }
            let blobs = || self.image.blobs().into_iter().map(|blob| blob.digest).collect();
            state.announced.entry(self.image.root.digest).or_insert_with(blobs);
            state.parts.remove(&blob.digest).filter(|part| part.len() as u64 <= blob.size_bytes).unwrap_or_default()
        };
        let start = bytes.len() as u64;
        Ok(Some(MemoryIngest { shared: self.shared.clone(), blob: blob.clone(), start, bytes, _turn: turn }))
    }

    async fn commit(self) -> Result<Imported, StoreError> {
        let mut state = self.shared.state();
        if let Some(absent) = self.image.blobs().into_iter().find(|blob| !state.has(blob)) {
            return Err(StoreError::BlobMissing(absent.digest));
        }
        verify(&self.image, |document| Ok(state.blobs.get(&document.digest).map(|blob| blob.bytes.to_vec())))?;
        let root = self.image.root.clone();
        let image_id = state.image_id(&root);
        let reference = self.image.reference.as_ref().map(Reference::without_digest);
        let before = state.entries.iter().position(|entry| reference.is_some() && entry.reference == reference);
        let is_there = match before {
            Some(position) => state.entries[position].root.digest == root.digest,
            None => reference.is_none() && state.entries.iter().any(|entry| entry.root.digest == root.digest),
        };
        let replaced = before.map(|position| state.image_id(&state.entries[position].root)).filter(|id| *id != image_id);
        if !is_there {
            let named = reference.is_some();
            state.entries.retain(|entry| {
                let moved = named && entry.reference == reference;
                let gets_a_name = named && entry.reference.is_none() && entry.root.digest == root.digest;
                !moved && !gets_a_name
            });
            let tagged_unix_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            state.entries.push(Entry { reference, root: root.clone(), tagged_unix_s });
        }
        state.announced.remove(&root.digest);
        state.collect(&self.shared.leases);
        Ok(Imported { image_id, replaced })
    }
}

impl Ingest for MemoryIngest {
    fn offset(&self) -> u64 {
        self.start
    }

    async fn append(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        if (self.bytes.len() + bytes.len()) as u64 > self.blob.size_bytes {
            self.bytes.clear();
            return Err(StoreError::Corrupt(self.blob.digest));
        }
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    async fn commit(mut self) -> Result<(), StoreError> {
        let bytes = std::mem::take(&mut self.bytes);
        let mut hasher = RangeHasher::default();
        hasher.update(&bytes);
        let (digest, hashes) = hasher.finish();
        if bytes.len() as u64 != self.blob.size_bytes || digest != self.blob.digest {
            return Err(StoreError::Corrupt(self.blob.digest));
        }
        self.shared.state().blobs.insert(digest, Blob { bytes: bytes.into(), hashes: hashes.into() });
        Ok(())
    }

    async fn adopt(mut self, file: StagedFile) -> Result<(), StoreError> {
        self.bytes = std::fs::read(file.path()).map_err(StoreError::io("read", file.path()))?;
        self.commit().await?;
        file.stored();
        Ok(())
    }
}

impl Drop for MemoryIngest {
    fn drop(&mut self) {
        if !self.bytes.is_empty() {
            self.shared.state().parts.insert(self.blob.digest, std::mem::take(&mut self.bytes));
        }
    }
}
