//! A whole blob in a file, with its digest proven, ready for a store to take over.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use proto::hash::{RangeHash, RangeHasher};
use proto::{Descriptor, Digest};

use super::blob::Ending;
use crate::store::StoreError;

/// A complete and verified file. One of a [`super::StagedBlob`] stays, with its map, until a store says that it has the blob: a process
/// that ends before that goes on from it. One of a [`StagedWriter`] is removed on drop.
#[derive(Debug)]
pub struct StagedFile {
    path: PathBuf,
    digest: Digest,
    size_bytes: u64,
    hashes: Vec<RangeHash>,
    origin: Origin,
}

/// Where a staged file comes from.
#[derive(Debug)]
enum Origin {
    /// A blob that arrived in ranges.
    Blob {
        /// The file that says which ranges are verified.
        map: PathBuf,
        /// Dropped last: others who want the blob wait for it.
        _ending: Ending,
    },
    /// Bytes that came in one go, and can only come again.
    Writer,
}

impl StagedFile {
    /// The file of a blob that arrived in ranges.
    pub(super) fn of_blob(path: PathBuf, map: PathBuf, blob: &Descriptor, hashes: Vec<RangeHash>, ending: Ending) -> Self {
        Self { path, digest: blob.digest, size_bytes: blob.size_bytes, hashes, origin: Origin::Blob { map, _ending: ending } }
    }

    /// Where it lies. A store that takes it over renames it from here.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// SHA-256 of its content.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Length of its content.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The hash of every range.
    pub fn hashes(&self) -> &[RangeHash] {
        &self.hashes
    }

    /// A store has the blob, durably: what is still staged of it goes.
    pub fn stored(self) {
        self.remove();
    }

    /// A sync has failed: what is on the disk is not what was verified, and the next sync may say that all is well. The blob has to come again.
    pub fn lost(self) {
        self.remove();
    }

    /// The data first: a map without data is no harm, data without a map would be bytes that nobody knows.
    fn remove(&self) {
        let _ = std::fs::remove_file(&self.path);
        if let Origin::Blob { map, .. } = &self.origin {
            let _ = std::fs::remove_file(map);
        }
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if matches!(self.origin, Origin::Writer) {
            self.remove();
        }
    }
}

/// Writes bytes from first to last and learns their digest. Blocking. Removed on drop, unless finished.
#[derive(Debug)]
pub struct StagedWriter {
    path: PathBuf,
    file: Option<File>,
    hasher: RangeHasher,
}

impl StagedWriter {
    pub(super) fn create(path: PathBuf) -> Result<Self, StoreError> {
        let file = File::create_new(&path).map_err(StoreError::io("create", &path))?;
        Ok(Self { path, file: Some(file), hasher: RangeHasher::default() })
    }

    /// Adds bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        if let Some(file) = &mut self.file {
            file.write_all(bytes).map_err(StoreError::io("write", &self.path))?;
            self.hasher.update(bytes);
        }
        Ok(())
    }

    /// That was all.
    pub fn finish(mut self) -> StagedFile {
        self.file = None;
        let hasher = std::mem::take(&mut self.hasher);
        let size_bytes = hasher.length_bytes();
        let (digest, hashes) = hasher.finish();
        StagedFile { path: std::mem::take(&mut self.path), digest, size_bytes, hashes, origin: Origin::Writer }
    }
}

impl Drop for StagedWriter {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
