//! One blob that is arriving: its verified ranges, in any order, brought by one session or by several.

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Instant;

use proto::hash::{RangeHash, range_matches};
use proto::limits::RANGE_BYTES;
use proto::{Descriptor, HostId};
use tokio::sync::watch;

use super::StagedFile;
use super::claims::Claims;
use super::map::{Entry, Map, range_length};
use crate::store::StoreError;
use crate::sys;

/// How often whoever waits for a range looks how it comes.
const LOOK_MS: u64 = 100;

/// A blob that is arriving, for one of the sessions that bring it. What they verified stays when the last of them is gone, for the next claim.
#[derive(Debug)]
pub struct StagedBlob {
    shared: Arc<Shared>,
    /// Whose session it is.
    host: HostId,
}

/// Reads the verified ranges of a blob while others are still arriving, and for as long as it lives: also when the file has moved into the store
/// or was removed.
#[derive(Debug, Clone)]
pub struct StagedReader(pub(super) Arc<Shared>);

/// What writers and readers of a blob have in common.
#[derive(Debug)]
pub(super) struct Shared {
    blob: Descriptor,
    path: PathBuf,
    file: File,
    map: Mutex<Map>,
    verified_bytes: AtomicU64,
    /// Held to read by whoever writes a range, to write by whoever changes the phase: nothing is written to a file that has left staging.
    phase: RwLock<Phase>,
    /// What the sessions fetch now.
    claims: Mutex<Claims>,
    /// Told of every range that comes, and of every phase.
    arrived: watch::Sender<Arrived>,
}

/// What may be done with a staged blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// So many sessions bring it; others may join.
    Open { writers: usize, was_joined: bool },
    /// It is complete, and a store takes it over.
    Complete,
    /// Nobody brings it any more. It can still be read.
    Ended,
}

/// How a claim finds a blob that was claimed before.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Joined {
    /// It is one more of its writers now.
    Yes,
    /// A store takes it over at this moment.
    NotNow,
    /// It has to be opened anew.
    Never,
}

#[derive(Debug, Clone, Copy)]
struct Arrived {
    /// Verified bytes from the start without a gap: what a store's ingest can be fed.
    prefix_bytes: u64,
    /// The writers are gone: no more will come.
    ended: bool,
}

/// The bytes are not what the hashes say.
#[derive(Debug, PartialEq, Eq)]
pub struct Mismatch;

impl StagedBlob {
    /// Opens or continues. Every range that the map claims is read and hashed again.
    pub(super) fn open(root: &Path, stem: &str, blob: Descriptor, host: HostId) -> Result<Self, StoreError> {
        let path = root.join(format!("{stem}.data"));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(StoreError::io("open", &path))?;
        let mut map = Map::open(root.join(format!("{stem}.map")), blob.size_bytes)?;
        let mut buffer = vec![0; RANGE_BYTES as usize];
        let mut verified_bytes = 0;
        let claimed: Vec<(usize, Entry)> = map.entries().map(|(index, entry)| (index, *entry)).collect();
        for (index, (before, after)) in claimed {
            let offset = index as u64 * RANGE_BYTES;
            let bytes = &mut buffer[..range_length(blob.size_bytes, index) as usize];
            // Also where the disk cannot read it: then it is fetched again, and written anew.
            let read = file.read_exact_at(bytes, offset);
            if read.is_err() || !range_matches(&before, offset, bytes, blob.size_bytes, &after) {
                map.forget(index)?;
            } else {
                verified_bytes += bytes.len() as u64;
            }
        }
        let prefix_bytes = prefix(&map, 0, blob.size_bytes);
        let shared = Shared {
            blob,
            path,
            file,
            map: Mutex::new(map),
            verified_bytes: AtomicU64::new(verified_bytes),
            phase: RwLock::new(Phase::Open { writers: 1, was_joined: false }),
            claims: Mutex::default(),
            arrived: watch::Sender::new(Arrived { prefix_bytes, ended: false }),
        };
        Ok(Self { shared: Arc::new(shared), host })
    }

    /// One more writer of a blob that joined it with [`Shared::join`].
    pub(super) fn joined(shared: Arc<Shared>, host: HostId) -> Self {
        Self { shared, host }
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

    /// True when another session has brought a part of it, too: then one source alone is not to blame for the whole.
    pub fn was_joined(&self) -> bool {
        matches!(*self.shared.phase(), Phase::Open { was_joined: true, .. } | Phase::Complete | Phase::Ended)
    }

    /// Waits until `range` is to be fetched here, and says which part of it, or that all of it is verified by now (`None`). A range that another
    /// session fetches comes from there, as long as it comes (`claims.rs`).
    pub async fn turn(&self, range: Range<u64>) -> Option<(Range<u64>, Fetching)> {
        loop {
            let missing = self.shared.missing_in(&range)?;
            let taken = self.shared.claims().take(&self.host, &missing, now());
            if let Some((part, number)) = taken {
                // Whoever had it before looks again.
                self.shared.arrived.send_modify(|_| {});
                return Some((part.start..part.end.min(self.shared.blob.size_bytes), Fetching { shared: self.shared.clone(), number }));
            }
            if sys::deadline(LOOK_MS, self.verified(range.clone())).await.is_some() {
                return None;
            }
        }
    }

    /// Resolves when all of a range that is fetched here is verified, without what another session has taken over of it meanwhile.
    pub async fn fetched(&self, range: Range<u64>, fetching: &Fetching) {
        let (mut arrived, mut left) = (self.shared.arrived.subscribe(), range);
        loop {
            // Where all of it was taken over, it is fetched on: who has done so may be slower still.
            left = self.shared.claims().range(fetching.number).map_or(left.clone(), |now| left.start..now.end.min(left.end));
            if self.shared.missing_in(&left).is_none() {
                return;
            }
            // The sender is in `self`.
            let _ = arrived.changed().await;
        }
    }

    /// Resolves when all of `range` is verified, whoever brings it.
    pub async fn verified(&self, range: Range<u64>) {
        let mut arrived = self.shared.arrived.subscribe();
        while self.shared.missing_in(&range).is_some() {
            // The sender is in `self`.
            let _ = arrived.changed().await;
        }
    }

    /// The ranges that are still to be fetched, joined where they touch, lowest first.
    pub fn missing(&self) -> Vec<Range<u64>> {
        let (map, size_bytes) = (self.shared.map(), self.shared.blob.size_bytes);
        let bytes = |gap: Range<usize>| gap.start as u64 * RANGE_BYTES..(gap.end as u64 * RANGE_BYTES).min(size_bytes);
        map.gaps().into_iter().map(bytes).collect()
    }

    /// Verified bytes, whoever brought them.
    pub fn verified_bytes(&self) -> u64 {
        self.shared.verified_bytes.load(Ordering::Relaxed)
    }

    /// Checks `bytes`, which start at a range boundary and are whole ranges, and keeps them. `after` has a hash for each
    /// range. Blocking. With one wrong byte nothing of the range that has it, and nothing behind it, is kept.
    pub fn put(&self, offset: u64, bytes: &[u8], before: RangeHash, after: &[RangeHash]) -> Result<Result<(), Mismatch>, StoreError> {
        let (shared, size_bytes) = (&self.shared, self.shared.blob.size_bytes);
        // Until this is over the file stays in staging.
        let phase = shared.phase();
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
        if !matches!(*phase, Phase::Open { .. }) {
            // Another session has brought all of it, and it is on its way into the store: what comes now is not needed.
            return Ok(if verified == bytes.len() { Ok(()) } else { Err(Mismatch) });
        }
        shared.file.write_all_at(&bytes[..verified], offset).map_err(StoreError::io("write", &shared.path))?;
        let mut map = shared.map();
        let new = (first..first + entries.len()).filter(|&index| map.lacks(index));
        let new_bytes: u64 = new.map(|index| range_length(size_bytes, index)).sum();
        map.record(first, &entries)?;
        shared.verified_bytes.fetch_add(new_bytes, Ordering::Relaxed);
        shared.claims().came(&self.host, &(offset..offset + verified as u64), now());
        // What was verified stays verified: the prefix only grows, and is followed from where it was.
        shared.arrived.send_modify(|arrived| arrived.prefix_bytes = prefix(&map, arrived.prefix_bytes, size_bytes));
        Ok(if verified == bytes.len() { Ok(()) } else { Err(Mismatch) })
    }

    /// The whole blob, once nothing is missing. The ranges must form one chain from the start to the digest: then the digest is proven. Where
    /// they do not, some source lied about a hash: all is forgotten, and the error names the blob. [`StoreError::Gone`] when another session
    /// has finished it, and its store has not taken it.
    pub fn finish(&self) -> Result<StagedFile, StoreError> {
        let shared = &self.shared;
        let digest = shared.blob.digest;
        // No range is being written while this is held, and none is written after it.
        let mut phase = shared.phase.write().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*phase, Phase::Open { .. }) {
            return Err(StoreError::Gone(digest));
        }
        let map = shared.map();
        let mut previous = RangeHash::START;
        let mut hashes = vec![];
        for (index, (before, after)) in map.entries() {
            if index != hashes.len() || *before != previous {
                break;
            }
            hashes.push(*after);
            previous = *after;
        }
        if hashes.len() != map.count() || previous != digest.into() {
            *phase = Phase::Ended;
            remove(&shared.path, map.path());
            return Err(StoreError::Corrupt(digest));
        }
        shared.file.set_len(shared.blob.size_bytes).map_err(StoreError::io("truncate", &shared.path))?;
        *phase = Phase::Complete;
        let map_path = map.path().to_owned();
        drop((map, phase));
        // The map stays beside the data until the store says that it has the blob.
        Ok(StagedFile::of_blob(shared.path.clone(), map_path, &shared.blob, hashes, Ending(shared.clone())))
    }

    /// Removes its files: it is in the store by another way, or worth nothing. Whoever reads it still does. Another session that brings it begins
    /// anew.
    pub fn discard(&self) {
        let mut phase = self.shared.phase.write().unwrap_or_else(PoisonError::into_inner);
        if matches!(*phase, Phase::Open { .. }) {
            *phase = Phase::Ended;
            remove(&self.shared.path, self.shared.map().path());
            drop(phase);
            self.shared.end();
        }
    }
}

impl Drop for StagedBlob {
    fn drop(&mut self) {
        let mut phase = self.shared.phase.write().unwrap_or_else(PoisonError::into_inner);
        if let Phase::Open { writers, .. } = &mut *phase {
            *writers -= 1;
            if *writers == 0 {
                *phase = Phase::Ended;
                drop(phase);
                self.shared.end();
            }
        }
    }
}

/// Ends a blob when its file has left staging, or is not taken.
#[derive(Debug)]
pub(super) struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        *self.0.phase.write().unwrap_or_else(PoisonError::into_inner) = Phase::Ended;
        self.0.end();
    }
}

/// A range that one session fetches. Others leave it alone as long as it comes.
#[derive(Debug)]
pub struct Fetching {
    shared: Arc<Shared>,
    number: u64,
}

impl Drop for Fetching {
    fn drop(&mut self) {
        self.shared.claims().end(self.number);
        // Whoever waits for it looks again.
        self.shared.arrived.send_modify(|_| {});
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
        let entries: Vec<Entry> = (first..first + count).map(|index| map.get(index).copied()).collect::<Option<_>>()?;
        Some((entries.first()?.0, entries.iter().map(|(_, after)| *after).collect()))
    }

    fn verified_from(&self, offset: u64, most_bytes: u64) -> Option<u64> {
        let map = self.0.map();
        let first = (offset / RANGE_BYTES) as usize;
        let most = most_bytes.div_ceil(RANGE_BYTES).max(1) as usize;
        let count = map.run(first, most);
        let bytes = (count as u64 * RANGE_BYTES).min(self.0.blob.size_bytes.saturating_sub(offset));
        (count > 0).then_some(bytes.min(most_bytes))
    }
}

impl Shared {
    /// Makes the caller one more writer, where that is possible.
    pub(super) fn join(&self) -> Joined {
        match &mut *self.phase.write().unwrap_or_else(PoisonError::into_inner) {
            Phase::Open { writers, was_joined } => {
                *writers += 1;
                *was_joined = true;
                Joined::Yes
            }
            Phase::Complete => Joined::NotNow,
            Phase::Ended => Joined::Never,
        }
    }

    /// Nobody brings it any more.
    pub(super) fn is_ended(&self) -> bool {
        *self.phase() == Phase::Ended
    }

    /// Resolves when nobody brings it any more.
    pub(super) async fn ended(&self) {
        // The sender is in `self`.
        let _ = self.arrived.subscribe().wait_for(|arrived| arrived.ended).await;
    }

    /// The writers are gone. What they verified can still be read.
    fn end(&self) {
        self.arrived.send_modify(|arrived| arrived.ended = true);
    }

    /// From the first to the last missing byte of a range; `None` when it is verified, or nobody brings it any more.
    fn missing_in(&self, range: &Range<u64>) -> Option<Range<u64>> {
        if !matches!(*self.phase(), Phase::Open { .. }) {
            return None;
        }
        let map = self.map();
        let mut missing = indexes(range).filter(|&index| map.lacks(index));
        let first = missing.next()?;
        let last = missing.next_back().unwrap_or(first);
        let end = last as u64 * RANGE_BYTES + range_length(self.blob.size_bytes, last);
        Some(first as u64 * RANGE_BYTES..end)
    }

    fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn phase(&self) -> RwLockReadGuard<'_, Phase> {
        self.phase.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn map(&self) -> MutexGuard<'_, Map> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As the timers of this process have it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The ranges that `range`, which begins at a boundary, consists of; an empty blob has one.
fn indexes(range: &Range<u64>) -> Range<usize> {
    let first = (range.start / RANGE_BYTES) as usize;
    first..(range.end.div_ceil(RANGE_BYTES) as usize).max(first + 1)
}

/// Verified bytes without a gap, of which `known_bytes` are known already.
fn prefix(map: &Map, known_bytes: u64, size_bytes: u64) -> u64 {
    let known = known_bytes / RANGE_BYTES;
    let further = map.run(known as usize, map.count());
    ((known + further as u64) * RANGE_BYTES).min(size_bytes)
}
