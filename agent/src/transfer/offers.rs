//! What peers may read here now: a blob is served only to a host to which it was offered, while the offer stands.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use proto::hash::RangeHash;
use proto::peer::{Missing, Want};
use proto::{Descriptor, Digest, HostId};
use tokio::sync::OnceCell;
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::Limit;
use crate::store::{Held, Store, StoreError};

/// All offers that stand.
#[derive(Debug, Default)]
pub struct Offers(Mutex<Vec<Weak<Offer>>>);

/// An image offered to a host. Stands until it is dropped; keeps the image in the store meanwhile.
#[derive(Debug)]
pub struct Offer {
    to: HostId,
    blobs: HashMap<Digest, OfferedBlob>,
    limit: Option<Arc<Limit>>,
    is_shared: bool,
    sent_bytes: AtomicU64,
    _held: Held,
}

#[derive(Debug)]
struct OfferedBlob {
    descriptor: Descriptor,
    hashes: OnceCell<Arc<[RangeHash]>>,
    /// It was found damaged, and put aside: for whoever asks after that, it is not just absent.
    damaged: AtomicBool,
}

impl OfferedBlob {
    fn new(descriptor: &Descriptor) -> Self {
        Self { descriptor: descriptor.clone(), hashes: OnceCell::new(), damaged: AtomicBool::new(false) }
    }
}

impl Offers {
    /// Offers an image to a host. `is_shared`: that one passes it on.
    pub fn stand(&self, to: HostId, held: Held, limit: Option<Arc<Limit>>, is_shared: bool) -> Arc<Offer> {
        let blob = |descriptor: &Descriptor| (descriptor.digest, OfferedBlob::new(descriptor));
        let blobs = held.image.blobs().into_iter().map(blob).collect();
        let offer = Arc::new(Offer { to, blobs, limit, is_shared, sent_bytes: AtomicU64::new(0), _held: held });
        let mut offers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        offers.retain(|offer| offer.strong_count() > 0);
        offers.push(Arc::downgrade(&offer));
        offer
    }

    /// The offer by which this host may read this blob.
    pub(super) fn find(&self, host: &HostId, digest: &Digest) -> Option<Arc<Offer>> {
        let offers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        offers.iter().filter_map(Weak::upgrade).find(|offer| offer.to == *host && offer.blobs.contains_key(digest))
    }
}

impl Offer {
    /// Blob bytes that were sent for this offer.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    /// True when whoever reads it passes it on.
    pub(super) fn is_shared(&self) -> bool {
        self.is_shared
    }

    pub(super) fn blob(&self, digest: &Digest) -> Option<&Descriptor> {
        self.blobs.get(digest).map(|blob| &blob.descriptor)
    }

    /// The range hashes of a blob, asked of the store once for each offer.
    pub(super) async fn hashes<S: Store>(&self, digest: &Digest, store: &S) -> Result<Arc<[RangeHash]>, StoreError> {
        let blob = self.blobs.get(digest).ok_or(StoreError::BlobMissing(*digest))?;
        match blob.hashes.get_or_try_init(|| store.hashes(&blob.descriptor)).await {
            Err(StoreError::Corrupt(digest)) => {
                blob.damaged.store(true, Ordering::Relaxed);
                Err(StoreError::Corrupt(digest))
            }
            Err(StoreError::BlobMissing(digest)) if blob.damaged.load(Ordering::Relaxed) => Err(StoreError::Corrupt(digest)),
            hashes => hashes.cloned(),
        }
    }

    /// Has the store find the range hashes of what is missing, one blob after the other, for as long as the handle is kept: a large layer is hashed
    /// while those below it are on their way.
    pub(super) fn prepare<S: Store>(self: &Arc<Self>, want: &Want, store: Arc<S>) -> AbortOnDropHandle<()> {
        let (offer, missing) = (self.clone(), want.missing.clone());
        AbortOnDropHandle::new(tokio::spawn(async move {
            for Missing { digest, .. } in missing {
                // Whoever asks for the blob hears of the error.
                if let Err(error) = offer.hashes(&digest, &*store).await {
                    debug!(blob = %digest, %error, "no hashes");
                }
            }
        }))
    }

    /// Waits until so many bytes may go, and counts them.
    pub(super) async fn pass(&self, bytes: u64) {
        if let Some(limit) = &self.limit {
            limit.take(bytes).await;
        }
        self.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}
