//! The plan of a fan-out at its head: sources of each member, and complaints of them.

use std::collections::{BTreeMap, BTreeSet};

use proto::job::{Fault, Sources, Trouble};
use proto::peer::{Request, Want};
use proto::session::Chain;
use proto::{Digest, HostId};

use crate::head::{Run, Sending};
use crate::network::Purpose;
use crate::scenario::{MS, SECOND};
use crate::world::{Timer, World};

/// How often the plan is looked at, and how long the first hosts wait for the others to answer.
const PLAN_US: u64 = 50 * MS;
const GATHER_US: u64 = 500 * MS;
/// How long a member may take to say that it has heard where to read.
const ASK_US: u64 = 3 * SECOND;
/// Liars that one member may name.
const ACCUSATIONS: usize = 3;

/// A record of words and complaints, kept beside the planner to check it.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// The last word to each member, unless the member did not hear it.
    told: BTreeMap<usize, Vec<HostId>>,
    /// Members that receive and have to be told where to read, and since when.
    untold: BTreeMap<usize, u64>,
    receiving: BTreeSet<usize>,
    /// Members that are out.
    gone: BTreeSet<usize>,
    liars: BTreeSet<(Digest, HostId)>,
    accusations: BTreeMap<(Digest, usize), usize>,
}

impl Plan {
    fn join(&mut self, member: usize, missing_bytes: u64, now_us: u64) {
        self.gone.remove(&member);
        self.told.remove(&member);
        self.untold.remove(&member);
        if missing_bytes > 0 {
            self.receiving.insert(member);
            self.untold.insert(member, now_us);
        }
    }

    /// A member receives no more, and has everything.
    pub(crate) fn has_all(&mut self, member: usize) {
        self.receiving.remove(&member);
        self.untold.remove(&member);
    }

    /// A member is out: no other one may read from it.
    pub(crate) fn leave(&mut self, member: usize) {
        self.has_all(member);
        self.gone.insert(member);
    }

    fn tell(&mut self, member: usize, hosts: &[HostId]) {
        self.told.insert(member, hosts.to_vec());
        self.untold.remove(&member);
    }

    fn not_heard(&mut self, member: usize, now_us: u64) {
        self.told.remove(&member);
        if self.receiving.contains(&member) {
            self.untold.entry(member).or_insert(now_us);
        }
    }
}

impl World {
    /// A member joins the plan with what it lacks.
    pub(crate) fn join(&mut self, sending: usize, want: &Want) {
        let Sending { run, member, root, .. } = self.sendings[sending];
        let Run { job, head, .. } = self.runs[run];
        let Some(root) = root.filter(|_| self.scenario.jobs[job].is_shared) else { return };
        let missing_bytes = want.missing.iter().map(|blob| blob.size_bytes - blob.staged_bytes).sum();
        let (now_us, now_ms, id) = (self.now_us, self.run_ms(run), self.nodes[member].id);
        let image = self.scenario.jobs[job].versions.iter().find(|image| image.root.digest == root);
        let size_bytes = image.map_or(0, proto::Image::size_bytes);
        let (head, links) = (self.nodes[head].id, self.nodes[head].links.clone());
        let state = &mut self.runs[run];
        state.gathering_us.get_or_insert(now_us);
        state.joined.insert(member);
        state.plan.join(member, missing_bytes, now_us);
        state.chains.entry(root).or_insert_with(|| Chain::new(head, size_bytes, links)).join(id, missing_bytes, now_ms);
    }

    /// A member complains of a source.
    pub(crate) fn complained(&mut self, run: usize, member: usize, trouble: &Trouble) {
        let (now_ms, id) = (self.run_ms(run), self.nodes[member].id);
        let Run { chains, plan, .. } = &mut self.runs[run];
        let was_told = plan.told.get(&member).is_some_and(|told| told.contains(&trouble.source));
        let mut is_news = false;
        for (root, chain) in chains {
            let is_heard = chain.trouble(&id, trouble, now_ms);
            is_news |= is_heard;
            let Fault::Lied(_) = trouble.fault else { continue };
            let accusations = plan.accusations.entry((*root, member)).or_default();
            let is_new = *accusations < ACCUSATIONS && !plan.liars.contains(&(*root, trouble.source));
            if is_heard {
                *accusations += 1;
                self.counts.liars_named += 1;
                plan.liars.insert((*root, trouble.source));
            }
            assert_eq!(is_heard, was_told && is_new, "{member} calls {:?} a liar", trouble.source);
        }
        if is_news {
            self.plan_now(run);
        }
    }

    /// It is time to look at the plan.
    pub(crate) fn plan(&mut self, run: usize) {
        if self.is_running(run) {
            self.plan_now(run);
            self.check_untold(run);
            self.remind(self.runs[run].head, PLAN_US, Timer::Plan(run));
        }
    }

    /// Tells those whose sources have changed.
    pub(crate) fn plan_now(&mut self, run: usize) {
        let (now_us, now_ms) = (self.now_us, self.run_ms(run));
        let Run { head, id, .. } = self.runs[run];
        let state = &mut self.runs[run];
        let Some(gathering_us) = state.gathering_us else { return };
        if state.joined.len() >= state.sendings.len() || now_us >= gathering_us + GATHER_US {
            state.chains.values_mut().for_each(|chain| chain.start(now_ms));
        }
        let changes = state.chains.iter_mut().flat_map(|(root, chain)| chain.changes(now_ms).into_iter().map(|change| (*root, change)));
        for (root, (host, hosts)) in changes.collect::<Vec<_>>() {
            let member = self.number(&host);
            self.check_word(run, root, member, &hosts);
            self.runs[run].plan.tell(member, &hosts);
            self.log(|| format!("run {run}: {member} reads from {:?}", hosts.iter().map(|host| self.number(host)).collect::<Vec<_>>()));
            self.runs[run].words += 1;
            let sources = Sources { job: id, number: self.runs[run].words, hosts };
            let stream = self.open(head, member, Purpose::Word(run, member), Request::Sources(sources));
            self.remind(head, ASK_US, Timer::WordSilent(run, member, stream));
        }
    }

    /// A member has heard where to read.
    pub(crate) fn word_heard(&mut self, stream: usize) {
        self.close(stream);
    }

    /// A member has not heard where to read.
    pub(crate) fn word_unheard(&mut self, run: usize, member: usize, stream: usize) {
        self.close(stream);
        let (now_us, id) = (self.now_us, self.nodes[member].id);
        self.runs[run].plan.not_heard(member, now_us);
        self.runs[run].chains.values_mut().for_each(|chain| chain.unheard(&id));
    }

    /// A member is told to read from other hosts of the job that are neither out nor liars, each once, the head among them.
    fn check_word(&self, run: usize, root: Digest, member: usize, hosts: &[HostId]) {
        let Run { job, head, ref plan, .. } = self.runs[run];
        let unique: BTreeSet<HostId> = hosts.iter().copied().collect();
        assert_eq!(unique.len(), hosts.len(), "a source is named twice");
        assert!(unique.contains(&self.nodes[head].id), "the head is not a source");
        assert!(!hosts.iter().any(|source| plan.liars.contains(&(root, *source))), "a liar is named as a source");
        assert!(plan.receiving.contains(&member), "{member} does not receive, and is told where to read");
        for source in hosts.iter().map(|source| self.number(source)).filter(|source| *source != head) {
            assert_ne!(source, member, "a host is to read from itself");
            assert!(self.scenario.jobs[job].members.contains(&source), "a stranger is named");
            assert!(!plan.gone.contains(&source), "{source} is out, and is named as a source");
        }
    }

    /// Checks that a member that has joined, or has not heard its last word, is told soon.
    fn check_untold(&self, run: usize) {
        for (member, since_us) in &self.runs[run].plan.untold {
            assert!(self.now_us <= since_us + GATHER_US + 2 * PLAN_US, "{member} is not told where to read");
        }
    }
}
