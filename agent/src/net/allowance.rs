//! What one host may make us hold in memory, over all its connections together.

use std::sync::Arc;

use proto::limits::{
    ANSWERS_PER_HOST, ASKED_PER_HOST, BLOCKS_PER_HOST, DOCUMENT_BYTES, FRAME, GETS_PER_HOST, OFFERED_BLOBS_PER_S, OFFERS_BYTES,
    SESSIONS_PER_HOST,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::sys::Limit;

/// A part of an allowance that is in use. Given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    _permit: OwnedSemaphorePermit,
}

/// The allowance of one host. Who waits for a share waits for that host alone.
#[derive(Debug)]
pub(super) struct Allowance {
    pub(super) frame_bytes: Arc<Semaphore>,
    sessions: Arc<Semaphore>,
    opened: Arc<Semaphore>,
    document_bytes: Arc<Semaphore>,
    offer_bytes: Arc<Semaphore>,
    offered_blobs: Limit,
    answers: Arc<Semaphore>,
    provided: Arc<Semaphore>,
    blocks_out: Arc<Semaphore>,
    asked: Arc<Semaphore>,
    blocks_in: Arc<Semaphore>,
}

impl Default for Allowance {
    fn default() -> Self {
        let of = |permits| Arc::new(Semaphore::new(permits));
        Self {
            frame_bytes: of(FRAME),
            sessions: of(SESSIONS_PER_HOST),
            opened: of(SESSIONS_PER_HOST),
            document_bytes: of(DOCUMENT_BYTES as usize),
            offer_bytes: of(OFFERS_BYTES as usize),
            offered_blobs: Limit::new(OFFERED_BLOBS_PER_S),
            answers: of(ANSWERS_PER_HOST),
            provided: of(GETS_PER_HOST),
            blocks_out: of(BLOCKS_PER_HOST),
            asked: of(ASKED_PER_HOST),
            blocks_in: of(BLOCKS_PER_HOST),
        }
    }
}

impl Allowance {
    /// A session that it opens; `None` when it has as many as it may have.
    pub(super) fn session(&self) -> Option<Share> {
        share(self.sessions.clone().try_acquire_owned().ok())
    }

    /// A session that we open there: beyond its allowance for us it would refuse. First come, first served.
    pub(super) async fn open(&self) -> Option<Share> {
        share(self.opened.clone().acquire_owned().await.ok())
    }

    /// Documents that a session of it will hold; `None` when its sessions hold too much already.
    pub(super) fn documents(&self, bytes: u64) -> Option<Share> {
        let permits = u32::try_from(bytes).ok()?;
        share(self.document_bytes.clone().try_acquire_many_owned(permits).ok())
    }

    /// An offer of it, as long as its session lives; `None` when its offers take too much already.
    pub(super) fn offer(&self, bytes: u64) -> Option<Share> {
        let permits = u32::try_from(bytes).ok()?;
        share(self.offer_bytes.clone().try_acquire_many_owned(permits).ok())
    }

    /// Its turn to have an answer made that may be large.
    pub(super) async fn answer(&self) -> Option<Share> {
        share(self.answers.clone().acquire_owned().await.ok())
    }

    /// Its turn to have an offer of so many blobs looked at, which is work whatever comes of it.
    pub(super) async fn look_at(&self, blobs: u64) {
        self.offered_blobs.take(blobs).await;
    }

    /// A range that it reads from us at full speed; `None` when it reads as many as it may.
    pub(super) fn provide(&self) -> Option<Share> {
        share(self.provided.clone().try_acquire_owned().ok())
    }

    /// A block of a further range that it reads from us.
    pub(super) async fn block_out(&self) -> Option<Share> {
        share(self.blocks_out.clone().acquire_owned().await.ok())
    }

    /// A block that comes from it, until it is on the disk.
    pub(super) async fn block_in(&self) -> Option<Share> {
        share(self.blocks_in.clone().acquire_owned().await.ok())
    }

    /// A range that we read from it: what we ask for beyond its allowance for us would only wait there.
    pub(super) async fn ask(&self) -> Option<Share> {
        share(self.asked.clone().acquire_owned().await.ok())
    }
}

fn share(permit: Option<OwnedSemaphorePermit>) -> Option<Share> {
    permit.map(|permit| Share { _permit: permit })
}
