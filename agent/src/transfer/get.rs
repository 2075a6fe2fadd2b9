//! Fetching: a `Get`, its blocks, and what happens to them.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proto::frame::FrameError;
use proto::limits::{FRAME, RANGE_BYTES, STALL_TIMEOUT_MS};
use proto::peer::{Block, BlockHeader, Get, Refusal, Request};
use proto::{Descriptor, Digest};

use super::{Limit, refusal};
use crate::net::{NetError, Peer, Stream};
use crate::staging::StagedBlob;
use crate::store::StoreError;
use crate::sys;

/// Why a range was not fetched.
#[derive(Debug)]
pub(super) enum GetError {
    /// The way to the source, or the source.
    Net(NetError),
    /// The source says no.
    Refused(Refusal),
    /// The bytes are not what their hashes say.
    Corrupt,
    /// Our own staging.
    Staging(StoreError),
}

impl GetError {
    /// What the session ends with.
    pub(super) fn refusal(self, digest: Digest) -> Refusal {
        match self {
            Self::Net(error) => Refusal::Store(format!("blob {digest} did not arrive: {error}")),
            Self::Refused(refusal) => refusal,
            Self::Corrupt => Refusal::Corrupt(digest),
            Self::Staging(error) => refusal(&error),
        }
    }
}

/// Fetches a whole document, checked against its digest.
pub(super) async fn document(peer: &Peer, blob: &Descriptor) -> Result<Vec<u8>, GetError> {
    let range = 0..blob.size_bytes;
    let _turn = peer.ask().await;
    let mut stream = ask(peer, blob.digest, &range).await?;
    let mut bytes = Vec::with_capacity(blob.size_bytes as usize);
    loop {
        let header = block(&mut stream, range.end - bytes.len() as u64).await?;
        bytes.extend(stream.read(header.encoded_bytes as usize).await.map_err(GetError::Net)?);
        if bytes.len() as u64 == blob.size_bytes {
            break;
        }
    }
    if Digest::of(&bytes) == blob.digest { Ok(bytes) } else { Err(GetError::Corrupt) }
}

/// Fetches a range into staging, verified block by block. `verified_bytes` follows.
pub(super) async fn range(
    peer: &Peer,
    staged: &Arc<StagedBlob>,
    range: Range<u64>,
    verified_bytes: &Arc<AtomicU64>,
    limit: Option<&Limit>,
) -> Result<(), GetError> {
    let digest = staged.descriptor().digest;
    let _turn = peer.ask().await;
    let mut stream = ask(peer, digest, &range).await?;
    let mut offset = range.start;
    let mut writing: Option<tokio::task::JoinHandle<Result<(), GetError>>> = None;
    loop {
        let header = block(&mut stream, range.end - offset).await?;
        if let Some(limit) = limit {
            // What is not read is not sent: the window of the stream closes.
            limit.take(header.encoded_bytes).await;
        }
        let bytes = stream.read(header.encoded_bytes as usize).await.map_err(GetError::Net)?;
        // One block is hashed and written while the next one arrives.
        if let Some(writing) = writing.take() {
            joined(writing).await?;
        }
        let (staged, verified_bytes, at) = (staged.clone(), verified_bytes.clone(), offset);
        offset += bytes.len() as u64;
        writing = Some(tokio::task::spawn_blocking(move || put(&staged, at, &bytes, &header, &verified_bytes)));
        if offset >= range.end {
            break;
        }
    }
    match writing {
        Some(writing) => joined(writing).await,
        None => Ok(()),
    }
}

async fn ask(peer: &Peer, digest: Digest, range: &Range<u64>) -> Result<Stream, GetError> {
    let get = Get { digest, offset: range.start, length_bytes: range.end - range.start };
    peer.request(&Request::Get(get)).await.map_err(GetError::Net)
}

/// The next header, which fits into what is left of the range.
async fn block(stream: &mut Stream, left_bytes: u64) -> Result<BlockHeader, GetError> {
    let received = sys::deadline(STALL_TIMEOUT_MS, stream.receive_within(FRAME)).await;
    match received.unwrap_or(Err(NetError::Silent(STALL_TIMEOUT_MS / 1000))).map_err(GetError::Net)? {
        Block::Refused(refusal) => Err(GetError::Refused(refusal)),
        Block::Bytes(header) => {
            let bytes = header.encoded_bytes;
            let ranges = bytes.div_ceil(RANGE_BYTES).max(1);
            let last = bytes == left_bytes;
            let whole = last || (bytes > 0 && bytes < left_bytes && bytes.is_multiple_of(RANGE_BYTES));
            if whole && ranges == header.after.len() as u64 {
                Ok(header)
            } else {
                Err(GetError::Net(NetError::Frame(FrameError::Malformed)))
            }
        }
    }
}

fn put(staged: &StagedBlob, at: u64, bytes: &[u8], header: &BlockHeader, verified_bytes: &AtomicU64) -> Result<(), GetError> {
    match staged.put(at, bytes, header.before, &header.after).map_err(GetError::Staging)? {
        Ok(()) => {
            verified_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            Ok(())
        }
        Err(_) => Err(GetError::Corrupt),
    }
}

async fn joined(writing: tokio::task::JoinHandle<Result<(), GetError>>) -> Result<(), GetError> {
    match writing.await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(GetError::Net(NetError::Lost("the agent is shutting down".to_owned()))),
        },
    }
}
