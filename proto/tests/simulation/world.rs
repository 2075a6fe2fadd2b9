//! The world: virtual time, and the queue of events.

use std::collections::{BTreeMap, BTreeSet};

use proto::HostId;
use proto::hash::RangeHash;

use crate::head::{Run, Sending};
use crate::network::{Ending, Message, Partition, Purpose, Stream};
use crate::node::Node;
use crate::random::{Random, mix};
use crate::scenario::{SECOND, Scenario};
use crate::session::Session;

/// More events than the longest honest run has: beyond, hosts do something for ever.
const MOST_EVENTS: u64 = 1_000_000;

/// Everything is over so long after the last fault.
const MOST_US: u64 = 900 * SECOND;

/// Everything there is.
pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) now_us: u64,
    pub(crate) random: Random,
    queue: BTreeMap<(u64, u64), Event>,
    scheduled: u64,
    pub(crate) events: u64,
    pub(crate) nodes: Vec<Node>,
    pub(crate) streams: Vec<Stream>,
    pub(crate) open_streams: BTreeSet<usize>,
    pub(crate) partitions: Vec<Partition>,
    /// Sessions of receivers, those that are over included.
    pub(crate) sessions: Vec<Session>,
    /// Runs of jobs, and their sendings: one image to one host.
    pub(crate) runs: Vec<Run>,
    pub(crate) sendings: Vec<Sending>,
    /// Of each job: the version that its name stands for now, and whether it was cancelled.
    pub(crate) tags: Vec<usize>,
    pub(crate) cancelled: Vec<bool>,
    pub(crate) counts: Counts,
    /// Sessions without a head that have to end well.
    pub(crate) expected: Vec<usize>,
    /// A number that depends on everything that happened.
    pub(crate) trace: u64,
    is_verbose: bool,
}

/// Frequencies of events, to see that the simulation reaches what it checks.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) sessions: u64,
    pub(crate) committed: u64,
    pub(crate) liars_named: u64,
    pub(crate) orphans: u64,
    pub(crate) orphans_expected: u64,
    pub(crate) orphans_done: u64,
    pub(crate) handed_back: u64,
    pub(crate) corrupt: u64,
    pub(crate) served_by_members: u64,
    pub(crate) served_by_heads: u64,
}

impl Counts {
    /// True when there was enough of everything that the checks are for.
    pub(crate) fn are_telling(&self) -> bool {
        let rare = [self.liars_named, self.orphans_expected, self.orphans_done, self.handed_back, self.corrupt];
        let common = [self.committed, self.served_by_members, self.served_by_heads];
        rare.iter().all(|count| *count > 0) && common.iter().all(|count| *count > 1_000)
    }

    /// Adds those of another simulation.
    pub(crate) fn add(&mut self, other: &Self) {
        self.sessions += other.sessions;
        self.committed += other.committed;
        self.liars_named += other.liars_named;
        self.orphans += other.orphans;
        self.orphans_expected += other.orphans_expected;
        self.orphans_done += other.orphans_done;
        self.handed_back += other.handed_back;
        self.corrupt += other.corrupt;
        self.served_by_members += other.served_by_members;
        self.served_by_heads += other.served_by_heads;
    }
}

/// An event.
#[derive(Debug)]
pub(crate) enum Event {
    /// A message arrives at an end of a stream.
    Deliver { stream: usize, to: usize, message: Box<Message> },
    /// An end of a stream learns that it is lost.
    Lost { stream: usize, end: usize },
    /// Something that an agent waits for, unless it is restarted meanwhile.
    Timer { host: usize, incarnation: u64, timer: Timer },
    /// A fault of the scenario.
    Fault(usize),
    /// An agent starts.
    Start(usize),
    /// Somebody runs a job.
    Run(usize),
    /// No fault comes any more.
    Calm,
}

/// A timer of an agent.
#[derive(Debug, Clone)]
pub(crate) enum Timer {
    Admit(usize),
    CheckDocuments(usize),
    Claimed(usize, proto::Digest),
    Store(usize, proto::Digest),
    StoreDocuments(usize),
    MoveName(usize),
    Report(usize),
    /// A fetch goes on.
    Fetch(usize, u64),
    /// Session, fetch, and number of its choice of a source: the timer is void after another choice.
    Silence(usize, u64, u32),
    Part(usize, u64, u32),
    /// The hashes of a layer are asked for again, or the answer has taken too long.
    AskHashes(usize, proto::Digest),
    HashesSilent(usize, usize),
    WordSilent(usize, usize, usize),
    Serve(usize),
    SignOfLife(usize),
    Linger(usize),
    Plan(usize),
    Attempt(usize),
}

impl World {
    /// The world of a seed.
    pub(crate) fn new(seed: u64, is_verbose: bool) -> Self {
        let scenario = Scenario::new(seed);
        let nodes = scenario.hosts.iter().map(|host| Node::new(host, &scenario.blobs)).collect();
        let jobs = scenario.jobs.len();
        let mut world = Self {
            scenario,
            now_us: 0,
            random: Random::new(mix(seed)),
            queue: BTreeMap::new(),
            scheduled: 0,
            events: 0,
            nodes,
            streams: vec![],
            open_streams: BTreeSet::new(),
            partitions: vec![],
            sessions: vec![],
            runs: vec![],
            sendings: vec![],
            tags: vec![0; jobs],
            cancelled: vec![false; jobs],
            counts: Counts::default(),
            expected: vec![],
            trace: seed,
            is_verbose,
        };
        for job in 0..jobs {
            world.at(world.scenario.jobs[job].begins_us, Event::Run(job));
        }
        world.at(world.scenario.calm_us + 1, Event::Calm);
        for fault in 0..world.scenario.faults.len() {
            world.at(world.scenario.faults[fault].0, Event::Fault(fault));
        }
        world
    }

    /// Runs until no event is left, and checks the final state.
    pub(crate) fn run(&mut self) {
        self.log(|| String::from("begins"));
        while let Some(((at_us, _), event)) = self.queue.pop_first() {
            self.now_us = at_us;
            self.events += 1;
            assert!(self.events < MOST_EVENTS, "a livelock: {} events by {} s", self.events, self.now_us / SECOND);
            assert!(self.now_us < self.scenario.calm_us + MOST_US, "it does not end: {event:?}");
            self.trace = mix(self.trace ^ at_us);
            self.happen(event);
        }
        self.check_end();
        self.check_orphans();
    }

    /// Has something happen at a time.
    pub(crate) fn at(&mut self, at_us: u64, event: Event) {
        self.scheduled += 1;
        self.queue.insert((at_us.max(self.now_us), self.scheduled), event);
    }

    /// Has something happen after a while.
    pub(crate) fn after(&mut self, for_us: u64, event: Event) {
        self.at(self.now_us + for_us, event);
    }

    /// Reminds an agent of something after a while.
    pub(crate) fn remind(&mut self, host: usize, for_us: u64, timer: Timer) {
        let incarnation = self.nodes[host].incarnation;
        self.after(for_us, Event::Timer { host, incarnation, timer });
    }

    /// The same after about so long as a task takes.
    pub(crate) fn work(&mut self, host: usize, most_us: u64, timer: Timer) {
        let for_us = self.random.scaled(10, most_us);
        self.remind(host, for_us, timer);
    }

    /// Which host has this identity.
    pub(crate) fn number(&self, id: &HostId) -> usize {
        self.nodes.iter().position(|node| node.id == *id).unwrap_or(usize::MAX)
    }

    /// Prints an event when a single seed is run.
    #[allow(clippy::print_stderr)]
    pub(crate) fn log(&self, text: impl FnOnce() -> String) {
        if self.is_verbose {
            eprintln!("{:>10.3} ms  {}", self.now_us as f64 / 1000.0, text());
        }
    }

    /// True when hashes of a blob's ranges are the right ones.
    pub(crate) fn is_true(&self, digest: &proto::Digest, hashes: &[RangeHash]) -> bool {
        *self.scenario.blobs[digest].hashes == *hashes
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver { stream, to, message } => self.deliver(stream, to, *message),
            Event::Lost { stream, end } if self.is_same(stream, end) => self.lost(stream, end, Ending::Lost),
            Event::Timer { host, incarnation, timer } if self.nodes[host].is_up && self.nodes[host].incarnation == incarnation => {
                self.remember(host, timer);
            }
            Event::Lost { .. } | Event::Timer { .. } => {}
            Event::Fault(number) => self.strike(number),
            Event::Start(host) => self.start(host),
            Event::Run(job) => self.run_job(job),
            Event::Calm => self.expect_orphans(),
        }
    }

    fn deliver(&mut self, stream: usize, to: usize, message: Message) {
        if !self.streams[stream].is_open || !self.is_same(stream, to) {
            return;
        }
        let Stream { opener, purpose, session, .. } = self.streams[stream];
        match message {
            Message::Request(request) => self.requested(stream, *request),
            Message::End(ending) => {
                self.close(stream);
                self.lost(stream, to, ending);
            }
            Message::Answer(answer) => match purpose {
                Purpose::Offer(sending) => self.answered(sending, stream, answer),
                Purpose::Word(..) => self.word_heard(stream),
                Purpose::Hashes(session) => self.hashes_answered(session, stream, answer),
                _ => self.close(stream),
            },
            Message::Block(block, content) => {
                debug_assert!(to == opener && session.is_none());
                self.credit(stream, &block);
                match purpose {
                    Purpose::Document(session, digest) => self.document_came(session, digest, stream, &block, &content),
                    Purpose::Range(session, fetch) => self.block_came(session, fetch, stream, block, &content),
                    _ => self.close(stream),
                }
            }
        }
    }

    /// An end of a stream has nothing to expect from it any more.
    fn lost(&mut self, stream: usize, end: usize, ending: Ending) {
        let Stream { opener, acceptor, purpose, session, .. } = self.streams[stream];
        if let Some(session) = session.filter(|_| end == acceptor) {
            self.head_lost(session, ending);
        }
        if end != opener {
            return;
        }
        match purpose {
            Purpose::Offer(sending) => self.offer_lost(sending, stream),
            Purpose::Word(run, member) => self.word_unheard(run, member, stream),
            Purpose::Document(session, _) => self.document_lost(session),
            Purpose::Range(session, fetch) => self.range_lost(session, fetch, stream),
            Purpose::Hashes(session) => self.hashes_lost(session, stream),
            Purpose::Notice => {}
        }
    }

    fn remember(&mut self, host: usize, timer: Timer) {
        match timer {
            Timer::Admit(session) => self.admit(session),
            Timer::CheckDocuments(session) => self.documents_checked(session),
            Timer::Claimed(session, digest) => self.claimed(session, digest),
            Timer::Store(session, digest) => self.stored(session, digest),
            Timer::StoreDocuments(session) => self.store_documents(session),
            Timer::MoveName(session) => self.move_name(session),
            Timer::Report(session) => self.report(session),
            Timer::Fetch(session, fetch) => self.go_on(session, fetch),
            Timer::Silence(session, fetch, choice) => self.look_for_silence(session, fetch, choice),
            Timer::Part(session, fetch, choice) => self.part(session, fetch, choice),
            Timer::AskHashes(session, digest) => self.ask_hashes(session, digest),
            Timer::HashesSilent(session, stream) => self.hashes_lost(session, stream),
            Timer::WordSilent(run, member, stream) if self.streams[stream].is_open => self.word_unheard(run, member, stream),
            Timer::WordSilent(..) => {}
            Timer::Serve(stream) => self.serve(host, stream),
            Timer::SignOfLife(stream) => self.sign_of_life(host, stream),
            Timer::Linger(membership) => self.linger(host, membership),
            Timer::Plan(run) => self.plan(run),
            Timer::Attempt(sending) => self.attempt(sending),
        }
    }
}
