//! Serving of offered blobs, and in a fan-out of layers while they arrive.

use proto::Digest;
use proto::descriptor::media_type;
use proto::hash::RangeHash;
use proto::limits::{BLOCK_BYTES, RANGE_BYTES, SHARED_BLOCK_BYTES, STREAM_WINDOW};
use proto::peer::{Answer, Block, BlockHeader, Encoding, Get, Refusal, Request};

use crate::content::{Blob, Part, follow, index, proof_of, range_bytes};
use crate::network::Message;
use crate::node::Place;
use crate::scenario::{Lie, SECOND};
use crate::world::{Timer, World};

/// Interval of the sign that a server waits for the bytes itself.
const SIGN_OF_LIFE_US: u64 = SECOND;

/// Ranges of one block.
const BLOCK_RANGES: usize = (BLOCK_BYTES / RANGE_BYTES) as usize;

/// A range that is being served on a stream.
#[derive(Debug)]
pub(crate) struct Serving {
    digest: Digest,
    at: u64,
    end: u64,
    block_bytes: u64,
    /// The membership that permits it; `None`: an offer does.
    pub(crate) membership: Option<usize>,
    is_waiting: bool,
    is_scheduled: bool,
}

/// Readiness of a server to send the next block.
enum Ready {
    Parts(Vec<Part>),
    Later,
    Never,
}

impl World {
    /// A request comes on a stream.
    pub(crate) fn requested(&mut self, stream: usize, request: Request) {
        let (asker, host) = (self.streams[stream].opener, self.streams[stream].acceptor);
        let is_silent = self.nodes[host].silent_until_us > self.now_us;
        match request {
            Request::Offer(offer) => self.offered(stream, offer, None),
            Request::Share(share) => {
                let members = share.members.iter().map(|id| self.number(id)).filter(|member| *member != host).collect();
                self.offered(stream, share.offer, Some((share.job, members)));
            }
            Request::Get(get) => self.begin_serving(host, stream, &get),
            Request::Hashes(_) | Request::Proof(_) if is_silent => {}
            Request::Hashes(digest) => self.serve_hashes(host, stream, digest),
            Request::Proof(digest) => {
                let is_offered = self.nodes[host].offers.iter().any(|offer| offer.to == asker && offer.blobs.contains(&digest));
                let proof = Answer::Proof(proof_of(&self.scenario.blobs[&digest].hashes));
                let answer = if is_offered { proof } else { Answer::Refused(Refusal::BlobNotOffered(digest)) };
                self.transmit(stream, host, Message::Answer(answer));
            }
            Request::Sources(sources) => {
                let hosts: Vec<usize> = sources.hosts.iter().map(|id| self.number(id)).collect();
                let of_job = self.nodes[host].memberships.iter_mut().find(|(_, m)| m.head == asker && m.job == sources.job);
                if let Some((session, membership)) = of_job
                    && membership.word < sources.number
                {
                    let is_first = membership.word == 0;
                    (membership.word, membership.sources) = (sources.number, hosts);
                    let session = *session;
                    if is_first {
                        self.first_word(session);
                    }
                    self.sources_changed(session);
                }
                self.transmit(stream, host, Message::Answer(Answer::Done));
            }
            Request::EndJob(job) => {
                self.nodes[host].memberships.retain(|_, m| m.head != asker || m.job != job || !m.lingers);
                self.close(stream);
            }
            _ => {}
        }
    }

    fn begin_serving(&mut self, host: usize, stream: usize, get: &Get) {
        let asker = self.streams[stream].opener;
        let node = &self.nodes[host];
        let offer = node.offers.iter().find(|offer| offer.to == asker && offer.blobs.contains(&get.digest));
        let membership = if offer.is_some() { None } else { node.membership(asker, &get.digest) };
        let is_offered = offer.is_some();
        if !is_offered && membership.is_none() {
            return self.refuse(host, stream, Refusal::BlobNotOffered(get.digest));
        }
        let block_bytes = if offer.is_some_and(|offer| !offer.is_shared) { BLOCK_BYTES } else { SHARED_BLOCK_BYTES };
        let (at, end) = (get.offset, get.offset + get.length_bytes);
        let serving = Serving { digest: get.digest, at, end, block_bytes, membership, is_waiting: false, is_scheduled: true };
        self.nodes[host].servings.insert(stream, serving);
        self.work(host, SECOND / 500, Timer::Serve(stream));
    }

    /// Sends the next block, if that is here and the reader keeps up.
    pub(crate) fn serve(&mut self, host: usize, stream: usize) {
        let Some(serving) = self.nodes[host].servings.get_mut(&stream) else { return };
        serving.is_scheduled = false;
        let silent_until_us = self.nodes[host].silent_until_us;
        if silent_until_us > self.now_us {
            if silent_until_us < self.now_us + 100 * SECOND {
                self.schedule_serving(host, stream, silent_until_us - self.now_us);
            }
            return;
        }
        let reader = self.streams[stream].opener;
        // Bytes under way on a stream are bounded by its window and by the capacity of the path.
        let path_bytes = self.nodes[host].bytes_per_s.min(self.nodes[reader].bytes_per_s) / 16;
        if self.streams[stream].unread_bytes >= path_bytes.clamp(RANGE_BYTES, u64::from(STREAM_WINDOW)) {
            return;
        }
        // Readers share the link: each tries again when it is free.
        let busy_us = self.nodes[host].egress_us.saturating_sub(self.now_us);
        if busy_us > 0 {
            return self.schedule_serving(host, stream, busy_us);
        }
        match self.ready(host, stream) {
            Ready::Parts(parts) => self.send_block(host, stream, &parts),
            Ready::Never => {
                let digest = self.nodes[host].servings[&stream].digest;
                self.refuse(host, stream, Refusal::BlobNotOffered(digest));
            }
            Ready::Later => {
                let Some(serving) = self.nodes[host].servings.get_mut(&stream) else { return };
                if !std::mem::replace(&mut serving.is_waiting, true) {
                    self.remind(host, SIGN_OF_LIFE_US, Timer::SignOfLife(stream));
                }
            }
        }
    }

    fn ready(&self, host: usize, stream: usize) -> Ready {
        let node = &self.nodes[host];
        let serving = &node.servings[&stream];
        let blob = &self.scenario.blobs[&serving.digest];
        let count = ((serving.end - serving.at).min(serving.block_bytes)).div_ceil(RANGE_BYTES).max(1) as usize;
        let first = index(serving.at);
        let truth = || (first..first + count).map(|index| Part::of(blob, index)).collect();
        let is_stored = node.disk.store.contains_key(&serving.digest);
        let Some(number) = serving.membership else {
            return if is_stored { Ready::Parts(truth()) } else { Ready::Never };
        };
        let Some(membership) = node.memberships.get(&number) else { return Ready::Never };
        let layer = &membership.layers[&serving.digest];
        if is_stored && layer.place != Place::Nowhere {
            return Ready::Parts(truth());
        }
        let staged: Vec<Part> = (first..first + count).map_while(|index| node.disk.staged(&serving.digest, index)).collect();
        match layer.place {
            Place::Nowhere => Ready::Never,
            Place::Staged if !staged.is_empty() => {
                // Ranges of an earlier session may have been verified against the hashes of a liar.
                let is_proven = |(i, part): (usize, &Part)| {
                    let hashes = layer.hashes.as_deref();
                    let before = |at: usize| at.checked_sub(1).map_or(Some(RangeHash::START), |at| hashes?.get(at).copied());
                    before(first + i) == Some(part.before) && before(first + i + 1) == Some(part.after)
                };
                if staged.iter().enumerate().all(is_proven) { Ready::Parts(staged) } else { Ready::Never }
            }
            Place::Staged if membership.lingers => Ready::Never,
            _ => Ready::Later,
        }
    }

    fn send_block(&mut self, host: usize, stream: usize, parts: &[Part]) {
        let lie = self.nodes[host].lie;
        let Some(serving) = self.nodes[host].servings.get_mut(&stream) else { return };
        let (digest, at) = (serving.digest, serving.at);
        let blob = &self.scenario.blobs[&digest];
        serving.is_waiting = false;
        let first = index(at);
        let said: Vec<Part> = match lie {
            Lie::Never => parts.to_vec(),
            _ => (0..parts.len()).map(|i| deceive(lie, blob, first + i)).collect(),
        };
        let is_true = said.iter().enumerate().all(|(i, part)| part.content == blob.ranges[first + i]);
        assert!(lie != Lie::Never || is_true, "host {host} serves wrong content of {digest}");
        let encoded_bytes = (0..parts.len()).map(|i| range_bytes(blob.descriptor.size_bytes, first + i)).sum();
        let after = said.iter().map(|part| part.after).collect();
        let header = BlockHeader { encoding: Encoding::Raw, encoded_bytes, before: said[0].before, after };
        serving.at += encoded_bytes;
        let (is_over, is_member) = (serving.at >= serving.end, serving.membership.is_some());
        self.counts.served_by_members += u64::from(is_member);
        self.counts.served_by_heads += u64::from(!is_member);
        let reader = self.streams[stream].opener;
        self.nodes[reader].came_bytes += encoded_bytes;
        self.transmit(stream, host, Message::Block(Block::Bytes(header), said.iter().map(|part| part.content).collect()));
        if is_over {
            self.nodes[host].servings.remove(&stream);
        } else {
            let busy_us = self.nodes[host].egress_us.saturating_sub(self.now_us);
            self.schedule_serving(host, stream, busy_us);
        }
    }

    fn refuse(&mut self, host: usize, stream: usize, refusal: Refusal) {
        self.nodes[host].servings.remove(&stream);
        self.transmit(stream, host, Message::Block(Block::Refused(refusal), vec![]));
    }

    fn schedule_serving(&mut self, host: usize, stream: usize, for_us: u64) {
        let Some(serving) = self.nodes[host].servings.get_mut(&stream) else { return };
        if !std::mem::replace(&mut serving.is_scheduled, true) {
            self.remind(host, for_us, Timer::Serve(stream));
        }
    }

    /// A reader has taken a block: the next one may follow.
    pub(crate) fn credit(&mut self, stream: usize, block: &Block) {
        let Block::Bytes(header) = block else { return };
        self.streams[stream].unread_bytes -= header.encoded_bytes;
        let host = self.streams[stream].acceptor;
        if self.is_same(stream, host) {
            let latency_us = self.nodes[host].latency_us + self.nodes[self.streams[stream].opener].latency_us;
            self.schedule_serving(host, stream, latency_us);
        }
    }

    /// Wakes the servings that wait for a layer: more of it has arrived, or it will not come.
    pub(crate) fn wake(&mut self, host: usize, digest: &Digest) {
        let servings = self.nodes[host].servings.iter();
        let waiting: Vec<usize> = servings.filter(|(_, s)| s.digest == *digest && s.is_waiting).map(|(stream, _)| *stream).collect();
        for stream in waiting {
            self.schedule_serving(host, stream, 10);
        }
    }

    /// Tells the reader of a stream that the server waits itself.
    pub(crate) fn sign_of_life(&mut self, host: usize, stream: usize) {
        if self.nodes[host].servings.get(&stream).is_some_and(|serving| serving.is_waiting) {
            if self.nodes[host].silent_until_us <= self.now_us {
                self.transmit(stream, host, Message::Block(Block::Waiting, vec![]));
            }
            self.remind(host, SIGN_OF_LIFE_US, Timer::SignOfLife(stream));
        }
    }

    /// Others of a fan-out find a layer there.
    pub(crate) fn place(&mut self, session: usize, digest: &Digest, place: Place) {
        let host = self.sessions[session].host;
        if let Some(layer) = self.nodes[host].memberships.get_mut(&session).and_then(|membership| membership.layers.get_mut(digest)) {
            layer.place = place;
            self.wake(host, digest);
        }
    }

    /// Where others of a fan-out find a layer.
    pub(crate) fn layer_place(&self, host: usize, session: usize, digest: &Digest) -> Option<Place> {
        Some(self.nodes[host].memberships.get(&session)?.layers.get(digest)?.place)
    }
}

/// A range as a host serves it. Nobody lies about documents: a wrong one ends a session before a layer is read.
pub(crate) fn deceive(lie: Lie, blob: &Blob, at: usize) -> Part {
    let truth = Part::of(blob, at);
    let last = blob.ranges.len() - 1;
    match lie {
        Lie::Never => truth,
        _ if blob.descriptor.media_type != media_type::LAYER => truth,
        Lie::Bytes if at % 3 == 1 || last == 0 => Part { content: truth.content ^ 1, ..truth },
        Lie::Bytes => truth,
        // Every block fits its hashes, but they do not lead to the digest: the last block is right, those before it are not.
        Lie::Hashes if at >= last / BLOCK_RANGES * BLOCK_RANGES && last >= BLOCK_RANGES => truth,
        Lie::Hashes => {
            let before = (0..at).fold(RangeHash::START, |before, index| follow(&before, blob.ranges[index] ^ 1));
            let content = truth.content ^ 1;
            Part { content, before, after: follow(&before, content) }
        }
    }
}
