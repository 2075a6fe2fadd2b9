//! The embedded store: an OCI image layout. skopeo, umoci and podman read it as it lies there, and what they write into it is read here.
//!
//! ```text
//! oci-layout, index.json, blobs/sha256/<hex>    as the specification has them
//! .imgd/lock                                     held while an agent has the layout open
//! .imgd/hashes/<hex>                             the hashes of a blob's ranges: we committed it, or hashed it once
//! .imgd/ingest/<hex>                             the first bytes of a blob
//! .imgd/imports/<hex of the root>                the blobs of an import that has not ended
//! .imgd/quarantine/<hex>                         a blob that was damaged
//! .imgd/spare                                    room to remove a name when the disk is full
//! ```
//! Opening reads none of it but `oci-layout`, and memory does not grow with the number of blobs.

mod blobs;
mod collect;
mod find;
mod forms;
mod import;
mod index;
mod ingest;
mod open;
mod read;
mod record;
mod spare;

use proto::control::Verdict;
use std::collections::HashSet;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto::hash::RangeHash;
use proto::image::Selection;
use proto::peer::ImageRow;
use proto::{Descriptor, Digest, Image, Reference};
use tokio::sync::{Mutex as AsyncMutex, mpsc};

use self::blobs::Blobs;
use self::collect::Abandoned;
use self::index::{Index, Names};
use super::leases::Leases;
use super::turns::Turns;
use super::{Finding, Form, Held, Identity, Meter, Properties, Query, Reader, Removed, Room, Scrubbed, Store, StoreError};
use crate::sys::{Lane, blocking, blocking_in, file};

pub use import::LayoutImport;
pub use ingest::LayoutIngest;

/// How often `index.json` is read again when it is not whole, and how long after.
const HALF_WRITTEN_ATTEMPTS: u32 = 10;
const HALF_WRITTEN_PAUSE: Duration = Duration::from_millis(20);

/// An image layout that this process has open. Clones share it.
#[derive(Debug, Clone)]
pub struct LayoutStore {
    layout: Arc<Layout>,
}

#[derive(Debug)]
struct Layout {
    root: PathBuf,
    blobs: Blobs,
    /// Held by whoever reads or moves a name, or collects: so nothing is collected between a look at the names and the lease on what was found.
    index: Arc<AsyncMutex<Index>>,
    leases: Arc<Leases>,
    turns: Arc<Turns>,
    /// Packed layers that do not hold what an image says.
    false_forms: Mutex<HashSet<Digest>>,
    /// A lease kept something from the last collection.
    deferred: AtomicBool,
    /// Held as long as the layout is open.
    _lock: File,
}

impl LayoutStore {
    /// Opens a layout, and creates it where there is none. Blocking. Only one agent has it open: [`StoreError::InUse`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_beside(path, collect::FOREIGN)
    }

    /// [`LayoutStore::open`] beside tools that take as long as this, at most, from their first blob to the name.
    pub fn open_beside(path: &Path, foreign_age: Duration) -> Result<Self, StoreError> {
        let lock = open::open(path)?;
        spare::keep(path);
        Ok(Self {
            layout: Arc::new(Layout {
                root: path.to_owned(),
                blobs: Blobs::new(path, foreign_age),
                index: Arc::new(AsyncMutex::new(Index::new(&path.join("index.json")))),
                leases: Arc::default(),
                turns: Arc::default(),
                false_forms: Mutex::default(),
                deferred: AtomicBool::new(false),
                _lock: lock,
            }),
        })
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.layout.root
    }
}

impl Layout {
    /// Does `work` with the names as they are now, while nobody else reads or moves one.
    async fn with_names<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self, &mut Index, &Names) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (mut index, mut attempts) = (self.index.clone().lock_owned().await, 0);
        let names = loop {
            let read;
            (index, read) = blocking(move || {
                let read = index.read();
                (index, read)
            })
            .await;
            match read {
                // skopeo and umoci do not write it atomically: half a file becomes a whole one in a moment.
                Err(StoreError::Malformed { .. }) if attempts < HALF_WRITTEN_ATTEMPTS => {
                    attempts += 1;
                    tokio::time::sleep(HALF_WRITTEN_PAUSE).await;
                }
                read => break read?,
            }
        };
        let layout = self.clone();
        blocking(move || work(&layout, &mut index, &names)).await
    }

    /// Collects, with the names as they are on the disk.
    fn collect(&self, index: &mut Index, abandoned: Abandoned) -> Result<u64, StoreError> {
        // Until it has succeeded another collection has to follow.
        self.deferred.store(true, Ordering::Relaxed);
        let collected = collect::collect(&self.blobs, &*index.read()?, &self.leases, abandoned)?;
        self.deferred.store(collected.deferred, Ordering::Relaxed);
        Ok(collected.freed_bytes)
    }

    /// The hashes of a blob's ranges, from the record or by reading it, one reader at a time.
    async fn hashes(self: &Arc<Self>, digest: Digest, meter: &Meter) -> Result<Arc<[RangeHash]>, StoreError> {
        let recorded = || {
            let layout = self.clone();
            blocking(move || layout.blobs.recorded(&digest))
        };
        if let Some(hashes) = recorded().await? {
            return Ok(hashes);
        }
        let turn = self.turns.take(digest).await;
        if let Some(hashes) = recorded().await? {
            return Ok(hashes);
        }
        let hashes = self.hash(digest, meter).await;
        drop(turn);
        hashes
    }

    /// Reads and hashes a blob, step by step.
    async fn hash(self: &Arc<Self>, digest: Digest, meter: &Meter) -> Result<Arc<[RangeHash]>, StoreError> {
        let layout = self.clone();
        let mut hashing = blocking(move || layout.blobs.begin_hash(&digest)).await?;
        loop {
            let step = move || {
                let step_bytes = hashing.step()?;
                Ok::<_, StoreError>((hashing, step_bytes))
            };
            let step_bytes;
            (hashing, step_bytes) = blocking_in(Lane::Hash, step).await?;
            meter.reached(hashing.hashed_bytes());
            if step_bytes == 0 {
                break;
            }
        }
        let layout = self.clone();
        // It syncs.
        blocking_in(Lane::Write, move || layout.blobs.end_hash(hashing)).await
    }

    /// True when the blob is here and was hashed; asks nobody to wait.
    async fn is_recorded(self: &Arc<Self>, blob: &Descriptor) -> Result<bool, StoreError> {
        let (layout, blob) = (self.clone(), blob.clone());
        let presence = blocking(move || layout.blobs.presence(&blob)).await;
        match presence {
            Err(StoreError::Corrupt(_)) => Ok(false),
            presence => Ok(presence? == blobs::Presence::Verified),
        }
    }

    fn remove(&self, index: &mut Index, names: &Names, query: &Query) -> Result<Removed, StoreError> {
        let found = self.positions(names, query)?;
        let image_id = self.image_id(&names.entries[found[0]].root)?;
        let positions = super::names::to_remove(&names.named(), &found, query)
            .map_err(|names| StoreError::SeveralNames { id: image_id.short(), names })?;
        let name = positions.iter().find_map(|&position| names.entries[position].reference.as_ref());
        let name = name.map_or_else(|| image_id.to_string(), Reference::familiar);
        let rest = names.without(&positions);
        match index.write(&rest) {
            Err(StoreError::NoSpace(_)) => {
                spare::give(&self.root)?;
                index.write(&rest)?;
            }
            written => written?,
        }
        let freed = self.collect(index, Abandoned::Day);
        spare::keep(&self.root);
        let freed_bytes = freed.map_err(|source| StoreError::NotFreed { name: name.clone(), source: Box::new(source) })?;
        Ok(Removed { name, image_id, freed_bytes })
    }

    /// The blobs that are not being written by another tool: those that a name leads to, and those that have been here for a while.
    fn settled_blobs(&self, names: &Names) -> Result<Vec<Digest>, StoreError> {
        let named = collect::mark(&self.blobs, names)?.blobs;
        let mut settled = vec![];
        for entry in collect::files(&self.blobs.directory())? {
            if let Some(digest) = collect::digest_of(&entry)
                && (named.contains(&digest) || !collect::is_fresh_foreign(&self.blobs, &entry, &digest)?)
            {
                settled.push(digest);
            }
        }
        Ok(settled)
    }

    /// Hashes every blob.
    async fn scrub(self: &Arc<Self>, report: &mpsc::Sender<Scrubbed>) -> Result<(), StoreError> {
        for digest in self.with_names(|layout, _, names| layout.settled_blobs(names)).await? {
            match self.scrub_one(digest).await {
                // It went while we looked.
                Err(StoreError::BlobMissing(_)) => {}
                scrubbed => {
                    if report.send(scrubbed?).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    async fn scrub_one(self: &Arc<Self>, digest: Digest) -> Result<Scrubbed, StoreError> {
        let layout = self.clone();
        let found = blocking(move || layout.blobs.metadata(&digest)).await?;
        let size_bytes = found.ok_or(StoreError::BlobMissing(digest))?.len();
        let intact = match self.hash(digest, &Meter::default()).await {
            Ok(_) => true,
            Err(StoreError::Corrupt(_)) => false,
            Err(error) => return Err(error),
        };
        Ok(Scrubbed { digest, size_bytes, intact })
    }
}

impl Store for LayoutStore {
    type Import = LayoutImport;

    fn properties(&self) -> Properties {
        Properties {
            kind: "layout",
            form: Form::Packed,
            identity: Identity::Config,
            resumable_ingests: true,
            adopts_files: true,
            durable_ingests: true,
        }
    }

    async fn examine(&self) -> Vec<Finding> {
        let root = self.layout.root.clone();
        let own = root.join(".imgd");
        let text = format!("embedded image layout in {}", root.display());
        match blocking(move || file::exists(&own)).await {
            Ok(true) => vec![Finding { verdict: Verdict::Ok, text, remedy: None }],
            Ok(false) => {
                let remedy = "mount its file system again, or systemctl restart imgd to begin anew";
                vec![Finding {
                    verdict: Verdict::Wrong,
                    text: format!("{text}: its directory .imgd is gone"),
                    remedy: Some(remedy.to_owned()),
                }]
            }
            Err(error) => vec![Finding { verdict: Verdict::Wrong, text: format!("{text}: {error}"), remedy: None }],
        }
    }

    async fn list(&self) -> Result<Vec<ImageRow>, StoreError> {
        self.layout.with_names(|layout, _, names| layout.list(names)).await
    }

    async fn resolve(&self, query: &Query, selection: Selection) -> Result<Held, StoreError> {
        let query = query.clone();
        self.layout.with_names(move |layout, _, names| layout.resolve(names, &query, selection)).await
    }

    async fn hashes(&self, blob: &Descriptor, meter: &Meter) -> Result<Arc<[RangeHash]>, StoreError> {
        self.layout.hashes(blob.digest, meter).await
    }

    async fn read(&self, blob: &Descriptor, range: Range<u64>) -> Result<Reader, StoreError> {
        let (layout, blob, digest) = (self.layout.clone(), blob.clone(), blob.digest);
        let file = blocking(move || layout.open(&blob)).await?;
        Ok(crate::store::file::read(file, digest, range))
    }

    async fn import(&self, image: Image) -> Result<LayoutImport, StoreError> {
        Ok(LayoutImport::new(self.layout.clone(), image))
    }

    async fn remove(&self, query: &Query) -> Result<Removed, StoreError> {
        let query = query.clone();
        self.layout.with_names(move |layout, index, names| layout.remove(index, names, &query)).await
    }

    async fn room(&self) -> Result<Vec<Room>, StoreError> {
        let layout = self.layout.clone();
        let space = blocking(move || file::space(&layout.root).map_err(StoreError::io("read", &layout.root))).await?;
        // Staging lies on the same disk and is adopted, not copied.
        Ok(vec![Room { device: space.device, free_bytes: space.free_bytes, needed_percent: 0 }])
    }

    /// Also what leases kept from the last collection, and what imports that were given up more than a day ago have left. Names that go or
    /// move collect by themselves.
    async fn maintain(&self) -> Result<u64, StoreError> {
        self.layout.with_names(|layout, index, _| layout.collect(index, Abandoned::Day)).await
    }

    async fn reclaim(&self) -> Result<u64, StoreError> {
        self.layout.with_names(|layout, index, _| layout.collect(index, Abandoned::Nothing)).await
    }

    async fn scrub(&self, blob: Option<Digest>, report: mpsc::Sender<Scrubbed>) -> Result<(), StoreError> {
        match blob {
            None => self.layout.scrub(&report).await,
            Some(digest) => {
                let _ = report.send(self.layout.scrub_one(digest).await?).await;
                Ok(())
            }
        }
    }
}
