//! The head: runs of jobs, with attempts and retries for each member.

use std::collections::{BTreeMap, BTreeSet};

use proto::Digest;
use proto::job::{JobId, Share};
use proto::peer::{Answer, Offer, Refusal, Request, Want};
use proto::session::send::Step;
use proto::session::{Chain, Send};

use crate::network::Purpose;
use crate::node::Offered;
use crate::plan::Plan;
use crate::retry::{RETRY_MOST_US, Retry};
use crate::scenario::{MS, SECOND};
use crate::world::{Event, Timer, World};

/// How often a store may have changed while it received.
const STORE_CHANGES: u32 = 3;
/// How often a job is run again when nothing goes wrong any more.
const RUNS_IN_CALM: usize = 3;

/// One run of a job.
pub(crate) struct Run {
    pub(crate) job: usize,
    pub(crate) id: JobId,
    pub(crate) head: usize,
    incarnation: u64,
    began_us: u64,
    pub(crate) gathering_us: Option<u64>,
    /// By the root of the image: members of another platform receive another image.
    pub(crate) chains: BTreeMap<Digest, Chain>,
    pub(crate) joined: BTreeSet<usize>,
    pub(crate) words: u64,
    pub(crate) plan: Plan,
    pub(crate) sendings: Vec<usize>,
    is_over: bool,
}

/// One image for one host.
pub(crate) struct Sending {
    pub(crate) run: usize,
    pub(crate) member: usize,
    pub(crate) stream: Option<usize>,
    machine: Option<Send>,
    pub(crate) root: Option<Digest>,
    want: Want,
    travelled: BTreeMap<Digest, u64>,
    travelled_before_bytes: u64,
    was_connected: bool,
    /// The others count on it.
    has_hope: bool,
    changes: u32,
    retry: Retry,
    pub(crate) result: Option<Result<(), Failure>>,
}

/// Why a host has not got an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    Unreachable,
    GivenUp,
    Refused(Refusal),
    Cancelled,
}

impl World {
    /// Somebody runs a job, for the members that have not got it.
    pub(crate) fn run_job(&mut self, job: usize) {
        let spec = &self.scenario.jobs[job];
        let head = spec.head;
        let is_running = (0..self.runs.len()).any(|run| self.runs[run].job == job && self.is_running(run));
        if is_running || self.cancelled[job] || !self.nodes[head].is_up {
            return;
        }
        let members: Vec<usize> = spec.members.iter().copied().filter(|member| !self.has_image(job, *member)).collect();
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(self.runs.len() as u64).to_le_bytes());
        let (incarnation, run) = (self.nodes[head].incarnation, self.runs.len());
        self.log(|| format!("run {run}: host {head} sends to {members:?}"));
        self.runs.push(Run {
            job,
            id: JobId(id),
            head,
            incarnation,
            began_us: self.now_us,
            gathering_us: None,
            chains: BTreeMap::new(),
            joined: BTreeSet::new(),
            words: 0,
            plan: Plan::default(),
            sendings: vec![],
            is_over: members.is_empty(),
        });
        for member in members {
            self.sendings.push(Sending::new(run, member));
            let sending = self.sendings.len() - 1;
            self.runs[run].sendings.push(sending);
            self.work(head, 5 * MS, Timer::Attempt(sending));
        }
        self.plan(run);
    }

    /// True when a run of the job has brought the image to the member.
    pub(crate) fn has_image(&self, job: usize, member: usize) -> bool {
        self.sendings.iter().any(|sending| self.runs[sending.run].job == job && sending.member == member && sending.result == Some(Ok(())))
    }

    /// True while the agent that began a run carries it out.
    pub(crate) fn is_running(&self, run: usize) -> bool {
        let Run { head, incarnation, is_over, .. } = self.runs[run];
        !is_over && self.nodes[head].is_up && self.nodes[head].incarnation == incarnation
    }

    /// Sendings of a head that have no result yet.
    pub(crate) fn sendings_of(&self, head: usize) -> Vec<usize> {
        let is_of_head = |sending: &usize| {
            let Sending { run, ref result, .. } = self.sendings[*sending];
            self.runs[run].head == head && self.is_running(run) && result.is_none()
        };
        (0..self.sendings.len()).filter(is_of_head).collect()
    }

    /// Offers the image to the member once more.
    pub(crate) fn attempt(&mut self, sending: usize) {
        let Sending { run, member, ref stream, ref result, .. } = self.sendings[sending];
        if result.is_some() || stream.is_some() {
            return;
        }
        let Run { job, id, head, .. } = self.runs[run];
        let spec = &self.scenario.jobs[job];
        let image = spec.versions[self.tags[job]].clone();
        let blobs = image.blobs().into_iter().map(|blob| blob.digest).collect();
        let is_shared = spec.is_shared;
        let members = spec.members.iter().map(|member| self.nodes[*member].id).collect();
        self.nodes[head].offers.push(Offered { sending, to: member, blobs, is_shared });
        let (machine, root) = (Send::new(&image, false), image.root.digest);
        let offer = Offer { image, dry_run: false };
        let request = match is_shared {
            true => Request::Share(Share { offer, job: id, members, on_behalf_of: None, limit_bytes_per_s: None }),
            false => Request::Offer(offer),
        };
        let stream = self.open(head, member, Purpose::Offer(sending), request);
        let state = &mut self.sendings[sending];
        (state.stream, state.machine, state.root) = (Some(stream), Some(machine), Some(root));
        state.was_connected |= self.streams[stream].is_open;
    }

    /// The member answers.
    pub(crate) fn answered(&mut self, sending: usize, stream: usize, answer: Answer) {
        let Sending { run, member, .. } = self.sendings[sending];
        if self.sendings[sending].stream != Some(stream) || !self.is_running(run) {
            return;
        }
        let Some(machine) = &mut self.sendings[sending].machine else { return };
        let step = machine.handle(answer.clone());
        let Ok(step) = step else { panic!("sending {sending}: {answer:?}: {step:?}") };
        let (now_ms, id) = (self.run_ms(run), self.nodes[member].id);
        match step {
            Step::Planned(want) => {
                self.join(sending, &want);
                self.sendings[sending].want = want;
                self.plan_now(run);
            }
            Step::Progress(progress) => {
                let state = &mut self.sendings[sending];
                let had = state.want.missing.iter().find(|blob| blob.digest == progress.digest).map_or(0, |blob| blob.staged_bytes);
                state.travelled.insert(progress.digest, progress.verified_bytes.saturating_sub(had));
                let bytes = state.travelled.values().sum();
                self.runs[run].chains.values_mut().for_each(|chain| chain.progress(&id, bytes, now_ms));
            }
            Step::Drawn(sources) => {
                let head = self.nodes[self.runs[run].head].id;
                let bytes = sources.iter().find(|(source, _)| *source == head).map_or(0, |(_, bytes)| *bytes);
                self.runs[run].chains.values_mut().for_each(|chain| chain.from_head(&id, bytes));
            }
            Step::Trouble(trouble) => self.complained(run, member, &trouble),
            Step::Suspect(digest) => self.check_suspect(self.runs[run].head, &digest),
            Step::Committed(_) => self.end_sending(sending, Ok(())),
            Step::Forecast(_) => panic!("nobody asked for a forecast"),
            Step::Refused(refusal) => self.refused(sending, refusal),
        }
    }

    fn refused(&mut self, sending: usize, refusal: Refusal) {
        match refusal {
            Refusal::StoreChanged if self.sendings[sending].changes < STORE_CHANGES => {
                self.sendings[sending].changes += 1;
                self.end_attempt(sending);
                self.try_again(sending, 10);
            }
            Refusal::ShuttingDown | Refusal::Busy => self.attempt_lost(sending),
            refusal => self.end_sending(sending, Err(Failure::Refused(refusal))),
        }
    }

    /// The stream of an offer is lost.
    pub(crate) fn offer_lost(&mut self, sending: usize, stream: usize) {
        let Sending { run, ref result, .. } = self.sendings[sending];
        if self.sendings[sending].stream == Some(stream) && result.is_none() && self.is_running(run) {
            self.attempt_lost(sending);
        }
    }

    fn attempt_lost(&mut self, sending: usize) {
        self.end_attempt(sending);
        let Sending { run, member, was_connected, .. } = self.sendings[sending];
        if !was_connected {
            self.sendings[sending].has_hope = false;
            let under_way = |other: &usize| self.sendings[*other].has_hope && self.sendings[*other].result.is_none();
            let is_shared = self.scenario.jobs[self.runs[run].job].is_shared;
            return match is_shared && self.runs[run].sendings.iter().any(under_way) {
                true => self.try_again(sending, RETRY_MOST_US / 4),
                false => self.end_sending(sending, Err(Failure::Unreachable)),
            };
        }
        let id = self.nodes[member].id;
        self.runs[run].chains.values_mut().for_each(|chain| chain.gone(&id));
        self.runs[run].plan.leave(member);
        self.plan_now(run);
        let (now_us, state) = (self.now_us, &mut self.sendings[sending]);
        match state.retry.next(state.travelled_before_bytes, now_us) {
            Some(pause_us) => self.try_again(sending, pause_us),
            None => self.end_sending(sending, Err(Failure::GivenUp)),
        }
    }

    fn try_again(&mut self, sending: usize, for_us: u64) {
        self.remind(self.runs[self.sendings[sending].run].head, for_us, Timer::Attempt(sending));
    }

    fn end_attempt(&mut self, sending: usize) {
        let head = self.runs[self.sendings[sending].run].head;
        self.nodes[head].offers.retain(|offer| offer.sending != sending);
        let state = &mut self.sendings[sending];
        state.travelled_before_bytes += std::mem::take(&mut state.travelled).values().sum::<u64>();
        state.machine = None;
        // The stream stays open: the member learns from it how the attempt ends.
        state.stream = None;
    }

    /// Records the result of a sending.
    pub(crate) fn end_sending(&mut self, sending: usize, result: Result<(), Failure>) {
        self.end_attempt(sending);
        let Sending { run, member, .. } = self.sendings[sending];
        self.log(|| format!("run {run}: member {member}: {result:?}"));
        self.check_result(sending, &result);
        let (now_ms, id) = (self.run_ms(run), self.nodes[member].id);
        self.runs[run].chains.values_mut().for_each(|chain| match result {
            Ok(()) => chain.done(&id, now_ms),
            Err(_) => chain.gone(&id),
        });
        match result {
            Ok(()) => self.runs[run].plan.has_all(member),
            Err(_) => self.runs[run].plan.leave(member),
        }
        self.sendings[sending].result = Some(result);
        self.plan_now(run);
        if self.runs[run].sendings.iter().all(|sending| self.sendings[*sending].result.is_some()) {
            self.end_run(run);
        }
    }

    fn end_run(&mut self, run: usize) {
        let now_ms = self.run_ms(run);
        let Run { job, id, head, .. } = self.runs[run];
        self.runs[run].is_over = true;
        let mut links = self.nodes[head].links.clone();
        self.runs[run].chains.values().for_each(|chain| chain.teach(&mut links, now_ms));
        self.nodes[head].links = links;
        for member in self.runs[run].joined.clone() {
            self.open(head, member, Purpose::Notice, Request::EndJob(id));
        }
        let calm_us = self.scenario.calm_us;
        let in_calm = self.runs.iter().filter(|run| run.job == job && run.began_us > calm_us).count();
        if in_calm < RUNS_IN_CALM && self.scenario.jobs[job].members.iter().any(|member| !self.has_image(job, *member)) {
            self.at(self.now_us.max(calm_us) + SECOND, Event::Run(job));
        }
    }

    /// The clock of a run's plan.
    pub(crate) fn run_ms(&self, run: usize) -> u64 {
        (self.now_us - self.runs[run].began_us) / MS
    }
}

impl Sending {
    fn new(run: usize, member: usize) -> Self {
        Self {
            run,
            member,
            stream: None,
            machine: None,
            root: None,
            want: Want { missing: vec![] },
            travelled: BTreeMap::new(),
            travelled_before_bytes: 0,
            was_connected: false,
            has_hope: true,
            changes: 0,
            retry: Retry::default(),
            result: None,
        }
    }
}
