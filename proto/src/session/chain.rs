//! Who reads from whom in a fan-out: a chain of hosts, each reading from the one before it what that one has just verified.
//!
//! The chain is a preference, not a structure that has to hold: a receiver whose source fails goes to the next one it was told, and says so here.
//! A host that falls behind the one it reads from, at less than half of its pace, goes to the end, where it delays nobody. A host that has
//! failed or lied is read from by nobody. Time comes in from outside.

use std::collections::{HashMap, HashSet};

use crate::HostId;
use crate::job::{Fault, Trouble};

/// Hosts before it that a host is told, beside the one it is to read from.
const FURTHER_SOURCES: usize = 3;

/// How far a host must be behind its source to be slow: bytes, and share of the image.
const BEHIND_BYTES: u64 = 2 * 1024 * 1024;
const BEHIND_SHARE: u64 = 50;

/// How long a host may take to get up to speed after its source has changed.
const SETTLE_MS: u64 = 700;

/// What a rate is an average of.
const RATE_MS: u64 = 500;

/// When the first host is tried out: were it slow, all would be, and nobody would know.
const TRIAL_MS: u64 = 1_000;

/// The plan of a fan-out, at the host that started it.
#[derive(Debug)]
pub struct Chain {
    head: HostId,
    size_bytes: u64,
    order: Vec<HostId>,
    hosts: HashMap<HostId, Host>,
    liars: HashSet<HostId>,
    told: HashMap<HostId, Vec<HostId>>,
    started_ms: Option<u64>,
    tried: bool,
}

#[derive(Debug)]
struct Host {
    have_bytes: u64,
    /// When and at how much the rate was taken last.
    mark: (u64, u64),
    bytes_per_s: u64,
    moved_ms: u64,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Receiving,
    Done,
    Gone,
}

impl Chain {
    /// A fan-out of an image of so many bytes from `head`, to hosts that are yet to answer.
    pub fn new(head: HostId, size_bytes: u64) -> Self {
        Self {
            head,
            size_bytes,
            order: vec![],
            hosts: HashMap::new(),
            liars: HashSet::new(),
            told: HashMap::new(),
            started_ms: None,
            tried: false,
        }
    }

    /// A host has said what it lacks. Before the start it finds its place by that: who has more can give more. Later it comes last.
    pub fn join(&mut self, host: HostId, missing_bytes: u64, now_ms: u64) {
        let have_bytes = self.size_bytes.saturating_sub(missing_bytes);
        let state = if missing_bytes == 0 { State::Done } else { State::Receiving };
        let known = Host { have_bytes, mark: (now_ms, have_bytes), bytes_per_s: 0, moved_ms: now_ms, state };
        self.hosts.insert(host, known);
        self.told.remove(&host);
        if !self.order.contains(&host) {
            self.order.push(host);
        }
    }

    /// How many hosts have answered.
    pub fn joined(&self) -> usize {
        self.order.len()
    }

    /// Begins: from now on [`Chain::changes`] tells who reads from whom.
    pub fn start(&mut self, now_ms: u64) {
        if self.started_ms.is_some() {
            return;
        }
        self.started_ms = Some(now_ms);
        let have = |host: &HostId| std::cmp::Reverse(self.hosts.get(host).map_or(0, |host| host.have_bytes));
        self.order.sort_by_key(have);
    }

    /// A host has so many bytes of the image.
    pub fn progress(&mut self, host: &HostId, have_bytes: u64, now_ms: u64) {
        let Some(known) = self.hosts.get_mut(host) else { return };
        known.have_bytes = have_bytes;
        let elapsed_ms = now_ms.saturating_sub(known.mark.0);
        if elapsed_ms >= RATE_MS / 2 {
            let bytes_per_s = have_bytes.saturating_sub(known.mark.1) * 1000 / elapsed_ms;
            known.bytes_per_s = if known.bytes_per_s == 0 { bytes_per_s } else { (known.bytes_per_s + bytes_per_s) / 2 };
            known.mark = (now_ms, have_bytes);
        }
    }

    /// A host has the image.
    pub fn done(&mut self, host: &HostId) {
        if let Some(known) = self.hosts.get_mut(host) {
            (known.state, known.have_bytes) = (State::Done, self.size_bytes);
        }
    }

    /// A host is out: it failed, or cannot be reached.
    pub fn gone(&mut self, host: &HostId) {
        if let Some(known) = self.hosts.get_mut(host) {
            known.state = State::Gone;
        }
    }

    /// A host says that one of its sources failed it.
    pub fn trouble(&mut self, trouble: &Trouble) {
        match trouble.fault {
            Fault::Lied(_) => drop(self.liars.insert(trouble.source)),
            // Whether it is gone its own connection tells; meanwhile it is read from by those after everybody else.
            Fault::Lost => self.move_to_end(&trouble.source, 0),
            Fault::Lacks(_) => {}
        }
    }

    /// What is to be told to whom now: hosts whose sources are others than they were told last.
    pub fn changes(&mut self, now_ms: u64) -> Vec<(HostId, Vec<HostId>)> {
        let Some(started_ms) = self.started_ms else { return vec![] };
        if !self.tried && now_ms >= started_ms + TRIAL_MS {
            self.tried = true;
            self.try_the_second(now_ms);
        }
        self.demote_the_slow(now_ms);
        let mut changes = vec![];
        for position in 0..self.order.len() {
            let host = self.order[position];
            if self.hosts[&host].state != State::Receiving {
                continue;
            }
            let sources = self.sources(position);
            if self.told.get(&host) != Some(&sources) {
                self.told.insert(host, sources.clone());
                changes.push((host, sources));
            }
        }
        changes
    }

    /// The hosts before it, nearest first; the head, unless it is far away, comes after them, and serves whom nobody else does.
    fn sources(&self, position: usize) -> Vec<HostId> {
        let usable = |host: &&HostId| self.hosts[*host].state != State::Gone && !self.liars.contains(*host);
        let before = self.order[..position].iter().rev().filter(usable).take(1 + FURTHER_SOURCES);
        let mut sources: Vec<HostId> = before.copied().collect();
        sources.push(self.head);
        sources
    }

    /// The first host is compared with nobody: the second one takes its place for once, and whoever of them is slow is seen to be.
    fn try_the_second(&mut self, now_ms: u64) {
        let receiving: Vec<usize> =
            (0..self.order.len()).filter(|&i| self.hosts[&self.order[i]].state == State::Receiving).take(2).collect();
        let far = |host: &HostId| self.size_bytes.saturating_sub(self.hosts[host].have_bytes) > BEHIND_BYTES;
        if let [first, second] = receiving[..]
            && far(&self.order[first])
        {
            self.order.swap(first, second);
            for position in [first, second] {
                self.moved(position, now_ms);
            }
        }
    }

    fn demote_the_slow(&mut self, now_ms: u64) {
        let behind_bytes = BEHIND_BYTES.max(self.size_bytes / BEHIND_SHARE);
        let mut position = 1;
        let mut last = self.order.len();
        while position < last {
            let (before, host) = (self.order[position - 1], self.order[position]);
            let (source, slow) = (&self.hosts[&before], &self.hosts[&host]);
            let settled = now_ms >= slow.moved_ms + SETTLE_MS && now_ms >= source.moved_ms + SETTLE_MS;
            let lags = slow.state == State::Receiving
                && source.state == State::Receiving
                && settled
                && source.have_bytes > slow.have_bytes + behind_bytes
                && slow.bytes_per_s < source.bytes_per_s / 2;
            if lags && position + 1 < self.order.len() {
                self.move_to_end(&host, now_ms);
                last -= 1;
            } else {
                position += 1;
            }
        }
    }

    fn move_to_end(&mut self, host: &HostId, now_ms: u64) {
        let Some(position) = self.order.iter().position(|known| known == host) else { return };
        let host = self.order.remove(position);
        self.order.push(host);
        self.moved(self.order.len() - 1, now_ms);
        if position + 1 < self.order.len() {
            self.moved(position, now_ms);
        }
    }

    /// Its source is another one: what its rate was says nothing any more.
    fn moved(&mut self, position: usize, now_ms: u64) {
        if let Some(host) = self.hosts.get_mut(&self.order[position]) {
            (host.moved_ms, host.bytes_per_s, host.mark) = (now_ms, 0, (now_ms, host.have_bytes));
        }
    }
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
