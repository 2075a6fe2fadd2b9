//! One blob on its way in: a document is kept, a small layer waits for the others of its group, the last layer of a group goes straight into the
//! engine, and a packed one is unpacked to a file first, because an archive says the size of a file before its bytes.

use std::io;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use proto::document::DocumentError;
use proto::hash::{BlobHasher, RangeHash, RangeHasher};
use proto::image::ImageError;
use proto::limits::CONFIG_BYTES;
use proto::{Descriptor, Digest};
use tokio::sync::OwnedMutexGuard;

use super::import::{Target, Work};
use super::load::{Kept, Load};
use super::spool::Spool;
use super::thin;
use crate::packing::Unpacker;
use crate::staging::StagedFile;
use crate::store::{Ingest, StoreError};
use crate::sys::{Lane, blocking_in};

/// A blob that is being written.
#[derive(Debug)]
pub struct EngineIngest {
    work: Arc<Work>,
    blob: Descriptor,
    received_bytes: u64,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Document(Vec<Bytes>),
    Layer(LayerWay),
}

#[derive(Debug)]
struct LayerWay {
    target: Arc<Target>,
    unit: usize,
    passage: Passage,
    _writer: OwnedMutexGuard<()>,
}

#[derive(Debug)]
enum Passage {
    /// A small plain layer.
    Keep { hasher: Box<RangeHasher>, blocks: Vec<Bytes> },
    /// The last plain layer of a group; the load is opened with its first bytes.
    Stream { hasher: Box<RangeHasher>, load: Option<Load> },
    /// Anything else.
    Spool { hasher: Box<BlobHasher>, unpacking: Option<Box<Unpacker<Spool>>> },
}

impl EngineIngest {
    pub(super) fn document(work: Arc<Work>, blob: Descriptor) -> Self {
        Self { work, blob, received_bytes: 0, way: Way::Document(vec![]) }
    }

    pub(super) fn layer(target: Arc<Target>, work: Arc<Work>, unit: usize, writer: OwnedMutexGuard<()>) -> Result<Self, StoreError> {
        let blob = work.plan.units[unit].blob.clone();
        let passage = if !work.plan.units[unit].is_plain() {
            Self::spool(&target, blob.size_bytes)?
        } else if work.plan.ends_group(unit) {
            Passage::Stream { hasher: Box::default(), load: None }
        } else if work.plan.waits_in_memory(unit) {
            Passage::Keep { hasher: Box::default(), blocks: vec![] }
        } else {
            Self::spool(&target, blob.size_bytes)?
        };
        Ok(Self { work, blob, received_bytes: 0, way: Way::Layer(LayerWay { target, unit, passage, _writer: writer }) })
    }

    fn spool(target: &Target, packed_bytes: u64) -> Result<Passage, StoreError> {
        let unpacking = Unpacker::new(Spool::create(target.shared.spool(), packed_bytes)?);
        Ok(Passage::Spool { hasher: Box::default(), unpacking: Some(Box::new(unpacking)) })
    }

    fn corrupt(&self) -> StoreError {
        StoreError::Corrupt(self.blob.digest)
    }
}

impl LayerWay {
    /// Waits until the engine has what lies below, and what is loaded together with this layer has come in.
    async fn wait(&self, work: &Work) -> Result<usize, StoreError> {
        let group = work.plan.group_of(self.unit).unwrap_or_default();
        let below = work.plan.groups[group].units.start..self.unit;
        let mut progress = work.progress.subscribe();
        let ready = progress.wait_for(|now| now.groups == group && below.clone().all(|unit| now.units.contains(&unit))).await;
        // The sender is in `work`.
        ready.map(|_| group).map_err(|_| StoreError::BlobMissing(work.plan.units[self.unit].blob.digest))
    }

    async fn stream(&self, work: &Work) -> Result<Load, StoreError> {
        let group = self.wait(work).await?;
        let unit = &work.plan.units[self.unit];
        let mut load = self.target.open_load(work, Some(group)).await.map_err(|error| self.target.explained(error))?;
        load.write(thin::layer_head(&unit.diff_id, unit.blob.size_bytes)).await.map_err(|error| self.target.explained(error))?;
        Ok(load)
    }

    fn keep(&self, work: &Work, kept: Kept) {
        work.kept.lock().unwrap_or_else(PoisonError::into_inner).insert(self.unit, kept);
    }

    /// It came in, and what is known of it now will be needed when it is read.
    fn came(&self, work: &Work, size_bytes: u64, hashes: &[RangeHash]) -> Result<(), StoreError> {
        let diff_id = work.plan.units[self.unit].diff_id;
        self.target.sized(work, &diff_id, size_bytes);
        self.target.shared.hashes.put(&diff_id, hashes)?;
        work.progress.send_modify(|progress| progress.units.extend([self.unit]));
        Ok(())
    }
}

impl Ingest for EngineIngest {
    fn offset(&self) -> u64 {
        0
    }

    async fn append(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.received_bytes += bytes.len() as u64;
        let is_too_long = self.received_bytes > self.blob.size_bytes;
        let corrupt = self.corrupt();
        match &mut self.way {
            _ if is_too_long => Err(corrupt),
            Way::Document(blocks) => {
                if self.blob.size_bytes > CONFIG_BYTES {
                    let (digest, size_bytes) = (self.blob.digest, self.blob.size_bytes);
                    let error = DocumentError::TooLarge { digest, kind: "document", size_bytes, limit_bytes: CONFIG_BYTES };
                    return Err(ImageError::from(error).into());
                }
                blocks.push(bytes);
                Ok(())
            }
            Way::Layer(LayerWay { passage: Passage::Keep { hasher, blocks }, .. }) => {
                hasher.update(&bytes);
                blocks.push(bytes);
                Ok(())
            }
            Way::Layer(LayerWay { passage: Passage::Spool { hasher, unpacking }, target, .. }) => {
                hasher.update(&bytes);
                // `None`: an earlier append failed, or was given up.
                let Some(unpacker) = unpacking.take() else { return Err(corrupt) };
                let unpacked = blocking_in(Lane::Unpack, move || unpacker.write(&bytes)).await;
                *unpacking = Some(Box::new(unpacked.map_err(|error| unspooled(&error, target, corrupt))?));
                Ok(())
            }
            Way::Layer(way) => {
                let opened = match &way.passage {
                    Passage::Stream { load: None, .. } => Some(way.stream(&self.work).await?),
                    _ => None,
                };
                let Passage::Stream { hasher, load } = &mut way.passage else { return Err(corrupt) };
                hasher.update(&bytes);
                *load = load.take().or(opened);
                let load = load.as_mut().ok_or(corrupt)?;
                load.write(bytes).await.map_err(|error| way.target.explained(error))
            }
        }
    }

    async fn commit(self) -> Result<(), StoreError> {
        let corrupt = self.corrupt();
        if self.received_bytes != self.blob.size_bytes {
            return Err(corrupt);
        }
        let mut way = match self.way {
            Way::Document(blocks) => {
                let bytes: Bytes = blocks.concat().into();
                if Digest::of(&bytes) != self.blob.digest {
                    return Err(corrupt);
                }
                self.work.documents.lock().unwrap_or_else(PoisonError::into_inner).insert(self.blob.digest, bytes);
                return Ok(());
            }
            Way::Layer(way) => way,
        };
        let work = &self.work;
        let passage = std::mem::replace(&mut way.passage, Passage::Keep { hasher: Box::default(), blocks: vec![] });
        match passage {
            Passage::Keep { hasher, blocks } => {
                let (digest, hashes) = hasher.finish();
                if digest != self.blob.digest {
                    return Err(corrupt);
                }
                way.keep(work, Kept::Memory(blocks.into(), self.received_bytes));
                way.came(work, self.received_bytes, &hashes)
            }
            Passage::Stream { hasher, load } => {
                let (digest, hashes) = hasher.finish();
                // Before the archive's end is sent: the engine never sees a whole one with wrong bytes.
                if digest != self.blob.digest {
                    return Err(corrupt);
                }
                let mut load = match load {
                    Some(load) => load,
                    None => way.stream(work).await?,
                };
                load.write(thin::padding(self.received_bytes)).await.map_err(|error| way.target.explained(error))?;
                way.target.finish_group(work, work.plan.group_of(way.unit).unwrap_or_default(), load).await?;
                way.came(work, self.received_bytes, &hashes)
            }
            Passage::Spool { hasher, unpacking } => {
                let Some(unpacker) = unpacking else { return Err(corrupt) };
                let spool = blocking_in(Lane::Unpack, move || unpacker.finish()).await;
                let blob = self.blob.digest;
                let (file, content) = spool.map_err(|error| unspooled(&error, &way.target, corrupt))?.finish();
                let size_bytes = content.length_bytes();
                let (digest, hashes) = content.finish();
                if hasher.finish() != blob || digest != work.plan.units[way.unit].diff_id {
                    return Err(StoreError::Corrupt(blob));
                }
                way.keep(work, Kept::Spooled(Arc::new(file), size_bytes));
                if work.plan.ends_group(way.unit) {
                    let group = way.wait(work).await?;
                    way.target.sized(work, &digest, size_bytes);
                    let load = way.target.open_load(work, Some(group)).await.map_err(|error| way.target.explained(error))?;
                    way.target.finish_group(work, group, load).await?;
                }
                way.came(work, size_bytes, &hashes)
            }
        }
    }

    async fn adopt(self, _: StagedFile) -> Result<(), StoreError> {
        let kind = match self.way {
            Way::Layer(way) => way.target.shared.client.engine().kind(),
            Way::Document(_) => "an engine",
        };
        Err(StoreError::Unsupported { kind, what: "a file that is handed over" })
    }
}

/// Why a packed layer could not be unpacked: the disk is full, it unpacks to too much, or it does not hold what it should.
fn unspooled(error: &io::Error, target: &Target, corrupt: StoreError) -> StoreError {
    match error.kind() {
        io::ErrorKind::FileTooLarge => StoreError::Unsupported {
            kind: target.shared.client.engine().kind(),
            what: "a layer that unpacks to more than 1,100 times its size",
        },
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::NoSpace(target.shared.spool()),
        _ => corrupt,
    }
}
