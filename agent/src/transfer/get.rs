//! Fetching: a `Get`, its blocks, and what happens to them.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proto::frame::FrameError;
use proto::hash::RangeHash;
use proto::limits::{FRAME, RANGE_BYTES, STALL_TIMEOUT_MS};
use proto::peer::{Block, BlockHeader, Get, Refusal, Request};
use proto::{Descriptor, Digest};

use super::{Limit, refusal};
use crate::net::{NetError, Peer, Stream};
use crate::staging::StagedBlob;
use crate::store::StoreError;
use crate::sys;

/// How many times longer than it may be silent a source may say that it waits itself: hosts that wait for each other would wait for ever.
const WAITING: u32 = 4;

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
        let left_bytes = range.end - bytes.len() as u64;
        let never = AtomicU64::new(0);
        let header = heard(STALL_TIMEOUT_MS, [&never, &never], block(&mut stream, left_bytes, &never)).await?;
        bytes.extend(stream.read(header.encoded_bytes as usize).await.map_err(GetError::Net)?);
        if bytes.len() as u64 == blob.size_bytes {
            break;
        }
    }
    if Digest::of(&bytes) == blob.digest { Ok(bytes) } else { Err(GetError::Corrupt) }
}

/// How a range is fetched into staging, verified block by block.
#[derive(Clone, Copy)]
pub(super) struct Fetch<'a> {
    /// Where it goes.
    pub(super) staged: &'a Arc<StagedBlob>,
    /// Follows what was verified.
    pub(super) verified_bytes: &'a Arc<AtomicU64>,
    /// Follows what came from this source.
    pub(super) received_bytes: &'a Arc<AtomicU64>,
    /// Does not want it to be faster.
    pub(super) limit: Option<&'a Limit>,
    /// What the hashes of all ranges have to be, where that is known.
    pub(super) hashes: Option<&'a [RangeHash]>,
    /// How long the source may say nothing.
    pub(super) silence_ms: u64,
}

impl Fetch<'_> {
    /// Reads from `peer` from `*at` to `end`, unless `stop` comes before that; `*at` says how far it is, also after an error.
    pub(super) async fn run(&self, peer: &Peer, at: &mut u64, end: u64, stop: impl Future<Output = ()>) -> Result<(), GetError> {
        let mut stop = std::pin::pin!(stop);
        let begin = async {
            let turn = peer.ask().await;
            Ok((
                turn,
                heard(self.silence_ms, [self.received_bytes, &AtomicU64::new(0)], ask(peer, self.staged.descriptor().digest, &(*at..end)))
                    .await?,
            ))
        };
        let (_turn, mut stream) = tokio::select! {
            biased;
            () = &mut stop => return Ok(()),
            begun = begin => begun?,
        };
        let mut offset = *at;
        let mut writing: Option<tokio::task::JoinHandle<Result<(), GetError>>> = None;
        loop {
            let next = tokio::select! {
                biased;
                () = &mut stop => break,
                next = self.next(&mut stream, offset, end) => next,
            };
            // One block is hashed and written while the next one arrives; what was written counts, whatever comes behind it.
            if let Some(writing) = writing.take() {
                joined(writing).await?;
                *at = offset;
            }
            let (header, bytes) = next?;
            let (staged, start) = (self.staged.clone(), offset);
            let counters = [self.verified_bytes.clone(), self.received_bytes.clone()];
            offset += bytes.len() as u64;
            writing = Some(tokio::task::spawn_blocking(move || put(&staged, start, &bytes, &header, &counters)));
            if offset >= end {
                break;
            }
        }
        if let Some(writing) = writing {
            joined(writing).await?;
            *at = offset;
        }
        Ok(())
    }

    async fn next(&self, stream: &mut Stream, offset: u64, end: u64) -> Result<(BlockHeader, Vec<u8>), GetError> {
        let waits = AtomicU64::new(0);
        let next = async {
            let header = block(stream, end - offset, &waits).await?;
            if let Some(hashes) = self.hashes
                && !agrees(hashes, offset, &header)
            {
                return Err(GetError::Corrupt);
            }
            if let Some(limit) = self.limit {
                // What is not read is not sent: the window of the stream closes.
                limit.take(header.encoded_bytes).await;
            }
            let bytes = stream.read(header.encoded_bytes as usize).await.map_err(GetError::Net)?;
            Ok((header, bytes))
        };
        heard(self.silence_ms, [self.received_bytes, &waits], next).await
    }
}

/// What comes of it, unless the source is silent for `silence_ms`. It is not while bytes come, be they of another range that it prefers; nor, for a
/// while, when it says that it waits. Both are counted in `signs`.
async fn heard<T>(silence_ms: u64, signs: [&AtomicU64; 2], next: impl Future<Output = Result<T, GetError>>) -> Result<T, GetError> {
    let mut next = std::pin::pin!(next);
    let read = || signs.map(|sign| sign.load(Ordering::Relaxed));
    let (mut known, mut waited) = (read(), 0);
    loop {
        if let Some(next) = sys::deadline(silence_ms, &mut next).await {
            return next;
        }
        let [bytes, waits] = std::mem::replace(&mut known, read());
        waited = if known[0] > bytes { 0 } else { waited + 1 };
        if waited >= WAITING || (waited > 0 && known[1] == waits) {
            return Err(GetError::Net(NetError::Silent(silence_ms * u64::from(waited) / 1000)));
        }
    }
}

/// What a block says of its ranges is what they are known to be.
fn agrees(hashes: &[RangeHash], offset: u64, header: &BlockHeader) -> bool {
    let first = (offset / RANGE_BYTES) as usize;
    let before = first.checked_sub(1).map_or(Some(RangeHash::START), |last| hashes.get(last).copied());
    before == Some(header.before) && hashes.get(first..first + header.after.len()) == Some(&header.after[..])
}

async fn ask(peer: &Peer, digest: Digest, range: &Range<u64>) -> Result<Stream, GetError> {
    let get = Get { digest, offset: range.start, length_bytes: range.end - range.start };
    peer.request(&Request::Get(get)).await.map_err(GetError::Net)
}

/// The next header, which fits into what is left of the range. A source that waits itself says so.
async fn block(stream: &mut Stream, left_bytes: u64, waits: &AtomicU64) -> Result<BlockHeader, GetError> {
    loop {
        let header = match stream.receive_within(FRAME).await.map_err(GetError::Net)? {
            Block::Waiting => {
                waits.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            Block::Refused(refusal) => return Err(GetError::Refused(refusal)),
            Block::Bytes(header) => header,
        };
        let bytes = header.encoded_bytes;
        let ranges = bytes.div_ceil(RANGE_BYTES).max(1);
        let last = bytes == left_bytes;
        let whole = last || (bytes > 0 && bytes < left_bytes && bytes.is_multiple_of(RANGE_BYTES));
        return if whole && ranges == header.after.len() as u64 {
            Ok(header)
        } else {
            Err(GetError::Net(NetError::Frame(FrameError::Malformed)))
        };
    }
}

fn put(staged: &StagedBlob, at: u64, bytes: &[u8], header: &BlockHeader, counters: &[Arc<AtomicU64>]) -> Result<(), GetError> {
    match staged.put(at, bytes, header.before, &header.after).map_err(GetError::Staging)? {
        Ok(()) => {
            for counter in counters {
                counter.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
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
