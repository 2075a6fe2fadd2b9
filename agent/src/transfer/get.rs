//! Fetching: a `Get`, its blocks, and what happens to them.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use proto::frame::FrameError;
use proto::hash::RangeHash;
use proto::limits::{FRAME, RANGE_BYTES, STALL_TIMEOUT_MS};
use proto::peer::{Block, BlockHeader, Get, HashingProgress, Refusal, Request};
use proto::{Descriptor, Digest};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Limit, refusal};
use crate::net::{NetError, Peer, Share, Stream};
use crate::staging::StagedBlob;
use crate::store::StoreError;
use crate::sys::{self, Lane, blocking_in};

/// Silence periods that a source may fill with [`Block::Waiting`] before it is given up: hosts that wait for each other would wait for ever. At the
/// smallest limit that is of use, 10 KB/s, a range takes two of them.
const WAITING: u64 = 10;

/// Time that a source may say that it hashes without getting further: its engine hands out a large layer only when it has written it to its disk.
/// The source itself watches its engine, and refuses when that hangs.
pub(super) const HASHING_MS: u64 = 600_000;

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
    /// What the session ends with. `is_refused` becomes true when it is the source that says so.
    pub(super) fn refusal(self, digest: Digest, is_refused: &AtomicBool) -> Refusal {
        match self {
            Self::Net(error) => Refusal::Store(format!("blob {digest} did not arrive: {error}")),
            Self::Refused(refusal) => {
                is_refused.store(true, Ordering::Relaxed);
                refusal
            }
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
        let signs = Signs::default();
        let header = heard(Patience::ORIGIN, &AtomicU64::new(0), &signs, block(&mut stream, left_bytes, &signs)).await?;
        bytes.extend(stream.read(header.encoded_bytes as usize).await.map_err(GetError::Net)?);
        if bytes.len() as u64 == blob.size_bytes {
            break;
        }
    }
    if Digest::of(&bytes) == blob.digest { Ok(bytes) } else { Err(GetError::Corrupt) }
}

/// How long nothing may come from a source.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Without a byte or a sign of life.
    pub(super) silence_ms: u64,
    /// The source has the image: when it waits, it waits for no other host, and may do so as long as it says so.
    pub(super) is_origin: bool,
}

impl Patience {
    /// With the one source of a session.
    pub(super) const ORIGIN: Self = Self { silence_ms: STALL_TIMEOUT_MS, is_origin: true };
}

/// How a range is fetched into staging, verified block by block.
#[derive(Clone, Copy)]
pub(super) struct Fetch<'a> {
    /// Where it goes.
    pub(super) staged: &'a Arc<StagedBlob>,
    /// Follows what came from this source.
    pub(super) received_bytes: &'a Arc<AtomicU64>,
    /// Does not want it to be faster.
    pub(super) limit: Option<&'a Limit>,
    /// What the hashes of all ranges have to be, where that is known.
    pub(super) hashes: Option<&'a [RangeHash]>,
    /// How long nothing may come from the source.
    pub(super) patience: Patience,
    /// Hears how far the source is that hashes before it serves.
    pub(super) hashing: Option<&'a watch::Sender<Option<HashingProgress>>>,
}

impl Fetch<'_> {
    /// Reads from `peer` from `*at` to `end`, unless `stop` comes before that; `*at` says how far it is, also after an error.
    pub(super) async fn run(&self, peer: &Peer, at: &mut u64, end: u64, stop: impl Future<Output = ()>) -> Result<(), GetError> {
        let mut stop = std::pin::pin!(stop);
        let begin = async {
            let turn = peer.ask().await;
            Ok((
                turn,
                heard(self.patience, self.received_bytes, &Signs::default(), ask(peer, self.staged.descriptor().digest, &(*at..end)))
                    .await?,
            ))
        };
        let (_turn, mut stream) = tokio::select! {
            biased;
            () = &mut stop => return Ok(()),
            begun = begin => begun?,
        };
        let mut offset = *at;
        let mut writing: Option<JoinHandle<Result<(), GetError>>> = None;
        loop {
            let next = tokio::select! {
                biased;
                () = &mut stop => break,
                next = self.next(peer, &mut stream, offset, end) => next,
            };
            // One block is hashed and written while the next one arrives; what was written counts, whatever comes behind it.
            if let Some(writing) = writing.take() {
                joined(writing).await?;
                *at = offset;
            }
            let (header, bytes, share) = next?;
            let (staged, start) = (self.staged.clone(), offset);
            let received = self.received_bytes.clone();
            offset += bytes.len() as u64;
            writing = Some(tokio::spawn(blocking_in(Lane::Write, move || {
                let _share = share;
                put(&staged, start, &bytes, &header, &received)
            })));
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

    async fn next(
        &self,
        peer: &Peer,
        stream: &mut Stream,
        offset: u64,
        end: u64,
    ) -> Result<(BlockHeader, Vec<u8>, Option<Share>), GetError> {
        let signs = Signs { hashing: self.hashing.cloned(), ..Signs::default() };
        let header = heard(self.patience, self.received_bytes, &signs, block(stream, end - offset, &signs)).await?;
        if let Some(hashes) = self.hashes
            && !agrees(hashes, offset, &header)
        {
            return Err(GetError::Corrupt);
        }
        if let Some(limit) = self.limit {
            // What is not read is not sent: the window of the stream closes. The wait is ours, and no silence of the source.
            limit.take(header.encoded_bytes).await;
        }
        let share = peer.block_in().await;
        let read = async { stream.read(header.encoded_bytes as usize).await.map_err(GetError::Net) };
        let bytes = heard(self.patience, self.received_bytes, &signs, read).await?;
        Ok((header, bytes, share))
    }
}

/// What a source says of itself before its next bytes.
#[derive(Debug, Default)]
struct Signs {
    /// How often it said that it waits.
    waits: AtomicU64,
    /// How often it said that it hashes.
    hashes: AtomicU64,
    /// What it has hashed.
    hashed_bytes: AtomicU64,
    /// Hears of it, too.
    hashing: Option<watch::Sender<Option<HashingProgress>>>,
}

/// What was seen of a source.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    bytes: u64,
    waits: u64,
    hashes: u64,
    hashed_bytes: u64,
}

impl Signs {
    fn hashing(&self, progress: HashingProgress) {
        self.hashes.fetch_add(1, Ordering::Relaxed);
        self.hashed_bytes.store(progress.done_bytes, Ordering::Relaxed);
        if let Some(hashing) = &self.hashing {
            hashing.send_replace(Some(progress));
        }
    }

    fn seen(&self, received_bytes: &AtomicU64) -> Seen {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Seen { bytes: read(received_bytes), waits: read(&self.waits), hashes: read(&self.hashes), hashed_bytes: read(&self.hashed_bytes) }
    }
}

/// The output of `next`, unless the source is silent for `silence_ms`. It is not silent while bytes come, be they of another range that it prefers, nor
/// while it gets further with its hashing. For a while it may say that it waits, and for longer that it hashes and gets no further.
async fn heard<T>(
    patience: Patience,
    received_bytes: &AtomicU64,
    signs: &Signs,
    next: impl Future<Output = Result<T, GetError>>,
) -> Result<T, GetError> {
    let Patience { silence_ms, is_origin } = patience;
    let mut next = std::pin::pin!(next);
    let (mut known, mut waited) = (signs.seen(received_bytes), 0);
    loop {
        if let Some(next) = sys::deadline(silence_ms, &mut next).await {
            return next;
        }
        let now = signs.seen(received_bytes);
        let before = std::mem::replace(&mut known, now);
        // The origin waits for no other host: it keeps to a limit, which may take long for one block.
        let is_held_back = is_origin && now.waits > before.waits;
        let is_further = now.bytes > before.bytes || now.hashed_bytes != before.hashed_bytes || is_held_back;
        waited = if is_further { 0 } else { waited + 1 };
        let most = if now.hashes > before.hashes { HASHING_MS / silence_ms } else { WAITING };
        if waited >= most || (waited > 0 && now == before) {
            return Err(GetError::Net(NetError::Silent(silence_ms * waited / 1000)));
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
async fn block(stream: &mut Stream, left_bytes: u64, signs: &Signs) -> Result<BlockHeader, GetError> {
    loop {
        let header = match stream.receive_within(FRAME).await.map_err(GetError::Net)? {
            Block::Waiting => {
                signs.waits.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            Block::Hashing(progress) => {
                signs.hashing(progress);
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

fn put(staged: &StagedBlob, at: u64, bytes: &[u8], header: &BlockHeader, received_bytes: &AtomicU64) -> Result<(), GetError> {
    match staged.put(at, bytes, header.before, &header.after).map_err(GetError::Staging)? {
        Ok(()) => {
            received_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            Ok(())
        }
        Err(_) => Err(GetError::Corrupt),
    }
}

async fn joined(writing: JoinHandle<Result<(), GetError>>) -> Result<(), GetError> {
    match writing.await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(GetError::Net(NetError::Lost("the agent is shutting down".to_owned()))),
        },
    }
}
