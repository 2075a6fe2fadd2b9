//! One blob on its way into the layout.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use proto::hash::RangeHasher;
use proto::{Descriptor, Digest};

use super::Layout;
use super::blobs::hash_file;
use crate::staging::StagedFile;
use crate::store::turns::Turn;
use crate::store::{Ingest, StoreError};
use crate::sys::file::ensure_directory;
use crate::sys::{Lane, blocking_in};

/// An ingest into an image layout: a file in `.imgd/ingest`.
#[derive(Debug)]
pub struct LayoutIngest {
    layout: Arc<Layout>,
    blob: Descriptor,
    start: u64,
    /// `None` after an append that failed or was given up.
    part: Option<Part>,
}

/// The part that is here. It goes whole to the thread that writes, with the right to write: a thread that outlives a caller who
/// gave up still is the only one that writes this file.
#[derive(Debug)]
pub(super) struct Part {
    path: PathBuf,
    file: File,
    hasher: RangeHasher,
    turn: Turn,
}

impl LayoutIngest {
    /// Waits for the turn. `None` when the blob is here by then. A part of an earlier ingest is hashed again and continued.
    pub(super) async fn open(layout: &Arc<Layout>, blob: &Descriptor) -> Result<Option<Self>, StoreError> {
        if layout.is_verified(blob).await? {
            return Ok(None);
        }
        let turn = layout.turns.take(blob.digest).await;
        if layout.is_recorded(blob).await? {
            return Ok(None);
        }
        let (path, size_bytes) = (layout.blobs.ingest_path(&blob.digest), blob.size_bytes);
        let part = blocking_in(Lane::Hash, move || Part::open(path, size_bytes, turn)).await?;
        Ok(Some(Self { layout: layout.clone(), blob: blob.clone(), start: part.hasher.length_bytes(), part: Some(part) }))
    }

    fn part(&mut self) -> Result<Part, StoreError> {
        self.part.take().ok_or_else(|| gave_up(self.layout.blobs.ingest_path(&self.blob.digest)))
    }
}

impl Ingest for LayoutIngest {
    fn offset(&self) -> u64 {
        self.start
    }

    async fn append(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        let part = self.part()?;
        let (digest, size_bytes) = (self.blob.digest, self.blob.size_bytes);
        let part = blocking_in(Lane::Write, move || part.append(&bytes, digest, size_bytes)).await?;
        self.part = Some(part);
        Ok(())
    }

    async fn commit(mut self) -> Result<(), StoreError> {
        let part = self.part()?;
        let (layout, blob) = (self.layout.clone(), self.blob.clone());
        blocking_in(Lane::Write, move || part.commit(&layout, &blob)).await
    }

    async fn adopt(mut self, staged: StagedFile) -> Result<(), StoreError> {
        if staged.digest() != self.blob.digest || staged.size_bytes() != self.blob.size_bytes {
            return Err(StoreError::Corrupt(self.blob.digest));
        }
        let part = self.part()?;
        let layout = self.layout.clone();
        blocking_in(Lane::Write, move || part.adopt(&layout, staged)).await
    }
}

impl Part {
    pub(super) fn open(path: PathBuf, size_bytes: u64, turn: Turn) -> Result<Self, StoreError> {
        if let Some(directory) = path.parent() {
            ensure_directory(directory, 0o755)?;
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = file.map_err(StoreError::io("open", &path))?;
        let length_bytes = file.metadata().map_err(StoreError::io("read", &path))?.len();
        if length_bytes > size_bytes {
            file.set_len(0).map_err(StoreError::io("truncate", &path))?;
        }
        let hasher = hash_file(&mut file, &path)?;
        Ok(Self { path, file, hasher, turn })
    }

    pub(super) fn length_bytes(&self) -> u64 {
        self.hasher.length_bytes()
    }

    pub(super) fn append(mut self, bytes: &[u8], digest: Digest, size_bytes: u64) -> Result<Self, StoreError> {
        let offset = self.hasher.length_bytes();
        if bytes.len() as u64 > size_bytes - offset {
            let _ = std::fs::remove_file(&self.path);
            return Err(StoreError::Corrupt(digest));
        }
        if let Err(error) = self.file.write_all_at(bytes, offset) {
            // Half a write is no part: the next ingest goes on from what stood before.
            let _ = self.file.set_len(offset);
            return Err(StoreError::io("write", &self.path)(error));
        }
        self.hasher.update(bytes);
        Ok(self)
    }

    pub(super) fn commit(self, layout: &Layout, blob: &Descriptor) -> Result<(), StoreError> {
        let Self { path, file, hasher, turn } = self;
        let size_bytes = hasher.length_bytes();
        let (digest, hashes) = hasher.finish();
        if size_bytes != blob.size_bytes || digest != blob.digest {
            let _ = std::fs::remove_file(&path);
            return Err(StoreError::Corrupt(blob.digest));
        }
        sync(&file, &path)?;
        layout.blobs.keep(&path, &blob.digest, &hashes)?;
        drop(turn);
        Ok(())
    }

    /// Takes the staged file over where it lies, or copies it when that is on another file system.
    fn adopt(self, layout: &Layout, staged: StagedFile) -> Result<(), StoreError> {
        let file = File::open(staged.path()).map_err(StoreError::io("open", staged.path()))?;
        let length_bytes = file.metadata().map_err(StoreError::io("read", staged.path()))?.len();
        if length_bytes != staged.size_bytes() {
            return Err(StoreError::Corrupt(staged.digest()));
        }
        if let Err(error) = file.sync_data() {
            let error = StoreError::io("sync", staged.path())(error);
            staged.lost();
            return Err(error);
        }
        match layout.blobs.keep(staged.path(), &staged.digest(), staged.hashes()) {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::CrossesDevices => {
                let copied = std::fs::copy(staged.path(), &self.path).map_err(StoreError::io("write", &self.path));
                if let Err(error) = copied.and_then(|_| sync(&self.file, &self.path)) {
                    let _ = std::fs::remove_file(&self.path);
                    return Err(error);
                }
                layout.blobs.keep(&self.path, &staged.digest(), staged.hashes())?;
            }
            kept => {
                kept?;
                let _ = std::fs::remove_file(&self.path);
            }
        }
        staged.stored();
        drop(self.turn);
        Ok(())
    }
}

/// After a sync that failed nobody knows what is on the disk, and the next sync may say that all is well: the file is lost.
fn sync(file: &File, path: &std::path::Path) -> Result<(), StoreError> {
    file.sync_data().map_err(|error| {
        let _ = std::fs::remove_file(path);
        StoreError::io("sync", path)(error)
    })
}

fn gave_up(path: PathBuf) -> StoreError {
    StoreError::io("write", path)(io::Error::other("an earlier write was given up"))
}
