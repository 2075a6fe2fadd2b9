//! Who goes to the end of a chain, and how far.

use std::collections::HashMap;

use super::Chain;
use super::host::{Pace, State};
use crate::HostId;

/// How far a host must be behind its source to be slow: bytes, and share of the image. Less is what a busy machine loses in a moment.
const BEHIND_BYTES: u64 = 512 * 1024;
const BEHIND_SHARE: u64 = 100;

impl Chain {
    /// Whoever is behind its source at less than half of its pace, and has been for too long, goes to the end.
    pub(super) fn demote_the_slow(&mut self, now_ms: u64) {
        let best = self.hosts.values().filter_map(|host| host.bytes_per_s).max();
        let behind_bytes = BEHIND_BYTES.max(self.size_bytes / BEHIND_SHARE);
        let lags = |pair: &[HostId]| {
            let (source, host) = (&self.hosts[&pair[0]], &self.hosts[&pair[1]]);
            let is_settled = host.is_settled(now_ms) && source.is_settled(now_ms);
            let is_behind = source.have_bytes > host.have_bytes + behind_bytes;
            if host.state != State::Receiving || !is_settled || !is_behind {
                return None;
            }
            // A source that has everything counts with the pace at which it got that.
            let (pace, source_pace) = (host.pace_now(now_ms)?, source.bytes_per_s.or(best)?);
            (pace < source_pace / 2).then(|| (pair[1], (pace, host.patience_ms(source))))
        };
        let usable: Vec<HostId> = self.order.iter().filter(|host| self.is_usable(host)).copied().collect();
        // At which pace, and how long that is borne.
        let lagging: HashMap<HostId, (u64, u64)> = usable.windows(2).filter_map(lags).collect();
        let mut slow = vec![];
        for (id, host) in &mut self.hosts {
            let Some((pace, patience_ms)) = lagging.get(id) else {
                // Behind a slow one, nothing is known of it.
                let is_fast = host.bytes_per_s >= best.map(|best| best / 2);
                host.has_kept_up |= is_fast && host.have_bytes - host.had_bytes > 4 * behind_bytes;
                host.lags_since_ms = None;
                continue;
            };
            let since_ms = *host.lags_since_ms.get_or_insert(now_ms);
            if now_ms >= since_ms + patience_ms {
                host.lags_since_ms = None;
                slow.push((*id, *pace));
            }
        }
        slow.sort_by_key(|(id, _)| self.order.iter().position(|host| host == id));
        for (host, pace) in slow {
            self.move_to_end(&host, Some(pace));
        }
    }

    /// `pace`: at which it fell behind; `None`: it was lost. It goes behind all that are not much slower; the first time, which may have been its
    /// source's fault, not behind those that are known to be slow, nor, if it has kept up before, behind those that never have.
    pub(super) fn move_to_end(&mut self, host: &HostId, pace: Option<u64>) {
        let Some(position) = self.order.iter().position(|known| known == host) else { return };
        let Some(known) = self.hosts.get_mut(host) else { return };
        match (known.pace, pace) {
            (Pace::Fit, _) => known.pace = Pace::Doubtful(pace),
            (_, Some(pace)) => known.pace = Pace::Slow(pace),
            (_, None) => {}
        }
        let (mine, has_kept_up) = (known.pace, known.has_kept_up);
        let is_behind = |other: &&HostId| {
            let other = &self.hosts[*other];
            // What it was when it fell behind, unless it is better now: behind a slow one all are as slow as that.
            let is_slower = |rate: Option<u64>| {
                let rate = rate.map(|rate| rate.max(other.bytes_per_s.unwrap_or(0)));
                rate.zip(pace).is_some_and(|(rate, pace)| rate < pace / 2)
            };
            match (other.pace, mine) {
                (Pace::Fit, _) => false,
                (Pace::Doubtful(rate), Pace::Doubtful(_)) => is_slower(rate) || (has_kept_up && !other.has_kept_up),
                (Pace::Doubtful(rate), _) => is_slower(rate),
                (Pace::Slow(other), Pace::Slow(mine)) => other < mine,
                (Pace::Slow(_), _) => true,
            }
        };
        let place = self.order.len() - 1 - self.order.iter().filter(|other| *other != host).filter(is_behind).count();
        if place <= position {
            return;
        }
        self.order[position..=place].rotate_left(1);
    }
}
