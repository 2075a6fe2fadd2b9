//! What has arrived and is not in the store yet.
//!
//! ```text
//! staging/
//!   <64 hex>-<size>.data bytes of a blob, sparse, ranges in any order
//!   <64 hex>-<size>.map  which of them were verified: two range hashes for each range, zeros where it is absent
//!   <64 hex>-<size>-<id> the same of one source alone
//!   incoming-<n>         an archive member whose digest is not known yet; gone after a restart
//! ```
//! Nothing here is trusted after a restart: every range that the map claims is hashed again against the hashes in the map, so that neither
//! `kill -9` nor a power cut, which may lose data that the map already names, can bring in a wrong byte. Staging is therefore never synced;
//! the store syncs when it takes a blob over. Data and map of a blob stay until the store has it durably, so that a process that ends at any
//! moment goes on from them. What was not written to for 24 h is removed. The directory is created again when somebody has removed it.

mod blob;
mod claims;
mod file;
mod map;

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use proto::{Descriptor, Digest, HostId};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

pub use blob::{Fetching, StagedBlob, StagedReader};
use blob::{Joined, Shared};
pub use file::{StagedFile, StagedWriter};

use crate::store::{Room, StoreError};
use crate::sys::file as disk;

/// Staged bytes that nobody asked for in this time are removed.
const KEEP: Duration = Duration::from_secs(24 * 3600);

/// Blobs of which is remembered that a source has lied about them.
const PARTED: usize = 1024;

/// The staging area of an agent.
#[derive(Debug)]
pub struct Staging {
    root: PathBuf,
    /// Held while a blob is opened, by its stem.
    opening: Mutex<HashMap<String, Arc<AsyncMutex<()>>>>,
    /// Blobs that somebody writes or still reads, by their stems. A false size is another blob, and holds up nobody.
    open: Mutex<HashMap<String, Weak<Shared>>>,
    incoming: AtomicU64,
    /// Blobs that each source brings alone, the newest last.
    parted: Mutex<VecDeque<Digest>>,
}

/// Who may bring a blob together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Every session that wants it.
    Any,
    /// The sessions of one host: what others bring is not its doing, to its credit or to its blame.
    Only(HostId),
}

/// Unfinished blobs that no session brings at the moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unclaimed {
    /// How many.
    pub blobs: u64,
    /// Bytes that they take on the disk.
    pub bytes: u64,
}

impl Staging {
    /// Opens the directory, creates it where it is absent, and removes what a former agent left that cannot be continued.
    pub fn open(root: &Path) -> Result<Arc<Self>, StoreError> {
        crate::sys::durable::create_dir(root, 0o700)?;
        let staging = Self {
            root: root.to_owned(),
            opening: Mutex::default(),
            open: Mutex::default(),
            incoming: AtomicU64::new(0),
            parted: Mutex::default(),
        };
        staging.sweep(KEEP)?;
        for path in staging.files()? {
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("incoming-")) {
                std::fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
            }
        }
        Ok(Arc::new(staging))
    }

    /// The right of a session of this host to bring this blob, with what is verified of it so far. Sessions for which the same source counts bring it
    /// together. Waits while a store takes the blob over.
    pub async fn claim(self: &Arc<Self>, blob: &Descriptor, source: Source, host: HostId) -> Result<StagedBlob, StoreError> {
        let stem = stem(blob, source);
        let turn = self.opening.lock().unwrap_or_else(PoisonError::into_inner).entry(stem.clone()).or_default().clone();
        let _opening = Opening { staging: self, stem: &stem, _turn: turn.lock_owned().await };
        loop {
            let known = self.opened().get(&stem).and_then(Weak::upgrade);
            let Some(shared) = known else { break };
            match shared.join() {
                Joined::Yes => return Ok(StagedBlob::joined(shared, host)),
                Joined::NotNow => shared.ended().await,
                Joined::Never => break,
            }
        }
        let (root, blob, name) = (self.root.clone(), blob.clone(), stem.clone());
        let opening = move || {
            disk::ensure_directory(&root, 0o700)?;
            StagedBlob::open(&root, &name, blob, host)
        };
        let staged = crate::sys::blocking_in(crate::sys::Lane::Hash, opening).await?;
        let mut open = self.opened();
        open.retain(|_, shared| shared.strong_count() > 0);
        open.insert(stem.clone(), Arc::downgrade(staged.shared()));
        Ok(staged)
    }

    /// Reads a blob that is arriving, or that somebody still reads since it arrived.
    pub fn reader(&self, blob: &Descriptor) -> Option<StagedReader> {
        self.opened().get(&stem(blob, Source::Any)).and_then(Weak::upgrade).map(StagedReader)
    }

    /// Verified bytes of a blob, by its map alone: a forecast, for plans.
    pub fn staged_bytes(&self, blob: &Descriptor, source: Source) -> Result<u64, StoreError> {
        map::claimed_bytes(&self.root.join(format!("{}.map", stem(blob, source))), blob.size_bytes)
    }

    /// Of a blob that several sources brought, one has lied: from now on each brings it alone.
    pub fn part_sources(&self, digest: Digest) {
        let mut parted = self.parted.lock().unwrap_or_else(PoisonError::into_inner);
        if parted.len() == PARTED {
            parted.pop_front();
        }
        if !parted.contains(&digest) {
            parted.push_back(digest);
        }
    }

    /// Whether sources were parted for this blob.
    pub fn is_parted(&self, digest: &Digest) -> bool {
        self.parted.lock().unwrap_or_else(PoisonError::into_inner).contains(digest)
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

    /// Removes what was last written longer ago than `age` and that no session brings.
    pub fn sweep(&self, age: Duration) -> Result<(), StoreError> {
        let now = SystemTime::now();
        for file in self.unclaimed_files()? {
            if now.duration_since(file.written).unwrap_or_default() >= age {
                self.remove_unclaimed(std::slice::from_ref(&file))?;
            }
        }
        Ok(())
    }

    /// Removes what no session brings, oldest first, until `bytes` are free again, but nothing of these blobs. Returns the bytes that were freed.
    pub fn reclaim(&self, bytes: u64, except: &[Descriptor]) -> Result<u64, StoreError> {
        let mut blobs: HashMap<String, Vec<StagedOnDisk>> = HashMap::new();
        for file in self.unclaimed_but(except)? {
            blobs.entry(file.stem.clone()).or_default().push(file);
        }
        let mut blobs: Vec<Vec<StagedOnDisk>> = blobs.into_values().collect();
        blobs.sort_by_key(|files| files.iter().map(|file| file.written).max());
        let mut freed_bytes = 0;
        for files in blobs {
            if freed_bytes >= bytes {
                break;
            }
            freed_bytes += self.remove_unclaimed(&files)?;
        }
        Ok(freed_bytes)
    }

    /// Removes files of one blob, unless a session has come for it meanwhile. Returns the bytes that were freed.
    fn remove_unclaimed(&self, files: &[StagedOnDisk]) -> Result<u64, StoreError> {
        let Some(StagedOnDisk { stem, .. }) = files.first() else { return Ok(0) };
        let turn = self.opening.lock().unwrap_or_else(PoisonError::into_inner).entry(stem.clone()).or_default().clone();
        let Ok(turn) = turn.try_lock_owned() else { return Ok(0) };
        let _opening = Opening { staging: self, stem, _turn: turn };
        if self.opened().get(stem).is_some_and(is_brought) {
            return Ok(0);
        }
        for file in files {
            file.remove()?;
        }
        Ok(files.iter().map(|file| file.disk_bytes).sum())
    }

    /// What no session brings, without these blobs.
    pub fn unclaimed(&self, except: &[Descriptor]) -> Result<Unclaimed, StoreError> {
        let files = self.unclaimed_but(except)?;
        let blobs: HashSet<&str> = files.iter().map(|file| file.stem.as_str()).collect();
        Ok(Unclaimed { blobs: blobs.len() as u64, bytes: files.iter().map(|file| file.disk_bytes).sum() })
    }

    /// [`Staging::sweep`] with the usual age.
    pub fn sweep_old(&self) -> Result<(), StoreError> {
        self.sweep(KEEP)
    }

    fn unclaimed_but(&self, except: &[Descriptor]) -> Result<Vec<StagedOnDisk>, StoreError> {
        let kept: Vec<String> = except.iter().map(|blob| stem(blob, Source::Any)).collect();
        let mut files = self.unclaimed_files()?;
        files.retain(|file| {
            !kept.iter().any(|kept| file.stem.strip_prefix(kept.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('-')))
        });
        Ok(files)
    }

    /// Files of blobs that no session brings. An archive member that is being read belongs to its reader.
    fn unclaimed_files(&self) -> Result<Vec<StagedOnDisk>, StoreError> {
        let held: HashSet<String> = {
            let opening: Vec<String> = self.opening.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
            let open = self.opened();
            let live = open.iter().filter(|(_, shared)| is_brought(shared));
            live.map(|(stem, _)| stem.clone()).chain(opening).collect()
        };
        let mut files = vec![];
        for path in self.files()? {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            if held.contains(&stem) || stem.starts_with("incoming-") {
                continue;
            }
            let metadata = match std::fs::metadata(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                metadata => metadata.map_err(StoreError::io("read", &path))?,
            };
            let written = metadata.modified().map_err(StoreError::io("read", &path))?;
            files.push(StagedOnDisk { path, stem, written, disk_bytes: metadata.blocks() * 512 });
        }
        Ok(files)
    }

    fn opened(&self) -> MutexGuard<'_, HashMap<String, Weak<Shared>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
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

/// A file of a blob that nobody brings.
struct StagedOnDisk {
    path: PathBuf,
    stem: String,
    written: SystemTime,
    disk_bytes: u64,
}

impl StagedOnDisk {
    fn remove(&self) -> Result<(), StoreError> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(StoreError::io("remove", &self.path)(error)),
            _ => Ok(()),
        }
    }
}

fn is_brought(shared: &Weak<Shared>) -> bool {
    shared.upgrade().is_some_and(|shared| !shared.is_ended())
}

/// The name of the files of a blob, without what follows the dot.
fn stem(blob: &Descriptor, source: Source) -> String {
    let together = format!("{}-{}", blob.digest.hex(), blob.size_bytes);
    match source {
        Source::Any => together,
        Source::Only(host) => format!("{together}-{host}"),
    }
}

/// The right to open one blob.
struct Opening<'a> {
    staging: &'a Staging,
    stem: &'a str,
    _turn: OwnedMutexGuard<()>,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        let mut opening = self.staging.opening.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever waits holds the entry too, as this does through its guard; the last one out removes it.
        if opening.get(self.stem).is_some_and(|turn| Arc::strong_count(turn) <= 2) {
            opening.remove(self.stem);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
