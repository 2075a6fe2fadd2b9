//! The embedded store: an OCI image layout. skopeo, umoci and podman read it as it lies there, and what they write into it is read here.
//!
//! ```text
//! oci-layout, index.json, blobs/sha256/<hex>    as the specification has them
//! .imgd/lock                                     held while an agent has the layout open
//! .imgd/hashes/<hex>                             the hashes of a blob's ranges: we committed it, or hashed it once
//! .imgd/ingest/<hex>                             the first bytes of a blob
//! .imgd/imports/<hex of the root>                the blobs of an import that has not ended
//! .imgd/quarantine/<hex>                         a blob that was damaged
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

use proto::control::Verdict;
use std::collections::HashSet;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::hash::RangeHash;
use proto::image::Selection;
use proto::peer::ImageRow;
use proto::{Descriptor, Digest, Image, Reference};
use tokio::sync::mpsc;

use self::blobs::Blobs;
use self::index::Index;
use super::leases::Leases;
use super::turns::Turns;
use super::{Finding, Form, Held, Identity, Properties, Query, Reader, Removed, Room, Scrubbed, Store, StoreError};
use crate::sys::{blocking, file};

pub use import::LayoutImport;
pub use ingest::LayoutIngest;

/// An image layout that this process has open. Clones share it.
#[derive(Debug, Clone)]
pub struct LayoutStore {
    layout: Arc<Layout>,
}

#[derive(Debug)]
struct Layout {
    root: PathBuf,
    blobs: Blobs,
    index: Mutex<Index>,
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
        let lock = open::open(path)?;
        Ok(Self {
            layout: Arc::new(Layout {
                root: path.to_owned(),
                blobs: Blobs::new(path),
                index: Mutex::new(Index::new(&path.join("index.json"))),
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
    /// The names. Whoever moves or removes one, or collects, holds this meanwhile.
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn collect_locked(&self, index: &mut Index) -> Result<u64, StoreError> {
        let collected = collect::collect(&self.blobs, &*index.read()?, &self.leases)?;
        self.deferred.store(collected.deferred, Ordering::Relaxed);
        Ok(collected.freed_bytes)
    }

    /// The hashes of a blob's ranges, from the record or by reading it, one reader at a time.
    async fn hashes(self: &Arc<Self>, digest: Digest) -> Result<Arc<[RangeHash]>, StoreError> {
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
        let layout = self.clone();
        blocking(move || {
            let hashes = layout.blobs.hash(&digest);
            drop(turn);
            hashes
        })
        .await
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

    fn remove(&self, query: &Query) -> Result<Removed, StoreError> {
        let mut index = self.index();
        let names = index.read()?;
        let positions = self.positions(&names, query)?;
        let references: Vec<&Reference> = positions.iter().filter_map(|&position| names.entries[position].reference.as_ref()).collect();
        let root = &names.entries[positions[0]].root;
        let image_id = self.image_id(root)?;
        let by_name = query.reference().is_some_and(|reference| references.iter().any(|name| name.repository() == reference.repository()));
        if references.len() > 1 && !by_name {
            let names = references.iter().map(|reference| reference.familiar()).collect();
            return Err(StoreError::SeveralNames { id: image_id.short(), names });
        }
        let name = references.first().map_or_else(|| image_id.to_string(), |reference| reference.familiar());
        index.write(&names.without(&positions))?;
        let freed_bytes = self.collect_locked(&mut index)?;
        Ok(Removed { name, freed_bytes })
    }

    /// Hashes every blob that is not being written by another tool.
    fn scrub(&self, report: &mpsc::Sender<Scrubbed>) -> Result<(), StoreError> {
        for entry in collect::files(&self.blobs.directory())? {
            let Some(digest) = collect::digest_of(&entry) else { continue };
            if collect::is_fresh_foreign(&self.blobs, &entry, &digest) {
                continue;
            }
            match self.scrub_one(&digest) {
                // It went while we looked.
                Err(StoreError::BlobMissing(_)) => {}
                scrubbed => {
                    if report.blocking_send(scrubbed?).is_err() {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn scrub_one(&self, digest: &Digest) -> Result<Scrubbed, StoreError> {
        let size_bytes = self.blobs.metadata(digest)?.ok_or(StoreError::BlobMissing(*digest))?.len();
        let intact = match self.blobs.hash(digest) {
            Ok(_) => true,
            Err(StoreError::Corrupt(_)) => false,
            Err(error) => return Err(error),
        };
        Ok(Scrubbed { digest: *digest, size_bytes, intact })
    }
}

impl Store for LayoutStore {
    type Import = LayoutImport;

    fn properties(&self) -> Properties {
        Properties { kind: "layout", form: Form::Packed, identity: Identity::Config, resumable_ingests: true, adopts_files: true }
    }

    async fn examine(&self) -> Vec<Finding> {
        vec![Finding { verdict: Verdict::Ok, text: format!("embedded image layout in {}", self.layout.root.display()), remedy: None }]
    }

    async fn list(&self) -> Result<Vec<ImageRow>, StoreError> {
        let layout = self.layout.clone();
        blocking(move || layout.list()).await
    }

    async fn resolve(&self, query: &Query, selection: Selection) -> Result<Held, StoreError> {
        let (layout, query) = (self.layout.clone(), query.clone());
        blocking(move || layout.resolve(&query, selection)).await
    }

    async fn hashes(&self, blob: &Descriptor) -> Result<Arc<[RangeHash]>, StoreError> {
        self.layout.hashes(blob.digest).await
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
        let (layout, query) = (self.layout.clone(), query.clone());
        blocking(move || layout.remove(&query)).await
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
        let layout = self.layout.clone();
        blocking(move || layout.collect_locked(&mut layout.index())).await
    }

    async fn scrub(&self, blob: Option<Digest>, report: mpsc::Sender<Scrubbed>) -> Result<(), StoreError> {
        let layout = self.layout.clone();
        match blob {
            None => blocking(move || layout.scrub(&report)).await,
            Some(digest) => {
                let scrubbed = blocking(move || layout.scrub_one(&digest)).await?;
                let _ = report.send(scrubbed).await;
                Ok(())
            }
        }
    }
}
