//! Sources of a fetch: the head, or in a fan-out the best one that does not rest, lacks nothing of the layer, and is no liar.
//!
//! Two rules are stricter than those of `agent/src/transfer/sharing.rs`, because some seeds fail with the latter: a source that was lost comes after
//! all others until a byte comes from it, and a fetch is given up after a minute without a byte even if some source may be asked again.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use proto::Digest;
use proto::job::{Fault, Trouble};
use proto::limits::{BLOCK_BYTES, SOURCE_SILENCE_MS, STALL_TIMEOUT_MS, STREAM_WINDOW};
use proto::peer::{Answer, Block, BlockHeader, Get, Refusal, Request};
use proto::session::receive::Input;

use crate::content::{Part, index, range_bytes};
use crate::network::{Message, Purpose};
use crate::scenario::{MS, SECOND};
use crate::session::Session;
use crate::world::{Timer, World};

/// A source that was lost, or lacks a layer, is left alone for so long.
const REST_US: u64 = 5 * SECOND;
/// Time for a source to finish that is no longer the best one.
const PARTING_US: u64 = 400 * MS;
/// How long the head's first word on where to read is waited for.
pub(crate) const FIRST_WORD_US: u64 = 2 * SECOND;
/// Without a byte from anybody for so long a fetch is given up.
pub(crate) const FRUITLESS_US: u64 = 60 * SECOND;
/// When all sources rest it is looked again after this, or when the head has another word.
const ROUND_US: u64 = 5 * SECOND;
/// How many times longer than it may be silent a source may say that it waits itself.
const WAITING: u32 = 4;

/// Judgement of a session on its sources.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    liars: BTreeSet<usize>,
    /// Until when they are not asked.
    lacking: BTreeMap<(usize, Digest), u64>,
    resting: BTreeMap<usize, u64>,
    /// Losses of each source since its last byte.
    losses: BTreeMap<usize, u64>,
}

/// An extent that is fetched.
#[derive(Debug)]
pub(crate) struct Fetch {
    pub(crate) digest: Digest,
    pub(crate) at: u64,
    pub(crate) end: u64,
    /// When it began, or the last byte came.
    since_us: u64,
    pub(crate) source: Option<Source>,
    /// How often a source was chosen.
    choices: u32,
}

/// Where a fetch reads now.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) host: usize,
    pub(crate) stream: usize,
    was_first: bool,
    heard_us: u64,
    drawn_bytes: u64,
    waits: u32,
    known_waits: u32,
    silences: u32,
}

impl World {
    /// An extent is to be fetched.
    pub(crate) fn fetch(&mut self, session: usize, digest: Digest, range: Range<u64>) {
        let state = &mut self.sessions[session];
        state.last_fetch += 1;
        let number = state.last_fetch;
        let fetch = Fetch { digest, at: range.start, end: range.end, since_us: self.now_us, source: None, choices: 0 };
        state.fetches.insert(number, fetch);
        self.remind(self.sessions[session].host, 10, Timer::Fetch(session, number));
    }

    /// A fetch without a source looks for one.
    pub(crate) fn go_on(&mut self, session: usize, number: u64) {
        let Session { host, head, job, began_us, .. } = self.sessions[session];
        let Some(fetch) = self.sessions[session].fetches.get(&number).filter(|fetch| fetch.source.is_none()) else { return };
        let (digest, since_us) = (fetch.digest, fetch.since_us);
        if job.is_none() {
            return self.read(session, number, head, true);
        }
        let Some(membership) = self.nodes[host].memberships.get(&session) else { return };
        if membership.sources.is_empty() && self.now_us < began_us + FIRST_WORD_US {
            return self.remind(host, began_us + FIRST_WORD_US - self.now_us, Timer::Fetch(session, number));
        }
        if membership.layers[&digest].hashes.is_none() {
            // When they are known it goes on.
            return self.ask_hashes(session, digest);
        }
        let first = membership.sources.first().copied();
        if self.now_us >= since_us + FRUITLESS_US {
            return self.tell(session, Input::Failed(Refusal::Store(String::from("no source for a minute"))));
        }
        match self.choose(session, &digest) {
            Some(source) => self.read(session, number, source, first == Some(source)),
            None => self.remind(host, ROUND_US, Timer::Fetch(session, number)),
        }
    }

    /// The source to read from now.
    pub(crate) fn choose(&self, session: usize, digest: &Digest) -> Option<usize> {
        let Session { host, head, ref judged, .. } = self.sessions[session];
        let sources = self.nodes[host].memberships.get(&session).map(|membership| &membership.sources[..]).unwrap_or_default();
        let is_to_come = |until_us: Option<&u64>| until_us.is_some_and(|until_us| *until_us > self.now_us);
        let usable = |source: &usize| {
            let lacks = is_to_come(judged.lacking.get(&(*source, *digest)));
            !is_to_come(judged.resting.get(source)) && !lacks && !judged.liars.contains(source)
        };
        // Sources that were lost come last: otherwise three silent ones are tried in turn for ever, and the head never.
        let losses = |source: &usize| judged.losses.get(source).copied().unwrap_or(0);
        sources.iter().copied().chain([head]).filter(usable).min_by_key(losses)
    }

    fn read(&mut self, session: usize, number: u64, source: usize, was_first: bool) {
        let Session { host, job, ref drawn, .. } = self.sessions[session];
        let drawn_bytes = drawn.get(&source).copied().unwrap_or(0);
        let Some(fetch) = self.sessions[session].fetches.get(&number) else { return };
        let get = Get { digest: fetch.digest, offset: fetch.at, length_bytes: fetch.end - fetch.at };
        let stream = self.open(host, source, Purpose::Range(session, number), Request::Get(get));
        let heard_us = self.now_us;
        let Some(fetch) = self.sessions[session].fetches.get_mut(&number) else { return };
        fetch.choices += 1;
        fetch.source = Some(Source { host: source, stream, was_first, heard_us, drawn_bytes, waits: 0, known_waits: 0, silences: 0 });
        let choice = fetch.choices;
        self.remind(host, silence_us(job.is_some()), Timer::Silence(session, number, choice));
    }

    /// A source is silent, unless bytes come from it, or for a while word that it waits itself.
    pub(crate) fn look_for_silence(&mut self, session: usize, number: u64, choice: u32) {
        let Session { host, job, .. } = self.sessions[session];
        let silence_us = silence_us(job.is_some());
        let state = &mut self.sessions[session];
        let Some(fetch) = state.fetches.get_mut(&number).filter(|fetch| fetch.choices == choice) else { return };
        let Some(source) = &mut fetch.source else { return };
        let heard_us = source.heard_us;
        if heard_us + silence_us > self.now_us {
            return self.remind(host, heard_us + silence_us - self.now_us, Timer::Silence(session, number, choice));
        }
        let drawn_bytes = state.drawn.get(&source.host).copied().unwrap_or(0);
        let waits = source.waits > source.known_waits;
        source.silences = if drawn_bytes > source.drawn_bytes { 0 } else { source.silences + 1 };
        (source.drawn_bytes, source.known_waits) = (drawn_bytes, source.waits);
        if source.silences >= WAITING || (source.silences > 0 && !waits) {
            let stream = source.stream;
            self.range_lost(session, number, stream);
        } else {
            self.remind(host, silence_us, Timer::Silence(session, number, choice));
        }
    }

    /// A block has come for a fetch.
    pub(crate) fn block_came(&mut self, session: usize, number: u64, stream: usize, block: Block, content: &[u64]) {
        let Some(fetch) = self.sessions[session].fetches.get_mut(&number) else { return self.close(stream) };
        let digest = fetch.digest;
        let Some(source) = fetch.source.as_mut().filter(|source| source.stream == stream) else { return self.close(stream) };
        let from = source.host;
        match block {
            Block::Waiting | Block::Hashing(_) => source.waits += 1,
            Block::Refused(refusal) => self.range_failed(session, number, GetError::Refused(refusal)),
            Block::Bytes(header) => {
                (source.heard_us, source.silences) = (self.now_us, 0);
                if !self.agrees(session, number, &header) {
                    return self.range_failed(session, number, GetError::Corrupt(digest));
                }
                match self.put(session, number, from, &header, content) {
                    Ok(()) => self.block_kept(session, number, stream),
                    Err(error) => self.range_failed(session, number, error),
                }
            }
        }
    }

    /// True unless the header of a block contradicts the proven hashes.
    fn agrees(&self, session: usize, number: u64, header: &BlockHeader) -> bool {
        let Session { host, ref fetches, .. } = self.sessions[session];
        let fetch = &fetches[&number];
        let Some(membership) = self.nodes[host].memberships.get(&session) else { return true };
        let Some(hashes) = &membership.layers[&fetch.digest].hashes else { return true };
        let first = index(fetch.at);
        let before = first.checked_sub(1).map_or(Some(proto::hash::RangeHash::START), |last| hashes.get(last).copied());
        before == Some(header.before) && hashes.get(first..first + header.after.len()) == Some(&header.after[..])
    }

    fn put(&mut self, session: usize, number: u64, from: usize, header: &BlockHeader, content: &[u64]) -> Result<(), GetError> {
        let Session { host, .. } = self.sessions[session];
        let digest = self.sessions[session].fetches[&number].digest;
        let blob = self.scenario.blobs[&digest].clone();
        let mut before = header.before;
        for (content, after) in content.iter().zip(&header.after) {
            if std::mem::take(&mut self.nodes[host].staging_fails) {
                self.nodes[host].had_disk_fault = true;
                return Err(GetError::Staging);
            }
            let at = self.sessions[session].fetches[&number].at;
            let part = Part { content: *content, before, after: *after };
            if !self.nodes[host].disk.put(&blob, at, &part) {
                return Err(GetError::Corrupt(digest));
            }
            self.check_staged(session, from, &blob, index(at), &part);
            before = *after;
            let bytes = range_bytes(blob.descriptor.size_bytes, index(at));
            self.nodes[host].verified_bytes += bytes;
            let state = &mut self.sessions[session];
            *state.drawn.entry(from).or_default() += bytes;
            state.judged.losses.remove(&from);
            if let Some(arriving) = state.layers.get_mut(&digest) {
                arriving.verified_bytes += bytes;
            }
            if let Some(fetch) = state.fetches.get_mut(&number) {
                (fetch.at, fetch.since_us) = (fetch.at + bytes, self.now_us);
            }
        }
        self.wake(host, &digest);
        Ok(())
    }

    fn block_kept(&mut self, session: usize, number: u64, stream: usize) {
        let fetch = &self.sessions[session].fetches[&number];
        if fetch.at >= fetch.end {
            let digest = fetch.digest;
            self.sessions[session].fetches.remove(&number);
            self.close(stream);
            self.tell(session, Input::Fetched { digest });
        }
    }

    /// The source of a fetch is lost.
    pub(crate) fn range_lost(&mut self, session: usize, number: u64, stream: usize) {
        let source = self.sessions[session].fetches.get(&number).and_then(|fetch| fetch.source.as_ref());
        if source.is_some_and(|source| source.stream == stream) {
            self.range_failed(session, number, GetError::Lost);
        }
    }

    fn range_failed(&mut self, session: usize, number: u64, error: GetError) {
        let Session { host, job, .. } = self.sessions[session];
        let Some(fetch) = self.sessions[session].fetches.get_mut(&number) else { return };
        let (digest, Some(source)) = (fetch.digest, fetch.source.take()) else { return };
        self.log(|| format!("session {session}: source {} fails: {error:?}", source.host));
        self.break_stream(host, source.stream);
        if error == GetError::Staging {
            return self.tell(session, Input::Failed(Refusal::Store(String::from("disk"))));
        }
        if job.is_some() {
            if self.judge(session, source.host, digest, error) {
                self.another_source(session, number);
            }
            return;
        }
        match error {
            GetError::Refused(refusal) => self.tell(session, Input::Failed(refusal)),
            GetError::Corrupt(digest) => self.tell(session, Input::Failed(Refusal::Corrupt(digest))),
            // With its connection the session ends; else the rest is asked for again.
            _ if self.streams[self.sessions[session].stream].is_open => self.hand_back(session, number),
            _ => self.tell(session, Input::Failed(Refusal::Store(String::from("a blob did not arrive")))),
        }
    }

    /// Looks for another source for a fetch.
    fn another_source(&mut self, session: usize, number: u64) {
        match self.scenario.hands_back {
            true => self.hand_back(session, number),
            false => self.remind(self.sessions[session].host, 10, Timer::Fetch(session, number)),
        }
    }

    fn hand_back(&mut self, session: usize, number: u64) {
        let Some(fetch) = self.sessions[session].fetches.remove(&number) else { return };
        self.counts.handed_back += 1;
        self.tell(session, Input::Unfetched { digest: fetch.digest, range: fetch.at..fetch.end });
        let is_rest = |other: &Fetch| (other.digest, other.at, other.end) == (fetch.digest, fetch.at, fetch.end);
        assert!(self.sessions[session].fetches.values().any(is_rest), "the rest of an extent is not asked for first");
    }

    /// Records the failure of a source, and reports it to the head. False: the session is over, because the head itself refuses or lies.
    pub(crate) fn judge(&mut self, session: usize, source: usize, digest: Digest, error: GetError) -> bool {
        let Session { host, head, stream, .. } = self.sessions[session];
        let fault = match &error {
            GetError::Lost | GetError::Refused(Refusal::Busy | Refusal::ShuttingDown) | GetError::Staging => Fault::Lost,
            GetError::Refused(_) => Fault::Lacks(digest),
            GetError::Corrupt(_) => Fault::Lied(digest),
        };
        if source == head && fault != Fault::Lost {
            let refusal = if let GetError::Refused(refusal) = error { refusal } else { Refusal::Corrupt(digest) };
            self.tell(session, Input::Failed(refusal));
            return false;
        }
        self.check_fault(source, &fault);
        let until_us = self.now_us + REST_US;
        let judged = &mut self.sessions[session].judged;
        let rests = judged.resting.get(&source).is_some_and(|until_us| *until_us > self.now_us);
        if (fault == Fault::Lost && rests) || judged.liars.contains(&source) {
            return true;
        }
        match fault {
            Fault::Lost => {
                judged.resting.insert(source, until_us);
                *judged.losses.entry(source).or_default() += 1;
            }
            Fault::Lacks(_) => drop(judged.lacking.insert((source, digest), until_us)),
            Fault::Lied(_) => drop(judged.liars.insert(source)),
        }
        if source != head {
            let trouble = Trouble { source: self.nodes[source].id, fault };
            self.transmit(stream, host, Message::Answer(Answer::Trouble(trouble)));
        }
        true
    }

    /// The head has another word on where to read.
    pub(crate) fn sources_changed(&mut self, session: usize) {
        let Session { host, .. } = self.sessions[session];
        let Some(membership) = self.nodes[host].memberships.get(&session) else { return };
        let sources = &membership.sources;
        let word = |(number, fetch): (&u64, &Fetch)| match &fetch.source {
            None => Some((10, Timer::Fetch(session, *number))),
            Some(source) if source.was_first && sources.first() == Some(&source.host) => None,
            Some(source) if sources.contains(&source.host) => Some((PARTING_US, Timer::Part(session, *number, fetch.choices))),
            Some(_) => Some((10, Timer::Part(session, *number, fetch.choices))),
        };
        let words: Vec<(u64, Timer)> = self.sessions[session].fetches.iter().filter_map(word).collect();
        for (for_us, timer) in words {
            self.remind(host, for_us, timer);
        }
    }

    /// A fetch leaves its source for a better one.
    pub(crate) fn part(&mut self, session: usize, number: u64, choice: u32) {
        let Session { host, .. } = self.sessions[session];
        let Some(fetch) = self.sessions[session].fetches.get_mut(&number).filter(|fetch| fetch.choices == choice) else { return };
        if let Some(source) = fetch.source.take() {
            self.break_stream(host, source.stream);
            self.another_source(session, number);
        }
    }

    /// A fetch ends before all of it has come.
    pub(crate) fn break_off(&mut self, host: usize, fetch: &Fetch) {
        if let Some(source) = &fetch.source {
            self.break_stream(host, source.stream);
        }
    }

    fn break_stream(&mut self, host: usize, stream: usize) {
        self.nodes[host].broken_reads += 1;
        self.close(stream);
    }
}

/// Why a range does not come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GetError {
    Lost,
    Refused(Refusal),
    Corrupt(Digest),
    Staging,
}

/// Most bytes that a broken read costs: the window of the stream, and one block.
pub(crate) const BROKEN_READ_BYTES: u64 = STREAM_WINDOW as u64 + BLOCK_BYTES;

fn silence_us(is_shared: bool) -> u64 {
    (if is_shared { SOURCE_SILENCE_MS } else { STALL_TIMEOUT_MS }) * MS
}
