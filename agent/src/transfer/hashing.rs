//! Hashing at a source: what was never hashed here is hashed before it is served, once for all who wait, and to the end whoever leaves.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use proto::hash::RangeHash;
use proto::peer::HashingProgress;
use proto::{Descriptor, Digest};
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::net::{NetError, Stream};
use crate::store::{Lease, Meter, Store, StoreError};

/// Whoever waits for the hashes hears this often how far they are.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// The range hashes of a blob, or why there are none. Shared by all who wait.
pub(super) type Hashed = Result<Arc<[RangeHash]>, Arc<StoreError>>;

/// Blobs that are being hashed. Ends with the agent: what is not finished then begins anew.
#[derive(Debug, Default)]
pub struct Hashings {
    running: Mutex<HashMap<Digest, Weak<Hashing>>>,
    tasks: Mutex<JoinSet<()>>,
}

/// The hashing of one blob.
#[derive(Debug)]
pub(super) struct Hashing {
    total_bytes: u64,
    meter: Meter,
    result: watch::Receiver<Option<Hashed>>,
}

impl Hashings {
    /// Has the store find the hashes of a blob, unless that is under way. The lease keeps the blob until they are found.
    pub(super) fn begin<S: Store>(&self, store: Arc<S>, blob: &Descriptor, lease: Option<Lease>) -> Arc<Hashing> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|_, hashing| hashing.strong_count() > 0);
        let under_way = running.get(&blob.digest).and_then(Weak::upgrade).filter(|hashing| hashing.total_bytes == blob.size_bytes);
        // One that has failed is no answer to who asks later.
        if let Some(hashing) = under_way.filter(|hashing| !hashing.has_failed()) {
            return hashing;
        }
        let (sender, result) = watch::channel(None);
        let hashing = Arc::new(Hashing { total_bytes: blob.size_bytes, meter: Meter::default(), result });
        running.insert(blob.digest, Arc::downgrade(&hashing));
        drop(running);
        let (blob, kept) = (blob.clone(), hashing.clone());
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let hashed = store.hashes(&blob, &kept.meter).await;
            sender.send_replace(Some(hashed.map_err(Arc::new)));
            drop((lease, kept));
        });
        hashing
    }
}

impl Hashing {
    /// How far it is.
    pub(super) fn progress(&self) -> HashingProgress {
        HashingProgress { done_bytes: self.meter.bytes(), total_bytes: self.total_bytes }
    }

    /// It has ended without hashes.
    pub(super) fn has_failed(&self) -> bool {
        matches!(*self.result.borrow(), Some(Err(_)))
    }

    /// It has found the blob damaged, and the store has put it aside.
    pub(super) fn was_damaged(&self) -> bool {
        matches!(&*self.result.borrow(), Some(Err(error)) if matches!(**error, StoreError::Corrupt(_)))
    }

    /// Waits for the hashes.
    pub(super) async fn hashes(&self) -> Hashed {
        let mut result = self.result.clone();
        match result.wait_for(Option::is_some).await {
            Ok(hashed) => hashed.clone().unwrap_or_else(|| Err(Arc::new(given_up()))),
            // Its task has panicked, or the agent stops.
            Err(_) => Err(Arc::new(given_up())),
        }
    }

    /// Waits for the hashes; meanwhile whoever reads the stream hears what `sign` makes of the progress.
    pub(super) async fn hashes_for<M: Serialize>(
        &self,
        stream: &mut Stream,
        sign: impl Fn(HashingProgress) -> M,
    ) -> Result<Hashed, NetError> {
        let mut hashes = std::pin::pin!(self.hashes());
        loop {
            match tokio::time::timeout(SIGN_OF_LIFE, &mut hashes).await {
                Ok(hashed) => return Ok(hashed),
                Err(_) => stream.send(&sign(self.progress())).await?,
            }
        }
    }
}

fn given_up() -> StoreError {
    StoreError::io("hash", "a blob")(std::io::Error::other("the hashing was given up"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    #[tokio::test]
    async fn who_asks_later_gets_the_same_and_failures_are_not_kept() {
        let (hashings, store) = (Hashings::default(), Arc::new(MemoryStore::default()));
        let blob = Descriptor::of("x", b"absent");
        let first = hashings.begin(store.clone(), &blob, None);
        let second = hashings.begin(store.clone(), &blob, None);
        assert!(Arc::ptr_eq(&first, &second));
        assert!(matches!(&*first.hashes().await.unwrap_err(), StoreError::BlobMissing(_)));
        assert!(!Arc::ptr_eq(&first, &hashings.begin(store, &blob, None)), "it is asked for again");
    }
}
