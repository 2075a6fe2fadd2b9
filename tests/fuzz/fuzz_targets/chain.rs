//! Attacks the plan of a fan-out with any events in any order.
//!
//! Promises: each receiving host is told sources, and the head is one of them; a source is a member, not the host itself, not gone and not a known liar;
//! first sources form no circle; one host makes at most three liars; without news the plan comes to rest.
#![no_main]

use std::collections::{HashMap, HashSet};

use fuzz::Choices;
use libfuzzer_sys::fuzz_target;
use proto::job::{Fault, Trouble};
use proto::session::{Chain, Links};
use proto::{Digest, HostId};

/// Number of hosts: the head, seven that may join, and one that never joins.
const HOSTS: usize = 9;
const HEAD: usize = 0;
const STRANGER: usize = HOSTS - 1;

/// Hosts that one host may report as liars.
const ACCUSATIONS: usize = 3;

/// Calls of `changes` at one moment, without news, after which no call may return a change.
const REST: usize = 2 * HOSTS;

struct Bench {
    chain: Chain,
    ids: Vec<HostId>,
    size_bytes: u64,
    now_ms: u64,
    started: bool,
    receiving: HashSet<HostId>,
    joined: HashSet<HostId>,
    gone: HashSet<HostId>,
    liars: HashSet<HostId>,
    accused: HashMap<HostId, usize>,
    told: HashMap<HostId, Vec<HostId>>,
}

impl Bench {
    fn step(&mut self, choices: &mut Choices<'_>) {
        let any = |choices: &mut Choices<'_>, ids: &[HostId]| ids[choices.below(HOSTS)];
        match choices.below(16) {
            0 | 1 => {
                let host = self.ids[1 + choices.below(HOSTS - 2)];
                let missing_bytes = self.part(choices);
                self.chain.join(host, missing_bytes, self.now_ms);
                let is_receiving = missing_bytes > 0;
                if is_receiving {
                    self.receiving.insert(host)
                } else {
                    self.receiving.remove(&host)
                };
                (self.joined.insert(host), self.gone.remove(&host), self.told.remove(&host));
            }
            2 => {
                self.chain.start(self.now_ms);
                self.started = true;
            }
            3..=6 => {
                let (host, bytes) = (any(choices, &self.ids), self.part(choices));
                self.chain.progress(&host, bytes, self.now_ms);
            }
            7 => {
                let (host, bytes) = (any(choices, &self.ids), choices.number());
                self.chain.from_head(&host, bytes);
            }
            8 => {
                let host = any(choices, &self.ids);
                self.chain.done(&host, self.now_ms);
                (self.receiving.remove(&host), self.gone.remove(&host));
            }
            9 => {
                let host = any(choices, &self.ids);
                self.chain.gone(&host);
                if self.joined.contains(&host) {
                    (self.receiving.remove(&host), self.gone.insert(host));
                }
            }
            10 | 11 => self.trouble(choices),
            12 => {
                let host = any(choices, &self.ids);
                self.chain.unheard(&host);
                self.told.remove(&host);
            }
            _ => self.now_ms += choices.number() % 1_000,
        }
    }

    /// Bytes of a part of the image, in tenths; often none or all of the image.
    fn part(&self, choices: &mut Choices<'_>) -> u64 {
        let tenths = u64::from(choices.byte() % 12).min(10);
        self.size_bytes / 10 * tenths + if tenths == 10 { self.size_bytes % 10 } else { 0 }
    }

    fn trouble(&mut self, choices: &mut Choices<'_>) {
        let (reporter, source) = (self.ids[choices.below(HOSTS)], self.ids[choices.below(HOSTS)]);
        let digest = Digest::of(b"blob");
        let fault = match choices.below(4) {
            0 => Fault::Lacks(digest),
            1 => Fault::Lost,
            _ => Fault::Lied(digest),
        };
        let taken = self.chain.trouble(&reporter, &Trouble { source, fault }, self.now_ms);
        let was_told = self.told.get(&reporter).is_some_and(|told| told.contains(&source));
        assert!(!taken || (was_told && self.joined.contains(&source)), "it was not told to read there");
        if taken && matches!(fault, Fault::Lied(_)) {
            self.liars.insert(source);
            let accused = self.accused.entry(reporter).or_default();
            *accused += 1;
            assert!(*accused <= ACCUSATIONS);
        }
    }

    /// Takes the current changes of the plan; true when there were any.
    fn plan(&mut self) -> bool {
        let changes = self.chain.changes(self.now_ms);
        let changed = !changes.is_empty();
        assert!(self.started || !changed, "before the start");
        for (host, sources) in changes {
            assert!(self.receiving.contains(&host), "it does not receive");
            assert!(self.told.get(&host) != Some(&sources), "it was told that");
            self.told.insert(host, sources);
        }
        changed
    }

    fn check(&self) {
        for host in self.receiving.iter().filter(|_| self.started) {
            let sources = self.told.get(host).expect("whoever receives is told where to read");
            assert!(sources.contains(&self.ids[HEAD]), "the head is the last resort");
            let unique: HashSet<_> = sources.iter().collect();
            assert_eq!(unique.len(), sources.len());
            for source in sources.iter().filter(|source| **source != self.ids[HEAD]) {
                assert!(source != host && self.joined.contains(source), "{source:?} is no source for {host:?}");
                assert!(!self.gone.contains(source) && !self.liars.contains(source), "{source:?} is read from by nobody");
            }
            // A host that has the whole image reads from no host.
            let mut at = host;
            for _ in 0..=HOSTS {
                match self.told.get(at).filter(|_| self.receiving.contains(at)) {
                    Some(sources) => at = &sources[0],
                    None => break,
                }
            }
            assert!(!self.receiving.contains(at), "hosts read from each other in a circle");
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let mut choices = Choices::new(input);
    let ids: Vec<HostId> = (0..HOSTS as u8).map(|number| HostId::of_public_key(&[number])).collect();
    let size_bytes = [0, 1, 1 << 20, 1 << 30, 1 << 54][choices.below(5)];
    let mut links = Links::default();
    for fan_out in 0..choices.below(3) {
        let paces: Vec<_> = (0..choices.below(4)).map(|_| (ids[choices.below(HOSTS)], choices.number() >> 8)).collect();
        links.learn(&paces, fan_out == 1);
    }
    let mut bench = Bench {
        chain: Chain::new(ids[HEAD], size_bytes, links.clone()),
        ids,
        size_bytes,
        now_ms: 0,
        started: false,
        receiving: HashSet::new(),
        joined: HashSet::new(),
        gone: HashSet::new(),
        liars: HashSet::new(),
        accused: HashMap::new(),
        told: HashMap::new(),
    };
    assert!(!bench.joined.contains(&bench.ids[STRANGER]));
    while !choices.is_empty() {
        bench.step(&mut choices);
        if choices.one_in(2) {
            bench.plan();
            bench.check();
        }
    }
    let rests = (0..REST).any(|_| !bench.plan());
    assert!(rests, "without news the plan still changes");
    bench.check();
    bench.chain.teach(&mut links, bench.now_ms);
});
