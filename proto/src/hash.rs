//! Hashing a blob so that each of its ranges can be checked on its own.
//!
//! SHA-256 is a chain: it carries 32 bytes of state from block to block. We record that state at every range
//! boundary. Whoever has the state before a range and the state after it can check the range alone, in any
//! order; and when every range has been checked from the initial state to the digest, the digest of
//! the whole blob is *proven*, without hashing anything twice. A source that lies about a state cannot make the chain end
//! in the digest: some range then fits nobody's bytes, and the blob is never committed.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::block_api::compress256;

use crate::Digest;
use crate::limits::RANGE_BYTES;

const BLOCK: usize = 64;

/// The state of SHA-256 at the end of a range; for the last range of a blob, its digest.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeHash([u8; 32]);

impl RangeHash {
    /// The state before the first range of every blob (FIPS 180-4, 5.3.3).
    pub const START: Self =
        Self::from_words([0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19]);

    /// The 32 bytes, as they stand on the wire and on disk.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// From 32 bytes that were recorded before.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    const fn from_words(words: [u32; 8]) -> Self {
        let mut bytes = [0; 32];
        let mut i = 0;
        while i < 8 {
            let word = words[i].to_be_bytes();
            bytes[4 * i] = word[0];
            bytes[4 * i + 1] = word[1];
            bytes[4 * i + 2] = word[2];
            bytes[4 * i + 3] = word[3];
            i += 1;
        }
        Self(bytes)
    }

    fn words(&self) -> [u32; 8] {
        let (words, _) = self.0.as_chunks::<4>();
        std::array::from_fn(|i| u32::from_be_bytes(words[i]))
    }
}

impl From<Digest> for RangeHash {
    fn from(digest: Digest) -> Self {
        Self(*digest.as_bytes())
    }
}

impl fmt::Debug for RangeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// Number of ranges of a blob of this size. An empty blob has one empty range, so that it has a hash.
pub const fn range_count(size_bytes: u64) -> u64 {
    if size_bytes == 0 { 1 } else { size_bytes.div_ceil(RANGE_BYTES) }
}

/// True when `bytes`, which start at `offset` (a range boundary) of a blob of `size_bytes`, lead from `before` to `after`.
/// `bytes` is one whole range: [`RANGE_BYTES`] long, or shorter where the blob ends.
pub fn range_matches(before: &RangeHash, offset: u64, bytes: &[u8], size_bytes: u64, after: &RangeHash) -> bool {
    let end = offset + bytes.len() as u64;
    let mut hasher = BlobHasher::resume(before, offset);
    hasher.update(bytes);
    if end == size_bytes {
        RangeHash::from(hasher.finish()) == *after
    } else {
        end < size_bytes && bytes.len() as u64 == RANGE_BYTES && hasher.state() == Some(*after)
    }
}

/// SHA-256 that can be continued from a [`RangeHash`]. Memory: one block.
#[derive(Clone)]
pub struct BlobHasher {
    state: [u32; 8],
    pending: [u8; BLOCK],
    pending_bytes: usize,
    length_bytes: u64,
}

impl Default for BlobHasher {
    fn default() -> Self {
        Self::resume(&RangeHash::START, 0)
    }
}

impl BlobHasher {
    /// Goes on after `offset` bytes, which is a range boundary, in the state recorded there.
    pub fn resume(state: &RangeHash, offset: u64) -> Self {
        debug_assert!(offset.is_multiple_of(BLOCK as u64));
        Self { state: state.words(), pending: [0; BLOCK], pending_bytes: 0, length_bytes: offset }
    }

    /// Adds the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.length_bytes += bytes.len() as u64;
        if self.pending_bytes > 0 {
            let take = bytes.len().min(BLOCK - self.pending_bytes);
            self.pending[self.pending_bytes..self.pending_bytes + take].copy_from_slice(&bytes[..take]);
            self.pending_bytes += take;
            bytes = &bytes[take..];
            if self.pending_bytes < BLOCK {
                return;
            }
            compress256(&mut self.state, &[self.pending]);
            self.pending_bytes = 0;
        }
        let (blocks, rest) = bytes.as_chunks::<BLOCK>();
        compress256(&mut self.state, blocks);
        self.pending[..rest.len()].copy_from_slice(rest);
        self.pending_bytes = rest.len();
    }

    /// Bytes so far, those before the resume included.
    pub fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    /// The state, at a block boundary; `None` elsewhere.
    pub fn state(&self) -> Option<RangeHash> {
        (self.pending_bytes == 0).then(|| RangeHash::from_words(self.state))
    }

    /// The digest of all bytes (FIPS 180-4, 5.1.1: a one bit, zeros, the length in bits).
    pub fn finish(mut self) -> Digest {
        let mut tail = [0; 2 * BLOCK];
        tail[..self.pending_bytes].copy_from_slice(&self.pending[..self.pending_bytes]);
        tail[self.pending_bytes] = 0x80;
        let end = if self.pending_bytes < BLOCK - 8 { BLOCK } else { 2 * BLOCK };
        tail[end - 8..end].copy_from_slice(&(self.length_bytes * 8).to_be_bytes());
        let (blocks, _) = tail[..end].as_chunks::<BLOCK>();
        compress256(&mut self.state, blocks);
        Digest::from_bytes(*RangeHash::from_words(self.state).as_bytes())
    }
}

impl fmt::Debug for BlobHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobHasher after {} bytes", self.length_bytes)
    }
}

/// Hashes a blob from its first byte to its last and keeps the hash of every range: 32 bytes for 64 KiB.
#[derive(Debug, Clone, Default)]
pub struct RangeHasher {
    hasher: BlobHasher,
    hashes: Vec<RangeHash>,
}

impl RangeHasher {
    /// Adds the next bytes, cut anywhere.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.hasher.length_bytes() > 0 && self.hasher.length_bytes().is_multiple_of(RANGE_BYTES) {
                let done = self.hasher.length_bytes() / RANGE_BYTES;
                if self.hashes.len() as u64 == done - 1 {
                    self.hashes.extend(self.hasher.state());
                }
            }
            let room = RANGE_BYTES - self.hasher.length_bytes() % RANGE_BYTES;
            let (now, later) = bytes.split_at(bytes.len().min(room as usize));
            self.hasher.update(now);
            bytes = later;
        }
    }

    /// Bytes so far.
    pub fn length_bytes(&self) -> u64 {
        self.hasher.length_bytes()
    }

    /// The digest, and the hash of every range; the last one is the digest.
    pub fn finish(self) -> (Digest, Vec<RangeHash>) {
        let mut hashes = self.hashes;
        let digest = self.hasher.finish();
        hashes.push(digest.into());
        (digest, hashes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ranges(bytes: &[u8]) -> Vec<RangeHash> {
        let mut hasher = RangeHasher::default();
        hasher.update(bytes);
        let (digest, hashes) = hasher.finish();
        assert_eq!(digest, Digest::of(bytes));
        hashes
    }

    #[test]
    fn sizes_around_the_boundaries_agree_with_plain_sha256() {
        let bytes: Vec<u8> = (0..200_000u32).map(|i| (i * 7) as u8).collect();
        let range = RANGE_BYTES as usize;
        for size in [0, 1, 55, 56, 63, 64, 65, range - 1, range, range + 1, 2 * range, 200_000] {
            let hashes = ranges(&bytes[..size]);
            assert_eq!(hashes.len() as u64, range_count(size as u64), "size {size}");
        }
    }

    #[test]
    fn every_range_checks_alone_and_no_changed_byte_passes() {
        let bytes: Vec<u8> = (0..180_000u32).map(|i| (i % 251) as u8).collect();
        let size = bytes.len() as u64;
        let hashes = ranges(&bytes);
        for (i, range) in bytes.chunks(RANGE_BYTES as usize).enumerate() {
            let before = if i == 0 { RangeHash::START } else { hashes[i - 1] };
            let offset = i as u64 * RANGE_BYTES;
            assert!(range_matches(&before, offset, range, size, &hashes[i]));
            let mut wrong = range.to_vec();
            wrong[77] ^= 1;
            assert!(!range_matches(&before, offset, &wrong, size, &hashes[i]));
            assert!(!range_matches(&before, offset, &range[1..], size, &hashes[i]));
        }
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(bytes in proptest::collection::vec(any::<u8>(), 0..150_000), cuts in proptest::collection::vec(1usize..70_000, 0..12)) {
            let whole = ranges(&bytes);
            let mut hasher = RangeHasher::default();
            let mut rest = &bytes[..];
            for cut in cuts {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                hasher.update(now);
                rest = later;
            }
            hasher.update(rest);
            prop_assert_eq!(hasher.finish().1, whole);
        }
    }
}
