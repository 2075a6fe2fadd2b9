//! The scenario of a seed: hosts, images, sends and faults.

use std::sync::Arc;

use proto::descriptor::media_type;
use proto::limits::RANGE_BYTES;
use proto::{Digest, HostId, Image};

use crate::content::{Blob, Blobs, image};
use crate::faults::Fault;
use crate::random::Random;

/// Microseconds in a millisecond, and in a second.
pub(crate) const MS: u64 = 1_000;
pub(crate) const SECOND: u64 = 1_000 * MS;

/// Approximate number of ranges that all hosts together receive. Bounds the time of one seed.
const MOST_RANGES: u64 = 2_000;

/// A world before anything happens in it.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) hosts: Vec<HostSpec>,
    pub(crate) blobs: Blobs,
    pub(crate) jobs: Vec<JobSpec>,
    /// When each fault comes, in microseconds.
    pub(crate) faults: Vec<(u64, Fault)>,
    /// From here on nothing goes wrong any more, in microseconds.
    pub(crate) calm_us: u64,
    /// A fetch whose source fails hands the rest of its extent back to the machine, instead of trying another source itself.
    pub(crate) hands_back: bool,
}

/// One host.
#[derive(Debug)]
pub(crate) struct HostSpec {
    pub(crate) id: HostId,
    pub(crate) bytes_per_s: u64,
    pub(crate) latency_us: u64,
    pub(crate) lie: Lie,
    /// Blobs that its store has, and the first ranges of blobs in its staging area.
    pub(crate) stored: Vec<Digest>,
    pub(crate) staged: Vec<(Digest, usize)>,
}

/// How a host that serves others deceives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    Never,
    /// Wrong bytes under the right hashes, in some ranges.
    Bytes,
    /// Wrong bytes under hashes that fit them.
    Hashes,
}

/// A send of one image to some hosts.
#[derive(Debug)]
pub(crate) struct JobSpec {
    pub(crate) head: usize,
    pub(crate) members: Vec<usize>,
    /// Images behind the name at the head: at first the first one, after each move of the tag the next one.
    pub(crate) versions: Vec<Image>,
    pub(crate) begins_us: u64,
    /// Members read from each other.
    pub(crate) is_shared: bool,
}

impl Scenario {
    /// The scenario of a seed.
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let members = if random.chance(35) { 1 } else { random.between(2, 12) as usize };
        let heads = if random.chance(40) { 2 } else { 1 };
        let hosts: Vec<HostSpec> = (0..heads + members).map(|number| host(number, &mut random)).collect();
        let mut scenario = Self { hosts, blobs: Blobs::new(), jobs: vec![], faults: vec![], calm_us: 0, hands_back: random.chance(50) };
        let layers = scenario.layers(members, &mut random);
        for head in 0..heads {
            let job = scenario.job(head, heads, &layers, &mut random);
            scenario.jobs.push(job);
        }
        scenario.presence(heads, &mut random);
        scenario.calm_us = random.scaled(300 * MS, 20 * SECOND);
        scenario.faults = Fault::draw(&mut scenario, heads, &mut random);
        scenario
    }

    /// Draws all layers.
    fn layers(&mut self, members: usize, random: &mut Random) -> Vec<Digest> {
        let count = random.between(1, 8);
        // One host alone may receive layers of several extents.
        let most = (MOST_RANGES / members as u64 / count).clamp(4, if members == 1 { 700 } else { 250 });
        let blob = |_| {
            let full = random.scaled(1, most) - 1;
            let size_bytes = full * RANGE_BYTES + if random.chance(20) { 0 } else { random.between(1, RANGE_BYTES) };
            let blob = Blob::new(media_type::LAYER, size_bytes, random);
            let digest = blob.descriptor.digest;
            self.blobs.insert(digest, Arc::new(blob));
            digest
        };
        (0..count).map(blob).collect()
    }

    fn job(&mut self, head: usize, heads: usize, layers: &[Digest], random: &mut Random) -> JobSpec {
        let mut members: Vec<usize> = (heads..self.hosts.len()).filter(|_| head == 0 || random.chance(60)).collect();
        if members.is_empty() {
            members.push(heads);
        }
        let is_shared = members.len() > 1 && random.chance(85);
        let name = format!("demo{head}:nautilus");
        let count = if random.chance(25) { 2 } else { 1 };
        let versions = (0..count).map(|_| {
            let mut chosen: Vec<Digest> = layers.iter().copied().filter(|_| random.chance(75)).take(6).collect();
            if chosen.is_empty() {
                chosen.push(layers[0]);
            }
            if random.chance(30) {
                chosen.reverse();
            }
            image(&name, &chosen, &mut self.blobs, random)
        });
        let versions = versions.collect();
        JobSpec { head, members, versions, begins_us: random.below(SECOND), is_shared }
    }

    /// Draws what hosts have before the first send: heads have everything, members some layers or the beginnings of some.
    fn presence(&mut self, heads: usize, random: &mut Random) {
        let all: Vec<Digest> = self.blobs.keys().copied().collect();
        let layers: Vec<Digest> = self.jobs.iter().flat_map(|job| &job.versions).flat_map(layers_of).collect();
        for (number, host) in self.hosts.iter_mut().enumerate() {
            if number < heads {
                host.stored = all.clone();
                continue;
            }
            let percent = random.pick(&[0, 0, 10, 50, 100]);
            for digest in &layers {
                if random.chance(percent) {
                    host.stored.push(*digest);
                } else if random.chance(10) {
                    host.staged.push((*digest, random.below(self.blobs[digest].ranges.len() as u64 + 1) as usize));
                }
            }
        }
    }
}

/// Digests of the layers of an image.
pub(crate) fn layers_of(image: &Image) -> Vec<Digest> {
    image.layers().into_iter().map(|layer| layer.descriptor.digest).collect()
}

fn host(number: usize, random: &mut Random) -> HostSpec {
    let bytes_per_s = random.scaled(2_000_000, 100_000_000);
    let bytes_per_s = if random.chance(15) { (bytes_per_s / 20).max(1_000_000) } else { bytes_per_s };
    HostSpec {
        id: HostId::of_public_key(&number.to_le_bytes()),
        bytes_per_s,
        latency_us: random.scaled(20, 30_000),
        lie: Lie::Never,
        stored: vec![],
        staged: vec![],
    }
}
