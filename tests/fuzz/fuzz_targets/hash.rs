//! Attacks the range hashes with blobs of any size, cut anywhere.
//!
//! Promises: the digest is that of plain SHA-256; every range verifies alone; hashing continues from every range boundary; a changed bit in the bytes or
//! in either hash does not verify, and for the last range neither does another offset or size.
#![no_main]

use fuzz::Choices;
use libfuzzer_sys::fuzz_target;
use proto::Digest;
use proto::hash::{BlobHasher, RangeHash, RangeHasher, range_count, range_matches};
use proto::limits::RANGE_BYTES;

const RANGE: usize = RANGE_BYTES as usize;

fuzz_target!(|input: &[u8]| {
    let mut choices = Choices::new(input);
    // Sizes around the boundaries of blocks and ranges.
    let size = (choices.below(4) * RANGE + choices.below(RANGE) * usize::from(choices.one_in(2)))
        .saturating_add_signed(choices.below(200) as isize - 100);
    let (seed, step) = (choices.byte(), choices.byte());
    let bytes: Vec<u8> = (0..size).map(|i| seed.wrapping_add((i as u8).wrapping_mul(step)) ^ (i >> 8) as u8).collect();

    let mut hasher = RangeHasher::default();
    let mut rest = &bytes[..];
    for _ in 0..choices.below(20) {
        let (now, later) = rest.split_at(choices.below(2 * RANGE).min(rest.len()));
        hasher.update(now);
        rest = later;
    }
    hasher.update(rest);
    assert_eq!(hasher.length_bytes(), size as u64);
    let (digest, hashes) = hasher.finish();
    assert_eq!(digest, Digest::of(&bytes));
    assert_eq!(hashes.len() as u64, range_count(size as u64));
    assert_eq!(hashes.last(), Some(&digest.into()));

    let (wrong_bit, wrong_hash) = (choices.below(1 << 16), choices.byte());
    let ranges = if bytes.is_empty() { vec![&bytes[..]] } else { bytes.chunks(RANGE).collect() };
    for (index, range) in ranges.iter().enumerate() {
        let (offset, size) = ((index * RANGE) as u64, size as u64);
        let before = index.checked_sub(1).map_or(RangeHash::START, |last| hashes[last]);
        let after = hashes[index];
        assert!(range_matches(&before, offset, range, size, &after));
        let mut other = *after.as_bytes();
        other[usize::from(wrong_hash) % 32] ^= 1 << (wrong_hash >> 5);
        assert!(!range_matches(&before, offset, range, size, &RangeHash::from_bytes(other)));
        assert!(!range_matches(&RangeHash::from_bytes(other), offset, range, size, &after));
        if !range.is_empty() {
            let mut wrong = range.to_vec();
            wrong[wrong_bit / 8 % range.len()] ^= 1 << (wrong_bit % 8);
            assert!(!range_matches(&before, offset, &wrong, size, &after));
            assert!(!range_matches(&before, offset, &range[1..], size, &after));
        }
        // Only the last range depends on its offset and on the size of the blob.
        if index + 1 == ranges.len() {
            assert!(!range_matches(&before, offset + RANGE_BYTES, range, size, &after));
            assert!(!range_matches(&before, offset, range, size + 1, &after));
            assert!(size == 0 || !range_matches(&before, offset, range, size - 1, &after));
        }
        let mut resumed = BlobHasher::resume(&before, offset);
        resumed.update(&bytes[index * RANGE..]);
        assert_eq!(resumed.finish(), digest);
    }
});
