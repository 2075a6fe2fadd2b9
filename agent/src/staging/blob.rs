//! One blob that is arriving: its verified ranges, in any order.

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

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
    blob: Descriptor,
    path: PathBuf,
    file: File,
    map: Mutex<Map>,
    /// Verified bytes from the start without a gap: what a store's ingest can be fed.
    prefix: watch::Sender<u64>,
    claim: Claim,
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
            let read = file.read_exact_at(bytes, offset);
            if read.is_err() || !range_matches(&before, offset, bytes, blob.size_bytes, &after) {
                map.forget(index)?;
            }
        }
        let prefix = watch::Sender::new(prefix(&map, 0, blob.size_bytes));
        Ok(Self { blob, path, file, map: Mutex::new(map), prefix, claim })
    }

    /// Which blob.
    pub fn descriptor(&self) -> &Descriptor {
        &self.blob
    }

    /// The ranges that are still to be fetched, joined where they touch, lowest first.
    pub fn missing(&self) -> Vec<Range<u64>> {
        let map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        let mut missing: Vec<Range<u64>> = vec![];
        for (index, _) in map.entries().iter().enumerate().filter(|(_, entry)| entry.is_none()) {
            let start = index as u64 * RANGE_BYTES;
            let end = start + range_length(self.blob.size_bytes, index);
            match missing.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => missing.push(start..end),
            }
        }
        missing
    }

    /// Verified bytes.
    pub fn verified_bytes(&self) -> u64 {
        self.blob.size_bytes - self.missing().iter().map(|range| range.end - range.start).sum::<u64>()
    }

    /// Follows the verified bytes without a gap from the start.
    pub fn prefix(&self) -> watch::Receiver<u64> {
        self.prefix.subscribe()
    }

    /// Checks `bytes`, which start at a range boundary and are whole ranges, and keeps them. `after` has a hash for each
    /// range. Blocking. With one wrong byte nothing of the range that has it, and nothing behind it, is kept.
    pub fn put(&self, offset: u64, bytes: &[u8], before: RangeHash, after: &[RangeHash]) -> Result<Result<(), Mismatch>, StoreError> {
        let first = (offset / RANGE_BYTES) as usize;
        let mut entries: Vec<Entry> = Vec::with_capacity(after.len());
        let mut previous = before;
        let mut verified = 0;
        for (range, after) in bytes.chunks(RANGE_BYTES as usize).zip(after) {
            if !range_matches(&previous, offset + verified as u64, range, self.blob.size_bytes, after) {
                break;
            }
            entries.push((previous, *after));
            verified += range.len();
            previous = *after;
        }
        if self.blob.size_bytes == 0 && bytes.is_empty() && after.first() == Some(&self.blob.digest.into()) {
            entries.push((RangeHash::START, self.blob.digest.into()));
        }
        self.file.write_all_at(&bytes[..verified], offset).map_err(StoreError::io("write", &self.path))?;
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        map.record(first, &entries)?;
        // What was verified stays verified: the prefix only grows, and is followed from where it was.
        let before = *self.prefix.borrow();
        self.prefix.send_replace(prefix(&map, before, self.blob.size_bytes));
        Ok(if verified == bytes.len() { Ok(()) } else { Err(Mismatch) })
    }

    /// Verified bytes, for a store that takes them one after the other, or for another host.
    pub fn read(&self, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        self.file.read_exact_at(&mut bytes, range.start).map_err(StoreError::io("read", &self.path))?;
        Ok(bytes)
    }

    /// The whole blob, once nothing is missing. The ranges must form one chain from the start to the digest: then the digest is proven. Where
    /// they do not, some source lied about a hash: all is forgotten, and the error names the blob.
    pub fn finish(self) -> Result<StagedFile, StoreError> {
        let map = self.map.into_inner().unwrap_or_else(PoisonError::into_inner);
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
        let whole = hashes.len() == map.entries().len() && previous == self.blob.digest.into();
        // The hashes go on with the file; the map has done its work.
        let _ = std::fs::remove_file(map.path());
        if !whole {
            let _ = std::fs::remove_file(&self.path);
            return Err(StoreError::Corrupt(self.blob.digest));
        }
        self.file.set_len(self.blob.size_bytes).map_err(StoreError::io("truncate", &self.path))?;
        Ok(StagedFile::new(self.path, self.blob.digest, self.blob.size_bytes, hashes, Some(self.claim)))
    }

    /// Forgets all of it: it is in the store by another way.
    pub fn discard(self) {
        let map = self.map.into_inner().unwrap_or_else(PoisonError::into_inner);
        let _ = std::fs::remove_file(map.path());
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Verified bytes without a gap, of which `known_bytes` are known already.
fn prefix(map: &Map, known_bytes: u64, size_bytes: u64) -> u64 {
    let known = known_bytes / RANGE_BYTES;
    let further = map.entries().iter().skip(known as usize).take_while(|entry| entry.is_some()).count();
    ((known + further as u64) * RANGE_BYTES).min(size_bytes)
}
