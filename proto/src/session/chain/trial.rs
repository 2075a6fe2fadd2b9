//! The search for a first host that is not slow: it is compared with nobody, and all wait for it.

use super::{Chain, Links, Pace};
use crate::HostId;

/// How long each of the first hosts is tried out at the head: were it slow, all would be, and nobody would know. By then those behind it that are
/// slower still have gone.
const TRIAL_MS: u64 = 700;

/// The same where it is known what the head can send: who gets far less is slow, and who gets about that is not.
const TRIAL_KNOWN_MS: u64 = 250;

/// Ranges that a first host of a limited fan-out has time to receive in its trial: fewer say nothing of its link.
const TRIAL_STEPS: u64 = 8;

/// When what the head sends to both is measured, from the beginning of a trial, and for how long.
const BOTH_MS: u64 = 100;
const BOTH_FOR_MS: u64 = 300;

/// When another one is tried although the last one was no faster. Each trial has the head send a little of the image twice: twice as long after each.
const TRIAL_AGAIN_MS: u64 = 10_000;

/// When another one is tried although nobody seems to be slow.
const TRIAL_SELDOM_MS: u64 = 60_000;

/// The search for a first host that is not slow.
#[derive(Debug, Default)]
pub(super) struct Trial {
    /// Who was first.
    tried: Vec<HostId>,
    /// The pace of the one before the one that is tried now.
    before_bytes_per_s: u64,
    /// How long each of them is tried.
    length_ms: u64,
    pub(super) due_ms: u64,
    /// How long after a trial that brought nothing.
    again_ms: u64,
    /// For a while the head serves both, the one before and the one that is tried: when that was, and what it had sent by then.
    pub(super) both: Option<(u64, u64)>,
    both_bytes_per_s: Option<u64>,
    /// The last one brought nothing.
    pub(super) in_vain: bool,
    /// The first one was taken to be slow by what is known of the head: once, because that may have changed.
    has_presumed: bool,
}

impl Trial {
    /// The first one is due when the chain has run for a moment; a limit makes moments longer.
    pub(super) fn new(links: &Links, now_ms: u64) -> Self {
        let length_ms = TRIAL_MS.max(links.steps_ms(TRIAL_STEPS));
        let due_ms = now_ms + if links.is_known() { TRIAL_KNOWN_MS } else { length_ms };
        Self { due_ms, length_ms, again_ms: TRIAL_AGAIN_MS.max(length_ms), has_presumed: !links.is_known(), ..Self::default() }
    }
}

impl Chain {
    /// The first host is compared with nobody: the next one takes its place, and whoever of them is slow is seen to be. When that was of use, the one
    /// behind it is tried, too.
    pub(super) fn try_the_next(&mut self, now_ms: u64) {
        let Some(first) = self.order.iter().position(|host| self.is_receiving(host)) else { return };
        let pace = self.hosts[&self.order[first]].bytes_per_s.unwrap_or(0);
        if !self.trial.has_presumed {
            return self.presume(first, pace, now_ms);
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
        let before = self.trial.tried.last().copied().filter(|_| was_tried && pace / 2 > self.trial.before_bytes_per_s);
        if let Some(slow) = before {
            // It held up everybody.
            self.move_to_end(&slow, Some(self.trial.before_bytes_per_s));
        }
        if self.links.is_good(pace) {
            (self.trial.tried, self.trial.due_ms) = (vec![], now_ms + TRIAL_SELDOM_MS);
            return;
        }
        self.trial.in_vain = false;
        (self.trial.before_bytes_per_s, self.trial.due_ms) = (pace, now_ms + self.trial.length_ms);
        (self.trial.both, self.trial.both_bytes_per_s) = (None, None);
        self.trial.tried.push(self.order[first]);
        let tried = &self.trial.tried;
        let is_next = |host: &HostId| self.is_receiving(host) && self.hosts[host].pace == Pace::Fit && !tried.contains(host);
        let Some(next) = self.order.iter().position(is_next) else { return };
        let host = self.order.remove(next);
        self.order.insert(first, host);
    }

    /// The first one is far slower than what is known of the head: it does not take another trial to see that.
    fn presume(&mut self, first: usize, pace: u64, now_ms: u64) {
        self.trial.has_presumed = true;
        self.trial.due_ms = now_ms + TRIAL_MS - TRIAL_KNOWN_MS;
        let host = self.order[first];
        if self.links.is_poor(pace) && self.hosts[&host].is_settled(now_ms) {
            self.move_to_end(&host, Some(pace));
            self.trial.due_ms = now_ms + 2 * TRIAL_MS;
        }
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
    pub(super) fn measure_both(&mut self, now_ms: u64) {
        let sent_bytes = || self.hosts.values().fold(0_u64, |sum, host| sum.saturating_add(host.from_head_bytes));
        let begun_ms = self.trial.due_ms.saturating_sub(self.trial.length_ms);
        match self.trial.both {
            _ if self.trial.tried.is_empty() || self.trial.both_bytes_per_s.is_some() => {}
            None if now_ms >= begun_ms + BOTH_MS => self.trial.both = Some((now_ms, sent_bytes())),
            Some((since_ms, before_bytes)) if now_ms >= since_ms + BOTH_FOR_MS => {
                let bytes = sent_bytes().saturating_sub(before_bytes);
                self.trial.both_bytes_per_s = Some(bytes.saturating_mul(1000) / (now_ms - since_ms));
            }
            _ => {}
        }
    }
}

/// By more than what paces differ from one moment to the next.
fn is_faster(pace: u64, before: u64) -> bool {
    pace > before + before / 4
}
