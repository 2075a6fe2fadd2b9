//! What peers may read here now: a blob is served only to a host to which it was offered, while the offer stands.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use proto::peer::{HashingProgress, Missing, Refusal, Want};
use proto::{Descriptor, Digest, HostId};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::hashing::Hashing;
use super::{Context, Limit, refusal};
use crate::store::{Held, Store, StoreError};
use crate::sys;

/// How often it is told how far the hashing ahead is.
const PREPARING_MS: u64 = 500;

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
    held: Held,
    /// Why a blob of it could not be read here, at last.
    failure: Mutex<Option<String>>,
}

#[derive(Debug)]
struct OfferedBlob {
    descriptor: Descriptor,
    /// The last one that was begun: kept, because it has the hashes.
    hashing: Mutex<Option<Arc<Hashing>>>,
    /// It was found damaged, and put aside: for whoever asks after that, it is not just absent.
    damaged: AtomicBool,
}

impl OfferedBlob {
    fn new(descriptor: &Descriptor) -> Self {
        Self { descriptor: descriptor.clone(), hashing: Mutex::default(), damaged: AtomicBool::new(false) }
    }
}

impl Offers {
    /// Offers an image to a host. `is_shared`: that one passes it on.
    pub fn stand(&self, to: HostId, held: Held, limit: Option<Arc<Limit>>, is_shared: bool) -> Arc<Offer> {
        let blob = |descriptor: &Descriptor| (descriptor.digest, OfferedBlob::new(descriptor));
        let blobs = held.image.blobs().into_iter().map(blob).collect();
        let offer = Arc::new(Offer { to, blobs, limit, is_shared, sent_bytes: AtomicU64::new(0), held, failure: Mutex::default() });
        let mut offers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        offers.retain(|offer| offer.strong_count() > 0);
        offers.push(Arc::downgrade(&offer));
        offer
    }

    /// The offer by which this host may read this blob; of several one without a limit, or else the one by which it reads least at the moment: the
    /// blob belongs to all of them, and the host has it as fast as they allow together.
    pub(super) fn find(&self, host: &HostId, digest: &Digest) -> Option<Arc<Offer>> {
        let offers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = offers.iter().filter_map(Weak::upgrade).filter(|offer| offer.to == *host && offer.blobs.contains_key(digest));
        // Who serves a range holds the offer.
        fitting.min_by_key(|offer| (offer.is_limited(), Arc::strong_count(offer)))
    }
}

/// The hashing ahead of what a host lacks. Ends when it is dropped; what is being hashed then is still hashed to its end.
pub(super) struct Preparing {
    progress: watch::Receiver<Option<HashingProgress>>,
    _task: AbortOnDropHandle<()>,
}

impl Preparing {
    /// The next word on how far it is; never, when nothing has to be hashed.
    pub(super) async fn next(&mut self) -> HashingProgress {
        loop {
            if self.progress.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            if let Some(progress) = *self.progress.borrow_and_update() {
                return progress;
            }
        }
    }
}

impl Offer {
    /// Blob bytes that were sent for this offer.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    /// A blob cannot be read here: what is told to people of this host, paths included.
    pub(super) fn fail(&self, error: &StoreError) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
    }

    /// Why a blob could not be read here, if that was so.
    pub(super) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// True when whoever reads it passes it on.
    pub(super) fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// True when it keeps to a limit.
    pub(super) fn is_limited(&self) -> bool {
        self.limit.is_some()
    }

    /// An error where something that a host lacks cannot be read here.
    pub(super) fn can_read(&self, want: &Want) -> Result<(), StoreError> {
        self.held.can_read(want.missing.iter().map(|missing| &missing.digest))
    }

    pub(super) fn blob(&self, digest: &Digest) -> Option<&Descriptor> {
        self.blobs.get(digest).map(|blob| &blob.descriptor)
    }

    /// The hashing of a blob, which has ended where the hashes are known.
    pub(super) fn hashing<S: Store>(&self, digest: &Digest, context: &Context<S>) -> Result<Arc<Hashing>, StoreError> {
        let blob = self.blobs.get(digest).ok_or(StoreError::BlobMissing(*digest))?;
        self.held.can_read([digest])?;
        let begin = || context.hashings.begin(context.store.clone(), &blob.descriptor, Some(self.held.lease.clone()));
        let mut known = blob.hashing.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_some_and(|hashing| hashing.was_damaged()) {
            blob.damaged.store(true, Ordering::Relaxed);
        }
        if known.as_ref().is_none_or(|hashing| hashing.has_failed()) {
            *known = Some(begin());
        }
        Ok(known.get_or_insert_with(begin).clone())
    }

    /// What a host is told of a blob that cannot be hashed: one that was found damaged is put aside, and not just absent for who asks after that.
    pub(super) fn unhashed(&self, digest: &Digest, error: &StoreError) -> Refusal {
        let is_damaged = self.blobs.get(digest).map(|blob| &blob.damaged);
        match (error, is_damaged) {
            (StoreError::Corrupt(_), Some(is_damaged)) => {
                is_damaged.store(true, Ordering::Relaxed);
                Refusal::Corrupt(*digest)
            }
            (StoreError::BlobMissing(_), Some(is_damaged)) if is_damaged.load(Ordering::Relaxed) => Refusal::Corrupt(*digest),
            _ => refusal(error),
        }
    }

    /// Has the store find the range hashes of what is missing, one blob after the other, for as long as the handle is kept: a large layer is hashed
    /// while those below it are on their way. `progress` has what is hashed of all of it.
    pub(super) fn prepare<S: Store>(self: &Arc<Self>, want: &Want, context: &Arc<Context<S>>) -> Preparing {
        let (offer, context, missing) = (self.clone(), context.clone(), want.missing.clone());
        let total_bytes = missing.iter().map(|blob| blob.size_bytes).sum();
        let (sender, progress) = watch::channel(None);
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            let mut before_bytes = 0;
            for Missing { digest, size_bytes, .. } in missing {
                let Ok(hashing) = offer.hashing(&digest, &*context) else { continue };
                let mut hashes = std::pin::pin!(hashing.hashes());
                let hashed = loop {
                    if let Some(hashed) = sys::deadline(PREPARING_MS, &mut hashes).await {
                        break hashed;
                    }
                    sender.send_replace(Some(HashingProgress { done_bytes: before_bytes + hashing.progress().done_bytes, total_bytes }));
                };
                // Whoever asks for the blob hears of it.
                if let Err(error) = hashed {
                    debug!(blob = %digest, %error, "no hashes");
                }
                before_bytes += size_bytes;
            }
        }));
        Preparing { progress, _task: task }
    }

    /// Waits until so many bytes may go, and counts them.
    pub(super) async fn pass(&self, bytes: u64) {
        if let Some(limit) = &self.limit {
            limit.take(bytes).await;
        }
        self.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}
