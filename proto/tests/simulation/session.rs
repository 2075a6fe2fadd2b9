//! The receiving side of a session: carries out the actions of the machine, and checks each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::job::JobId;
use proto::limits::{EXTENT_BYTES, EXTENTS_AT_ONCE, SHARED_EXTENT_BYTES};
use proto::peer::{Answer, Committed, Get, Missing, Offer, Progress, Refusal, Request};
use proto::session::Receive;
use proto::session::receive::{Action, Input};
use proto::{Digest, Image};

use crate::content::index;
use crate::network::{Ending, Message, Purpose};
use crate::node::{Membership, Place};
use crate::scenario::{MS, SECOND, layers_of};
use crate::sources::{Fetch, Judged};
use crate::world::{Timer, World};

/// How often the head is told how far it is; at the beginning of a fan-out, and for how long that is.
const REPORT_US: u64 = 200 * MS;
const REPORT_FIRST_US: u64 = 50 * MS;
const REPORT_FIRST_FOR_US: u64 = 2 * SECOND;
/// How long a host of a fan-out goes on without a byte when its head is gone.
const ORPHANED_US: u64 = 60 * SECOND;

/// One image that one host receives.
pub(crate) struct Session {
    pub(crate) host: usize,
    pub(crate) head: usize,
    pub(crate) stream: usize,
    pub(crate) began_us: u64,
    pub(crate) image: Arc<Image>,
    pub(crate) job: Option<JobId>,
    members: BTreeSet<usize>,
    machine: Receive,
    pub(crate) missing: Vec<Missing>,
    pub(crate) documents: BTreeSet<Digest>,
    /// Claimed layers that are not in the store yet.
    pub(crate) layers: BTreeMap<Digest, Arriving>,
    /// Every layer that was claimed, in that order.
    pub(crate) claims: Vec<Digest>,
    pub(crate) fetches: BTreeMap<u64, Fetch>,
    pub(crate) last_fetch: u64,
    pub(crate) judged: Judged,
    /// Verified bytes from each source.
    pub(crate) drawn: BTreeMap<usize, u64>,
    reported_drawn: BTreeMap<usize, u64>,
    pub(crate) finished: Vec<Progress>,
    /// After the loss of the head: time and number of received bytes when the last byte came.
    pub(crate) orphaned: Option<(u64, u64)>,
    pub(crate) is_committing: bool,
    pub(crate) result: Option<Result<(), Refusal>>,
    /// Its agent died.
    pub(crate) is_abandoned: bool,
}

/// A layer between its claim and the store.
#[derive(Debug)]
pub(crate) struct Arriving {
    pub(crate) staged_bytes: u64,
    pub(crate) verified_bytes: u64,
    pub(crate) reported_bytes: u64,
}

impl World {
    /// An offer comes on a stream.
    pub(crate) fn offered(&mut self, stream: usize, offer: Offer, shared: Option<(JobId, BTreeSet<usize>)>) {
        let (host, head) = (self.streams[stream].acceptor, self.streams[stream].opener);
        let machine = if shared.is_some() { Receive::shared(&offer) } else { Receive::new(&offer) };
        let (job, members) = shared.map_or((None, BTreeSet::new()), |(job, members)| (Some(job), members));
        self.sessions.push(Session {
            host,
            head,
            stream,
            began_us: self.now_us,
            image: Arc::new(offer.image),
            job,
            members,
            machine,
            missing: vec![],
            documents: BTreeSet::new(),
            layers: BTreeMap::new(),
            claims: vec![],
            fetches: BTreeMap::new(),
            last_fetch: 0,
            judged: Judged::default(),
            drawn: BTreeMap::new(),
            reported_drawn: BTreeMap::new(),
            finished: vec![],
            orphaned: None,
            is_committing: false,
            result: None,
            is_abandoned: false,
        });
        let session = self.sessions.len() - 1;
        self.counts.sessions += 1;
        self.log(|| format!("session {session}: host {host} is offered an image by {head}"));
        self.streams[stream].session = Some(session);
        self.nodes[host].sessions.insert(session);
        self.work(host, 20 * MS, Timer::Admit(session));
    }

    /// Admits the offer: asks the store what is missing, and the disk for room.
    pub(crate) fn admit(&mut self, session: usize) {
        let Session { host, head, job, .. } = self.sessions[session];
        let image = self.sessions[session].image.clone();
        if self.sessions[session].result.is_some() {
            return;
        }
        if self.nodes[host].full_until_us > self.now_us {
            self.nodes[host].had_disk_fault = true;
            return self.tell(session, Input::Failed(Refusal::NoSpace { needed_bytes: 1, free_bytes: 0 }));
        }
        let disk = &self.nodes[host].disk;
        let absent = image.blobs().into_iter().filter(|blob| !disk.store.contains_key(&blob.digest));
        let missing: Vec<Missing> = absent
            .map(|blob| Missing {
                digest: blob.digest,
                size_bytes: blob.size_bytes,
                staged_bytes: disk.staged_bytes(&self.scenario.blobs[&blob.digest]),
            })
            .collect();
        if let Some(job) = job {
            let absent = missing.iter().map(|missing| missing.digest).collect();
            let membership = Membership::new(session, job, head, self.sessions[session].members.clone(), &image, &absent);
            let is_old = |membership: &Membership| membership.head == head && membership.job == job;
            let old: Vec<usize> = self.nodes[host].memberships.iter().filter(|(_, m)| is_old(m)).map(|(number, _)| *number).collect();
            // The head has begun anew.
            for number in old {
                if let Some(old) = self.nodes[host].memberships.remove(&number) {
                    self.renew(old.session);
                }
            }
            self.nodes[host].memberships.insert(session, membership);
        }
        self.sessions[session].missing = missing.clone();
        self.tell(session, Input::Admitted { missing });
        if self.sessions[session].result.is_none() {
            self.remind(host, REPORT_FIRST_US, Timer::Report(session));
            self.accompany(session);
        }
    }

    /// Feeds the machine an input, and carries out its actions.
    pub(crate) fn tell(&mut self, session: usize, input: Input) {
        if self.sessions[session].is_abandoned {
            return;
        }
        let handled = self.sessions[session].machine.handle(input.clone());
        assert!(handled.is_ok(), "session {session}: {input:?}: {handled:?}");
        while let Some(action) = self.sessions[session].machine.poll() {
            self.act(session, action);
        }
    }

    fn act(&mut self, session: usize, action: Action) {
        let Session { host, head, stream, .. } = self.sessions[session];
        assert!(self.sessions[session].result.is_none(), "session {session} is over: {action:?}");
        match action {
            Action::Want(want) => self.transmit(stream, host, Message::Answer(Answer::Want(want))),
            Action::FetchDocument(document) => {
                let get = Get { digest: document.digest, offset: 0, length_bytes: document.size_bytes };
                self.open(host, head, Purpose::Document(session, document.digest), Request::Get(get));
            }
            Action::CheckDocuments => self.work(host, 5 * MS, Timer::CheckDocuments(session)),
            Action::Claim(layer) => self.claim(session, layer),
            Action::Fetch { digest, range } => {
                let extent_bytes = if self.sessions[session].job.is_some() { SHARED_EXTENT_BYTES } else { EXTENT_BYTES };
                assert!(range.end - range.start <= extent_bytes, "an extent of {} bytes", range.end - range.start);
                let is_staged = |at: u64| self.nodes[host].disk.staged(&digest, index(at)).is_some();
                assert!(!range.clone().step_by(64 * 1024).any(is_staged), "{range:?} of {digest} is fetched, but was verified before");
                let fetches = &self.sessions[session].fetches;
                let is_fetched = |fetch: &Fetch| fetch.digest == digest && range.start < fetch.end && fetch.at < range.end;
                assert!(!fetches.values().any(is_fetched), "{range:?} of {digest} is fetched twice");
                assert!(fetches.len() < EXTENTS_AT_ONCE, "too many extents at once");
                self.fetch(session, digest, range);
            }
            Action::Store(digest) => {
                let blob = &self.scenario.blobs[&digest];
                let lacks = |index: &usize| self.nodes[host].disk.staged(&digest, *index).is_none();
                assert!(!(0..blob.ranges.len()).any(|index| lacks(&index)), "{digest} is to be stored and is not complete");
                self.work(host, 50 * MS, Timer::Store(session, digest));
            }
            Action::Commit => {
                let layers = layers_of(&self.sessions[session].image);
                let disk = &self.nodes[host].disk;
                assert!(layers.iter().all(|layer| disk.store.contains_key(layer)), "session {session} commits, and lacks a layer");
                self.sessions[session].is_committing = true;
                self.work(host, 20 * MS, Timer::StoreDocuments(session));
            }
            Action::Finish(result) => self.finish(session, result),
        }
    }

    fn finish(&mut self, session: usize, result: Result<(), Refusal>) {
        self.log(|| format!("session {session} ends: {result:?}"));
        let Session { host, stream, ref image, ref drawn, .. } = self.sessions[session];
        let received_bytes = drawn.values().sum();
        let (image_id, config_digest) = (image.manifests[0].config.digest, image.manifests[0].config.digest);
        if let Err(Refusal::Corrupt(_)) = &result {
            let layers: Vec<Digest> = self.sessions[session].layers.keys().copied().collect();
            layers.iter().for_each(|digest| self.nodes[host].disk.discard(digest));
        }
        self.report_drawn(session);
        let answer = match &result {
            Ok(()) => Answer::Committed(Committed { image_id, config_digest, received_bytes, replaced: None }),
            Err(refusal) => Answer::Refused(refusal.clone()),
        };
        self.counts.committed += u64::from(result.is_ok());
        self.counts.orphans_done += u64::from(result.is_ok() && self.sessions[session].orphaned.is_some());
        if let Err(Refusal::Corrupt(digest)) = &result {
            self.transmit(stream, host, Message::Answer(Answer::Corrupt(*digest)));
        }
        self.transmit(stream, host, Message::Answer(answer));
        self.sessions[session].result = Some(result);
        self.nodes[host].sessions.remove(&session);
        self.drop_session(session);
    }

    /// Ends the tasks of a session. Its layers are still served.
    fn drop_session(&mut self, session: usize) {
        let host = self.sessions[session].host;
        self.sessions[session].layers.clear();
        for fetch in std::mem::take(&mut self.sessions[session].fetches).into_values() {
            self.break_off(host, &fetch);
        }
        for digest in self.nodes[host].claims.keys().copied().collect::<Vec<_>>() {
            self.release(host, session, &digest);
        }
        let Some(membership) = self.nodes[host].memberships.get_mut(&session) else { return };
        membership.lingers = true;
        let layers: Vec<Digest> = membership.layers.keys().copied().collect();
        for digest in layers {
            if self.layer_place(host, session, &digest) == Some(Place::Awaited) {
                self.place(session, &digest, Place::Nowhere);
            }
            self.wake(host, &digest);
        }
    }

    /// The agent of the host dies.
    pub(crate) fn abandon(&mut self, session: usize) {
        let host = self.sessions[session].host;
        self.sessions[session].is_abandoned = true;
        for fetch in std::mem::take(&mut self.sessions[session].fetches).into_values() {
            self.break_off(host, &fetch);
        }
        self.sessions[session].result.get_or_insert(Err(Refusal::ShuttingDown));
    }

    /// The head has begun a new session instead of this one.
    fn renew(&mut self, session: usize) {
        if self.sessions[session].result.is_none() && !self.sessions[session].is_committing {
            self.tell(session, Input::Failed(Refusal::Cancelled));
        }
    }

    /// The stream of the offer has ended. A member of a fan-out goes on, unless it was cancelled.
    pub(crate) fn head_lost(&mut self, session: usize, ending: Ending) {
        let Session { job, is_committing, ref orphaned, ref result, .. } = self.sessions[session];
        if result.is_some() || is_committing || orphaned.is_some() {
            return;
        }
        if job.is_some() && ending != Ending::Reset {
            self.log(|| format!("session {session} goes on without its head"));
            let received_bytes = self.sessions[session].drawn.values().sum();
            self.sessions[session].orphaned = Some((self.now_us, received_bytes));
        } else {
            self.tell(session, Input::Failed(Refusal::Cancelled));
        }
    }

    /// Tells the head how far it is.
    pub(crate) fn report(&mut self, session: usize) {
        let Session { host, stream, began_us, job, .. } = self.sessions[session];
        if self.sessions[session].result.is_some() {
            return;
        }
        let mut reports = std::mem::take(&mut self.sessions[session].finished);
        for (digest, arriving) in &mut self.sessions[session].layers {
            if arriving.verified_bytes > arriving.reported_bytes {
                arriving.reported_bytes = arriving.verified_bytes;
                reports.push(Progress { digest: *digest, verified_bytes: arriving.verified_bytes });
            }
        }
        self.report_drawn(session);
        for progress in reports {
            self.transmit(stream, host, Message::Answer(Answer::Progress(progress)));
        }
        let received_bytes = self.sessions[session].drawn.values().sum();
        if let Some((since_us, bytes)) = &mut self.sessions[session].orphaned {
            if received_bytes > *bytes {
                (*since_us, *bytes) = (self.now_us, received_bytes);
            } else if self.now_us >= *since_us + ORPHANED_US && !self.sessions[session].is_committing {
                return self.tell(session, Input::Failed(Refusal::Store(String::from("orphaned"))));
            }
        }
        let is_first = job.is_some() && self.now_us < began_us + REPORT_FIRST_FOR_US;
        self.remind(host, if is_first { REPORT_FIRST_US } else { REPORT_US }, Timer::Report(session));
    }

    fn report_drawn(&mut self, session: usize) {
        let Session { host, stream, job, ref drawn, ref reported_drawn, .. } = self.sessions[session];
        if job.is_some() && drawn != reported_drawn {
            let sources = drawn.iter().map(|(source, bytes)| (self.nodes[*source].id, *bytes)).collect();
            self.sessions[session].reported_drawn = drawn.clone();
            self.transmit(stream, host, Message::Answer(Answer::Drawn(sources)));
        }
    }
}
