//! What has arrived and is not in the store yet.
//!
//! ```text
//! staging/
//!   <64 hex>.data        bytes of a blob, sparse, ranges in any order
//!   <64 hex>.map         which of them were verified: two range hashes for each range, zeros where it is absent
//!   incoming-<n>         an archive member whose digest is not known yet; gone after a restart
//! ```
//! Nothing here is trusted after a restart: every range that the map claims is hashed again against the hashes in the map, so that neither
//! `kill -9` nor a power cut, which may lose data that the map already names, can bring in a wrong byte. Staging is therefore never synced;
//! the store syncs when it takes a blob over. Data and map of a blob stay until the store has it durably, so that a process that ends at any
//! moment goes on from them. What was not written to for 24 h is removed. The directory is created again when somebody has removed it.

mod blob;
mod file;
mod map;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use proto::{Descriptor, Digest};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use blob::Shared;
pub use blob::{StagedBlob, StagedReader};
pub use file::{StagedFile, StagedWriter};

use crate::store::{Room, StoreError};
use crate::sys::file as disk;

/// Staged bytes that nobody asked for in this time are removed.
const KEEP: Duration = Duration::from_secs(24 * 3600);

/// The staging area of an agent.
#[derive(Debug)]
pub struct Staging {
    root: PathBuf,
    claims: Mutex<HashMap<Digest, Arc<AsyncMutex<()>>>>,
    /// Blobs that somebody writes or still reads.
    open: Mutex<HashMap<Digest, Weak<Shared>>>,
    incoming: AtomicU64,
}

impl Staging {
    /// Opens the directory, creates it where it is absent, and removes what a former agent left that cannot be continued.
    pub fn open(root: &Path) -> Result<Arc<Self>, StoreError> {
        crate::sys::durable::create_dir(root, 0o700)?;
        let staging = Self { root: root.to_owned(), claims: Mutex::default(), open: Mutex::default(), incoming: AtomicU64::new(0) };
        staging.sweep(KEEP)?;
        for path in staging.files()? {
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("incoming-")) {
                std::fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
            }
        }
        Ok(Arc::new(staging))
    }

    /// The one right to write this blob. Waits while another session has it; comes with what is verified of it so far.
    pub async fn claim(self: &Arc<Self>, blob: &Descriptor) -> Result<StagedBlob, StoreError> {
        let turn = self.claims.lock().unwrap_or_else(PoisonError::into_inner).entry(blob.digest).or_default().clone();
        let claim = Claim { guard: Some(turn.lock_owned().await), digest: blob.digest, staging: self.clone() };
        let (root, blob) = (self.root.clone(), blob.clone());
        let opening = move || {
            disk::ensure_directory(&root, 0o700)?;
            StagedBlob::open(&root, blob, claim)
        };
        let staged = crate::sys::blocking_in(crate::sys::Lane::Hash, opening).await?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, shared| shared.strong_count() > 0);
        open.insert(staged.descriptor().digest, Arc::downgrade(staged.shared()));
        Ok(staged)
    }

    /// Reads a blob that is arriving, or that somebody still reads since it arrived.
    pub fn reader(&self, digest: &Digest) -> Option<StagedReader> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(digest).and_then(Weak::upgrade).map(StagedReader)
    }

    /// Verified bytes of a blob, by its map alone: a forecast, for plans.
    pub fn staged_bytes(&self, blob: &Descriptor) -> Result<u64, StoreError> {
        map::claimed_bytes(&self.root, blob)
    }

    /// Room for more: every byte that arrives is written here once.
    pub fn room(&self) -> Result<Room, StoreError> {
        disk::ensure_directory(&self.root, 0o700)?;
        let space = disk::space(&self.root).map_err(StoreError::io("read", &self.root))?;
        Ok(Room { device: space.device, free_bytes: space.free_bytes, needed_percent: 100 })
    }

    /// A file for bytes whose digest is not known yet.
    pub fn writer(&self) -> Result<StagedWriter, StoreError> {
        disk::ensure_directory(&self.root, 0o700)?;
        let number = self.incoming.fetch_add(1, Ordering::Relaxed);
        StagedWriter::create(self.root.join(format!("incoming-{number}")))
    }

    /// Removes what was last written longer ago than `age` and that no session holds.
    pub fn sweep(&self, age: Duration) -> Result<(), StoreError> {
        let now = SystemTime::now();
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        // Of one that was given up while it waited, the entry may have stayed.
        claims.retain(|_, turn| Arc::strong_count(turn) > 1);
        for path in self.files()? {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let held = Digest::from_hex(&name).is_ok_and(|digest| claims.contains_key(&digest)) || name.starts_with("incoming-");
            let written = std::fs::metadata(&path).and_then(|metadata| metadata.modified()).unwrap_or(now);
            if !held && now.duration_since(written).unwrap_or_default() >= age {
                std::fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
            }
        }
        Ok(())
    }

    /// [`Staging::sweep`] with the usual age.
    pub fn sweep_old(&self) -> Result<(), StoreError> {
        self.sweep(KEEP)
    }

    fn files(&self) -> Result<Vec<PathBuf>, StoreError> {
        if !disk::exists(&self.root)? {
            return Ok(vec![]);
        }
        let entries = std::fs::read_dir(&self.root).map_err(StoreError::io("list", &self.root))?;
        let files = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>();
        files.map_err(StoreError::io("list", &self.root))
    }
}

/// The right to write one blob, given back on drop.
#[derive(Debug)]
struct Claim {
    guard: Option<OwnedMutexGuard<()>>,
    digest: Digest,
    staging: Arc<Staging>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Before the next writer has its turn.
        let open = self.staging.open.lock().unwrap_or_else(PoisonError::into_inner).get(&self.digest).and_then(Weak::upgrade);
        if let Some(shared) = open {
            shared.end();
        }
        self.guard = None;
        let mut claims = self.staging.claims.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever waits holds the entry too; the last one out removes it.
        if claims.get(&self.digest).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            claims.remove(&self.digest);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
