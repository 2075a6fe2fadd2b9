//! Hashing what the engine keeps, and putting aside what is damaged.

use std::sync::Arc;

use proto::document::DocumentError;
use proto::hash::{RangeHash, RangeHasher};
use proto::image::ImageError;
use proto::{Descriptor, Digest};
use tokio::sync::mpsc;

use super::Shared;
use crate::store::{Meter, Scrubbed, StoreError};
use crate::sys::{Lane, blocking, blocking_in};

impl Shared {
    /// A blob that is here, with the size that its descriptor says.
    pub(super) async fn expect(&self, blob: &Descriptor) -> Result<(), StoreError> {
        let info = self.info(&blob.digest).await?.ok_or(StoreError::BlobMissing(blob.digest))?;
        if info.size_bytes == blob.size_bytes {
            return Ok(());
        }
        Err(ImageError::Document(DocumentError::DigestMismatch { digest: blob.digest }).into())
    }

    /// See [`crate::store::Store::hashes`].
    pub(super) async fn hashes(self: &Arc<Self>, blob: &Descriptor, meter: &Meter) -> Result<Arc<[RangeHash]>, StoreError> {
        self.expect(blob).await?;
        if let Some(hashes) = self.recorded(blob).await {
            return Ok(hashes);
        }
        let turn = self.turns.take(blob.digest).await;
        if let Some(hashes) = self.recorded(blob).await {
            return Ok(hashes);
        }
        let hashes = self.hash(&blob.digest, blob.size_bytes, meter).await;
        drop(turn);
        hashes
    }

    /// Reads all of a blob that is here, and records its hashes or puts it aside.
    pub(super) async fn hash(self: &Arc<Self>, digest: &Digest, size_bytes: u64, meter: &Meter) -> Result<Arc<[RangeHash]>, StoreError> {
        let mut reader = self.read(*digest, size_bytes, 0..size_bytes).await?;
        let digest = *digest;
        let mut hasher = RangeHasher::default();
        // Hashing is work for a thread; the next block is read meanwhile.
        loop {
            let block = match reader.next().await {
                Ok(Some(block)) => block,
                Ok(None) | Err(StoreError::Corrupt(_)) => break,
                Err(error) => return Err(error),
            };
            hasher = blocking_in(Lane::Hash, move || {
                hasher.update(&block);
                hasher
            })
            .await;
            meter.reached(hasher.length_bytes());
        }
        let (found, hashes) = hasher.finish();
        if found != digest {
            tracing::error!(%digest, "a blob is damaged and is put aside");
            self.hashes.forget(&digest);
            self.documents.forget(&digest);
            self.quarantine.add(&digest);
            return Err(StoreError::Corrupt(digest));
        }
        self.hashes.put(&digest, &hashes)?;
        self.quarantine.forget(&digest);
        Ok(hashes.into())
    }

    /// See [`crate::store::Store::scrub`].
    pub(super) async fn scrub(self: &Arc<Self>, blob: Option<Digest>, report: &mpsc::Sender<Scrubbed>) -> Result<(), StoreError> {
        let filters = blob.iter().map(|digest| format!("digest=={digest}")).collect();
        // What was damaged too: somebody else may have replaced it.
        let infos = self.every_info(filters).await?;
        if let Some(absent) = blob.filter(|digest| !infos.contains_key(digest)) {
            return Err(StoreError::BlobMissing(absent));
        }
        for (digest, info) in infos {
            let size_bytes = info.size_bytes;
            let intact = match self.hash(&digest, size_bytes, &Meter::default()).await {
                Ok(_) => true,
                Err(StoreError::Corrupt(_)) => false,
                // It went while we looked.
                Err(StoreError::BlobMissing(_)) => continue,
                Err(error) => return Err(error),
            };
            if report.send(Scrubbed { digest, size_bytes, intact }).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn recorded(self: &Arc<Self>, blob: &Descriptor) -> Option<Arc<[RangeHash]>> {
        let (shared, blob) = (self.clone(), blob.clone());
        blocking(move || shared.hashes.get(&blob)).await
    }
}
