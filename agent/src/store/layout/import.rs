//! Bringing an image in: blobs first, its name last.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use proto::{Descriptor, Digest, Image};

use super::Layout;
use super::blobs::Presence;
use super::collect::Abandoned;
use super::index::{Index, Names};
use super::ingest::LayoutIngest;
use crate::store::leases::Leased;
use crate::store::walk::verify;
use crate::store::{Import, Imported, Meter, StoreError};
use crate::sys::blocking;
use crate::sys::file::ensure_directory;

/// An import into an image layout: a lease on every blob of the image.
#[derive(Debug)]
pub struct LayoutImport {
    layout: Arc<Layout>,
    image: Arc<Image>,
    /// It is noted on disk what is on its way.
    announced: AtomicBool,
    /// Plain layers that will be made here, and of what.
    forms: HashMap<Digest, Descriptor>,
    leased: Vec<Leased>,
}

impl LayoutImport {
    /// The lease is taken before anything is looked for, so that what is found stays.
    pub(super) fn new(layout: Arc<Layout>, image: Image) -> Self {
        let leased = layout.leases.take(image.blobs().into_iter().map(|blob| blob.digest));
        Self { layout, image: Arc::new(image), announced: AtomicBool::new(false), forms: HashMap::new(), leased: vec![leased] }
    }
}

impl Import for LayoutImport {
    type Ingest = LayoutIngest;

    async fn missing(&mut self) -> Result<Vec<Descriptor>, StoreError> {
        let (layout, image) = (self.layout.clone(), self.image.clone());
        let (mut missing, unhashed) = blocking(move || layout.survey(&image)).await?;
        for blob in unhashed {
            if !self.layout.is_verified(&blob).await? {
                missing.push(blob);
            }
        }
        // What they are made of stays as long as what was found: it is looked for again under the lease.
        for leased in [false, true] {
            let (image, missing) = (self.image.clone(), missing.clone());
            self.forms = self.layout.with_names(move |layout, _, names| layout.forms(names, &image, &missing)).await?;
            if self.forms.is_empty() || leased {
                break;
            }
            self.leased.push(self.layout.leases.take(self.forms.values().map(|packed| packed.digest)));
        }
        missing.retain(|blob| !self.forms.contains_key(&blob.digest));
        let absent: HashSet<Digest> = missing.iter().map(|blob| blob.digest).collect();
        Ok(self.image.blobs().into_iter().filter(|blob| absent.contains(&blob.digest)).cloned().collect())
    }

    async fn ingest(&self, blob: &Descriptor) -> Result<Option<LayoutIngest>, StoreError> {
        // Not before: who only asks what is missing leaves nothing behind.
        if !self.announced.swap(true, Ordering::Relaxed) {
            let (layout, image) = (self.layout.clone(), self.image.clone());
            blocking(move || layout.announce(&image)).await?;
        }
        LayoutIngest::open(&self.layout, blob).await
    }

    async fn commit(self) -> Result<Imported, StoreError> {
        for blob in self.image.blobs() {
            if let Some(packed) = self.forms.get(&blob.digest) {
                self.layout.make(blob, packed).await?;
            }
            if !self.layout.is_verified(blob).await? {
                return Err(StoreError::BlobMissing(blob.digest));
            }
        }
        let image = self.image.clone();
        self.layout.with_names(move |layout, index, names| layout.publish(index, names, &image)).await
    }
}

impl Layout {
    /// What is absent, and what has to be hashed before it counts as present.
    fn survey(&self, image: &Image) -> Result<(Vec<Descriptor>, Vec<Descriptor>), StoreError> {
        let (mut absent, mut unhashed) = (vec![], vec![]);
        for blob in image.blobs() {
            match self.blobs.presence(blob) {
                Ok(Presence::Verified) => {}
                Ok(Presence::Unhashed) => unhashed.push(blob.clone()),
                Ok(Presence::Absent) | Err(StoreError::Corrupt(_)) => absent.push(blob.clone()),
                Err(error) => return Err(error),
            }
        }
        Ok((absent, unhashed))
    }

    /// True when the blob is here, hashed now if it never was. One that is damaged is put aside and is not here.
    pub(super) async fn is_verified(self: &Arc<Self>, blob: &Descriptor) -> Result<bool, StoreError> {
        let presence = {
            let (layout, blob) = (self.clone(), blob.clone());
            blocking(move || layout.blobs.presence(&blob)).await
        };
        match presence {
            Ok(Presence::Verified) => Ok(true),
            Ok(Presence::Unhashed) => match self.hashes(blob.digest, &Meter::default()).await {
                Ok(_) => Ok(true),
                Err(StoreError::Corrupt(_) | StoreError::BlobMissing(_)) => Ok(false),
                Err(error) => Err(error),
            },
            Ok(Presence::Absent) | Err(StoreError::Corrupt(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Notes which blobs are on their way, so that they outlive this process for a day if it ends before the import does.
    fn announce(&self, image: &Image) -> Result<(), StoreError> {
        let directory = self.blobs.own_directory("imports");
        ensure_directory(&directory, 0o755)?;
        let path = directory.join(image.root.digest.hex());
        let digests: Vec<u8> = image.blobs().iter().flat_map(|blob| *blob.digest.as_bytes()).collect();
        std::fs::write(&path, digests).map_err(StoreError::io("write", &path))
    }

    /// Moves the name. All blobs are here and leased.
    fn publish(&self, index: &mut Index, names: &Names, image: &Image) -> Result<Imported, StoreError> {
        verify(image, |document| self.blobs.document(document)).map_err(|error| self.explained(error))?;
        let image_id = self.image_id(&image.root)?;
        let reference = image.reference.as_ref().map(proto::Reference::without_digest);
        let before = names.entries.iter().find(|entry| reference.is_some() && entry.reference == reference);
        let is_there = match &reference {
            Some(_) => before.is_some_and(|entry| entry.root.digest == image.root.digest),
            None => names.entries.iter().any(|entry| entry.root.digest == image.root.digest),
        };
        let replaced = match before {
            Some(entry) => Some(self.image_id(&entry.root)?).filter(|id| *id != image_id),
            None => None,
        };
        if !is_there {
            index.write(&names.with(reference.as_ref(), &image.root, now_unix_s()))?;
        }
        let _ = std::fs::remove_file(self.blobs.own_directory("imports").join(image.root.digest.hex()));
        if (before.is_some() && !is_there) || self.deferred.load(Ordering::Relaxed) {
            // The image is in, whatever becomes of the old one.
            if let Err(error) = self.collect(index, Abandoned::Day) {
                tracing::warn!(%error, "cannot collect what is not referred to any more");
            }
        }
        Ok(Imported { image_id, replaced })
    }
}

fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
