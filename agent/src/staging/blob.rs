//! One blob that is arriving: its verified ranges, in any order.

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::Descriptor;
use proto::hash::{RangeHash, range_matches};
use proto::limits::RANGE_BYTES;
use tokio::sync::watch;

use super::map::{Entry, Map, range_length};
use super::{Claim, StagedFile};
use crate::store::StoreError;

/// The only writer of a staged blob. What it verified stays when it is dropped, for the next claim.
#[derive(Debug)]
pub struct StagedBlob {
    shared: Arc<Shared>,
    claim: Claim,
}

/// Reads the verified ranges of a blob while others are still arriving, and for as long as it lives: also when the file has moved into the store
/// or was removed.
#[derive(Debug, Clone)]
pub struct StagedReader(pub(super) Arc<Shared>);

/// What writer and readers of a blob have in common.
#[derive(Debug)]
pub(super) struct Shared {
    blob: Descriptor,
    path: PathBuf,
    file: File,
    map: Mutex<Map>,
    /// Told of every range that comes.
    arrived: watch::Sender<Arrived>,
}

#[derive(Debug, Clone, Copy)]
struct Arrived {
    /// Verified bytes from the start without a gap: what a store's ingest can be fed.
    prefix_bytes: u64,
    /// The writer is gone: no more will come.
    ended: bool,
}

/// The bytes are not what the hashes say.
#[derive(Debug, PartialEq, Eq)]
pub struct Mismatch;

impl StagedBlob {
    /// Opens or continues. Every range that the map claims is read and hashed again.
    pub(super) fn open(root: &Path, blob: Descriptor, claim: Claim) -> Result<Self, StoreError> {
        let path = root.join(format!("{}.data", blob.digest.hex()));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(StoreError::io("open", &path))?;
        let mut map = Map::open(root, &blob)?;
        let mut buffer = vec![0; RANGE_BYTES as usize];
        for index in 0..map.entries().len() {
            let Some((before, after)) = map.entries()[index] else { continue };
            let offset = index as u64 * RANGE_BYTES;
            let bytes = &mut buffer[..range_length(blob.size_bytes, index) as usize];
            // Also where the disk cannot read it: then it is fetched again, and written anew.
            let read = file.read_exact_at(bytes, offset);
            if read.is_err() || !range_matches(&before, offset, bytes, blob.size_bytes, &after) {
                map.forget(index)?;
            }
        }
        let prefix_bytes = prefix(&map, 0, blob.size_bytes);
        let arrived = watch::Sender::new(Arrived { prefix_bytes, ended: false });
        Ok(Self { shared: Arc::new(Shared { blob, path, file, map: Mutex::new(map), arrived }), claim })
    }

    /// Which blob.
    pub fn descriptor(&self) -> &Descriptor {
        &self.shared.blob
    }

    /// Somebody who reads what has arrived.
    pub fn reader(&self) -> StagedReader {
        StagedReader(self.shared.clone())
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The ranges that are still to be fetched, joined where they touch, lowest first.
    pub fn missing(&self) -> Vec<Range<u64>> {
        let (map, size_bytes) = (self.shared.map(), self.shared.blob.size_bytes);
        let mut missing: Vec<Range<u64>> = vec![];
        for (index, _) in map.entries().iter().enumerate().filter(|(_, entry)| entry.is_none()) {
            let start = index as u64 * RANGE_BYTES;
            let end = start + range_length(size_bytes, index);
            match missing.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => missing.push(start..end),
            }
        }
        missing
    }

    /// Verified bytes.
    pub fn verified_bytes(&self) -> u64 {
        self.shared.blob.size_bytes - self.missing().iter().map(|range| range.end - range.start).sum::<u64>()
    }

    /// Checks `bytes`, which start at a range boundary and are whole ranges, and keeps them. `after` has a hash for each
    /// range. Blocking. With one wrong byte nothing of the range that has it, and nothing behind it, is kept.
    pub fn put(&self, offset: u64, bytes: &[u8], before: RangeHash, after: &[RangeHash]) -> Result<Result<(), Mismatch>, StoreError> {
        let (shared, size_bytes) = (&self.shared, self.shared.blob.size_bytes);
        let first = (offset / RANGE_BYTES) as usize;
        let mut entries: Vec<Entry> = Vec::with_capacity(after.len());
        let mut previous = before;
        let mut verified = 0;
        for (range, after) in bytes.chunks(RANGE_BYTES as usize).zip(after) {
            let end = offset + (verified + range.len()) as u64;
            let fits = is_anchored(&shared.blob, offset + verified as u64, end, &previous, after);
            if !fits || !range_matches(&previous, offset + verified as u64, range, size_bytes, after) {
                break;
            }
            entries.push((previous, *after));
            verified += range.len();
            previous = *after;
        }
        if size_bytes == 0 && bytes.is_empty() && after.first() == Some(&shared.blob.digest.into()) {
            entries.push((RangeHash::START, shared.blob.digest.into()));
        }
        shared.file.write_all_at(&bytes[..verified], offset).map_err(StoreError::io("write", &shared.path))?;
        let mut map = shared.map();
        map.record(first, &entries)?;
        // What was verified stays verified: the prefix only grows, and is followed from where it was.
        shared.arrived.send_modify(|arrived| arrived.prefix_bytes = prefix(&map, arrived.prefix_bytes, size_bytes));
        Ok(if verified == bytes.len() { Ok(()) } else { Err(Mismatch) })
    }

    /// The whole blob, once nothing is missing. The ranges must form one chain from the start to the digest: then the digest is proven. Where
    /// they do not, some source lied about a hash: all is forgotten, and the error names the blob.
    pub fn finish(self) -> Result<StagedFile, StoreError> {
        let (shared, claim) = (self.shared, self.claim);
        let map = shared.map();
        let mut previous = RangeHash::START;
        let mut hashes = Vec::with_capacity(map.entries().len());
        for entry in map.entries() {
            match entry {
                Some((before, after)) if *before == previous => {
                    hashes.push(*after);
                    previous = *after;
                }
                _ => break,
            }
        }
        if hashes.len() != map.entries().len() || previous != shared.blob.digest.into() {
            remove(&shared.path, map.path());
            return Err(StoreError::Corrupt(shared.blob.digest));
        }
        shared.file.set_len(shared.blob.size_bytes).map_err(StoreError::io("truncate", &shared.path))?;
        // The map stays beside the data until the store says that it has the blob.
        Ok(StagedFile::of_blob(shared.path.clone(), map.path().to_owned(), &shared.blob, hashes, claim))
    }

    /// Removes its files: it is in the store by another way, or worth nothing. Whoever reads it still does.
    pub fn discard(&self) {
        remove(&self.shared.path, self.shared.map().path());
    }
}

/// The data first, as [`StagedFile::stored`] does.
fn remove(data: &Path, map: &Path) {
    let _ = std::fs::remove_file(data);
    let _ = std::fs::remove_file(map);
}

/// What is known of the hashes of a blob without having seen it: the first one and the last one.
fn is_anchored(blob: &Descriptor, start: u64, end: u64, before: &RangeHash, after: &RangeHash) -> bool {
    let begins = start > 0 || *before == RangeHash::START;
    let ends = end < blob.size_bytes || *after == blob.digest.into();
    begins && ends
}

impl StagedReader {
    /// Which blob.
    pub fn descriptor(&self) -> &Descriptor {
        &self.0.blob
    }

    /// Waits until bytes from `offset`, a range boundary, are verified, and says how many without a gap, looking no further than `most_bytes`
    /// whole ranges. `None`: the writer has gone without them.
    pub async fn available(&self, offset: u64, most_bytes: u64) -> Option<u64> {
        let mut arrived = self.0.arrived.subscribe();
        loop {
            let ended = arrived.borrow_and_update().ended;
            match self.verified_from(offset, most_bytes) {
                Some(bytes) => return Some(bytes),
                None if ended => return None,
                None => arrived.changed().await.ok()?,
            }
        }
    }

    /// Waits until more than `offset` bytes from the start are verified, or all of them; says how many. `None` as above.
    pub async fn prefix(&self, offset: u64) -> Option<u64> {
        let mut arrived = self.0.arrived.subscribe();
        let wanted = (offset + 1).min(self.0.blob.size_bytes);
        let state = *arrived.wait_for(|arrived| arrived.prefix_bytes >= wanted || arrived.ended).await.ok()?;
        (state.prefix_bytes >= wanted).then_some(state.prefix_bytes)
    }

    /// Bytes that are verified. Blocking.
    pub fn read(&self, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        self.0.file.read_exact_at(&mut bytes, range.start).map_err(StoreError::io("read", &self.0.path))?;
        Ok(bytes)
    }

    /// The hash before these bytes, which are verified, and after each of their ranges.
    pub fn hashes(&self, range: Range<u64>) -> Option<(RangeHash, Vec<RangeHash>)> {
        let map = self.0.map();
        let first = (range.start / RANGE_BYTES) as usize;
        let count = (range.end - range.start).div_ceil(RANGE_BYTES).max(1) as usize;
        let entries: Vec<Entry> = map.entries().get(first..first + count)?.iter().copied().collect::<Option<_>>()?;
        Some((entries.first()?.0, entries.iter().map(|(_, after)| *after).collect()))
    }

    fn verified_from(&self, offset: u64, most_bytes: u64) -> Option<u64> {
        let map = self.0.map();
        let first = (offset / RANGE_BYTES) as usize;
        let most = most_bytes.div_ceil(RANGE_BYTES).max(1) as usize;
        let count = map.entries().iter().skip(first).take(most).take_while(|entry| entry.is_some()).count();
        let bytes = (count as u64 * RANGE_BYTES).min(self.0.blob.size_bytes.saturating_sub(offset));
        (count > 0).then_some(bytes.min(most_bytes))
    }
}

impl Shared {
    /// The writer is gone. What it verified can still be read.
    pub(super) fn end(&self) {
        self.arrived.send_modify(|arrived| arrived.ended = true);
    }

    fn map(&self) -> MutexGuard<'_, Map> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Verified bytes without a gap, of which `known_bytes` are known already.
fn prefix(map: &Map, known_bytes: u64, size_bytes: u64) -> u64 {
    let known = known_bytes / RANGE_BYTES;
    let further = map.entries().iter().skip(known as usize).take_while(|entry| entry.is_some()).count();
    ((known + further as u64) * RANGE_BYTES).min(size_bytes)
}
