//! What is known of every host of a send, from its events. Times are handed in, so that nothing here waits or looks at a clock.

use std::collections::{BTreeMap, HashMap};

use proto::Digest;
use proto::control::{Done, Drawn, Event, Planned, Progress, Source};

use super::rate::Rate;

/// All hosts of a send.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    hosts: BTreeMap<String, Host>,
    /// Bytes that came while we looked. Only grows.
    seen_bytes: u64,
    rate: Rate,
}

/// A host, with all images that it gets.
#[derive(Debug, Default)]
pub(super) struct Host {
    images: HashMap<String, Share>,
    /// Names of the images as they were asked for.
    queued: Vec<String>,
    done: usize,
    failed: usize,
    /// Why nothing comes.
    waiting: Option<String>,
    rate: Rate,
}

/// An image on its way to a host.
#[derive(Debug, Default)]
struct Share {
    layers: HashMap<Digest, Layer>,
    received_bytes: u64,
    total_bytes: u64,
    sources: Vec<Source>,
    ended: bool,
}

#[derive(Debug)]
struct Layer {
    /// When it was planned first.
    present_bytes: u64,
    size_bytes: u64,
    verified_bytes: u64,
}

/// Where a host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    /// The connection was lost.
    Waiting,
    /// Bytes come.
    Receiving,
    /// It is known what it lacks.
    Starting,
    /// Nothing is known yet.
    Queued,
    /// Every image ended, one of them badly.
    Failed,
    /// Every image is there.
    Done,
}

/// How many hosts are where.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) waiting: usize,
    pub(super) receiving: usize,
    pub(super) starting: usize,
    pub(super) queued: usize,
    pub(super) failed: usize,
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
            Event::Queued { host, image } => self.host(host).queued.push(image.clone()),
            Event::Planned(planned) => self.host(&planned.host).planned(planned),
            Event::Progress(progress) => {
                let new_bytes = self.host(&progress.host).progress(now_ms, progress);
                self.seen(now_ms, new_bytes);
            }
            Event::Drawn(drawn) => self.host(&drawn.host).drawn(drawn),
            Event::Waiting { host, reason } => self.host(host).waiting = Some(reason.clone()),
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
        self.hosts.values().map(|host| host.queued.len()).sum()
    }

    /// True once a plan was made for this host.
    pub(super) fn has_begun(&self, host: &str) -> bool {
        self.hosts.get(host).is_some_and(|host| !host.images.is_empty())
    }

    /// The name of the image, or `3 images`.
    pub(super) fn images(&self) -> String {
        let planned = self.hosts.values().flat_map(|host| host.images.keys());
        let queued = self.hosts.values().flat_map(|host| &host.queued);
        let most = self.hosts.values().map(Host::images).max().unwrap_or(0);
        match planned.chain(queued).next() {
            Some(only) if most == 1 => proto::text::escape(only),
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
        let planned: usize = self.hosts.values().map(|host| host.images.len()).sum();
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

    fn seen(&mut self, now_ms: u64, new_bytes: u64) {
        self.seen_bytes += new_bytes;
        self.rate.add(now_ms, self.seen_bytes);
    }
}

impl Host {
    /// Where it is.
    pub(super) fn state(&self) -> State {
        let ended = self.done + self.failed;
        if ended > 0 && ended >= self.images() {
            return if self.failed > 0 { State::Failed } else { State::Done };
        }
        if self.waiting.is_some() {
            return State::Waiting;
        }
        match self.bytes().0 {
            _ if self.images.is_empty() => State::Queued,
            0 => State::Starting,
            _ => State::Receiving,
        }
    }

    /// Why nothing comes, when it is known.
    pub(super) fn waiting(&self) -> Option<&str> {
        self.waiting.as_deref()
    }

    /// Bytes that came, and bytes that have to come, of all images that are planned.
    pub(super) fn bytes(&self) -> (u64, u64) {
        self.images.values().fold((0, 0), |sum, share| (sum.0 + share.received_bytes, sum.1 + share.total_bytes))
    }

    /// Bytes a second.
    pub(super) fn bytes_per_s(&self, now_ms: u64) -> Option<u64> {
        self.rate.bytes_per_s(now_ms)
    }

    /// From whom it has received so far, the most first.
    pub(super) fn sources(&self) -> Vec<Source> {
        let mut sources: Vec<Source> = vec![];
        for source in self.images.values().flat_map(|share| &share.sources) {
            match sources.iter_mut().find(|known| known.host == source.host) {
                Some(known) => known.received_bytes += source.received_bytes,
                None => sources.push(source.clone()),
            }
        }
        sources.sort_by(|one, other| other.received_bytes.cmp(&one.received_bytes).then_with(|| one.host.cmp(&other.host)));
        sources
    }

    /// How many it gets. The name that was asked for need not be the name there: they are counted, not compared.
    fn images(&self) -> usize {
        self.queued.len().max(self.images.len()).max(self.done + self.failed)
    }

    /// Images that may still have to travel, and how much of them is not known.
    fn unplanned(&self) -> usize {
        if matches!(self.state(), State::Done | State::Failed) { 0 } else { self.images() - self.images.len() }
    }

    fn planned(&mut self, planned: &Planned) {
        self.waiting = None;
        let before = self.images.remove(&planned.image).unwrap_or_default();
        let layers = planned.layers.iter().map(|layer| {
            let present_bytes = layer.present_bytes.min(layer.size_bytes);
            // A host that was lost and is back has more than at first: that came in this send, too.
            let first_bytes = before.layers.get(&layer.digest).map_or(present_bytes, |before| before.present_bytes.min(present_bytes));
            (layer.digest, Layer { present_bytes: first_bytes, size_bytes: layer.size_bytes, verified_bytes: present_bytes })
        });
        let mut share = Share { layers: layers.collect(), sources: before.sources, ended: before.ended, ..Share::default() };
        share.total_bytes = share.layers.values().map(|layer| layer.size_bytes - layer.present_bytes).sum();
        share.received_bytes = share.layers.values().map(|layer| layer.verified_bytes - layer.present_bytes).sum();
        self.images.insert(planned.image.clone(), share);
    }

    /// Comes to the bytes that are new.
    fn progress(&mut self, now_ms: u64, progress: &Progress) -> u64 {
        self.waiting = None;
        let Some(share) = self.images.get_mut(&progress.image) else { return 0 };
        let Some(layer) = share.layers.get_mut(&progress.digest) else { return 0 };
        let verified_bytes = progress.verified_bytes.min(layer.size_bytes).max(layer.verified_bytes);
        let new_bytes = verified_bytes - layer.verified_bytes;
        share.received_bytes += new_bytes;
        layer.verified_bytes = verified_bytes;
        self.rate.add(now_ms, self.bytes().0);
        new_bytes
    }

    fn drawn(&mut self, drawn: &Drawn) {
        if let Some(share) = self.images.get_mut(&drawn.image) {
            share.sources.clone_from(&drawn.sources);
        }
    }

    /// Comes to the bytes of which no progress was told.
    fn done(&mut self, done: &Done) -> u64 {
        self.waiting = None;
        self.done += 1;
        let share = self.images.entry(done.image.clone()).or_default();
        share.ended = true;
        if done.dry_run {
            return 0;
        }
        let new_bytes = share.total_bytes.saturating_sub(share.received_bytes);
        share.received_bytes += new_bytes;
        new_bytes
    }

    /// What did not come will not come, and is not waited for.
    fn fail(&mut self, image: &str) {
        self.failed += 1;
        self.waiting = None;
        let over = self.done + self.failed >= self.images();
        for (name, share) in &mut self.images {
            if name == image || (over && !share.ended) {
                share.ended = true;
                share.total_bytes = share.received_bytes;
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proto::control::{Failure, FailureKind, PlannedLayer};

    use super::*;

    const MB: u64 = 1_000_000;

    /// `total` MB of one layer have to go to `host`.
    pub(in crate::report) fn planned(host: &str, total_mb: u64) -> Event {
        let layer = PlannedLayer { digest: Digest::of(b"layer"), size_bytes: total_mb * MB, present_bytes: 0 };
        let send_bytes = layer.size_bytes;
        Event::Planned(Planned { host: host.to_owned(), image: "demo:1".to_owned(), layers: vec![layer], send_bytes, present_bytes: 0 })
    }

    /// So much of it is there.
    pub(in crate::report) fn progress(host: &str, verified_mb: u64) -> Event {
        let (digest, verified_bytes) = (Digest::of(b"layer"), verified_mb * MB);
        Event::Progress(Progress { host: host.to_owned(), image: "demo:1".to_owned(), digest, verified_bytes })
    }

    /// `from` has served `host`.
    pub(in crate::report) fn drawn(host: &str, from: &[(&str, u64)]) -> Event {
        let sources = from.iter().map(|&(host, received_bytes)| Source { host: host.to_owned(), received_bytes }).collect();
        Event::Drawn(Drawn { host: host.to_owned(), image: "demo:1".to_owned(), sources })
    }

    /// It is there.
    pub(in crate::report) fn done(host: &str) -> Event {
        let id = Digest::of(b"image");
        Event::Done(Done {
            host: host.to_owned(),
            image: "demo:1".to_owned(),
            image_id: id,
            source_image_id: id,
            config_digest: id,
            sent_bytes: 0,
            sources: vec![],
            wire_bytes: 0,
            present_bytes: 0,
            layers_sent: 1,
            layers_total: 1,
            elapsed_ms: 0,
            replaced: None,
            dry_run: false,
        })
    }

    /// It will not be there.
    pub(in crate::report) fn failed(host: &str) -> Event {
        let failure = Failure { kind: FailureKind::NoSpace, causes: vec!["full".to_owned()] };
        Event::HostFailed { host: host.to_owned(), image: "demo".to_owned(), failure }
    }

    /// It will have its turn.
    pub(in crate::report) fn queued(host: &str) -> Event {
        Event::Queued { host: host.to_owned(), image: "demo".to_owned() }
    }

    /// The connection is lost.
    pub(in crate::report) fn waiting(host: &str) -> Event {
        Event::Waiting { host: host.to_owned(), reason: "timed out".to_owned() }
    }

    /// After these events, all at once.
    pub(in crate::report) fn fleet(events: &[Event]) -> Fleet {
        let mut fleet = Fleet::default();
        events.iter().for_each(|event| fleet.event(0, event));
        fleet
    }

    fn state(fleet: &Fleet, name: &str) -> State {
        fleet.hosts[name].state()
    }

    #[test]
    fn a_host_goes_through_its_states() {
        let mut fleet = Fleet::default();
        let steps = [
            (queued("a"), State::Queued),
            (planned("a", 40), State::Starting),
            (progress("a", 10), State::Receiving),
            (waiting("a"), State::Waiting),
            (planned("a", 40), State::Starting),
            (progress("a", 20), State::Receiving),
            (done("a"), State::Done),
        ];
        for (event, expected) in steps {
            fleet.event(0, &event);
            assert_eq!(state(&fleet, "a"), expected, "{event:?}");
        }
        fleet.event(0, &failed("b"));
        assert_eq!(state(&fleet, "b"), State::Failed);
        assert_eq!(fleet.counts(), Counts { done: 1, failed: 1, ..Counts::default() });
    }

    #[test]
    fn a_host_is_done_when_all_its_images_are() {
        let mut fleet = fleet(&[queued("a"), queued("a"), planned("a", 40), done("a")]);
        assert_eq!((state(&fleet, "a"), fleet.images().as_str()), (State::Receiving, "2 images"));
        fleet.event(0, &failed("a"));
        assert_eq!((state(&fleet, "a"), fleet.queued()), (State::Failed, 2));
    }

    #[test]
    fn what_came_before_the_connection_was_lost_came_in_this_send() {
        let mut fleet = fleet(&[planned("a", 40), progress("a", 10)]);
        let layer = PlannedLayer { digest: Digest::of(b"layer"), size_bytes: 40 * MB, present_bytes: 8 * MB };
        let again = Planned { host: "a".into(), image: "demo:1".into(), layers: vec![layer], send_bytes: 32 * MB, present_bytes: 8 * MB };
        fleet.event(0, &Event::Planned(again));
        assert_eq!(fleet.bytes(), Bytes { received: 8 * MB, total: 40 * MB, is_estimate: false });
    }

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

    #[test]
    fn sources_are_those_of_all_images() {
        let fleet = fleet(&[planned("a", 40), drawn("a", &[("c", 1)]), drawn("a", &[("b", 30), ("c", 9)])]);
        let sources: Vec<(String, u64)> = fleet.hosts["a"].sources().into_iter().map(|s| (s.host, s.received_bytes)).collect();
        assert_eq!(sources, [("b".to_owned(), 30), ("c".to_owned(), 9)]);
    }
}
