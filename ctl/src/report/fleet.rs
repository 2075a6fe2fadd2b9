//! What is known of every host of a send, from its events. Times are handed in, so that nothing here waits or looks at a clock.

use std::collections::BTreeMap;

use proto::control::Event;
use proto::text::escape;

use super::host::{Host, State};
use super::rate::Rate;

/// All hosts of a send.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    hosts: BTreeMap<String, Host>,
    /// Bytes that came while we looked. Only grows.
    seen_bytes: u64,
    rate: Rate,
}

/// How many hosts are where.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    /// For their connection.
    pub(super) waiting: usize,
    /// Bytes come.
    pub(super) receiving: usize,
    /// What they lack is known.
    pub(super) starting: usize,
    /// Nothing is known yet.
    pub(super) queued: usize,
    /// Not everything is there, and nothing more will come.
    pub(super) failed: usize,
    /// Everything is there.
    pub(super) done: usize,
}

/// Bytes of all hosts together.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bytes {
    /// Verified at the receivers.
    pub(super) received: u64,
    /// That have to travel.
    pub(super) total: u64,
    /// Some hosts have not said yet what they lack: it is taken for as much as the others lack.
    pub(super) is_estimate: bool,
}

impl Fleet {
    /// Learns from an event that came at `now_ms`.
    pub(super) fn event(&mut self, now_ms: u64, event: &Event) {
        match event {
            Event::Queued { host, image } => self.host(host).queue(image),
            Event::Planned(planned) => self.host(&planned.host).planned(planned),
            Event::Progress(progress) => {
                let new_bytes = self.host(&progress.host).progress(now_ms, progress);
                self.seen(now_ms, new_bytes);
            }
            Event::Drawn(drawn) => self.host(&drawn.host).drawn(drawn),
            Event::Waiting { host, reason } => self.host(host).wait(reason),
            Event::Hashing(hashing) => self.host(&hashing.host).hash(hashing),
            Event::Done(done) => {
                let new_bytes = self.host(&done.host).done(done);
                self.seen(now_ms, new_bytes);
            }
            Event::HostFailed { host, image, .. } => self.host(host).fail(image),
            _ => {}
        }
    }

    /// Every host by name.
    pub(super) fn hosts(&self) -> impl Iterator<Item = (&str, &Host)> {
        self.hosts.iter().map(|(name, host)| (name.as_str(), host))
    }

    /// Pairs of host and image that the agent has named before all else. None: it has named none.
    pub(super) fn queued(&self) -> usize {
        self.hosts.values().map(Host::queued).sum()
    }

    /// True once a plan was made for this host.
    pub(super) fn has_begun(&self, host: &str) -> bool {
        self.hosts.get(host).is_some_and(|host| host.planned_images() > 0)
    }

    /// The name of the image, or `3 images`.
    pub(super) fn images(&self) -> String {
        let most = self.hosts.values().map(Host::images).max().unwrap_or(0);
        match self.hosts.values().find_map(Host::image) {
            Some(only) if most == 1 => escape(only),
            _ => format!("{most} images"),
        }
    }

    /// How many hosts are where.
    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for host in self.hosts.values() {
            let count = match host.state() {
                State::Waiting => &mut counts.waiting,
                State::Receiving => &mut counts.receiving,
                State::Starting => &mut counts.starting,
                State::Queued => &mut counts.queued,
                State::Failed => &mut counts.failed,
                State::Done => &mut counts.done,
            };
            *count += 1;
        }
        counts
    }

    /// Bytes of all hosts together.
    pub(super) fn bytes(&self) -> Bytes {
        let (received, known) = self.hosts.values().map(Host::bytes).fold((0, 0), |sum, next| (sum.0 + next.0, sum.1 + next.1));
        let planned: usize = self.hosts.values().map(Host::planned_images).sum();
        let unknown: usize = self.hosts.values().map(Host::unplanned).sum();
        let estimate = u128::from(known) * (planned + unknown) as u128 / planned.max(1) as u128;
        Bytes { received, total: estimate as u64, is_estimate: unknown > 0 }
    }

    /// Bytes a second to all hosts together.
    pub(super) fn bytes_per_s(&self, now_ms: u64) -> Option<u64> {
        self.rate.bytes_per_s(now_ms)
    }

    /// Until everything is there, when it goes on like this.
    pub(super) fn left_ms(&self, now_ms: u64) -> Option<u64> {
        let bytes = self.bytes();
        let left_bytes = u128::from(bytes.total.saturating_sub(bytes.received));
        let rate = u128::from(self.bytes_per_s(now_ms).filter(|&rate| rate > 0)?);
        Some((left_bytes * 1000 / rate) as u64)
    }

    fn host(&mut self, name: &str) -> &mut Host {
        self.hosts.entry(name.to_owned()).or_default()
    }

    /// So many bytes have come since the last time.
    fn seen(&mut self, now_ms: u64, new_bytes: u64) {
        self.seen_bytes += new_bytes;
        self.rate.add(now_ms, self.seen_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{MB, done, failed, fleet, planned, progress, queued};
    use super::*;

    #[test]
    fn who_is_silent_lacks_as_much_as_the_others_and_who_failed_nothing_more() {
        let mut fleet = fleet(&[queued("a"), queued("b"), queued("c"), planned("a", 40), planned("b", 20), progress("b", 5)]);
        assert_eq!(fleet.bytes(), Bytes { received: 5 * MB, total: 90 * MB, is_estimate: true });
        fleet.event(0, &failed("b"));
        fleet.event(0, &failed("c"));
        assert_eq!(fleet.bytes(), Bytes { received: 5 * MB, total: 45 * MB, is_estimate: false });
        fleet.event(0, &done("a"));
        assert_eq!(fleet.bytes(), Bytes { received: 45 * MB, total: 45 * MB, is_estimate: false });
    }

    #[test]
    fn rates_and_the_time_left() {
        let mut fleet = fleet(&[planned("a", 40), planned("b", 40)]);
        for second in 0..=4 {
            fleet.event(second * 1000, &progress("a", second * 2));
            fleet.event(second * 1000, &progress("b", second * 3));
        }
        assert_eq!((fleet.bytes_per_s(4000), fleet.left_ms(4000)), (Some(5 * MB), Some(12_000)));
        assert_eq!(fleet.hosts["a"].bytes_per_s(4000), Some(2 * MB));
        assert_eq!(fleet.left_ms(20_000), None);
    }
}
