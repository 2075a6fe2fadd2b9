//! What we know about a blob: the hash of every range, and the size and time of the file they were made from.
//!
//! ```text
//! size, 8 bytes | modification time in ns, 8 bytes | 32 bytes for each range | SHA-256 of all before
//! ```
//! Records are not synced. One that a power cut has torn fails its own hash, and one whose blob was written to since
//! has another time: both count for nothing, and the blob is hashed again.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use proto::Digest;
use proto::hash::{RangeHash, range_count};

use crate::store::StoreError;

const HEAD_BYTES: usize = 16;
const HASH_BYTES: usize = 32;

/// The hashes recorded for the blob whose file has this metadata; `None` when there are none that count.
pub(super) fn read(path: &Path, digest: &Digest, blob: &Metadata) -> Option<Vec<RangeHash>> {
    let expected_bytes = HEAD_BYTES as u64 + (range_count(blob.len()) + 1) * HASH_BYTES as u64;
    if std::fs::metadata(path).ok()?.len() != expected_bytes {
        return None;
    }
    let bytes = std::fs::read(path).ok()?;
    let (body, sum) = bytes.split_at_checked(bytes.len().checked_sub(HASH_BYTES)?)?;
    let (head, hashes) = body.split_at_checked(HEAD_BYTES)?;
    if head != self::head(blob) || Digest::of(body).as_bytes() != sum {
        return None;
    }
    let hashes: Vec<RangeHash> = hashes.as_chunks::<HASH_BYTES>().0.iter().map(|hash| RangeHash::from_bytes(*hash)).collect();
    (hashes.last() == Some(&RangeHash::from(*digest))).then_some(hashes)
}

/// Records the hashes of the blob whose file has this metadata.
pub(super) fn write(path: &Path, blob: &Metadata, hashes: &[RangeHash]) -> Result<(), StoreError> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + (hashes.len() + 1) * HASH_BYTES);
    bytes.extend_from_slice(&head(blob));
    for hash in hashes {
        bytes.extend_from_slice(hash.as_bytes());
    }
    let sum = Digest::of(&bytes);
    bytes.extend_from_slice(sum.as_bytes());
    std::fs::write(path, &bytes).map_err(StoreError::io("write", path))
}

fn head(blob: &Metadata) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(&blob.len().to_le_bytes());
    head[8..].copy_from_slice(&blob.mtime().wrapping_mul(1_000_000_000).wrapping_add(blob.mtime_nsec()).to_le_bytes());
    head
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::{Duration, SystemTime};

    use proto::hash::RangeHasher;

    use super::*;

    #[test]
    fn torn_records_and_other_files_count_for_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let (blob, path) = (directory.path().join("blob"), directory.path().join("record"));
        let content = vec![7; 200_000];
        std::fs::write(&blob, &content).unwrap();
        let mut hasher = RangeHasher::default();
        hasher.update(&content);
        let (digest, hashes) = hasher.finish();
        let metadata = std::fs::metadata(&blob).unwrap();
        assert!(read(&path, &digest, &metadata).is_none());
        write(&path, &metadata, &hashes).unwrap();
        assert_eq!(read(&path, &digest, &metadata).unwrap(), hashes);
        assert!(read(&path, &Digest::of(b""), &metadata).is_none());

        let whole = std::fs::read(&path).unwrap();
        let mut torn = whole.clone();
        torn[40..60].fill(0);
        for bytes in [&torn[..], &whole[..50], &[]] {
            std::fs::write(&path, bytes).unwrap();
            assert!(read(&path, &digest, &metadata).is_none());
        }
        std::fs::write(&path, &whole).unwrap();
        let file = std::fs::File::options().write(true).open(&blob).unwrap();
        file.set_modified(SystemTime::now() + Duration::from_secs(5)).unwrap();
        assert!(read(&path, &digest, &std::fs::metadata(&blob).unwrap()).is_none());
    }
}
