//! Who reads from whom in a fan-out: a chain of hosts, each reading from the one before it what that one has just verified.
//!
//! The chain is a preference, not a structure that has to hold: a receiver whose source fails goes to the next one it was told, and says so here.
//! A host that falls behind the one it reads from, at less than half of its pace, goes to the end, where it delays nobody but those that are
//! slower still. A host that has failed or lied is read from by nobody. Time comes in from outside.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use super::Links;
use crate::HostId;
use crate::job::{Fault, Trouble};

/// Hosts before it that a host is told, beside the one it is to read from.
const FURTHER_SOURCES: usize = 3;

/// How far a host must be behind its source to be slow: bytes, and share of the image. Less is what a busy machine loses in a moment.
const BEHIND_BYTES: u64 = 1024 * 1024;
const BEHIND_SHARE: u64 = 100;

/// How long a host may take to get up to speed after its source has changed.
const SETTLE_MS: u64 = 250;

/// The same later, when its source has been busy with others and the link is full.
const SETTLE_AGAIN_MS: u64 = 1_000;

/// How long a host may be behind that has kept up before, and one that stood behind a slow one until now and has to catch up.
const PATIENCE_MS: u64 = 1_500;
const PATIENCE_FIRST_MS: u64 = 500;

/// How long it may take until the first byte comes from there.
const REACH_MS: u64 = 1_500;

/// What a rate is an average of: at least, and at most.
const RATE_MS: u64 = 100;
const RATE_MOST_MS: u64 = 500;

/// How long each of the first hosts is tried out at the head: were it slow, all would be, and nobody would know. By then those behind it that are
/// slower still have gone.
const TRIAL_MS: u64 = 700;

/// When what the head sends to both is measured, from the beginning of a trial, and for how long.
const BOTH_MS: u64 = 100;
const BOTH_FOR_MS: u64 = 300;

/// A source that was lost is not lost again before this.
const LOST_ONCE_MS: u64 = 5_000;

/// Hosts that one host may call liars.
const ACCUSATIONS: usize = 3;

/// A host that was not heard of for so long stands still.
const UNHEARD_MS: u64 = 500;

/// When another one is tried although the last one was no faster. Each trial has the head send a little of the image twice: twice as long after each.
const TRIAL_AGAIN_MS: u64 = 10_000;

/// When another one is tried although nobody seems to be slow.
const TRIAL_SELDOM_MS: u64 = 60_000;

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

/// The search for a first host that is not slow.
#[derive(Debug, Default)]
struct Trial {
    /// Who was first.
    tried: Vec<HostId>,
    /// The pace of the one before the one that is tried now.
    before_bytes_per_s: u64,
    due_ms: u64,
    /// How long after a trial that brought nothing.
    again_ms: u64,
    /// For a while the head serves both, the one before and the one that is tried: when that was, and what it had sent by then.
    both: Option<(u64, u64)>,
    both_bytes_per_s: Option<u64>,
    /// The last one brought nothing.
    in_vain: bool,
}

#[derive(Debug)]
struct Host {
    joined_ms: u64,
    done_ms: Option<u64>,
    /// When it joined.
    had_bytes: u64,
    have_bytes: u64,
    from_head_bytes: u64,
    /// When and at how much the rate was taken last.
    mark: (u64, u64),
    /// Since its source is this one.
    bytes_per_s: Option<u64>,
    moved_ms: u64,
    moved_bytes: u64,
    /// How often its source has changed; the first one counts.
    moves: u32,
    lags_since_ms: Option<u64>,
    /// It was seen with its source when that was fast, and not only because neither had received much.
    has_kept_up: bool,
    /// When somebody last said that it was lost.
    lost_ms: Option<u64>,
    pace: Pace,
    state: State,
}

/// What is known of how fast a host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// It has kept up so far.
    Fit,
    /// It fell behind once.
    Doubtful,
    /// It fell behind again, at this rate.
    Slow(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Receiving,
    Done,
    Gone,
}

impl Host {
    /// It has had the time to get up to speed since its source changed.
    fn is_settled(&self, now_ms: u64) -> bool {
        let least_ms = match self.have_bytes > self.moved_bytes {
            // At the beginning all do that together.
            true if self.moved_bytes == self.had_bytes => SETTLE_MS,
            true => SETTLE_AGAIN_MS,
            false => REACH_MS,
        };
        now_ms >= self.moved_ms + least_ms || self.state != State::Receiving
    }

    /// Its rate; of one that says nothing any more, what it has come to since.
    fn pace_now(&self, now_ms: u64) -> Option<u64> {
        let (since_ms, had_bytes) = self.mark;
        let elapsed_ms = now_ms.saturating_sub(since_ms);
        match elapsed_ms > UNHEARD_MS {
            true => Some(self.have_bytes.saturating_sub(had_bytes) * 1000 / elapsed_ms),
            false => self.bytes_per_s,
        }
    }
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
        let state = if missing_bytes == 0 { State::Done } else { State::Receiving };
        let known = Host {
            joined_ms: now_ms,
            done_ms: None,
            had_bytes: have_bytes,
            have_bytes,
            from_head_bytes: 0,
            mark: (now_ms, have_bytes),
            bytes_per_s: None,
            moved_ms: now_ms,
            moved_bytes: have_bytes,
            moves: 0,
            lags_since_ms: None,
            has_kept_up: false,
            lost_ms: None,
            pace: self.links.slow_bytes_per_s(&host).map_or(Pace::Fit, Pace::Slow),
            state,
        };
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
        (self.trial.due_ms, self.trial.again_ms) = (now_ms + TRIAL_MS, TRIAL_AGAIN_MS);
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
        let have_bytes = (known.had_bytes + received_bytes).min(self.size_bytes);
        known.have_bytes = have_bytes;
        if have_bytes == known.moved_bytes {
            // The way to a new source is not part of its pace.
            known.mark = (now_ms, have_bytes);
        }
        let elapsed_ms = now_ms.saturating_sub(known.mark.0);
        if elapsed_ms >= RATE_MS {
            known.bytes_per_s = Some(have_bytes.saturating_sub(known.mark.1) * 1000 / elapsed_ms);
        }
        if elapsed_ms >= RATE_MOST_MS {
            known.mark = (now_ms, have_bytes);
        }
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
                if told.is_none_or(|told| told.first() != sources.first()) {
                    self.moved(&host, now_ms);
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

    /// The first host is compared with nobody: the next one takes its place, and whoever of them is slow is seen to be. When that was of use, the one
    /// behind it is tried, too.
    fn try_the_next(&mut self, now_ms: u64) {
        let Some(first) = self.order.iter().position(|host| self.is_receiving(host)) else { return };
        let pace = self.hosts[&self.order[first]].bytes_per_s.unwrap_or(0);
        if self.trial.tried.is_empty() && self.links.is_good(pace) {
            self.trial.due_ms = now_ms + TRIAL_SELDOM_MS;
            return;
        }
        let was_tried = self.trial.tried.last().is_some_and(|before| *before != self.order[first]);
        if was_tried && pace < self.trial.before_bytes_per_s / 2 {
            return self.take_back(first, pace, now_ms);
        }
        if was_tried && !is_faster(pace, self.trial.before_bytes_per_s) {
            // It is no faster than the one before it was. When both together got no more than one, the link of the head is the limit.
            let is_limit = self.trial.both_bytes_per_s.is_some_and(|both| !is_faster(both, self.trial.before_bytes_per_s));
            let again_ms = if is_limit { TRIAL_SELDOM_MS } else { self.trial.again_ms };
            (self.trial.due_ms, self.trial.again_ms) = (now_ms + again_ms, (self.trial.again_ms * 2).min(TRIAL_SELDOM_MS));
            (self.trial.tried, self.trial.in_vain) = (vec![], true);
            return;
        }
        self.trial.in_vain = false;
        let before = self.trial.tried.last().copied().filter(|_| was_tried && pace / 2 > self.trial.before_bytes_per_s);
        if let Some(slow) = before {
            // It held up everybody.
            self.move_to_end(&slow, Some(self.trial.before_bytes_per_s));
        }
        (self.trial.before_bytes_per_s, self.trial.due_ms) = (pace, now_ms + TRIAL_MS);
        (self.trial.both, self.trial.both_bytes_per_s) = (None, None);
        self.trial.tried.push(self.order[first]);
        let tried = &self.trial.tried;
        let is_next = |host: &HostId| self.is_receiving(host) && self.hosts[host].pace == Pace::Fit && !tried.contains(host);
        let Some(next) = self.order.iter().position(is_next) else { return };
        let host = self.order.remove(next);
        self.order.insert(first, host);
    }

    /// The one that was tried is the slow one: it goes behind the one before it, and when it is much slower, behind all.
    fn take_back(&mut self, first: usize, pace: u64, now_ms: u64) {
        let slow = self.order.remove(first);
        let before = self.order.iter().position(|host| self.trial.tried.last() == Some(host));
        self.order.insert(before.map_or(first, |before| before + 1), slow);
        if pace < self.trial.before_bytes_per_s / 4 {
            self.move_to_end(&slow, Some(pace));
        }
        self.trial.tried = vec![];
        self.trial.due_ms = now_ms + self.trial.again_ms;
    }

    /// After a change of the first host the head serves both for a moment.
    fn measure_both(&mut self, now_ms: u64) {
        let sent_bytes = || self.hosts.values().map(|host| host.from_head_bytes).sum::<u64>();
        let begun_ms = self.trial.due_ms.saturating_sub(TRIAL_MS);
        match self.trial.both {
            _ if self.trial.tried.is_empty() || self.trial.both_bytes_per_s.is_some() => {}
            None if now_ms >= begun_ms + BOTH_MS => self.trial.both = Some((now_ms, sent_bytes())),
            Some((since_ms, before_bytes)) if now_ms >= since_ms + BOTH_FOR_MS => {
                let bytes = sent_bytes().saturating_sub(before_bytes);
                self.trial.both_bytes_per_s = Some(bytes * 1000 / (now_ms - since_ms));
            }
            _ => {}
        }
    }

    fn demote_the_slow(&mut self, now_ms: u64) {
        let best = self.hosts.values().filter_map(|host| host.bytes_per_s).max();
        let behind_bytes = BEHIND_BYTES.max(self.size_bytes / BEHIND_SHARE);
        let lags = |pair: &[HostId]| {
            let (source, host) = (&self.hosts[&pair[0]], &self.hosts[&pair[1]]);
            let settled = host.is_settled(now_ms) && source.is_settled(now_ms);
            // One that has everything counts with the pace at which it got that.
            let pace = source.bytes_per_s.or(best);
            let is_behind = source.have_bytes > host.have_bytes + behind_bytes;
            let paces = host.pace_now(now_ms).zip(pace);
            let is_slow = paces.filter(|(host, source)| *host < source / 2).map(|(pace, _)| (pair[1], pace));
            is_slow.filter(|_| host.state == State::Receiving && settled && is_behind)
        };
        let usable: Vec<HostId> = self.order.iter().filter(|host| self.is_usable(host)).copied().collect();
        let lagging: HashMap<HostId, u64> = usable.windows(2).filter_map(lags).collect();
        let mut slow = vec![];
        for (id, host) in &mut self.hosts {
            let Some(pace) = lagging.get(id) else {
                // Behind a slow one, nothing is known of it.
                let is_fast = host.bytes_per_s >= best.map(|best| best / 2);
                host.has_kept_up |= is_fast && host.have_bytes - host.had_bytes > 4 * behind_bytes;
                host.lags_since_ms = None;
                continue;
            };
            let since_ms = *host.lags_since_ms.get_or_insert(now_ms);
            let patience_ms = match host.moves {
                _ if host.has_kept_up || host.moved_bytes > host.had_bytes => PATIENCE_MS,
                0 | 1 => 0,
                _ => PATIENCE_FIRST_MS,
            };
            if now_ms >= since_ms + patience_ms {
                slow.push((*id, *pace));
            }
        }
        slow.sort_by_key(|(id, _)| self.order.iter().position(|host| host == id));
        for (host, pace) in slow {
            self.move_to_end(&host, Some(pace));
        }
    }

    /// `pace`: at which it fell behind; `None`: it was lost. The first time it does not go behind those that are known to be slow, because it may have
    /// been its source's fault, nor, if it has kept up before, behind those that never have; then behind all that are not as slow.
    fn move_to_end(&mut self, host: &HostId, pace: Option<u64>) {
        let Some(position) = self.order.iter().position(|known| known == host) else { return };
        let Some(known) = self.hosts.get_mut(host) else { return };
        match (known.pace, pace) {
            (Pace::Fit, _) => known.pace = Pace::Doubtful,
            (_, Some(pace)) => known.pace = Pace::Slow(pace),
            (_, None) => {}
        }
        let (pace, has_kept_up) = (known.pace, known.has_kept_up);
        let is_behind = |other: &&HostId| match (self.hosts[*other].pace, pace) {
            (Pace::Slow(other), Pace::Slow(rate)) => other < rate,
            (Pace::Slow(_), _) => true,
            (Pace::Doubtful, Pace::Doubtful) => has_kept_up && !self.hosts[*other].has_kept_up,
            _ => false,
        };
        let place = self.order.len() - 1 - self.order.iter().filter(|other| *other != host).filter(is_behind).count();
        if place <= position {
            return;
        }
        let host = self.order.remove(position);
        self.order.insert(place, host);
    }

    /// Its source is another one: what its rate was says nothing any more.
    fn moved(&mut self, host: &HostId, now_ms: u64) {
        if let Some(host) = self.hosts.get_mut(host) {
            (host.moved_ms, host.moved_bytes, host.lags_since_ms) = (now_ms, host.have_bytes, None);
            host.moves = host.moves.saturating_add(1);
            (host.bytes_per_s, host.mark) = (None, (now_ms, host.have_bytes));
        }
    }
}

/// By more than what paces differ from one moment to the next.
fn is_faster(pace: u64, before: u64) -> bool {
    pace > before + before / 4
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
