//! Reading blobs: documents from memory, layers where they lie, or out of an export.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use proto::hash::{RangeHash, RangeHasher};
use proto::limits::BLOCK_BYTES;
use proto::{Descriptor, Digest};
use tokio::sync::mpsc;

use super::Shared;
use super::export::Export;
use super::present::Presented;
use super::tar_split::{Cursor, TarSplit};
use crate::store::{HASH_STEP_BYTES, Meter, Reader, Scrubbed, StoreError};
use crate::sys::{Lane, blocking, blocking_in};

/// Layers whose notes are kept open: those of a usual image, so that they are unpacked once for its sizes, its hashes and its bytes.
const OPEN: usize = 32;
/// The key of layers that the engine had to save.
pub(super) const EXPORTED: &str = "export";

/// The notes of the layers that were read last, by where those lie.
#[derive(Debug, Default)]
pub(super) struct Splits {
    open: Mutex<VecDeque<(String, Arc<TarSplit>)>>,
    /// Layers that cannot be read so.
    given_up: Mutex<HashSet<String>>,
}

/// Where a blob is.
pub(super) enum Located {
    /// It is this.
    Document(Bytes),
    /// A layer of this image, with this chain ID.
    Layer { image: Digest, chain_id: Digest, held: Option<Arc<Presented>> },
}

/// A layer to be read.
#[derive(Clone)]
pub(super) enum Layer {
    /// Where it lies, under this key.
    Split(Arc<TarSplit>, String),
    /// Out of an export, which stays as long as this is read.
    Exported { file: Arc<File>, size_bytes: u64, _export: Arc<Export> },
}

impl Layer {
    fn size_bytes(&self) -> u64 {
        match self {
            Self::Split(split, _) => split.size_bytes(),
            Self::Exported { size_bytes, .. } => *size_bytes,
        }
    }

    /// By which a damaged one is remembered.
    fn key(&self) -> &str {
        match self {
            Self::Split(_, key) => key,
            Self::Exported { .. } => EXPORTED,
        }
    }

    /// Reads a range from first to last.
    fn blocks(self, range: Range<u64>) -> Blocks {
        Blocks { layer: self, source: None, offset: range.start, end: range.end }
    }

    /// Reads and hashes all of it, in steps, so that others who hash have their turn.
    async fn hash(self, meter: &Meter) -> io::Result<(Digest, Vec<RangeHash>)> {
        let size_bytes = self.size_bytes();
        let mut blocks = self.blocks(0..size_bytes);
        let mut hasher = RangeHasher::default();
        loop {
            let step = move || {
                let until = (hasher.length_bytes() + HASH_STEP_BYTES).min(size_bytes);
                while hasher.length_bytes() < until {
                    match blocks.next() {
                        Some(block) => hasher.update(&block?),
                        None => break,
                    }
                }
                Ok::<_, io::Error>((blocks, hasher))
            };
            (blocks, hasher) = blocking_in(Lane::Hash, step).await?;
            meter.reached(hasher.length_bytes());
            if hasher.length_bytes() >= size_bytes {
                return Ok(hasher.finish());
            }
        }
    }
}

/// A range of a layer, block by block. Blocking.
struct Blocks {
    layer: Layer,
    /// Opened with the first block.
    source: Option<Source>,
    offset: u64,
    end: u64,
}

impl Blocks {
    /// The next block; `None` at the end of the range.
    fn next(&mut self) -> Option<io::Result<Bytes>> {
        if self.offset >= self.end {
            return None;
        }
        let block = self.fill();
        self.offset += BLOCK_BYTES;
        Some(block)
    }

    fn fill(&mut self) -> io::Result<Bytes> {
        let source = match &mut self.source {
            Some(source) => source,
            closed => closed.insert(match &self.layer {
                Layer::Split(split, _) => Source::Split(Box::new(split.cursor(self.offset)?)),
                Layer::Exported { file, .. } => Source::File(file.clone(), self.offset),
            }),
        };
        let mut block = vec![0; (self.end - self.offset).min(BLOCK_BYTES) as usize];
        if source.fill(&mut block)? < block.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(block.into())
    }
}

enum Source {
    Split(Box<Cursor>),
    File(Arc<File>, u64),
}

impl Source {
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Split(cursor) => cursor.fill(buffer),
            Self::File(file, offset) => {
                file.read_exact_at(buffer, *offset)?;
                *offset += buffer.len() as u64;
                Ok(buffer.len())
            }
        }
    }
}

impl Shared {
    /// See [`crate::store::Store::read`].
    pub(super) async fn read(&self, blob: &Descriptor, range: Range<u64>) -> Result<Reader, StoreError> {
        let layer = match self.locate(&blob.digest).await? {
            Located::Document(bytes) => {
                let (sender, reader) = Reader::channel();
                let end = range.end.min(bytes.len() as u64) as usize;
                let _ = sender.try_send(Ok(bytes.slice((range.start as usize).min(end)..end)));
                return Ok(reader);
            }
            Located::Layer { image, chain_id, held } => self.layer(&image, &blob.digest, &chain_id, held.as_deref()).await?,
        };
        if self.records.is_damaged(&blob.digest, layer.key()) {
            return Err(StoreError::Corrupt(blob.digest));
        }
        if layer.size_bytes() != blob.size_bytes {
            return Err(StoreError::BlobMissing(blob.digest));
        }
        let (digest, splits, key) = (blob.digest, self.splits.clone(), layer.key().to_owned());
        let mut blocks = layer.blocks(range);
        let failed = move |error| {
            // What is kept open may be of a layer that the engine has removed, and has again by now.
            splits.forget(&key);
            unreadable(error, digest)
        };
        Ok(Reader::ahead(move || blocks.next().map(|block| block.map_err(&failed))))
    }

    /// See [`crate::store::Store::hashes`].
    pub(super) async fn hashes(&self, blob: &Descriptor, meter: &Meter) -> Result<Arc<[RangeHash]>, StoreError> {
        let (image, chain_id, held) = match self.locate(&blob.digest).await? {
            Located::Document(bytes) => {
                let mut hasher = RangeHasher::default();
                hasher.update(&bytes);
                let (digest, hashes) = hasher.finish();
                return if digest == blob.digest { Ok(hashes.into()) } else { Err(StoreError::Corrupt(blob.digest)) };
            }
            Located::Layer { image, chain_id, held } => (image, chain_id, held),
        };
        let _turn = self.turns.take(blob.digest).await;
        if let Some(known) = self.hashes.get(blob).filter(|_| !self.records.may_be_damaged(&blob.digest)) {
            return Ok(known);
        }
        let layer = self.layer(&image, &blob.digest, &chain_id, held.as_deref()).await?;
        if self.records.is_damaged(&blob.digest, layer.key()) {
            return Err(StoreError::Corrupt(blob.digest));
        }
        self.hash(&blob.digest, layer, meter).await?.ok_or(StoreError::Corrupt(blob.digest))
    }

    /// See [`crate::store::Store::scrub`].
    pub(super) async fn scrub(&self, blob: Option<Digest>, report: mpsc::Sender<Scrubbed>) -> Result<(), StoreError> {
        let blobs: Vec<Digest> = match blob {
            Some(digest) => vec![digest],
            None => {
                let inventory = self.inventory().await?;
                let layers: std::collections::BTreeSet<Digest> =
                    inventory.visible().flat_map(|row| row.details.diff_ids.iter().copied()).collect();
                layers.into_iter().collect()
            }
        };
        for digest in blobs {
            let scrubbed = match self.locate(&digest).await {
                Ok(Located::Document(bytes)) => Scrubbed { digest, size_bytes: bytes.len() as u64, intact: Digest::of(&bytes) == digest },
                Ok(Located::Layer { image, chain_id, held }) => {
                    let layer = self.layer(&image, &digest, &chain_id, held.as_deref()).await?;
                    let size_bytes = layer.size_bytes();
                    let _turn = self.turns.take(digest).await;
                    Scrubbed { digest, size_bytes, intact: self.hash(&digest, layer, &Meter::default()).await?.is_some() }
                }
                // It went while others were read.
                Err(StoreError::BlobMissing(_)) if blob.is_none() => continue,
                Err(error) => return Err(error),
            };
            if report.send(scrubbed).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads a layer and records its hashes. `None`: it is not what its digest says, and is put aside.
    async fn hash(&self, digest: &Digest, layer: Layer, meter: &Meter) -> Result<Option<Arc<[RangeHash]>>, StoreError> {
        let key = layer.key().to_owned();
        let size_bytes = layer.size_bytes();
        let mut hashed = layer.hash(meter).await;
        if let Err(error) = &hashed
            && self.splits.give_up(&key)
        {
            // A layer that was unpacked in a way that its notes do not tell: the engine itself may still be able to.
            tracing::warn!(layer = %digest, %error, "a layer is not read where it lies");
            if let Located::Layer { image, chain_id, held } = self.locate(digest).await? {
                match self.layer(&image, digest, &chain_id, held.as_deref()).await {
                    Ok(layer) => hashed = layer.hash(meter).await,
                    Err(error @ (StoreError::Unreachable { .. } | StoreError::Silent { .. })) => return Err(error),
                    Err(error) => tracing::warn!(layer = %digest, %error, "the engine cannot read it either"),
                }
            }
        }
        match hashed {
            Ok((found, hashes)) if found == *digest => {
                self.hashes.put(digest, &hashes)?;
                self.records.put_size(digest, size_bytes);
                self.records.put_intact(digest, &key);
                Ok(Some(hashes.into()))
            }
            result => {
                let error = result.err().map_or_else(|| "other content".to_owned(), |error| error.to_string());
                tracing::warn!(layer = %digest, error, "a layer of the engine is damaged");
                self.hashes.forget(digest);
                self.records.put_damaged(digest, &key);
                Ok(None)
            }
        }
    }

    /// A blob of an image that somebody holds, or else of one that the engine has now.
    pub(super) async fn locate(&self, digest: &Digest) -> Result<Located, StoreError> {
        for image in self.held_images() {
            if let Some(bytes) = image.document(digest) {
                return Ok(Located::Document(bytes));
            }
            if let Some(chain_id) = image.chain_of(digest) {
                return Ok(Located::Layer { image: image.id(), chain_id, held: Some(image) });
            }
        }
        let inventory = self.inventory().await?;
        let made_of = self.roots.lock().unwrap_or_else(PoisonError::into_inner).get(digest).copied();
        if let Some(row) =
            inventory.rows.iter().filter(|row| row.partial_of.is_none()).find(|row| row.id == *digest || Some(row.id) == made_of)
        {
            let bytes = self.present(row).await?.document(digest);
            return bytes.map(Located::Document).ok_or(StoreError::BlobMissing(*digest));
        }
        if let Some((row, chain_id)) = inventory.layer(digest) {
            return Ok(Located::Layer { image: row.id, chain_id, held: None });
        }
        // A manifest that was not asked for since we run.
        for row in inventory.visible().filter(|_| made_of.is_none()) {
            if self.root_at_hand(row).await == Some(*digest) {
                let bytes = self.present(row).await?.document(digest);
                return bytes.map(Located::Document).ok_or(StoreError::BlobMissing(*digest));
            }
        }
        Err(StoreError::BlobMissing(*digest))
    }

    async fn layer(&self, image: &Digest, diff_id: &Digest, chain_id: &Digest, held: Option<&Presented>) -> Result<Layer, StoreError> {
        let error = match self.split(diff_id, chain_id).await {
            Ok((split, key)) => return Ok(Layer::Split(split, key)),
            Err(error) => error,
        };
        tracing::debug!(layer = %diff_id.short(), %error, "not read where it lies");
        let export = match held.and_then(|held| held.export.get().cloned()) {
            Some(export) => export,
            None => self.export(image).await?,
        };
        if let Some(held) = held {
            // Saved once for all that is read while it is held.
            let _ = held.export.set(export.clone());
        }
        let (file, size_bytes) = export.layer(diff_id)?;
        Ok(Layer::Exported { file: Arc::new(file), size_bytes, _export: export })
    }

    /// The notes of a layer, and the key of where it lies.
    pub(super) async fn split(&self, diff_id: &Digest, chain_id: &Digest) -> Result<(Arc<TarSplit>, String), StoreError> {
        let ground = self.ground().await?;
        let (diff_id, chain_id) = (*diff_id, *chain_id);
        let failed = StoreError::io("find", diff_id.to_string());
        let located = blocking(move || {
            let place = ground.place(&diff_id, &chain_id)?;
            // A layer that was removed and loaded again is another one, under the same key.
            let notes = std::fs::metadata(&place.tar_split)?;
            Ok::<_, io::Error>((place, (notes.ino(), notes.ctime(), notes.ctime_nsec())))
        });
        let (place, (inode, changed_s, changed_ns)) = located.await.map_err(failed)?;
        let key = place.key.clone();
        let open_key = format!("{key} {inode} {changed_s}.{changed_ns}");
        if self.splits.is_given_up(&key) {
            return Err(StoreError::Corrupt(diff_id));
        }
        if let Some(open) = self.splits.get(&open_key) {
            return Ok((open, key));
        }
        let scratch = self.spool();
        let failed = StoreError::io("read", place.tar_split.clone());
        let split = blocking(move || TarSplit::open(&place.tar_split, &place.diff, &scratch)).await.map_err(failed)?;
        let split = Arc::new(split);
        self.splits.put(open_key, split.clone());
        Ok((split, key))
    }
}

/// A layer that went while it was read is another thing than a damaged one.
fn unreadable(error: io::Error, digest: Digest) -> StoreError {
    match error.kind() {
        io::ErrorKind::NotFound => StoreError::BlobMissing(digest),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => StoreError::Corrupt(digest),
        _ => StoreError::io("read", digest.to_string())(error),
    }
}

impl Splits {
    /// The next read opens the layer anew.
    fn forget(&self, key: &str) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).retain(|(of, _)| !of.starts_with(key));
    }

    fn is_given_up(&self, key: &str) -> bool {
        self.given_up.lock().unwrap_or_else(PoisonError::into_inner).contains(key)
    }

    /// True when it was not before, and is the key of a layer where it lies.
    fn give_up(&self, key: &str) -> bool {
        key != EXPORTED && self.given_up.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned())
    }

    fn get(&self, key: &str) -> Option<Arc<TarSplit>> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.iter().find(|(found, _)| found == key).map(|(_, split)| split.clone())
    }

    fn put(&self, key: String, split: Arc<TarSplit>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.push_back((key, split));
        if open.len() > OPEN {
            open.pop_front();
        }
    }
}
