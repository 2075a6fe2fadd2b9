//! A line about all hosts now and then, for logs and pipes.

use super::fleet::Fleet;
use super::view::{left, total};
use crate::format::size;

/// Often enough to see that it goes on, seldom enough for a log.
const PAUSE_MS: u64 = 10_000;

/// Remembers when a line was said.
#[derive(Debug, Default)]
pub(super) struct Pace {
    said_ms: u64,
}

impl Pace {
    /// The line, when it is time for one and not all is over: `12 of 40 hosts have demo:nautilus, 480 MB of 1.60 GB, 110 MB/s, 9 s left`.
    pub(super) fn line(&mut self, fleet: &Fleet, now_ms: u64) -> Option<String> {
        if now_ms.saturating_sub(self.said_ms) < PAUSE_MS {
            return None;
        }
        self.said_ms = now_ms;
        let counts = fleet.counts();
        let hosts = fleet.hosts().count();
        if counts.done + counts.failed == hosts {
            return None;
        }
        let bytes = fleet.bytes();
        let mut facts = vec![
            format!("{} of {hosts} hosts have {}", counts.done, fleet.images()),
            format!("{} of {}", size(bytes.received), total(&bytes)),
        ];
        facts.extend(fleet.bytes_per_s(now_ms).map(|rate| format!("{}/s", size(rate))));
        facts.extend(fleet.left_ms(now_ms).and_then(left));
        let notable = [(counts.waiting, "waiting"), (counts.failed, "failed")];
        facts.extend(notable.iter().filter(|(number, _)| *number > 0).map(|(number, word)| format!("{number} {word}")));
        Some(facts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{done, failed, fleet, planned, progress, waiting};
    use super::*;

    #[test]
    fn every_ten_seconds_until_all_is_over() {
        let mut fleet =
            fleet(&[planned("a", 400), planned("b", 400), planned("c", 400), planned("d", 400), done("a"), failed("d"), waiting("c")]);
        let mut pace = Pace::default();
        let mut lines = vec![];
        for second in 0..=25 {
            fleet.event(second * 1000, &progress("b", second * 10));
            lines.extend(pace.line(&fleet, second * 1000));
        }
        let first = "1 of 4 hosts have demo:1, 500 MB of 1.20 GB, 10.0 MB/s, 1 min 10 s left, 1 waiting, 1 failed";
        let second = "1 of 4 hosts have demo:1, 600 MB of 1.20 GB, 10.0 MB/s, 1 min 00 s left, 1 waiting, 1 failed";
        assert_eq!(lines, [first, second]);
        [done("b"), done("c")].iter().for_each(|event| fleet.event(40_000, event));
        assert_eq!(pace.line(&fleet, 40_000), None);
    }
}
