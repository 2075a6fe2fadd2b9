//! A store that takes its time: what is hashed for the first time takes as long as it would on a slow disk.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use agent::store::{Finding, Held, Meter, Properties, Query, Reader, Removed, Room, Scrubbed, Store, StoreError};
use proto::hash::RangeHash;
use proto::image::Selection;
use proto::peer::ImageRow;
use proto::{Descriptor, Digest, Image};
use tokio::sync::mpsc;

/// A store whose hashes of layers take `hashing` each, whatever it has.
pub struct Slow<S> {
    store: S,
    hashing: Duration,
    /// Smaller blobs are documents.
    layer_bytes: u64,
}

impl<S> Slow<S> {
    /// Around another store.
    pub fn new(store: S, hashing: Duration, layer_bytes: u64) -> Self {
        Self { store, hashing, layer_bytes }
    }
}

impl<S: Store> Store for Slow<S> {
    type Import = S::Import;

    fn properties(&self) -> Properties {
        self.store.properties()
    }

    async fn examine(&self) -> Vec<Finding> {
        self.store.examine().await
    }

    async fn list(&self) -> Result<Vec<ImageRow>, StoreError> {
        self.store.list().await
    }

    async fn resolve(&self, query: &Query, selection: Selection) -> Result<Held, StoreError> {
        self.store.resolve(query, selection).await
    }

    async fn hashes(&self, blob: &Descriptor, meter: &Meter) -> Result<Arc<[RangeHash]>, StoreError> {
        if blob.size_bytes >= self.layer_bytes {
            // The work of a slow disk.
            tokio::time::sleep(self.hashing).await;
        }
        self.store.hashes(blob, meter).await
    }

    async fn read(&self, blob: &Descriptor, range: Range<u64>) -> Result<Reader, StoreError> {
        self.store.read(blob, range).await
    }

    async fn import(&self, image: Image) -> Result<S::Import, StoreError> {
        self.store.import(image).await
    }

    async fn remove(&self, query: &Query) -> Result<Removed, StoreError> {
        self.store.remove(query).await
    }

    async fn room(&self) -> Result<Vec<Room>, StoreError> {
        self.store.room().await
    }

    async fn maintain(&self) -> Result<u64, StoreError> {
        self.store.maintain().await
    }

    async fn reclaim(&self) -> Result<u64, StoreError> {
        self.store.reclaim().await
    }

    async fn scrub(&self, blob: Option<Digest>, report: mpsc::Sender<Scrubbed>) -> Result<(), StoreError> {
        self.store.scrub(blob, report).await
    }
}
