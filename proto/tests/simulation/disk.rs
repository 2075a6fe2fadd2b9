//! The disk: staged ranges with the map of those that were verified, the blobs of the store, and the names.

use std::collections::BTreeMap;
use std::ops::Range;

use proto::Digest;
use proto::hash::RangeHash;
use proto::limits::RANGE_BYTES;

use crate::content::{Blob, Part, follow, index, range_bytes};
use crate::random::Random;

/// The disk of one host.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    staging: BTreeMap<Digest, Staged>,
    pub(crate) store: BTreeMap<Digest, Vec<u64>>,
    /// The root that each name stands for.
    pub(crate) names: BTreeMap<String, Digest>,
}

/// A blob that arrives.
#[derive(Debug, Clone)]
struct Staged {
    content: Vec<u64>,
    /// The hashes before and after each range that was verified.
    map: Vec<Option<(RangeHash, RangeHash)>>,
}

impl Disk {
    /// Opens or continues a staged blob, and forgets ranges that do not match the map. Returns the missing ranges, joined where they touch.
    pub(crate) fn claim(&mut self, blob: &Blob) -> Vec<Range<u64>> {
        let count = blob.ranges.len();
        let staged =
            self.staging.entry(blob.descriptor.digest).or_insert_with(|| Staged { content: vec![0; count], map: vec![None; count] });
        for (entry, content) in staged.map.iter_mut().zip(&staged.content) {
            *entry = entry.filter(|(before, after)| follow(before, *content) == *after);
        }
        let size_bytes = blob.descriptor.size_bytes;
        let mut missing: Vec<Range<u64>> = vec![];
        for index in (0..count).filter(|index| staged.map[*index].is_none()) {
            let start = index as u64 * RANGE_BYTES;
            let end = start + range_bytes(size_bytes, index);
            match missing.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => missing.push(start..end),
            }
        }
        missing
    }

    /// Checks a range of a claimed blob, and keeps it. False: its content is not what its hashes say.
    pub(crate) fn put(&mut self, blob: &Blob, offset: u64, part: &Part) -> bool {
        let at = index(offset);
        let begins = at > 0 || part.before == RangeHash::START;
        let ends = at + 1 < blob.ranges.len() || part.after == blob.descriptor.digest.into();
        let fits = begins && ends && follow(&part.before, part.content) == part.after;
        if fits && let Some(staged) = self.staging.get_mut(&blob.descriptor.digest) {
            assert!(staged.map[at].is_none(), "range {at} of {} was verified before and came again", blob.descriptor.digest);
            (staged.content[at], staged.map[at]) = (part.content, Some((part.before, part.after)));
        }
        fits
    }

    /// A range that was verified.
    pub(crate) fn staged(&self, digest: &Digest, index: usize) -> Option<Part> {
        let staged = self.staging.get(digest)?;
        let (before, after) = (*staged.map.get(index)?)?;
        Some(Part { content: staged.content[index], before, after })
    }

    /// Verified bytes of a blob, by its map alone.
    pub(crate) fn staged_bytes(&self, blob: &Blob) -> u64 {
        let Some(staged) = self.staging.get(&blob.descriptor.digest) else { return 0 };
        let claimed = staged.map.iter().enumerate().filter(|(_, entry)| entry.is_some());
        claimed.map(|(index, _)| range_bytes(blob.descriptor.size_bytes, index)).sum()
    }

    /// Takes a complete blob out of staging. `None`: its hashes do not lead from the start to its digest.
    pub(crate) fn finish(&mut self, blob: &Blob) -> Option<Vec<u64>> {
        let staged = self.staging.remove(&blob.descriptor.digest)?;
        let mut previous = RangeHash::START;
        for entry in &staged.map {
            let (before, after) = (*entry)?;
            if before != previous {
                return None;
            }
            previous = after;
        }
        (previous == blob.descriptor.digest.into()).then_some(staged.content)
    }

    /// Forgets a staged blob.
    pub(crate) fn discard(&mut self, digest: &Digest) {
        self.staging.remove(digest);
    }

    /// Keeps a blob in the store.
    pub(crate) fn keep(&mut self, blob: &Blob, content: Vec<u64>) {
        let digest = blob.descriptor.digest;
        assert!(content == blob.ranges, "wrong content of {digest} is stored");
        assert!(self.store.insert(digest, content).is_none(), "{digest} is stored twice");
    }

    /// The power fails: staging was never synced, and some of it is lost although the map names it.
    pub(crate) fn lose_power(&mut self, random: &mut Random) {
        for staged in self.staging.values_mut() {
            for content in &mut staged.content {
                if random.chance(20) {
                    *content = 0;
                }
            }
        }
    }
}
