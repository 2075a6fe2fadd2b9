//! Who reads from whom in a fan-out: a chain of hosts, each reading from the one before it what that one has just verified.
//!
//! The chain is a preference, not a structure that has to hold: a receiver whose source fails goes to the next one it was told, and says so here.
//! A host that falls behind the one it reads from, at less than half of its pace, goes to the end, where it delays nobody but those that are
//! slower still. A host that has failed or lied is read from by nobody. Time comes in from outside.

mod demotion;
mod host;
mod trial;

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use self::host::{Host, Pace, State};
use self::trial::Trial;
use super::Links;
use crate::HostId;
use crate::job::{Fault, Trouble};

/// Hosts before it that a host is told, beside the one it is to read from.
const FURTHER_SOURCES: usize = 3;

/// A source that was lost is not lost again before this.
const LOST_ONCE_MS: u64 = 5_000;

/// Hosts that one host may call liars.
const ACCUSATIONS: usize = 3;

/// Who has received for a shorter time says nothing of its link.
const LEARN_MS: u64 = 2_000;

/// The plan of a fan-out, at the host that started it.
#[derive(Debug)]
pub struct Chain {
    head: HostId,
    size_bytes: u64,
    order: Vec<HostId>,
    hosts: HashMap<HostId, Host>,
    liars: HashSet<HostId>,
    /// How many a host has called liars.
    accusations: HashMap<HostId, usize>,
    told: HashMap<HostId, Vec<HostId>>,
    started_ms: Option<u64>,
    trial: Trial,
    links: Links,
}

impl Chain {
    /// A fan-out of an image of so many bytes from `head`, to hosts that are yet to answer. `links`: what is known from earlier ones.
    pub fn new(head: HostId, size_bytes: u64, links: Links) -> Self {
        Self {
            head,
            size_bytes,
            order: vec![],
            hosts: HashMap::new(),
            liars: HashSet::new(),
            accusations: HashMap::new(),
            told: HashMap::new(),
            started_ms: None,
            trial: Trial::default(),
            links,
        }
    }

    /// A host has said what it lacks. Before the start it finds its place by that: who has more can give more, unless it is known to be slow. Later
    /// it comes last.
    pub fn join(&mut self, host: HostId, missing_bytes: u64, now_ms: u64) {
        let have_bytes = self.size_bytes.saturating_sub(missing_bytes);
        let pace = self.links.slow_bytes_per_s(&host).map_or(Pace::Fit, Pace::Slow);
        let known = Host::new(have_bytes, missing_bytes == 0, pace, now_ms);
        self.hosts.insert(host, known);
        self.told.remove(&host);
        self.trial.both = None;
        if !self.order.contains(&host) {
            self.order.push(host);
        }
    }

    /// Begins: from now on [`Chain::changes`] tells who reads from whom.
    pub fn start(&mut self, now_ms: u64) {
        if self.started_ms.is_some() {
            return;
        }
        self.started_ms = Some(now_ms);
        self.trial = Trial::new(&self.links, now_ms);
        let place = |host: &HostId| {
            let known = &self.hosts[host];
            let slow = if let Pace::Slow(bytes_per_s) = known.pace { Some(Reverse(bytes_per_s)) } else { None };
            (slow, Reverse(known.have_bytes))
        };
        self.order.sort_by_key(place);
    }

    /// So much of what a host lacked has travelled.
    pub fn progress(&mut self, host: &HostId, received_bytes: u64, now_ms: u64) {
        let Some(known) = self.hosts.get_mut(host) else { return };
        known.progress((known.had_bytes + received_bytes).min(self.size_bytes), now_ms);
    }

    /// So much of it came from the head.
    pub fn from_head(&mut self, host: &HostId, received_bytes: u64) {
        if let Some(known) = self.hosts.get_mut(host) {
            known.from_head_bytes = received_bytes.min(self.size_bytes);
        }
    }

    /// A host has the image.
    pub fn done(&mut self, host: &HostId, now_ms: u64) {
        if let Some(known) = self.hosts.get_mut(host) {
            (known.state, known.have_bytes, known.done_ms) = (State::Done, self.size_bytes, Some(now_ms));
        }
    }

    /// A host is out: it failed, or cannot be reached.
    pub fn gone(&mut self, host: &HostId) {
        if let Some(known) = self.hosts.get_mut(host) {
            known.state = State::Gone;
        }
    }

    /// A host says that one of its sources failed it. False: nothing comes of it, because that is not a source of it, or nothing new.
    pub fn trouble(&mut self, reporter: &HostId, trouble: &Trouble, now_ms: u64) -> bool {
        let was_told = self.told.get(reporter).is_some_and(|told| told.contains(&trouble.source));
        let Some(source) = self.hosts.get_mut(&trouble.source).filter(|_| was_told) else { return false };
        match trouble.fault {
            // It gets what it asks for itself, where it is in nobody's way. Nobody turns all others into liars.
            Fault::Lied(_) => {
                let accused = self.accusations.entry(*reporter).or_default();
                if *accused >= ACCUSATIONS || !self.liars.insert(trouble.source) {
                    return false;
                }
                *accused += 1;
            }
            // Whether it is gone its own connection tells; meanwhile it is read from by those after everybody else. All who read from it say so.
            Fault::Lost if source.lost_ms.is_some_and(|lost_ms| now_ms < lost_ms + LOST_ONCE_MS) => return false,
            Fault::Lost => source.lost_ms = Some(now_ms),
            Fault::Lacks(_) => return false,
        }
        self.move_to_end(&trouble.source, None);
        true
    }

    /// What this one has shown of links, for those that come after it.
    pub fn teach(&self, links: &mut Links, now_ms: u64) {
        let Some(started_ms) = self.started_ms else { return };
        let missed_bytes = |host: &Host| self.size_bytes - host.had_bytes;
        let most_bytes = self.hosts.values().map(missed_bytes).max().unwrap_or(0);
        let pace = |(id, host): (&HostId, &Host)| {
            let elapsed_ms = host.done_ms.unwrap_or(now_ms).saturating_sub(host.joined_ms.max(started_ms));
            // Who lacked little waited for the others.
            let is_telling = elapsed_ms >= LEARN_MS && host.state != State::Gone && missed_bytes(host) > most_bytes / 2;
            is_telling.then(|| (*id, (host.have_bytes - host.had_bytes) * 1000 / elapsed_ms))
        };
        let paces: Vec<_> = self.hosts.iter().filter_map(pace).collect();
        links.learn(&paces, self.trial.in_vain);
    }

    /// What is to be told to whom now: hosts whose sources are others than they were told last.
    pub fn changes(&mut self, now_ms: u64) -> Vec<(HostId, Vec<HostId>)> {
        if self.started_ms.is_none() {
            return vec![];
        }
        self.demote_the_slow(now_ms);
        self.measure_both(now_ms);
        if now_ms >= self.trial.due_ms {
            self.try_the_next(now_ms);
        }
        let mut changes = vec![];
        for position in 0..self.order.len() {
            let host = self.order[position];
            if self.hosts[&host].state != State::Receiving {
                continue;
            }
            let mut sources = self.sources(position);
            let told = self.told.get(&host);
            // Who served it well until now may finish that: it is named, behind all others.
            let before = told.and_then(|told| told.first()).filter(|before| **before != self.head && !sources.contains(before));
            sources.extend(before.filter(|before| self.is_usable(before) && self.hosts[*before].pace == Pace::Fit));
            // Who was named beside these may stay, unless nobody may read from it any more.
            let is_known = |told: &Vec<HostId>| told.starts_with(&sources) && told[sources.len()..].iter().all(|host| self.is_usable(host));
            if !told.is_some_and(is_known) {
                if told.is_none_or(|told| told.first() != sources.first())
                    && let Some(known) = self.hosts.get_mut(&host)
                {
                    known.moved(now_ms);
                }
                self.told.insert(host, sources.clone());
                changes.push((host, sources));
            }
        }
        changes
    }

    /// A host has not heard what it was told last.
    pub fn unheard(&mut self, host: &HostId) {
        self.told.remove(host);
    }

    /// The hosts before it, nearest first; the head comes after them, and serves whom nobody else does.
    fn sources(&self, position: usize) -> Vec<HostId> {
        let before = self.order[..position].iter().rev().filter(|host| self.is_usable(host)).take(1 + FURTHER_SOURCES);
        let mut sources: Vec<HostId> = before.copied().collect();
        sources.push(self.head);
        sources
    }

    fn is_receiving(&self, host: &HostId) -> bool {
        self.hosts[host].state == State::Receiving
    }

    /// It may be read from.
    fn is_usable(&self, host: &HostId) -> bool {
        self.hosts[host].state != State::Gone && !self.liars.contains(host)
    }
}

#[cfg(test)]
mod tests;
