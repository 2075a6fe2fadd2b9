//! What fan-outs have shown of the links to hosts, for those that come after them.

use std::collections::HashMap;

use crate::HostId;
use crate::limits::RANGE_BYTES;

/// Less than this share of the best pace is slow.
const SLOW_SHARE: u64 = 2;

/// Less than this share is so little that one look is enough.
const POOR_SHARE: u64 = 4;

/// What is known of links when a fan-out begins. It is a hint: whoever has become faster or slower since is found out in the next fan-out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Links {
    /// The best pace of a whole fan-out so far; 0: none was long enough to tell.
    best_bytes_per_s: u64,
    /// Hosts that were slow in their last fan-out, and how slow.
    slow: HashMap<HostId, u64>,
    /// What a fan-out is limited to; 0: not limited.
    limit_bytes_per_s: u64,
}

impl Links {
    /// The pace of a host that was slow when it last received.
    pub fn slow_bytes_per_s(&self, host: &HostId) -> Option<u64> {
        self.slow.get(host).copied()
    }

    /// True when it is known what the link of the head carries.
    pub fn is_known(&self) -> bool {
        self.best_bytes_per_s > 0
    }

    /// True when the link of the head is known, and this pace makes poor use of it.
    pub fn is_poor(&self, bytes_per_s: u64) -> bool {
        bytes_per_s < self.best_bytes_per_s / POOR_SHARE
    }

    /// True when the link of the head is known, and this pace makes good use of it.
    pub fn is_good(&self, bytes_per_s: u64) -> bool {
        self.is_known() && bytes_per_s >= self.best_bytes_per_s / SLOW_SHARE
    }

    /// What of it is of use to a fan-out whose speed is limited: nothing of that says anything of the head.
    pub fn limited(&self, limit_bytes_per_s: u64) -> Self {
        Self { best_bytes_per_s: 0, slow: self.slow.clone(), limit_bytes_per_s: limit_bytes_per_s.max(1) }
    }

    /// Time that the limit leaves for so many ranges; none without a limit.
    pub(super) fn steps_ms(&self, ranges: u64) -> u64 {
        (ranges * RANGE_BYTES * 1000).checked_div(self.limit_bytes_per_s).unwrap_or(0)
    }

    /// Takes in at which pace each host of one fan-out has received. `is_best`: that another first host is no faster was tried out, so that the best
    /// of it is the best that there is, although it was better once.
    pub fn learn(&mut self, paces: &[(HostId, u64)], is_best: bool) {
        let Some(best) = paces.iter().map(|(_, pace)| *pace).max() else { return };
        self.best_bytes_per_s = if is_best { best } else { best.max(self.best_bytes_per_s) };
        for (host, pace) in paces {
            match *pace < best / SLOW_SHARE {
                true => drop(self.slow.insert(*host, *pace)),
                false => drop(self.slow.remove(host)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> HostId {
        HostId::of_public_key(&[number])
    }

    #[test]
    fn a_host_is_slow_until_it_was_not() {
        let mut links = Links::default();
        assert!(!links.is_good(1_000), "nothing is known yet");
        links.learn(&[(id(1), 1_000), (id(2), 900), (id(3), 100)], false);
        assert_eq!([1, 2, 3].map(|host| links.slow_bytes_per_s(&id(host))), [None, None, Some(100)]);
        links.learn(&[(id(3), 800), (id(1), 900)], false);
        assert_eq!(links.slow_bytes_per_s(&id(3)), None);
    }

    #[test]
    fn the_best_pace_stays_until_it_was_found_that_there_is_none_better() {
        let mut links = Links::default();
        links.learn(&[(id(1), 1_000)], false);
        links.learn(&[(id(1), 300)], false);
        assert!(links.is_good(500) && !links.is_good(499));
        links.learn(&[(id(1), 300)], true);
        assert!(links.is_good(150));
        links.learn(&[], true);
        assert!(links.is_good(150), "a fan-out that was too short says nothing");
        assert!(links.is_poor(74) && !links.is_poor(75));
        assert!(!links.limited(10).is_poor(74), "a limit is not the link");
    }
}
