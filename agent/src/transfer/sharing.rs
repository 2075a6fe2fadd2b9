//! Fetching in a fan-out: from the host before us in the chain, and from whoever has it when that one fails.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use proto::hash::{RangeHash, range_count};
use proto::job::{Fault, Trouble};
use proto::limits::{HASHES, SOURCE_SILENCE_MS};
use proto::peer::{Answer, Refusal, Request};
use proto::{Digest, HostId};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::get::{Fetch, GetError, HASHING_MS, Patience};
use super::job::{Job, JobBlob};
use crate::net::{Net, NetError, Peer, Stream};
use crate::sys;

/// A source that was lost is left alone for so long.
const REST: Duration = Duration::from_secs(5);
/// One that has not got a blob is not asked for it again for so long.
const LACK: Duration = Duration::from_secs(5);
/// What a source that is not the best one any more may still take to finish what it was asked for.
const PARTING: Duration = Duration::from_millis(400);
/// How long the head's first word on where to read is waited for; without it, the head itself is read from.
const FIRST_WORD_MS: u64 = 2_000;
/// Without a byte from anybody for so long it is given up.
const FRUITLESS: Duration = Duration::from_secs(60);
/// Sources to which connections are kept open.
const REACHED: usize = 3;
/// When all sources rest it is looked again after this, or when the head has another word.
const ROUND_MS: u64 = 5_000;

/// The sources of one session of a fan-out.
#[derive(Debug)]
pub(super) struct Sharing {
    net: Arc<Net>,
    job: Arc<Job>,
    head: Peer,
    judged: Mutex<Judged>,
    /// Verified bytes that came from each source.
    drawn: Mutex<HashMap<HostId, Arc<AtomicU64>>>,
    trouble: mpsc::Sender<Trouble>,
}

/// What was found out about sources.
#[derive(Debug, Default)]
struct Judged {
    liars: HashSet<HostId>,
    /// Lost since their last byte: asked again only when nobody else is left, or sources that say nothing would be tried in turn for ever.
    silent: HashSet<HostId>,
    /// Until when they are not asked again: a session that is renewed has again what it had.
    lacking: HashMap<(HostId, Digest), Instant>,
    resting: HashMap<HostId, Instant>,
}

impl Sharing {
    /// For a job that `head` has started. What goes wrong with sources goes to `trouble`, as far as there is room.
    pub(super) fn new(net: Arc<Net>, job: Arc<Job>, head: Peer, trouble: mpsc::Sender<Trouble>) -> Self {
        Self { net, job, head, judged: Mutex::default(), drawn: Mutex::default(), trouble }
    }

    /// The job.
    pub(super) fn job(&self) -> &Arc<Job> {
        &self.job
    }

    /// Verified bytes that came from each source so far, the most first.
    pub(super) fn drawn(&self) -> Vec<(HostId, u64)> {
        let drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut drawn: Vec<(HostId, u64)> = drawn.iter().map(|(host, bytes)| (*host, bytes.load(Ordering::Relaxed))).collect();
        drawn.retain(|(_, bytes)| *bytes > 0);
        drawn.sort_by_key(|(host, bytes)| (std::cmp::Reverse(*bytes), *host));
        drawn
    }

    /// Fetches from `at` to `end`, from one source after the other.
    pub(super) async fn fetch(&self, fetch: Fetch<'_>, at: u64, end: u64) -> Result<(), GetError> {
        let digest = fetch.staged.descriptor().digest;
        let blob = self.job.blob(&digest).ok_or(GetError::Refused(Refusal::BlobNotOffered(digest)))?;
        self.first_word().await;
        let hashes = self.hashes(blob).await?;
        let fetch = Fetch { hashes: Some(&hashes), ..fetch };
        let mut at = at;
        let mut since = Instant::now();
        loop {
            if since.elapsed() >= FRUITLESS {
                return Err(GetError::Net(NetError::Silent(FRUITLESS.as_secs())));
            }
            let before = at;
            let (source, stop) = self.choose(&digest, since).await?;
            let fetched = match self.peer(&source).await {
                Ok(peer) => {
                    let received_bytes = self.counter(&source);
                    let patience = Patience { silence_ms: SOURCE_SILENCE_MS, is_origin: source == self.job.head };
                    let fetch = Fetch { received_bytes: &received_bytes, patience, ..fetch };
                    fetch.run(&peer, &mut at, end, stop).await
                }
                Err(error) => Err(GetError::Net(error)),
            };
            match fetched {
                Ok(()) if at >= end => return Ok(()),
                // Another source is better now.
                Ok(()) => {}
                Err(GetError::Staging(error)) => return Err(GetError::Staging(error)),
                Err(error) => self.judge(&source, digest, error)?,
            }
            if at > before {
                since = Instant::now();
                self.judged().silent.remove(&source);
            }
        }
    }

    /// What goes on beside the fetching of what is missing.
    pub(super) async fn accompany(self: Arc<Self>, missing: Vec<Digest>) {
        tokio::join!(self.clone().prepare(missing), self.reach_out());
    }

    /// Asks for the hashes of all blobs that are missing, as soon as it is known which: with them, what comes can be checked when the head is gone.
    async fn prepare(self: Arc<Self>, missing: Vec<Digest>) {
        self.first_word().await;
        let mut asking = JoinSet::new();
        for digest in missing {
            let sharing = self.clone();
            asking.spawn(async move {
                if let Some(blob) = sharing.job.blob(&digest)
                    && let Err(error) = sharing.hashes(blob).await
                {
                    // Whoever fetches the blob asks again.
                    debug!(blob = %digest, ?error, "no hashes yet");
                }
            });
        }
        while asking.join_next().await.is_some() {}
    }

    /// Keeps the ways to the next sources open: to find one when it is needed takes long where links are full.
    async fn reach_out(self: Arc<Self>) {
        let mut sources = self.job.sources();
        loop {
            let hosts: Vec<HostId> = sources.borrow_and_update().iter().take(REACHED).copied().collect();
            let mut reaching = JoinSet::new();
            for host in hosts {
                let sharing = self.clone();
                reaching.spawn(async move { sharing.peer(&host).await.map(drop) });
            }
            while reaching.join_next().await.is_some() {}
            if sources.changed().await.is_err() {
                return;
            }
        }
    }

    /// The hashes of all ranges of a blob: from anybody, proven by the head.
    async fn hashes(&self, blob: &JobBlob) -> Result<Arc<[RangeHash]>, GetError> {
        let digest = blob.descriptor.digest;
        // One task asks, the others of this blob wait for it.
        let _turn = blob.asking.lock().await;
        if let Some(hashes) = blob.hashes.borrow().clone() {
            return Ok(hashes);
        }
        let since = Instant::now();
        let proof = self.proof(digest, since).await?;
        loop {
            let (source, _) = self.choose(&digest, since).await?;
            let asked = async {
                let peer = self.peer(&source).await.map_err(GetError::Net)?;
                hashes_of(&peer, blob).await
            };
            let proven = asked.await.and_then(|hashes| blob.prove(hashes, &proof).ok_or(GetError::Corrupt));
            match proven {
                Ok(hashes) => return Ok(hashes),
                Err(error) => self.judge(&source, digest, error)?,
            }
        }
    }

    /// What the head says the hashes of a blob hash to. Where the link to the head is full, or the head is busy, that takes more than one question.
    async fn proof(&self, digest: Digest, since: Instant) -> Result<Digest, GetError> {
        loop {
            match proof(&self.head, digest).await {
                Err(GetError::Net(NetError::Silent(_))) if self.head.is_alive() && since.elapsed() < FRUITLESS => {}
                proof => return proof,
            }
        }
    }

    fn counter(&self, source: &HostId) -> Arc<AtomicU64> {
        self.drawn.lock().unwrap_or_else(PoisonError::into_inner).entry(*source).or_default().clone()
    }

    /// Who is to be read from now, and what resolves when another one is better. While all rest it waits, but not for ever without a byte since `since`.
    async fn choose(&self, digest: &Digest, since: Instant) -> Result<(HostId, impl Future<Output = ()> + use<>), GetError> {
        loop {
            // What the head says from here on is news to what is chosen now.
            let mut sources = self.job.sources();
            let first = sources.borrow_and_update().first().copied();
            if let Some(source) = self.source(digest) {
                return Ok((source, replaced(sources, source, first == Some(source))));
            }
            if since.elapsed() >= FRUITLESS {
                return Err(GetError::Net(NetError::Silent(FRUITLESS.as_secs())));
            }
            let _ = sys::deadline(ROUND_MS, sources.changed()).await;
        }
    }

    /// Who is to be read from now.
    fn source(&self, digest: &Digest) -> Option<HostId> {
        let judged = self.judged();
        let usable = |host: &&HostId| {
            let lacks = is_to_come(judged.lacking.get(&(**host, *digest)));
            !is_to_come(judged.resting.get(*host)) && !lacks && !judged.liars.contains(*host)
        };
        let sources = self.job.sources();
        let sources = sources.borrow();
        // Without its head the hosts have only each other: whoever takes part may have the rest.
        let others = self.job.members().filter(|_| !self.head.is_alive());
        let known = || sources.iter().chain(std::iter::once(&self.job.head)).chain(others.clone());
        let heard = known().filter(|host| !judged.silent.contains(*host)).find(usable);
        heard.or_else(|| known().find(usable)).copied()
    }

    async fn peer(&self, source: &HostId) -> Result<Peer, NetError> {
        if *source == self.job.head && self.head.is_alive() {
            return Ok(self.head.clone());
        }
        let connected = sys::deadline(SOURCE_SILENCE_MS, self.net.connect(source)).await;
        connected.unwrap_or(Err(NetError::Silent(SOURCE_SILENCE_MS / 1000)))
    }

    /// A source has failed: it is left alone, for a while or for ever, and the head hears of it. An error when it was the head who has the last word.
    fn judge(&self, source: &HostId, digest: Digest, error: GetError) -> Result<(), GetError> {
        let is_head = *source == self.job.head;
        let fault = match &error {
            GetError::Net(_) => Fault::Lost,
            // It has it, and not now.
            GetError::Refused(Refusal::Busy | Refusal::ShuttingDown) => Fault::Lost,
            GetError::Refused(_) => Fault::Lacks(digest),
            GetError::Corrupt => Fault::Lied(digest),
            GetError::Staging(_) => return Err(error),
        };
        if is_head && fault != Fault::Lost {
            return Err(error);
        }
        {
            let mut judged = self.judged();
            // All ranges that were read from it fail together: that is one fault.
            if (fault == Fault::Lost && is_to_come(judged.resting.get(source))) || judged.liars.contains(source) {
                return Ok(());
            }
            match fault {
                Fault::Lost => {
                    judged.silent.insert(*source);
                    judged.resting.insert(*source, Instant::now() + REST);
                }
                Fault::Lacks(_) => drop(judged.lacking.insert((*source, digest), Instant::now() + LACK)),
                Fault::Lied(_) => drop(judged.liars.insert(*source)),
            }
        }
        warn!(source = %source, ?fault, "a source of the fan-out fails");
        if !is_head && self.trouble.try_send(Trouble { source: *source, fault }).is_err() {
            debug!("the head does not hear of it");
        }
        Ok(())
    }

    fn judged(&self) -> std::sync::MutexGuard<'_, Judged> {
        self.judged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the head has said where to read, but not for ever.
    async fn first_word(&self) {
        let mut sources = self.job.sources();
        let _ = sys::deadline(FIRST_WORD_MS, sources.wait_for(|sources| !sources.is_empty())).await;
    }
}

fn is_to_come(until: Option<&Instant>) -> bool {
    until.is_some_and(|until| *until > Instant::now())
}

/// Resolves when `source` is not named any more, or has not been the first one for a while: what it was asked for, a good one has sent by then.
/// One that was taken because the better ones failed stays until the head has another word.
async fn replaced(mut sources: watch::Receiver<Vec<HostId>>, source: HostId, was_first: bool) {
    let word = match was_first {
        true => sources.wait_for(|hosts| hosts.first() != Some(&source)).await.map(drop),
        false => sources.changed().await,
    };
    match word {
        Ok(()) if sources.borrow().contains(&source) => tokio::time::sleep(PARTING).await,
        Ok(()) => {}
        Err(_) => std::future::pending().await,
    }
}

async fn proof(head: &Peer, digest: Digest) -> Result<Digest, GetError> {
    let mut asked = Asked::ask(head, &Request::Proof(digest)).await?;
    match asked.answer().await? {
        Answer::Proof(proof) => Ok(proof),
        Answer::Refused(refusal) => Err(GetError::Refused(refusal)),
        _ => Err(GetError::Refused(Refusal::OutOfTurn)),
    }
}

async fn hashes_of(peer: &Peer, blob: &JobBlob) -> Result<Vec<RangeHash>, GetError> {
    let count = range_count(blob.descriptor.size_bytes) as usize;
    let mut asked = Asked::ask(peer, &Request::Hashes(blob.descriptor.digest)).await?;
    let mut hashes: Vec<RangeHash> = vec![];
    while hashes.len() < count {
        match asked.answer().await? {
            // Full messages, so that a source cannot drag it out.
            Answer::Hashes(more) if more.len() == HASHES.min(count - hashes.len()) => hashes.extend(more),
            Answer::Refused(refusal) => return Err(GetError::Refused(refusal)),
            _ => return Err(GetError::Corrupt),
        }
    }
    Ok(hashes)
}

/// A question about hashes, which a source that hashes now answers later.
struct Asked(Stream);

impl Asked {
    async fn ask(peer: &Peer, request: &Request) -> Result<Self, GetError> {
        let asked = sys::deadline(SOURCE_SILENCE_MS, peer.request(request)).await;
        asked.unwrap_or_else(silent).map(Self).map_err(GetError::Net)
    }

    /// The next answer. A source may say that it hashes for as long as it gets further, and for [`HASHING_MS`] when it does not.
    async fn answer(&mut self) -> Result<Answer, GetError> {
        let (mut done_bytes, mut since) = (None, Instant::now());
        loop {
            let answer = sys::deadline(SOURCE_SILENCE_MS, self.0.receive()).await;
            match answer.unwrap_or_else(silent).map_err(GetError::Net)? {
                Answer::Hashing(progress) if done_bytes != Some(progress.done_bytes) => {
                    (done_bytes, since) = (Some(progress.done_bytes), Instant::now());
                }
                Answer::Hashing(_) if since.elapsed().as_millis() < u128::from(HASHING_MS) => {}
                answer => return Ok(answer),
            }
        }
    }
}

fn silent<T>() -> Result<T, NetError> {
    Err(NetError::Silent(SOURCE_SILENCE_MS / 1000))
}
/// Resolves when the host that started the fan-out has begun a new session for it.
pub(super) async fn renewed(sharing: Option<&Arc<Sharing>>) {
    match sharing {
        Some(sharing) => sharing.job().renewed.cancelled().await,
        None => std::future::pending().await,
    }
}
