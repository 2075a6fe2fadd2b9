//! A layer between its claim and the store.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use proto::limits::BLOCK_BYTES;
use proto::peer::Refusal;

use super::refusal;
use crate::staging::{StagedBlob, StagedReader};
use crate::store::{Import, Ingest, Store, StoreError};
use crate::sys::{Lane, blocking_in};

/// A layer that arrives.
pub(super) struct Arriving<S: Store> {
    pub(super) staged: Arc<StagedBlob>,
    /// `None`: it is being fed.
    pub(super) ingest: Option<<S::Import as Import>::Ingest>,
    /// Of an earlier session, and perhaps of another source.
    pub(super) staged_bytes: u64,
    pub(super) verified_bytes: Arc<AtomicU64>,
    pub(super) reported_bytes: u64,
}

impl<S: Store> Arriving<S> {
    /// Nothing of it has been reported yet.
    pub(super) fn new(staged: StagedBlob, ingest: <S::Import as Import>::Ingest) -> Self {
        let staged_bytes = staged.verified_bytes();
        let verified_bytes = Arc::new(AtomicU64::new(staged_bytes));
        Self { staged: Arc::new(staged), ingest: Some(ingest), staged_bytes, verified_bytes, reported_bytes: 0 }
    }
}

/// Whether this source is to blame for a layer that is not what its digest says: not when a part of it came in an earlier session, which is
/// forgotten now. Then a new session finds out.
pub(super) fn blamed(error: &StoreError, staged_bytes: u64) -> Refusal {
    match error {
        StoreError::Corrupt(_) if staged_bytes > 0 => Refusal::StoreChanged,
        error => refusal(error),
    }
}

/// A complete layer goes from staging into the store, as a file.
pub(super) async fn hand_over<S: Store>(arriving: Arriving<S>) -> Result<(), StoreError> {
    let digest = arriving.staged.descriptor().digest;
    let (Some(staged), Some(ingest)) = (Arc::into_inner(arriving.staged), arriving.ingest) else {
        return Err(StoreError::BlobMissing(digest));
    };
    let file = blocking_in(Lane::Write, move || staged.finish()).await?;
    ingest.adopt(file).await
}

/// A layer goes into the store byte for byte while it arrives, so that an engine unpacks what is here while the rest is on its way.
pub(super) async fn feed<I: Ingest>(reader: StagedReader, mut ingest: I) -> Result<(), StoreError> {
    let blob = reader.descriptor().clone();
    let mut offset = ingest.offset();
    while offset < blob.size_bytes {
        // The writer goes only with the session, and this task with it.
        let prefix_bytes = reader.prefix(offset).await.ok_or(StoreError::BlobMissing(blob.digest))?;
        let (reading, range) = (reader.clone(), offset..prefix_bytes.min(offset + BLOCK_BYTES));
        offset = range.end;
        let bytes = blocking_in(Lane::Read, move || reading.read(range)).await?;
        ingest.append(bytes.into()).await?;
    }
    ingest.commit().await
}
