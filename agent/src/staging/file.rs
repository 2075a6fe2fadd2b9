//! A whole blob in a file, with its digest proven, ready for a store to take over.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use proto::Digest;
use proto::hash::{RangeHash, RangeHasher};

use crate::store::StoreError;

/// A complete and verified file. Removed on drop, unless a store moved it away.
#[derive(Debug)]
pub struct StagedFile {
    path: PathBuf,
    digest: Digest,
    size_bytes: u64,
    hashes: Vec<RangeHash>,
    /// Dropped last: it keeps others from writing the same blob.
    _claim: Option<super::Claim>,
}

impl StagedFile {
    pub(super) fn new(path: PathBuf, digest: Digest, size_bytes: u64, hashes: Vec<RangeHash>, claim: Option<super::Claim>) -> Self {
        Self { path, digest, size_bytes, hashes, _claim: claim }
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
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
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
        StagedFile::new(std::mem::take(&mut self.path), digest, size_bytes, hashes, None)
    }
}

impl Drop for StagedWriter {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
