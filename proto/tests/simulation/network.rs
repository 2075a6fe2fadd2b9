//! The network: streams that are ordered in themselves but not among each other, links with a rate and a latency, and partitions.

use std::collections::BTreeSet;

use proto::Digest;
use proto::peer::{Answer, Block, Request};

use crate::scenario::{MS, SECOND};
use crate::world::{Event, World};

/// A connection on which nothing comes for so long is lost.
const IDLE_US: u64 = 12 * SECOND;
/// How long it takes until a host that does not answer is given up.
const CONNECT_US: u64 = 5 * SECOND;

/// A message on a stream.
#[derive(Debug, Clone)]
pub(crate) enum Message {
    Request(Box<Request>),
    Answer(Answer),
    /// A block and the content of its ranges.
    Block(Block, Vec<u64>),
    /// The sender will say no more.
    End(Ending),
}

/// How a stream ends before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// With its connection.
    Lost,
    /// The other end leaves.
    Finished,
    /// The other end has given up.
    Reset,
}

/// Addressee, at the opener of a stream, of the messages that arrive on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// An offer: the sending.
    Offer(usize),
    /// Where to read: the run of a job, and the member.
    Word(usize, usize),
    /// Nobody.
    Notice,
    /// A document of a session.
    Document(usize, Digest),
    /// A range of a layer: the session, and the fetch.
    Range(usize, u64),
    /// The hashes of a layer, or the proof of them: the session.
    Hashes(usize),
}

/// One stream between two hosts.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) opener: usize,
    pub(crate) acceptor: usize,
    pub(crate) purpose: Purpose,
    /// The session that answers an offer.
    pub(crate) session: Option<usize>,
    pub(crate) is_open: bool,
    incarnations: [u64; 2],
    /// When the last message arrives: from the opener, and from the acceptor.
    last_us: [u64; 2],
    /// Bytes of blocks that are under way.
    pub(crate) unread_bytes: u64,
}

/// Hosts that do not reach the others.
#[derive(Debug)]
pub(crate) struct Partition {
    side: BTreeSet<usize>,
    pub(crate) until_us: u64,
}

impl World {
    /// Opens a stream with a request.
    pub(crate) fn open(&mut self, opener: usize, acceptor: usize, purpose: Purpose, request: Request) -> usize {
        let is_connected = !self.between(opener, acceptor).is_empty();
        let incarnations = [self.nodes[opener].incarnation, self.nodes[acceptor].incarnation];
        let (last_us, session) = ([0; 2], None);
        self.streams.push(Stream { opener, acceptor, purpose, session, is_open: true, incarnations, last_us, unread_bytes: 0 });
        let stream = self.streams.len() - 1;
        self.open_streams.insert(stream);
        let heals_us = self.heals_us(opener, acceptor);
        if !self.nodes[acceptor].is_up {
            let known_us = self.random.scaled(20 * MS, CONNECT_US);
            self.lose(stream, known_us, known_us);
        } else if heals_us > self.now_us + if is_connected { IDLE_US } else { CONNECT_US } {
            self.lose(stream, CONNECT_US, CONNECT_US);
        } else {
            self.transmit(stream, opener, Message::Request(Box::new(request)));
        }
        stream
    }

    /// Sends a message on a stream, from one of its ends.
    pub(crate) fn transmit(&mut self, stream: usize, from: usize, message: Message) {
        let Stream { opener, acceptor, is_open, .. } = self.streams[stream];
        if !is_open {
            return;
        }
        let to = if from == opener { acceptor } else { opener };
        let bytes = match &message {
            Message::Block(Block::Bytes(header), _) => header.encoded_bytes,
            _ => 0,
        };
        let latency_us = self.nodes[from].latency_us + self.nodes[to].latency_us;
        let delay_us = if self.random.chance(2) { latency_us * 20 } else { self.random.between(latency_us, latency_us * 3 / 2) };
        let mut at_us = self.now_us + delay_us;
        if bytes > 0 {
            let sent_us = self.now_us.max(self.nodes[from].egress_us) + bytes * SECOND / self.nodes[from].bytes_per_s;
            self.nodes[from].egress_us = sent_us;
            let received_us = (sent_us + delay_us).max(self.nodes[to].ingress_us) + bytes * SECOND / self.nodes[to].bytes_per_s;
            self.nodes[to].ingress_us = received_us;
            at_us = received_us;
            self.streams[stream].unread_bytes += bytes;
        }
        let heals_us = self.heals_us(from, to);
        if heals_us > self.now_us {
            at_us = at_us.max(heals_us + delay_us);
        }
        let last_us = &mut self.streams[stream].last_us[usize::from(from != opener)];
        at_us = at_us.max(*last_us + 1);
        *last_us = at_us;
        self.at(at_us, Event::Deliver { stream, to, message: Box::new(message) });
    }

    /// Closes a stream for both ends, without telling them.
    pub(crate) fn close(&mut self, stream: usize) {
        self.streams[stream].is_open = false;
        self.open_streams.remove(&stream);
        self.nodes[self.streams[stream].acceptor].servings.remove(&stream);
    }

    /// True when that end of the stream is the agent that it began with.
    pub(crate) fn is_same(&self, stream: usize, end: usize) -> bool {
        let Stream { opener, incarnations, .. } = self.streams[stream];
        self.nodes[end].is_up && self.nodes[end].incarnation == incarnations[usize::from(end != opener)]
    }

    /// The connections between two hosts are lost.
    pub(crate) fn disconnect(&mut self, one: usize, other: usize) {
        for stream in self.between(one, other) {
            let [known_us, known_there_us] = [0; 2].map(|_| self.random.scaled(MS, SECOND));
            self.lose(stream, known_us, known_there_us);
        }
        self.hear_of_loss(one, other);
    }

    /// One stream that carries a blob is lost.
    pub(crate) fn reset_one(&mut self, one: usize, other: usize) {
        let streams = self.between(one, other);
        let of_blob = |stream: &usize| matches!(self.streams[*stream].purpose, Purpose::Range(..));
        let found = streams.into_iter().find(of_blob);
        if let Some(stream) = found {
            self.lose(stream, MS, MS);
        }
    }

    /// Separates these hosts from all others for a while. Connections that are idle for too long are lost.
    pub(crate) fn separate(&mut self, side: &[usize], for_us: u64) {
        let side: BTreeSet<usize> = side.iter().copied().collect();
        if for_us > IDLE_US {
            for one in &side {
                for other in (0..self.nodes.len()).filter(|other| !side.contains(other)) {
                    for stream in self.between(*one, other) {
                        self.lose(stream, IDLE_US, IDLE_US);
                    }
                }
            }
        }
        self.partitions.push(Partition { side, until_us: self.now_us + for_us });
    }

    /// The agent of a host is gone. `is_told`: it closes its connections.
    pub(crate) fn kill(&mut self, host: usize, is_told: bool) {
        if !self.nodes[host].is_up {
            return;
        }
        for stream in self.open_streams.clone() {
            let Stream { opener, acceptor, .. } = self.streams[stream];
            if opener == host || acceptor == host {
                let known_us = if is_told { 100 * MS } else { self.random.scaled(100 * MS, IDLE_US) };
                self.lose(stream, known_us, known_us);
            }
        }
        self.forget_all(host);
        (0..self.nodes.len()).for_each(|other| self.hear_of_loss(host, other));
    }

    /// A stream carries nothing any more; its ends hear of it after so long.
    fn lose(&mut self, stream: usize, opener_us: u64, acceptor_us: u64) {
        let Stream { opener, acceptor, .. } = self.streams[stream];
        self.close(stream);
        self.after(opener_us, Event::Lost { stream, end: opener });
        self.after(acceptor_us, Event::Lost { stream, end: acceptor });
    }

    fn between(&self, one: usize, other: usize) -> Vec<usize> {
        let is_between = |stream: &&usize| {
            let Stream { opener, acceptor, .. } = self.streams[**stream];
            (opener, acceptor) == (one, other) || (opener, acceptor) == (other, one)
        };
        self.open_streams.iter().filter(is_between).copied().collect()
    }

    /// When two hosts reach each other again; the past, when they do now.
    fn heals_us(&self, one: usize, other: usize) -> u64 {
        let splits = |partition: &&Partition| partition.side.contains(&one) != partition.side.contains(&other);
        self.partitions.iter().filter(splits).map(|partition| partition.until_us).max().unwrap_or(0)
    }
}
