//! A layer between its claim and the store.

use std::sync::Arc;

use proto::Digest;
use proto::limits::BLOCK_BYTES;
use proto::peer::Refusal;

use super::refusal;
use super::sessions::{Running, Sessions};
use crate::staging::{StagedBlob, StagedReader, Staging};
use crate::store::{Import, Ingest, StoreError};
use crate::sys::{Lane, blocking_in};

/// A layer that arrives.
pub(super) struct Arriving {
    pub(super) staged: Arc<StagedBlob>,
    /// Of an earlier session, or of one that brings the layer at the same time, and perhaps of another source.
    pub(super) staged_bytes: u64,
    pub(super) reported_bytes: u64,
}

impl Arriving {
    /// Nothing of it has been reported yet.
    pub(super) fn new(staged: StagedBlob) -> Self {
        let staged_bytes = staged.verified_bytes();
        Self { staged: Arc::new(staged), staged_bytes, reported_bytes: 0 }
    }

    /// Not all of it came in this session.
    pub(super) fn is_mixed(&self) -> bool {
        self.staged_bytes > 0 || self.staged.was_joined()
    }
}

/// Whether this source is to blame for a layer that is not what its digest says: not when a part of it came in another session, which is
/// forgotten now. Then a new session finds out, in which each source brings the layer alone.
pub(super) fn blamed(staging: &Staging, digest: Digest, error: &StoreError, is_mixed: bool) -> Refusal {
    match error {
        StoreError::Corrupt(_) if is_mixed => {
            staging.part_sources(digest);
            Refusal::StoreChanged
        }
        error => refusal(error),
    }
}

/// A complete layer goes from staging into the store, as a file. False: another session that brought it too has handed it over.
pub(super) async fn hand_over<I: Import>(staged: &Arc<StagedBlob>, import: Arc<I>) -> Result<bool, StoreError> {
    let Some(ingest) = import.ingest(staged.descriptor()).await? else { return Ok(false) };
    let staged = staged.clone();
    let file = blocking_in(Lane::Write, move || staged.finish()).await?;
    ingest.adopt(file).await.map(|()| true)
}

/// Feeds a layer into a store that unpacks, or writes, what comes. `None`: the store has it by another way.
pub(super) async fn feed_in<I: Import>(
    sessions: &Sessions,
    running: Option<&Running>,
    configs: &[Digest],
    reader: StagedReader,
    import: Arc<I>,
) -> Result<Option<()>, StoreError> {
    let wanted: Vec<Digest> = configs.iter().copied().chain([reader.descriptor().digest]).collect();
    match sessions.wait(running, &wanted, import.ingest(reader.descriptor())).await? {
        Some(ingest) => {
            if let Some(running) = running {
                running.hold(&wanted);
            }
            feed(reader, ingest).await.map(Some)
        }
        None => Ok(None),
    }
}

/// A layer goes into the store byte for byte while it arrives, so that an engine unpacks what is here while the rest is on its way.
async fn feed<I: Ingest>(reader: StagedReader, mut ingest: I) -> Result<(), StoreError> {
    let blob = reader.descriptor().clone();
    let mut offset = ingest.offset();
    while offset < blob.size_bytes {
        // The writer goes only with the session, and this task with it; or another session that brings the layer has found it to be wrong.
        let prefix_bytes = reader.prefix(offset).await.ok_or(StoreError::Gone(blob.digest))?;
        let (reading, range) = (reader.clone(), offset..prefix_bytes.min(offset + BLOCK_BYTES));
        offset = range.end;
        let bytes = blocking_in(Lane::Read, move || reading.read(range)).await?;
        ingest.append(bytes.into()).await?;
    }
    ingest.commit().await
}
