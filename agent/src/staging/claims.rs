//! Who fetches which range of a blob. Sessions that want the same blob bring it together: what one of them fetches the others leave alone, as long as it
//! comes. A session that brings nothing, or next to nothing, holds up nobody: who waits for a range takes over what is left of it, from its end.
//!
//! Decisions without I/O: the time comes from the caller.

use std::collections::HashSet;
use std::ops::Range;
use std::time::{Duration, Instant};

use proto::HostId;
use proto::limits::RANGE_BYTES;

/// What is left of a range is not divided below this.
const WHOLE_BYTES: u64 = 16 * RANGE_BYTES;

/// How long it is waited for another session.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// Until its first bytes come, and until it is known how fast they do.
    first: Duration,
    /// Without a further byte.
    silence: Duration,
    /// For what is left, at the speed at which it comes.
    rest: Duration,
}

/// With another session of the same host: all of them have the same source.
const OF_ONE_HOST: Patience = Patience { first: Duration::from_secs(1), silence: Duration::from_secs(5), rest: Duration::from_secs(5) };

/// With a session of another host, which may be slow, or not mean to bring anything.
const OF_OTHERS: Patience =
    Patience { first: Duration::from_millis(300), silence: Duration::from_secs(1), rest: Duration::from_millis(500) };

/// The ranges of one blob that are fetched now. They do not overlap.
#[derive(Debug, Default)]
pub(super) struct Claims {
    claims: Vec<Claim>,
    /// Hosts that have claimed something last and brought nothing of it: nobody waits for them.
    idle: HashSet<HostId>,
    numbers: u64,
}

#[derive(Debug)]
struct Claim {
    number: u64,
    host: HostId,
    range: Range<u64>,
    begun: Instant,
    /// When bytes came last; when it began, before the first ones.
    came: Instant,
    came_bytes: u64,
}

/// How much of a claim another session may take over.
#[derive(Debug, PartialEq, Eq)]
enum Share {
    Nothing,
    Half,
    Whole,
}

impl Claims {
    /// The part of a missing range that is to be fetched by this host now, and the number of the claim. `None`: it comes otherwise.
    pub(super) fn take(&mut self, host: &HostId, missing: &Range<u64>, now: Instant) -> Option<(Range<u64>, u64)> {
        // An empty blob has one range.
        let missing = missing.start..missing.end.max(missing.start + 1);
        if let Some(free) = self.free(&missing) {
            return Some(self.add(host, free, now));
        }
        for at in 0..self.claims.len() {
            let claim = &self.claims[at];
            let wanted = claim.range.start.max(missing.start)..claim.range.end.min(missing.end);
            if wanted.is_empty() {
                continue;
            }
            let share = claim.share_for(host, self.idle.contains(&claim.host), now);
            let from = match share {
                Share::Nothing => continue,
                Share::Whole => wanted.start,
                Share::Half => half(wanted.start.max(claim.reached()).min(wanted.end)..wanted.end),
            };
            if claim.came_bytes == 0 {
                self.idle.insert(claim.host);
            }
            let claim = &mut self.claims[at];
            claim.range.end = from;
            if claim.range.is_empty() {
                self.claims.remove(at);
            }
            return Some(self.add(host, from..wanted.end, now));
        }
        None
    }

    /// Bytes of a range have come from this host, and are verified.
    pub(super) fn came(&mut self, host: &HostId, range: &Range<u64>, now: Instant) {
        self.idle.remove(host);
        for claim in self.claims.iter_mut().filter(|claim| claim.host == *host) {
            let bytes = claim.range.end.min(range.end).saturating_sub(claim.range.start.max(range.start));
            if bytes > 0 {
                claim.came = now;
                claim.came_bytes += bytes;
            }
        }
    }

    /// What is left of a claim; `None` when others have taken over all of it.
    pub(super) fn range(&self, number: u64) -> Option<Range<u64>> {
        self.claims.iter().find(|claim| claim.number == number).map(|claim| claim.range.clone())
    }

    /// A session does not fetch it any more.
    pub(super) fn end(&mut self, number: u64) {
        self.claims.retain(|claim| claim.number != number);
    }

    /// The first part of a range that nobody fetches.
    fn free(&self, range: &Range<u64>) -> Option<Range<u64>> {
        let mut start = range.start;
        while let Some(claim) = self.claims.iter().find(|claim| claim.range.contains(&start)) {
            start = claim.range.end;
        }
        let next = self.claims.iter().map(|claim| claim.range.start).filter(|next| *next > start).min();
        let end = next.unwrap_or(u64::MAX).min(range.end);
        (start < end).then_some(start..end)
    }

    fn add(&mut self, host: &HostId, range: Range<u64>, now: Instant) -> (Range<u64>, u64) {
        self.numbers += 1;
        self.claims.push(Claim { number: self.numbers, host: *host, range: range.clone(), begun: now, came: now, came_bytes: 0 });
        (range, self.numbers)
    }
}

impl Claim {
    fn share_for(&self, host: &HostId, is_idle: bool, now: Instant) -> Share {
        let patience = if *host == self.host { OF_ONE_HOST } else { OF_OTHERS };
        let has_come = self.came_bytes > 0;
        if now.duration_since(self.came) >= patience.silence || (is_idle && !has_come && *host != self.host) {
            return Share::Whole;
        }
        let elapsed = now.duration_since(self.begun);
        let left_bytes = (self.range.end - self.range.start).saturating_sub(self.came_bytes);
        let is_slow = || elapsed.mul_f64(left_bytes as f64 / self.came_bytes as f64) > patience.rest;
        if elapsed < patience.first || (has_come && !is_slow()) {
            return Share::Nothing;
        }
        if left_bytes > WHOLE_BYTES { Share::Half } else { Share::Whole }
    }

    /// Where its next bytes are expected.
    fn reached(&self) -> u64 {
        self.range.start + self.came_bytes
    }
}

fn half(range: Range<u64>) -> u64 {
    ((range.start + range.end) / 2 / RANGE_BYTES * RANGE_BYTES).max(range.start)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const EXTENT: u64 = 256 * RANGE_BYTES;

    fn host(name: &str) -> HostId {
        HostId::of_public_key(name.as_bytes())
    }

    struct Race {
        claims: Claims,
        now: Instant,
    }

    impl Race {
        fn new() -> Self {
            Self { claims: Claims::default(), now: Instant::now() }
        }

        fn take(&mut self, name: &str, range: Range<u64>) -> Option<Range<u64>> {
            self.claims.take(&host(name), &range, self.now).map(|(range, _)| range)
        }

        fn came(&mut self, name: &str, range: Range<u64>) {
            self.claims.came(&host(name), &range, self.now);
        }

        fn pass(&mut self, milliseconds: u64) {
            self.now += Duration::from_millis(milliseconds);
        }
    }

    #[test]
    fn what_comes_is_left_alone() {
        let mut race = Race::new();
        assert_eq!(race.take("a", 0..EXTENT), Some(0..EXTENT));
        assert_eq!(race.take("b", EXTENT / 2..2 * EXTENT), Some(EXTENT..2 * EXTENT));
        for step in 0..16 {
            assert_eq!(race.take("b", 0..EXTENT), None, "{step}");
            race.came("a", step * EXTENT / 16..(step + 1) * EXTENT / 16);
            race.pass(40);
        }
    }

    #[test]
    fn who_brings_nothing_holds_up_nobody_twice() {
        let mut race = Race::new();
        for extent in 0..8 {
            race.take("rogue", extent * EXTENT..(extent + 1) * EXTENT);
        }
        assert_eq!(race.take("honest", 0..EXTENT), None);
        race.pass(300);
        assert_eq!(race.take("honest", 0..EXTENT), Some(EXTENT / 2..EXTENT));
        // From now on all of it is, at once, and what it claims anew.
        assert_eq!(race.take("honest", 0..EXTENT), Some(0..EXTENT / 2));
        for extent in 1..8 {
            assert_eq!(race.take("honest", extent * EXTENT..(extent + 1) * EXTENT), Some(extent * EXTENT..(extent + 1) * EXTENT));
        }
        assert_eq!(race.take("rogue", 8 * EXTENT..9 * EXTENT), Some(8 * EXTENT..9 * EXTENT));
        assert_eq!(race.take("honest", 8 * EXTENT..9 * EXTENT), Some(8 * EXTENT..9 * EXTENT));
    }

    #[test]
    fn a_trickle_is_taken_over_half_by_half() {
        let mut race = Race::new();
        race.take("rogue", 0..EXTENT);
        race.came("rogue", 0..RANGE_BYTES);
        race.pass(300);
        let mut end = EXTENT;
        for _ in 0..10 {
            if end <= RANGE_BYTES {
                break;
            }
            race.came("rogue", 0..0);
            let part = race.take("honest", RANGE_BYTES..end).unwrap();
            assert!(part.end == end && part.start < end, "{part:?}");
            race.came("honest", part.clone());
            race.claims.end(race.claims.numbers);
            end = part.start;
        }
        assert_eq!(end, RANGE_BYTES, "all of it, without another wait");
    }

    #[test]
    fn sessions_of_one_host_wait_longer_for_each_other() {
        let mut race = Race::new();
        race.take("a", 0..EXTENT);
        race.pass(999);
        assert_eq!(race.take("a", 0..EXTENT), None);
        race.pass(1);
        assert_eq!(race.take("a", 0..EXTENT), Some(EXTENT / 2..EXTENT));
        race.pass(5_000);
        assert_eq!(race.take("a", 0..EXTENT / 2), Some(0..EXTENT / 2));
    }

    #[test]
    fn claims_never_overlap() {
        let mut race = Race::new();
        let mut seed = 1_u64;
        let mut random = |most: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % most
        };
        for _ in 0..20_000 {
            let (name, start) = (["a", "b", "c"][random(3) as usize], random(64) * RANGE_BYTES);
            let range = start..start + (1 + random(64)) * RANGE_BYTES;
            match random(4) {
                0 => race.came(name, range),
                1 => race.claims.end(random(race.claims.numbers + 1)),
                2 => race.pass(random(700)),
                _ => {
                    if let Some(part) = race.take(name, range.clone()) {
                        assert!(part.start >= range.start && part.end <= range.end && !part.is_empty(), "{part:?} of {range:?}");
                    }
                }
            }
            let mut ranges: Vec<_> = race.claims.claims.iter().map(|claim| claim.range.clone()).collect();
            ranges.sort_by_key(|range| range.start);
            assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "{ranges:?}");
        }
    }
}
