//! The hashes of the ranges of a layer in a fan-out: from any source, proven by the head.
//!
//! While the connection to the head lives, a proof that does not come in time is asked for again. `agent/src/transfer/sharing.rs` ends the session
//! then, and the send to this member fails although nothing is wrong but a pause of 3 s.

use proto::Digest;
use proto::hash::range_count;
use proto::limits::SOURCE_SILENCE_MS;
use proto::peer::{Answer, Refusal, Request};
use proto::session::receive::Input;

use crate::content::proof_of;
use crate::network::{Message, Purpose};
use crate::node::{Place, SharedLayer};
use crate::scenario::{MS, SECOND};
use crate::serve::deceive;
use crate::session::Session;
use crate::sources::{FIRST_WORD_US, FRUITLESS_US, Fetch, GetError};
use crate::world::{Timer, World};

/// When hashes are asked for again that did not come.
const AGAIN_US: u64 = SECOND;

impl World {
    /// Asks for the hashes of all missing layers, beside the fetching.
    pub(crate) fn accompany(&mut self, session: usize) {
        let Session { host, .. } = self.sessions[session];
        let Some(membership) = self.nodes[host].memberships.get(&session) else { return };
        let awaited = membership.layers.iter().filter(|(_, layer)| layer.place == Place::Awaited);
        for digest in awaited.map(|(digest, _)| *digest).collect::<Vec<_>>() {
            self.remind(host, FIRST_WORD_US, Timer::AskHashes(session, digest));
        }
    }

    /// The first word of the head on where to read has come.
    pub(crate) fn first_word(&mut self, session: usize) {
        let Session { host, .. } = self.sessions[session];
        let Some(membership) = self.nodes[host].memberships.get(&session) else { return };
        let awaited = membership.layers.iter().filter(|(_, layer)| matches!(layer.place, Place::Awaited | Place::Staged));
        for digest in awaited.map(|(digest, _)| *digest).collect::<Vec<_>>() {
            self.ask_hashes(session, digest);
        }
    }

    /// Asks for the hashes of a layer, unless they are known or asked for.
    pub(crate) fn ask_hashes(&mut self, session: usize, digest: Digest) {
        let Session { host, head, began_us, ref result, .. } = self.sessions[session];
        let now_us = self.now_us;
        let Some(membership) = self.nodes[host].memberships.get_mut(&session).filter(|_| result.is_none()) else { return };
        let is_early = membership.sources.is_empty() && now_us < began_us + FIRST_WORD_US;
        let Some(layer) = membership.layers.get_mut(&digest).filter(|_| !is_early) else { return };
        if layer.hashes.is_some() || layer.asking.is_some() {
            return;
        }
        let asked_us = *layer.asked_us.get_or_insert(now_us);
        if now_us >= asked_us + FRUITLESS_US {
            return self.tell(session, Input::Failed(Refusal::Store(String::from("no hashes for a minute"))));
        }
        let (source, request) = match layer.proof {
            None => (Some(head), Request::Proof(digest)),
            Some(_) => (self.choose(session, &digest), Request::Hashes(digest)),
        };
        let Some(source) = source else { return self.remind(host, AGAIN_US, Timer::AskHashes(session, digest)) };
        let stream = self.open(host, source, Purpose::Hashes(session), request);
        if let Some(layer) = self.shared_layer(host, session, &digest) {
            layer.asking = Some((stream, source));
        }
        self.remind(host, SOURCE_SILENCE_MS * MS, Timer::HashesSilent(session, stream));
    }

    /// The proof of hashes has come, or hashes have.
    pub(crate) fn hashes_answered(&mut self, session: usize, stream: usize, answer: Answer) {
        self.close(stream);
        let Some((digest, source)) = self.asked(session, stream) else { return };
        let Session { host, .. } = self.sessions[session];
        let size_bytes = self.scenario.blobs[&digest].descriptor.size_bytes;
        let Some(layer) = self.shared_layer(host, session, &digest) else { return };
        layer.asking = None;
        let error = match answer {
            Answer::Proof(proof) if layer.proof.is_none() => {
                layer.proof = Some(proof);
                return self.ask_hashes(session, digest);
            }
            Answer::Hashes(hashes) => {
                let is_whole = hashes.len() as u64 == range_count(size_bytes) && hashes.last() == Some(&digest.into());
                if is_whole && layer.proof == Some(proof_of(&hashes)) {
                    assert!(self.is_true(&digest, &hashes), "wrong hashes of {digest} are proven");
                    return self.hashes_known(session, digest, hashes.into());
                }
                GetError::Corrupt(digest)
            }
            Answer::Refused(refusal) if layer.proof.is_none() => return self.tell(session, Input::Failed(refusal)),
            Answer::Refused(refusal) => GetError::Refused(refusal),
            _ => GetError::Corrupt(digest),
        };
        if self.judge(session, source, digest, error) {
            self.ask_hashes(session, digest);
        }
    }

    /// Hashes, or their proof, will not come on this stream.
    pub(crate) fn hashes_lost(&mut self, session: usize, stream: usize) {
        let Some((digest, source)) = self.asked(session, stream) else { return };
        let Session { host, .. } = self.sessions[session];
        self.close(stream);
        let Some(layer) = self.shared_layer(host, session, &digest) else { return };
        layer.asking = None;
        if layer.proof.is_some() {
            if self.judge(session, source, digest, GetError::Lost) {
                self.ask_hashes(session, digest);
            }
            return;
        }
        let state = &self.sessions[session];
        let is_waiting = state.fetches.values().any(|fetch| fetch.digest == digest && fetch.source.is_none());
        if self.streams[state.stream].is_open {
            self.remind(host, AGAIN_US, Timer::AskHashes(session, digest));
        } else if is_waiting {
            // Only the head can prove them. The end of the session frees its claims for other sessions of the host.
            self.tell(session, Input::Failed(Refusal::Store(String::from("no proof"))));
        }
    }

    fn hashes_known(&mut self, session: usize, digest: Digest, hashes: std::sync::Arc<[proto::hash::RangeHash]>) {
        let Session { host, .. } = self.sessions[session];
        let Some(layer) = self.shared_layer(host, session, &digest) else { return };
        layer.hashes = Some(hashes.clone());
        for stream in std::mem::take(&mut layer.wanted) {
            self.tell_hashes(host, stream, &digest, hashes.to_vec());
        }
        self.wake(host, &digest);
        let is_waiting = |(number, fetch): (&u64, &Fetch)| (fetch.digest == digest && fetch.source.is_none()).then_some(*number);
        for number in self.sessions[session].fetches.iter().filter_map(is_waiting).collect::<Vec<_>>() {
            self.remind(host, 10, Timer::Fetch(session, number));
        }
    }

    /// Sends the hashes of a layer as soon as they are known here.
    pub(crate) fn serve_hashes(&mut self, host: usize, stream: usize, digest: Digest) {
        let asker = self.streams[stream].opener;
        let truth = self.scenario.blobs[&digest].hashes.clone();
        if self.nodes[host].offers.iter().any(|offer| offer.to == asker && offer.blobs.contains(&digest)) {
            return self.tell_hashes(host, stream, &digest, truth.to_vec());
        }
        let number = self.nodes[host].membership(asker, &digest);
        let layer = number.and_then(|number| self.shared_layer(host, number, &digest));
        match layer {
            Some(SharedLayer { hashes: Some(hashes), .. }) => {
                let hashes = hashes.to_vec();
                self.tell_hashes(host, stream, &digest, hashes);
            }
            Some(layer) if layer.place == Place::Store => {
                layer.hashes = Some(truth.clone());
                self.tell_hashes(host, stream, &digest, truth.to_vec());
            }
            Some(layer) if layer.place != Place::Nowhere => layer.wanted.push(stream),
            _ => self.transmit(stream, host, Message::Answer(Answer::Refused(Refusal::BlobNotOffered(digest)))),
        }
    }

    fn tell_hashes(&mut self, host: usize, stream: usize, digest: &Digest, mut hashes: Vec<proto::hash::RangeHash>) {
        let blob = &self.scenario.blobs[digest];
        for (index, hash) in hashes.iter_mut().enumerate() {
            *hash = deceive(self.nodes[host].lie, blob, index).after;
        }
        self.transmit(stream, host, Message::Answer(Answer::Hashes(hashes)));
    }

    fn shared_layer(&mut self, host: usize, session: usize, digest: &Digest) -> Option<&mut SharedLayer> {
        self.nodes[host].memberships.get_mut(&session)?.layers.get_mut(digest)
    }

    /// The layer and the source of a stream on which hashes are asked for.
    fn asked(&self, session: usize, stream: usize) -> Option<(Digest, usize)> {
        let Session { host, .. } = self.sessions[session];
        let layers = &self.nodes[host].memberships.get(&session).filter(|_| self.sessions[session].result.is_none())?.layers;
        let of_stream = |(digest, layer): (&Digest, &SharedLayer)| {
            let (asked, source) = layer.asking?;
            (asked == stream).then_some((*digest, source))
        };
        layers.iter().find_map(of_stream)
    }
}
