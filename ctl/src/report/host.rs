//! What is known of one host of a send.

use std::collections::HashMap;

use proto::Digest;
use proto::control::{Done, Drawn, Hashing, Planned, Progress, Source};

use super::lines;
use super::rate::Rate;

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
    /// What its source does before it serves.
    hashing: Option<Hashing>,
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

/// What travels of an image.
#[derive(Debug)]
struct Layer {
    /// Bytes that were there when it was planned first.
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

    /// What its source does before bytes come: `hashing at stapp01, 3.1 GB of 14 GB`.
    pub(super) fn hashing(&self) -> Option<String> {
        self.hashing.as_ref().map(lines::hashing)
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

    /// The name of one of its images: there, or else as it was asked for.
    pub(super) fn image(&self) -> Option<&str> {
        self.images.keys().chain(&self.queued).next().map(String::as_str)
    }

    /// Images of which is known what it lacks.
    pub(super) fn planned_images(&self) -> usize {
        self.images.len()
    }

    /// Images that were named before all else.
    pub(super) fn queued(&self) -> usize {
        self.queued.len()
    }

    /// How many images it gets. The name that was asked for need not be the name there: they are counted, not compared.
    pub(super) fn images(&self) -> usize {
        self.queued.len().max(self.images.len()).max(self.done + self.failed)
    }

    /// Images that may still have to travel, and how much of them is not known.
    pub(super) fn unplanned(&self) -> usize {
        if matches!(self.state(), State::Done | State::Failed) { 0 } else { self.images() - self.images.len() }
    }

    /// An image will have its turn.
    pub(super) fn queue(&mut self, image: &str) {
        self.queued.push(image.to_owned());
    }

    /// The connection was lost.
    pub(super) fn wait(&mut self, reason: &str) {
        self.waiting = Some(reason.to_owned());
    }

    /// Its source hashes first.
    pub(super) fn hash(&mut self, hashing: &Hashing) {
        self.waiting = None;
        self.hashing = Some(hashing.clone());
    }

    /// It has said what it lacks.
    pub(super) fn planned(&mut self, planned: &Planned) {
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

    /// A blob is further. Comes to the bytes that are new.
    pub(super) fn progress(&mut self, now_ms: u64, progress: &Progress) -> u64 {
        (self.waiting, self.hashing) = (None, None);
        let Some(share) = self.images.get_mut(&progress.image) else { return 0 };
        let Some(layer) = share.layers.get_mut(&progress.digest) else { return 0 };
        let verified_bytes = progress.verified_bytes.min(layer.size_bytes).max(layer.verified_bytes);
        let new_bytes = verified_bytes - layer.verified_bytes;
        share.received_bytes += new_bytes;
        layer.verified_bytes = verified_bytes;
        self.rate.add(now_ms, self.bytes().0);
        new_bytes
    }

    /// Others have served it.
    pub(super) fn drawn(&mut self, drawn: &Drawn) {
        if let Some(share) = self.images.get_mut(&drawn.image) {
            share.sources.clone_from(&drawn.sources);
        }
    }

    /// An image is there. Comes to the bytes of which no progress was told.
    pub(super) fn done(&mut self, done: &Done) -> u64 {
        self.done += 1;
        let before = self.bytes().0;
        let arrived = |share: &mut Share| share.received_bytes = share.total_bytes;
        self.end(&done.image, if done.dry_run { |_| {} } else { arrived });
        self.bytes().0 - before
    }

    /// An image will not be there: what did not come is not waited for.
    pub(super) fn fail(&mut self, image: &str) {
        self.failed += 1;
        self.end(image, |share| share.total_bytes = share.received_bytes);
    }

    /// Does `settle` with the image of this name. It need not be the name of the plan, but the last image ends all that is left.
    fn end(&mut self, image: &str, settle: fn(&mut Share)) {
        (self.waiting, self.hashing) = (None, None);
        let over = self.done + self.failed >= self.images();
        for (name, share) in &mut self.images {
            if !share.ended && (over || name == image) {
                share.ended = true;
                settle(share);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proto::control::{Event, PlannedLayer};

    use super::super::fleet::{Bytes, Counts, Fleet};
    use super::super::samples::{MB, done, drawn, failed, fleet, planned, progress, queued, waiting};
    use super::*;

    fn host<'a>(fleet: &'a Fleet, name: &str) -> &'a Host {
        fleet.hosts().find(|(host, _)| *host == name).map(|(_, host)| host).unwrap()
    }

    fn state(fleet: &Fleet, name: &str) -> State {
        host(fleet, name).state()
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
    fn sources_are_those_of_all_images() {
        let fleet = fleet(&[planned("a", 40), drawn("a", &[("c", 1)]), drawn("a", &[("b", 30), ("c", 9)])]);
        let sources: Vec<(String, u64)> = host(&fleet, "a").sources().into_iter().map(|s| (s.host, s.received_bytes)).collect();
        assert_eq!(sources, [("b".to_owned(), 30), ("c".to_owned(), 9)]);
    }
}
