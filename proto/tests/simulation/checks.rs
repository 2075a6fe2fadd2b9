//! Invariants, checked at every step and at the end.

use std::collections::{BTreeMap, BTreeSet};

use proto::Digest;
use proto::job::Fault;
use proto::peer::Refusal;

use crate::content::{Blob, Part};
use crate::head::{Failure, Sending};
use crate::node::Place;
use crate::scenario::{Lie, SECOND};
use crate::session::Session;
use crate::sources::BROKEN_READ_BYTES;
use crate::world::World;

impl World {
    /// Checks a verified range. Only a session without proven hashes can be deceived, and only by a liar.
    pub(crate) fn check_staged(&self, session: usize, from: usize, blob: &Blob, index: usize, part: &Part) {
        let truth = Part::of(blob, index);
        let is_true = (part.content, part.before, part.after) == (truth.content, truth.before, truth.after);
        let is_deceived = self.sessions[session].job.is_none() && self.nodes[from].lie != Lie::Never;
        assert!(is_true || is_deceived, "range {index} of {} from {from} is wrong, and was verified", blob.descriptor.digest);
    }

    /// Checks that a host accused of lying is a liar.
    pub(crate) fn check_fault(&self, source: usize, fault: &Fault) {
        let is_liar = self.nodes[source].lie != Lie::Never;
        assert!(is_liar || !matches!(fault, Fault::Lied(_)), "host {source} is called a liar: {fault:?}");
    }

    /// Checks that a head with a suspected blob is a liar.
    pub(crate) fn check_suspect(&self, head: usize, digest: &Digest) {
        assert!(self.nodes[head].lie != Lie::Never, "honest head {head} is said to have a damaged {digest}");
    }

    /// Checks that every name on a host stands for an image whose blobs are all in its store.
    pub(crate) fn check_names(&self, host: usize) {
        let versions: BTreeMap<Digest, &proto::Image> =
            self.scenario.jobs.iter().flat_map(|job| &job.versions).map(|image| (image.root.digest, image)).collect();
        let disk = &self.nodes[host].disk;
        for root in disk.names.values() {
            let has = |blob: &&proto::Descriptor| disk.store.contains_key(&blob.digest);
            assert!(versions[root].blobs().iter().all(has), "host {host} has a name for an image that is not whole");
        }
    }

    /// Checks that a failed sending has a definite reason.
    pub(crate) fn check_result(&self, sending: usize, result: &Result<(), Failure>) {
        let Sending { run, member, .. } = self.sendings[sending];
        let (job, node) = (self.runs[run].job, &self.nodes[member]);
        let head_lies = self.nodes[self.scenario.jobs[job].head].lie != Lie::Never;
        let is_calm = self.now_us > self.scenario.calm_us + 10 * SECOND;
        let has_reason = match result {
            Ok(()) => {
                self.check_names(member);
                !node.disk.names.is_empty()
            }
            Err(Failure::Unreachable) => node.is_dead || !is_calm,
            Err(Failure::GivenUp) => node.is_dead,
            Err(Failure::Cancelled) => self.cancelled[job],
            Err(Failure::Refused(Refusal::Cancelled)) => node.was_cancelled,
            Err(Failure::Refused(Refusal::NoSpace { .. })) => node.had_disk_fault,
            Err(Failure::Refused(Refusal::Store(reason))) => node.had_disk_fault && reason == "disk",
            Err(Failure::Refused(Refusal::Corrupt(_) | Refusal::StoreChanged)) => head_lies,
            Err(Failure::Refused(_)) => false,
        };
        assert!(has_reason, "run {run}, member {member}: {result:?} for no reason");
    }

    /// Checks the final state, when no event is left.
    pub(crate) fn check_end(&self) {
        for (number, session) in self.sessions.iter().enumerate() {
            assert!(session.result.is_some(), "session {number} never ends");
        }
        for (sending, state) in self.sendings.iter().enumerate() {
            assert!(state.result.is_some() || !self.is_running(state.run), "sending {sending} never ends");
        }
        for (job, spec) in self.scenario.jobs.iter().enumerate() {
            let head = &self.nodes[spec.head];
            if self.cancelled[job] || head.is_dead || head.lie != Lie::Never {
                continue;
            }
            for member in spec.members.iter().filter(|member| !self.nodes[**member].is_dead) {
                assert!(self.has_image(job, *member), "host {member} has not got the image of job {job}");
            }
        }
        for (host, node) in self.nodes.iter().enumerate() {
            self.check_names(host);
            assert!(node.claims.values().all(|claim| claim.holder.is_none() && claim.waiting.is_empty()), "host {host}: a claim is held");
            let again_bytes = node.came_bytes.saturating_sub(node.verified_bytes);
            // Documents are not counted as verified.
            let documents_bytes = self.sessions.iter().filter(|session| session.host == host).count() as u64 * 6_000;
            let most_bytes = node.broken_reads * BROKEN_READ_BYTES + documents_bytes;
            assert!(again_bytes <= most_bytes, "host {host}: {again_bytes} bytes came in vain in {} broken reads", node.broken_reads);
        }
    }

    /// Notes the sessions without a head that have to end well: their sources hold every range that they lack. Called after the last fault.
    pub(crate) fn expect_orphans(&mut self) {
        let mut has: BTreeMap<usize, BTreeSet<(Digest, usize)>> = BTreeMap::new();
        for (number, session) in self.sessions.iter().enumerate().filter(|(_, session)| !session.is_abandoned && session.job.is_some()) {
            let node = &self.nodes[session.host];
            let Some(membership) = node.memberships.get(&number).filter(|_| self.nodes[session.host].is_up) else { continue };
            let is_here = |(digest, index): &(Digest, usize)| {
                let layer = &membership.layers[digest];
                let is_staged =
                    node.disk.staged(digest, *index).is_some_and(|part| part.after == self.scenario.blobs[digest].hashes[*index]);
                node.disk.store.contains_key(digest) || (is_staged && layer.hashes.is_some() && layer.place == Place::Staged)
            };
            has.insert(number, self.ranges(session).filter(is_here).collect());
        }
        loop {
            let before: usize = has.values().map(BTreeSet::len).sum();
            for number in has.keys().copied().collect::<Vec<_>>() {
                let session = &self.sessions[number];
                if session.result.is_some() {
                    continue;
                }
                let sources = &self.nodes[session.host].memberships[&number].sources;
                let of_source = |(other, _): &(&usize, &BTreeSet<_>)| {
                    let other = &self.sessions[**other];
                    let node = &self.nodes[other.host];
                    let serves = node.lie == Lie::Never && node.silent_until_us < self.scenario.calm_us + SECOND;
                    serves && sources.contains(&other.host) && other.job == session.job && other.head == session.head
                };
                let wanted: BTreeSet<_> = self.ranges(session).collect();
                let found: Vec<_> = has.iter().filter(of_source).flat_map(|(_, ranges)| ranges.intersection(&wanted)).copied().collect();
                has.entry(number).or_default().extend(found);
            }
            if has.values().map(BTreeSet::len).sum::<usize>() == before {
                break;
            }
        }
        for (number, ranges) in has {
            let session = &self.sessions[number];
            // Another session of the host may hold a claim.
            let is_only = self.nodes[session.host].sessions.len() == 1;
            let is_alone = self.nodes[session.head].is_dead && session.result.is_none() && is_only;
            self.counts.orphans += u64::from(is_alone);
            let is_prepared = self.nodes[session.host].memberships[&number]
                .layers
                .values()
                .all(|layer| layer.place == Place::Store || layer.hashes.is_some());
            let documents: BTreeSet<Digest> = session.image.documents().into_iter().map(|document| document.digest).collect();
            let missing = session.missing.iter().map(|blob| blob.digest).filter(|digest| documents.contains(digest));
            let has_documents = missing.collect::<BTreeSet<_>>().is_subset(&session.documents);
            if is_alone && is_prepared && has_documents && ranges.len() == self.ranges(session).count() {
                self.counts.orphans_expected += 1;
                self.expected.push(number);
            }
        }
    }

    /// Checks that the noted sessions ended well.
    pub(crate) fn check_orphans(&self) {
        for number in &self.expected {
            let session = &self.sessions[*number];
            let is_excused = session.is_abandoned || self.nodes[session.host].had_disk_fault || self.nodes[session.host].was_cancelled;
            assert!(
                is_excused || session.result == Some(Ok(())),
                "orphaned session {number}: {:?}, and others had the rest",
                session.result
            );
        }
    }

    fn ranges<'a>(&'a self, session: &'a Session) -> impl Iterator<Item = (Digest, usize)> + 'a {
        let of_layer = |digest: Digest| (0..self.scenario.blobs[&digest].ranges.len()).map(move |index| (digest, index));
        crate::scenario::layers_of(&session.image).into_iter().flat_map(of_layer)
    }
}
