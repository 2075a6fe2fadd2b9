//! A host: the memory of its agent, its disk, and its present condition.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use proto::hash::RangeHash;
use proto::job::JobId;
use proto::session::Links;
use proto::{Digest, HostId, Image};

use crate::content::{Blobs, Part};
use crate::disk::Disk;
use crate::scenario::{HostSpec, Lie, SECOND};
use crate::serve::Serving;
use crate::world::{Event, Timer, World};

/// How long a host serves others after its session, when the host that started the job is gone.
const LINGER_US: u64 = 60 * SECOND;

/// A host.
pub(crate) struct Node {
    pub(crate) id: HostId,
    pub(crate) bytes_per_s: u64,
    pub(crate) latency_us: u64,
    pub(crate) lie: Lie,
    pub(crate) is_up: bool,
    /// It never starts again.
    pub(crate) is_dead: bool,
    pub(crate) incarnation: u64,
    /// Times at which the link becomes free for the next block, in either direction.
    pub(crate) egress_us: u64,
    pub(crate) ingress_us: u64,
    pub(crate) silent_until_us: u64,
    pub(crate) full_until_us: u64,
    pub(crate) staging_fails: bool,
    pub(crate) store_fails: bool,
    pub(crate) was_cancelled: bool,
    /// A disk has failed or was full: sessions may end with that.
    pub(crate) had_disk_fault: bool,
    pub(crate) disk: Disk,
    /// Bytes sent to it, bytes verified there, and reads that were broken off.
    pub(crate) came_bytes: u64,
    pub(crate) verified_bytes: u64,
    pub(crate) broken_reads: u64,
    // Lost in a restart:
    pub(crate) sessions: BTreeSet<usize>,
    pub(crate) claims: BTreeMap<Digest, Claim>,
    pub(crate) memberships: BTreeMap<usize, Membership>,
    pub(crate) offers: Vec<Offered>,
    pub(crate) servings: BTreeMap<usize, Serving>,
    pub(crate) links: Links,
}

/// The session that writes a layer, and the sessions that wait for it.
#[derive(Debug, Default)]
pub(crate) struct Claim {
    pub(crate) holder: Option<usize>,
    pub(crate) waiting: VecDeque<usize>,
}

/// An image that may be read by the host that it is offered to.
#[derive(Debug)]
pub(crate) struct Offered {
    pub(crate) sending: usize,
    pub(crate) to: usize,
    pub(crate) blobs: BTreeSet<Digest>,
    pub(crate) is_shared: bool,
}

/// Membership in a fan-out: layers to serve, and sources to read from.
#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) job: JobId,
    pub(crate) head: usize,
    pub(crate) members: BTreeSet<usize>,
    pub(crate) layers: BTreeMap<Digest, SharedLayer>,
    pub(crate) sources: Vec<usize>,
    pub(crate) word: u64,
    pub(crate) session: usize,
    /// When the head was seen to be gone.
    pub(crate) head_lost_us: Option<u64>,
    /// The session is over.
    pub(crate) lingers: bool,
}

/// A layer of a fan-out.
#[derive(Debug)]
pub(crate) struct SharedLayer {
    pub(crate) place: Place,
    /// Of all ranges, once they are proven.
    pub(crate) hashes: Option<Arc<[RangeHash]>>,
    /// The stream on which hashes are asked for, and the source that is asked.
    pub(crate) asking: Option<(usize, usize)>,
    pub(crate) proof: Option<Digest>,
    pub(crate) asked_us: Option<u64>,
    /// Streams of others that wait for the hashes.
    pub(crate) wanted: Vec<usize>,
}

/// Where a layer of a fan-out is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Nowhere,
    Awaited,
    Staged,
    Store,
}

impl Node {
    /// A host before anything has happened.
    pub(crate) fn new(spec: &HostSpec, blobs: &Blobs) -> Self {
        let mut disk = Disk::default();
        for digest in &spec.stored {
            disk.store.insert(*digest, blobs[digest].ranges.clone());
        }
        for (digest, ranges) in spec.staged.iter().filter(|(digest, _)| !spec.stored.contains(digest)) {
            let blob = &blobs[digest];
            disk.claim(blob);
            for index in (0..*ranges).filter(|index| disk_lacks(&disk, digest, *index)).collect::<Vec<_>>() {
                disk.put(blob, index as u64 * proto::limits::RANGE_BYTES, &Part::of(blob, index));
            }
        }
        Self {
            id: spec.id,
            bytes_per_s: spec.bytes_per_s,
            latency_us: spec.latency_us,
            lie: spec.lie,
            is_up: true,
            is_dead: false,
            incarnation: 0,
            egress_us: 0,
            ingress_us: 0,
            silent_until_us: 0,
            full_until_us: 0,
            staging_fails: false,
            store_fails: false,
            was_cancelled: false,
            had_disk_fault: false,
            disk,
            came_bytes: 0,
            verified_bytes: 0,
            broken_reads: 0,
            sessions: BTreeSet::new(),
            claims: BTreeMap::new(),
            memberships: BTreeMap::new(),
            offers: vec![],
            servings: BTreeMap::new(),
            links: Links::default(),
        }
    }

    /// The membership that permits a host to read a layer: of several, one that has the layer already.
    pub(crate) fn membership(&self, host: usize, digest: &Digest) -> Option<usize> {
        let of_host = self.memberships.iter().filter(|(_, membership)| membership.members.contains(&host));
        let ranked = of_host.filter_map(|(number, membership)| Some((membership.layers.get(digest)?.place, *number)));
        ranked.max().map(|(_, number)| number)
    }
}

impl Membership {
    /// A membership of a host that lacks the layers in `absent`.
    pub(crate) fn new(session: usize, job: JobId, head: usize, members: BTreeSet<usize>, image: &Image, absent: &BTreeSet<Digest>) -> Self {
        let layer = |digest: Digest| {
            let place = if absent.contains(&digest) { Place::Awaited } else { Place::Store };
            (digest, SharedLayer { place, hashes: None, asking: None, proof: None, asked_us: None, wanted: vec![] })
        };
        let layers = crate::scenario::layers_of(image).into_iter().map(layer).collect();
        Self { job, head, members, layers, sources: vec![], word: 0, session, head_lost_us: None, lingers: false }
    }
}

impl World {
    /// An agent dies with all that it has in memory.
    pub(crate) fn forget_all(&mut self, host: usize) {
        for session in std::mem::take(&mut self.nodes[host].sessions) {
            self.abandon(session);
        }
        let node = &mut self.nodes[host];
        node.is_up = false;
        node.incarnation += 1;
        node.claims.clear();
        node.memberships.clear();
        node.offers.clear();
        node.servings.clear();
        node.links = Links::default();
    }

    /// Starts an agent, and runs its unfinished jobs again.
    pub(crate) fn start(&mut self, host: usize) {
        if self.nodes[host].is_up || self.nodes[host].is_dead {
            return;
        }
        self.log(|| format!("host {host} starts"));
        self.nodes[host].is_up = true;
        for job in 0..self.scenario.jobs.len() {
            if self.scenario.jobs[job].head == host && self.scenario.jobs[job].begins_us < self.now_us {
                self.after(100, Event::Run(job));
            }
        }
    }

    /// Notes the loss of a connection in memberships whose head it led to.
    pub(crate) fn hear_of_loss(&mut self, one: usize, other: usize) {
        for (host, head) in [(one, other), (other, one)] {
            let now_us = self.now_us;
            let of_head = self.nodes[host].memberships.iter_mut().filter(|(_, membership)| membership.head == head);
            let numbers: Vec<usize> = of_head
                .map(|(number, membership)| {
                    membership.head_lost_us.get_or_insert(now_us);
                    *number
                })
                .collect();
            for number in numbers {
                self.remind(host, LINGER_US, Timer::Linger(number));
            }
        }
    }

    /// A member whose head is gone, and whose session is over, stops serving.
    pub(crate) fn linger(&mut self, host: usize, number: usize) {
        let Some(membership) = self.nodes[host].memberships.get(&number) else { return };
        let is_read = self.nodes[host].servings.values().any(|serving| serving.membership == Some(number));
        if !membership.lingers || is_read {
            self.remind(host, LINGER_US, Timer::Linger(number));
            return;
        }
        self.nodes[host].memberships.remove(&number);
    }
}

fn disk_lacks(disk: &Disk, digest: &Digest, index: usize) -> bool {
    disk.staged(digest, index).is_none()
}
