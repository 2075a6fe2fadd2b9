//! The hashes of blobs that a store does not record itself, in a directory of the agent.
//!
//! ```text
//! <64 hex>    32 bytes for each range, then SHA-256 of all before
//! ```
//! What is recorded was once true of the bytes; whether it still is, the receiver finds out range by range. A torn record counts for nothing.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::hash::{RangeHash, range_count};
use proto::{Descriptor, Digest};

use super::StoreError;

const HASH_BYTES: usize = 32;

/// The records of one store. Blocking.
#[derive(Debug)]
pub(crate) struct Hashes {
    directory: PathBuf,
}

impl Hashes {
    /// Creates the directory where it is absent.
    pub(crate) fn open(directory: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(directory).map_err(StoreError::io("create", directory))?;
        Ok(Self { directory: directory.to_owned() })
    }

    /// What is recorded for a blob of this digest and size.
    pub(crate) fn get(&self, blob: &Descriptor) -> Option<Arc<[RangeHash]>> {
        let path = self.path(&blob.digest);
        let expected_bytes = (range_count(blob.size_bytes) + 1) * HASH_BYTES as u64;
        if std::fs::metadata(&path).ok()?.len() != expected_bytes {
            return None;
        }
        let bytes = std::fs::read(&path).ok()?;
        let (body, sum) = bytes.split_at_checked(bytes.len().checked_sub(HASH_BYTES)?)?;
        if Digest::of(body).as_bytes() != sum {
            return None;
        }
        let hashes: Vec<RangeHash> = body.as_chunks::<HASH_BYTES>().0.iter().map(|hash| RangeHash::from_bytes(*hash)).collect();
        (hashes.last() == Some(&RangeHash::from(blob.digest))).then(|| hashes.into())
    }

    /// Records the hashes of a blob.
    pub(crate) fn put(&self, digest: &Digest, hashes: &[RangeHash]) -> Result<(), StoreError> {
        let mut bytes: Vec<u8> = hashes.iter().flat_map(|hash| *hash.as_bytes()).collect();
        let sum = Digest::of(&bytes);
        bytes.extend_from_slice(sum.as_bytes());
        crate::sys::file::ensure_directory(&self.directory, 0o755)?;
        let path = self.path(digest);
        std::fs::write(&path, &bytes).map_err(StoreError::io("write", &path))
    }

    /// Forgets a blob: it was found damaged.
    pub(crate) fn forget(&self, digest: &Digest) {
        let _ = std::fs::remove_file(self.path(digest));
    }

    /// Forgets all but these.
    pub(crate) fn retain(&self, kept: &HashSet<Digest>) -> Result<(), StoreError> {
        if !crate::sys::file::exists(&self.directory)? {
            return Ok(());
        }
        let entries = std::fs::read_dir(&self.directory).map_err(StoreError::io("list", &self.directory))?;
        for entry in entries {
            let path = entry.map_err(StoreError::io("list", &self.directory))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if !Digest::from_hex(&name).is_ok_and(|digest| kept.contains(&digest)) {
                std::fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
            }
        }
        Ok(())
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.directory.join(digest.hex())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proto::hash::RangeHasher;

    use super::*;

    #[test]
    fn torn_records_count_for_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let records = Hashes::open(directory.path()).unwrap();
        let content = vec![7; 200_000];
        let blob = Descriptor::of("x", &content);
        let mut hasher = RangeHasher::default();
        hasher.update(&content);
        let hashes = hasher.finish().1;
        assert!(records.get(&blob).is_none());
        records.put(&blob.digest, &hashes).unwrap();
        assert_eq!(records.get(&blob).unwrap()[..], hashes);
        let path = directory.path().join(blob.digest.hex());
        let mut torn = std::fs::read(&path).unwrap();
        torn[40..60].fill(0);
        std::fs::write(&path, torn).unwrap();
        assert!(records.get(&blob).is_none());
        records.put(&blob.digest, &hashes).unwrap();
        records.retain(&HashSet::from([blob.digest])).unwrap();
        assert!(records.get(&blob).is_some());
        records.forget(&blob.digest);
        assert!(records.get(&blob).is_none());
    }
}
