//! The blobs of an image layout as files, and what we know about each. Everything here blocks.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proto::document::DocumentError;
use proto::hash::{RangeHash, RangeHasher};
use proto::image::ImageError;
use proto::limits::{BLOCK_BYTES, CONFIG_BYTES};
use proto::{Descriptor, Digest};

use super::record;
use crate::store::{HASH_STEP_BYTES, StoreError};
use crate::sys::{durable, file};

/// Whether a blob is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// No file.
    Absent,
    /// The size is right; it was never hashed here, or was written again since.
    Unhashed,
    /// We committed it or hashed it, and nobody has written to it since.
    Verified,
}

/// `blobs/sha256` and our directories beside it.
#[derive(Debug, Clone)]
pub(super) struct Blobs {
    root: PathBuf,
    foreign_age: Duration,
}

impl Blobs {
    pub(super) fn new(root: &Path, foreign_age: Duration) -> Self {
        Self { root: root.to_owned(), foreign_age }
    }

    /// A blob that we never hashed and that has come more recently than this belongs to a tool that is not done.
    pub(super) fn foreign_age(&self) -> Duration {
        self.foreign_age
    }

    /// `blobs/sha256`.
    pub(super) fn directory(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    /// One of our own directories: `hashes`, `ingest`, `imports` or `quarantine`.
    pub(super) fn own_directory(&self, name: &str) -> PathBuf {
        self.root.join(".imgd").join(name)
    }

    pub(super) fn path(&self, digest: &Digest) -> PathBuf {
        self.directory().join(digest.hex())
    }

    pub(super) fn record_path(&self, digest: &Digest) -> PathBuf {
        self.own_directory("hashes").join(digest.hex())
    }

    pub(super) fn ingest_path(&self, digest: &Digest) -> PathBuf {
        self.own_directory("ingest").join(digest.hex())
    }

    /// The file's metadata; `None` when there is none.
    pub(super) fn metadata(&self, digest: &Digest) -> Result<Option<Metadata>, StoreError> {
        match std::fs::metadata(self.path(digest)) {
            Ok(metadata) if metadata.is_file() => Ok(Some(metadata)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("read", self.path(digest))(error)),
        }
    }

    /// Whether a blob is here, without reading it unless its size is wrong: then it is put aside ([`StoreError::Corrupt`]), or, when the
    /// descriptor is what is wrong, that is said.
    pub(super) fn presence(&self, blob: &Descriptor) -> Result<Presence, StoreError> {
        let Some(metadata) = self.metadata(&blob.digest)? else { return Ok(Presence::Absent) };
        if metadata.len() != blob.size_bytes {
            return match self.hash(&blob.digest) {
                Err(StoreError::BlobMissing(_)) => Ok(Presence::Absent),
                Err(error) => Err(error),
                Ok(_) => Err(wrongly_described(blob.digest)),
            };
        }
        let known = record::read(&self.record_path(&blob.digest), &blob.digest, &metadata).is_some();
        Ok(if known { Presence::Verified } else { Presence::Unhashed })
    }

    /// The hashes of a blob, when they are recorded and the blob was not written since.
    pub(super) fn recorded(&self, digest: &Digest) -> Result<Option<Arc<[RangeHash]>>, StoreError> {
        let metadata = self.metadata(digest)?.ok_or(StoreError::BlobMissing(*digest))?;
        Ok(record::read(&self.record_path(digest), digest, &metadata).map(Into::into))
    }

    /// Reads and hashes a blob, all at once. One that is not what its name says is put aside.
    pub(super) fn hash(&self, digest: &Digest) -> Result<Arc<[RangeHash]>, StoreError> {
        let mut hashing = self.begin_hash(digest)?;
        while hashing.step()? > 0 {}
        self.end_hash(hashing)
    }

    /// Opens a blob to hash it.
    pub(super) fn begin_hash(&self, digest: &Digest) -> Result<Hashing, StoreError> {
        let path = self.path(digest);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StoreError::BlobMissing(*digest)),
            opened => opened.map_err(StoreError::io("open", &path))?,
        };
        let before = stamp(&file, &path)?;
        Ok(Hashing { digest: *digest, path, file, before, hasher: RangeHasher::default(), buffer: vec![0; BLOCK_BYTES as usize] })
    }

    /// What came of the hashing, recorded. A blob that is not what its name says is put aside.
    pub(super) fn end_hash(&self, hashing: Hashing) -> Result<Arc<[RangeHash]>, StoreError> {
        let Hashing { digest, path, file, before, hasher, .. } = hashing;
        if stamp(&file, &path)? != before {
            // Another tool is writing it at this moment: it is not there yet, and it is not ours to put aside.
            return Err(StoreError::BlobMissing(digest));
        }
        let (found, hashes) = hasher.finish();
        if found != digest {
            self.quarantine(&digest)?;
            return Err(StoreError::Corrupt(digest));
        }
        // What was hashed is the page cache. From here on the blob counts as present, so it has to be on the disk: another tool, which may have
        // written it, need not have synced it.
        file.sync_data().map_err(StoreError::io("sync", &path))?;
        durable::sync_parent(&path)?;
        self.record(&digest, &hashes)?;
        Ok(hashes.into())
    }

    /// The bytes of a document; `None` when there is no such blob. Reads no more than a document may have, and checks nothing.
    pub(super) fn document(&self, document: &Descriptor) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.path(&document.digest);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(StoreError::io("open", &path))?,
        };
        let mut bytes = Vec::new();
        file.take(document.size_bytes.min(CONFIG_BYTES) + 1).read_to_end(&mut bytes).map_err(StoreError::io("read", &path))?;
        Ok(Some(bytes))
    }

    /// Takes a file with this content, already synced, into `blobs/sha256`, durably.
    pub(super) fn keep(&self, from: &Path, digest: &Digest, hashes: &[RangeHash]) -> Result<(), StoreError> {
        durable::rename(from, &self.path(digest))?;
        self.record(digest, hashes)
    }

    /// Puts a blob aside: it is never served again, and the next import brings it anew.
    pub(super) fn quarantine(&self, digest: &Digest) -> Result<(), StoreError> {
        tracing::error!(%digest, "a blob is damaged: it is moved to .imgd/quarantine");
        file::ensure_directory(&self.own_directory("quarantine"), 0o755)?;
        // A record that stays counts for nothing: the blob of this size and time is gone.
        let _ = std::fs::remove_file(self.record_path(digest));
        durable::rename(&self.path(digest), &self.own_directory("quarantine").join(digest.hex()))?;
        durable::sync_parent(&self.path(digest))
    }

    /// Removes a blob and what we know of it; says how large it was.
    pub(super) fn remove(&self, digest: &Digest) -> Result<u64, StoreError> {
        let size_bytes = self.metadata(digest)?.map_or(0, |metadata| metadata.len());
        let path = self.path(digest);
        std::fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
        let _ = std::fs::remove_file(self.record_path(digest));
        Ok(size_bytes)
    }

    fn record(&self, digest: &Digest, hashes: &[RangeHash]) -> Result<(), StoreError> {
        let metadata = self.metadata(digest)?.ok_or(StoreError::BlobMissing(*digest))?;
        let path = self.record_path(digest);
        file::ensure_directory(&self.own_directory("hashes"), 0o755)?;
        record::write(&path, &metadata, hashes)
    }
}

/// The blob is what its name says; the descriptor is wrong about its size.
pub(super) fn wrongly_described(digest: Digest) -> StoreError {
    ImageError::Document(DocumentError::DigestMismatch { digest }).into()
}

/// A blob that is being hashed.
#[derive(Debug)]
pub(super) struct Hashing {
    digest: Digest,
    path: PathBuf,
    file: File,
    before: Stamp,
    hasher: RangeHasher,
    buffer: Vec<u8>,
}

impl Hashing {
    /// Hashes [`HASH_STEP_BYTES`], or what is left; says how many bytes that were.
    pub(super) fn step(&mut self) -> Result<u64, StoreError> {
        let mut step_bytes = 0;
        while step_bytes < HASH_STEP_BYTES {
            match self.file.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(length) => {
                    self.hasher.update(&self.buffer[..length]);
                    step_bytes += length as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(StoreError::io("read", &self.path)(error)),
            }
        }
        Ok(step_bytes)
    }

    /// Bytes that are hashed.
    pub(super) fn hashed_bytes(&self) -> u64 {
        self.hasher.length_bytes()
    }
}

/// Size and time of a file, by which it is seen that somebody writes to it.
type Stamp = (u64, i64, i64);

fn stamp(file: &File, path: &Path) -> Result<Stamp, StoreError> {
    file.metadata().map(|m| (m.len(), m.mtime(), m.mtime_nsec())).map_err(StoreError::io("read", path))
}

/// Feeds a file from its position to its end into a hasher.
pub(super) fn hash_file(file: &mut File, path: &Path) -> Result<RangeHasher, StoreError> {
    let mut hasher = RangeHasher::default();
    let mut buffer = vec![0; BLOCK_BYTES as usize];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher),
            Ok(length) => hasher.update(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(StoreError::io("read", path)(error)),
        }
    }
}
