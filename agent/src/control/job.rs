//! What a send has come to so far, kept beyond the client that asked for it: for whoever watches it, and for what is asked about it later.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::Digest;
use proto::control::{Event, Failure, FailureKind, Resolved, Send, TransferRow, TransferState};
use proto::host::Member;
use tokio::sync::{Mutex as AsyncMutex, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::failure::failure;
use super::journal::{Journal, Saved};
use crate::store::StoreError;
use crate::sys;

/// More than the largest job comes to; what another host claims beyond it is not kept.
const EVENTS: usize = 200_000;

/// One `send`: every image to every host.
#[derive(Debug)]
pub(super) struct Job {
    /// Its number.
    pub(super) id: u64,
    /// What was asked for, with the hosts by their names.
    pub(super) request: Send,
    /// How long a host is waited for that has not answered yet.
    pub(super) wait: Duration,
    /// Who has begun it.
    pub(super) asker: Asker,
    /// Cancelled when the agent is about to stop.
    agent: CancellationToken,
    /// Stops what is not done.
    pub(super) cancel: CancellationToken,
    record: Mutex<Record>,
    version: watch::Sender<u64>,
    /// Held while it is saved.
    saving: AsyncMutex<()>,
}

/// Who has begun a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    /// Somebody on this host.
    Client,
    /// Another host.
    Peer,
}

/// The last event of every kind, in the order in which they came.
#[derive(Debug, Default)]
struct Record {
    version: u64,
    events: BTreeMap<u64, (Key, Event)>,
    versions: HashMap<Key, u64>,
    /// A client has cancelled it.
    is_cancelled: bool,
    /// It ended because the agent stops, and goes on when that is started again.
    goes_on: bool,
    result: Option<Result<(), Failure>>,
}

/// A later event of the same key takes the place of the earlier one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Accepted,
    Resolved(String),
    Moved(String),
    Queued(String, String),
    Planned(String, String),
    Progress(String, String, Digest),
    Drawn(String, String),
    Hashing(String),
    Waiting(String),
    Ended(String, String),
    Summary,
}

impl Job {
    pub(super) fn new(id: u64, request: Send, wait: Duration, asker: Asker, parent: &CancellationToken) -> Arc<Self> {
        let (record, version, saving) = (Mutex::default(), watch::Sender::new(0), AsyncMutex::default());
        Arc::new(Self { id, request, wait, asker, agent: parent.clone(), cancel: parent.child_token(), record, version, saving })
    }

    /// Keeps it on disk as it is now, unless that is known to be what is there: of several who do so, the later one keeps the later state. `None`:
    /// the agent stops, and what has happened since is not kept.
    pub(super) async fn save(&self, journal: &Arc<Journal>, kept: Option<&Saved>) -> Result<Option<Saved>, StoreError> {
        let _turn = self.saving.lock().await;
        let saved = self.saved();
        if self.record().goes_on {
            return Ok(None);
        }
        if kept != Some(&saved) {
            let (journal, saved) = (journal.clone(), saved.clone());
            sys::blocking(move || journal.save(&saved)).await?;
        }
        Ok(Some(saved))
    }

    /// As it is kept on disk: without steps, and without what is only true of this life of the agent.
    fn saved(&self) -> Saved {
        let record = self.record();
        let is_step = |key: &Key| matches!(key, Key::Planned(..) | Key::Progress(..) | Key::Drawn(..) | Key::Hashing(_) | Key::Waiting(_));
        let events = record.events.values().filter(|(key, _)| !is_step(key)).map(|(_, event)| event.clone());
        Saved {
            id: self.id,
            request: self.request.clone(),
            wait_s: self.wait.as_secs(),
            events: events.collect(),
            result: record.result.clone(),
        }
    }

    /// The agent stops, and the job goes on when it is started again.
    fn is_to_go_on(&self) -> bool {
        self.request.detach && self.agent.is_cancelled()
    }

    /// Resolves when it is over.
    pub(super) async fn over(&self) {
        let mut version = self.version.subscribe();
        while !self.is_over() {
            // The sender is in `self`.
            let _ = version.changed().await;
        }
    }

    /// About what it takes in memory.
    pub(super) fn bytes(&self) -> usize {
        self.record().events.values().map(|(_, event)| event_bytes(event)).sum()
    }

    /// Hosts of which not every image has ended, and how many have.
    pub(super) fn pending(&self) -> (Vec<String>, usize) {
        let record = self.record();
        let count = |is: &dyn Fn(&Key) -> bool| record.events.values().filter(|(key, _)| is(key)).count();
        let is_over = |host: &String| {
            let queued = count(&|key| matches!(key, Key::Queued(of, _) if of == host));
            queued > 0 && count(&|key| matches!(key, Key::Ended(of, _) if of == host)) >= queued
        };
        let (over, pending): (Vec<String>, Vec<String>) = self.request.hosts.names.iter().cloned().partition(is_over);
        (pending, over.len())
    }

    /// What is done and what has failed so far, for all hosts but these.
    pub(super) fn ended(&self, except: &[Member]) -> (u64, u64) {
        let record = self.record();
        let counts = |host: &String| except.iter().all(|member| member.name != *host);
        let events = || record.events.values().map(|(_, event)| event);
        let done = events().filter(|event| matches!(event, Event::Done(done) if counts(&done.host))).count();
        let failed = events().filter(|event| matches!(event, Event::HostFailed { host, .. } if counts(host))).count();
        (done as u64, failed as u64)
    }

    /// How it went with every image of every host that ended, for `status`.
    pub(super) fn rows(&self) -> Vec<TransferRow> {
        let row = |host: &str, image: &str, state, bytes| TransferRow {
            id: self.id,
            incoming: false,
            image: image.to_owned(),
            host: host.to_owned(),
            state,
            done_bytes: bytes,
            total_bytes: bytes,
            elapsed_ms: 0,
        };
        let ended = |(_, event): &(Key, Event)| match event {
            Event::Done(done) => {
                Some(TransferRow { elapsed_ms: done.elapsed_ms, ..row(&done.host, &done.image, TransferState::Done, done.sent_bytes) })
            }
            Event::HostFailed { host, image, failure } => {
                Some(row(host, image, TransferState::Failed(failure.causes.last().cloned().unwrap_or_default()), 0))
            }
            _ => None,
        };
        self.record().events.values().filter_map(ended).collect()
    }

    /// Something has happened.
    pub(super) fn tell(&self, event: Event) {
        let mut record = self.record();
        record.apply(event);
        let version = record.version;
        drop(record);
        self.version.send_replace(version);
    }

    /// It is over; an error when it could not be carried out as a whole.
    pub(super) fn end(&self, result: Result<(), Failure>) {
        let mut record = self.record();
        if record.result.is_none() {
            record.result = Some(result);
            record.goes_on = self.is_to_go_on() && !record.is_cancelled;
        }
        record.version += 1;
        let version = record.version;
        drop(record);
        self.version.send_replace(version);
    }

    /// A client has cancelled it: it goes on in no later life of the agent.
    pub(super) fn cancelled_by_client(&self) {
        self.record().is_cancelled = true;
    }

    /// Counts what happens.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Tells `events` all that has happened, and what happens, until the job is over: then its result. Steps may be left out for who is slow to
    /// read, the last word on anything never.
    pub(super) async fn follow(&self, events: &mpsc::Sender<Event>) -> Result<(), Failure> {
        let mut version = self.version.subscribe();
        let mut told = 0;
        loop {
            version.borrow_and_update();
            let (news, result) = {
                let record = self.record();
                let news: Vec<Event> = record.events.range(told + 1..).map(|(_, (_, event))| event.clone()).collect();
                told = record.version;
                (news, record.result.clone())
            };
            for event in news {
                let _ = events.send(event).await;
            }
            if let Some(result) = result {
                return result;
            }
            // The sender is in `self`.
            let _ = version.changed().await;
        }
    }

    /// What failed, or was never begun: hosts, and images as they were asked for. `None`: it is not over yet.
    pub(super) fn failed(&self) -> Option<Vec<(String, String)>> {
        let mut failed = {
            let record = self.record();
            record.result.as_ref()?;
            let failed = |(_, event): &(Key, Event)| match event {
                Event::HostFailed { host, image, .. } => Some((host.clone(), image.clone())),
                _ => None,
            };
            record.events.values().filter_map(failed).collect::<Vec<_>>()
        };
        // Names of images differ before and after: a host of which not all have ended gets all again, which costs nothing where it has them.
        failed.extend(self.unfinished());
        Some(failed)
    }

    /// Ends it, with a reason that is one for all that is not done: host by host, so that `status` shows it.
    pub(super) fn fail(&self, failure: Failure) {
        let unfinished = self.unfinished();
        for (host, image) in unfinished {
            self.tell(Event::HostFailed { host, image, failure: failure.clone() });
        }
        self.end(Err(failure));
    }

    /// Images that are not on their hosts, and of which it was not said why.
    fn unfinished(&self) -> Vec<(String, String)> {
        let record = self.record();
        // Queued and ended images of each host.
        let mut counts: HashMap<&str, (usize, usize)> = HashMap::new();
        for (key, _) in record.events.values() {
            match key {
                Key::Queued(host, _) => counts.entry(host).or_default().0 += 1,
                Key::Ended(host, _) => counts.entry(host).or_default().1 += 1,
                _ => {}
            }
        }
        let is_unfinished = |host: &str| counts.get(host).is_some_and(|(queued, ended)| ended < queued);
        let unfinished = |(_, event): &(Key, Event)| match event {
            Event::Queued { host, image } if is_unfinished(host) => Some((host.clone(), image.clone())),
            _ => None,
        };
        record.events.values().filter_map(unfinished).collect()
    }

    /// What its images were when it began.
    pub(super) fn resolved(&self) -> Vec<Resolved> {
        let resolved = |(_, event): &(Key, Event)| if let Event::Resolved(resolved) = event { Some(resolved.clone()) } else { None };
        self.record().events.values().filter_map(resolved).collect()
    }

    /// It has ended.
    pub(super) fn is_over(&self) -> bool {
        self.record().result.is_some()
    }

    fn record(&self) -> std::sync::MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    fn apply(&mut self, event: Event) {
        let Some(key) = self.key(&event) else { return };
        if self.events.len() >= EVENTS && !self.versions.contains_key(&key) {
            return;
        }
        if let Key::Ended(host, _) = &key {
            self.forget_steps(host);
        }
        self.version += 1;
        if let Some(old) = self.versions.insert(key.clone(), self.version) {
            self.events.remove(&old);
        }
        self.events.insert(self.version, (key, event));
    }

    /// How far something was that has ended interests nobody. The images of a host go one after the other.
    fn forget_steps(&mut self, host: &str) {
        let is_step =
            |key: &Key| matches!(key, Key::Progress(of, ..) | Key::Drawn(of, _) | Key::Hashing(of) | Key::Waiting(of) if of == host);
        self.events.retain(|_, (key, _)| !is_step(key));
        self.versions.retain(|key, _| !is_step(key));
    }

    /// `None` for an event that does not belong to a send, or not to what was planned.
    fn key(&self, event: &Event) -> Option<Key> {
        Some(match event {
            Event::Accepted { .. } => Key::Accepted,
            Event::Resolved(resolved) => Key::Resolved(resolved.image.clone()),
            Event::Moved(moved) => Key::Moved(moved.image.clone()),
            Event::Queued { host, image } => Key::Queued(host.clone(), image.clone()),
            Event::Planned(planned) => Key::Planned(planned.host.clone(), planned.image.clone()),
            Event::Progress(progress) => {
                let planned = self.versions.get(&Key::Planned(progress.host.clone(), progress.image.clone()))?;
                let (_, Event::Planned(planned)) = self.events.get(planned)? else { return None };
                planned.layers.iter().find(|layer| layer.digest == progress.digest)?;
                Key::Progress(progress.host.clone(), progress.image.clone(), progress.digest)
            }
            Event::Drawn(drawn) => Key::Drawn(drawn.host.clone(), drawn.image.clone()),
            Event::Hashing(hashing) => Key::Hashing(hashing.host.clone()),
            Event::Waiting { host, .. } => Key::Waiting(host.clone()),
            Event::Done(done) => Key::Ended(done.host.clone(), done.image.clone()),
            Event::HostFailed { host, image, .. } => Key::Ended(host.clone(), image.clone()),
            Event::Summary(_) => Key::Summary,
            _ => return None,
        })
    }
}

/// About what an event takes in memory: its texts twice, because they are keys as well.
pub(super) fn event_bytes(event: &Event) -> usize {
    512 + 2 * proto::frame::encode_body(event).len()
}

/// What of a job is sent again: the request for it. Every image that failed somewhere goes to every host where something did: what is there
/// already does not travel.
pub(super) fn retry(job: &Job, detach: bool) -> Result<Send, Failure> {
    let id = job.id;
    let failed = job.failed().ok_or_else(|| failure(FailureKind::Usage, format!("send {id} is still under way")))?;
    let mut request = Send { detach, ..job.request.clone() };
    if failed.is_empty() {
        let whole = job.record().result.as_ref().is_some_and(Result::is_err);
        return if whole { Ok(request) } else { Err(failure(FailureKind::Usage, format!("nothing of send {id} failed"))) };
    }
    let mut seen = HashSet::new();
    request.hosts.names = failed.iter().map(|(host, _)| host.clone()).filter(|host| seen.insert(host.clone())).collect();
    let mut seen = HashSet::new();
    request.images = failed.iter().map(|(_, image)| image.clone()).filter(|image| seen.insert(image.clone())).collect();
    // The images are named one by one now.
    request.all_tags = false;
    Ok(request)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use proto::control::{Hosts, Planned, PlannedLayer, Platforms, Progress, Summary};

    use super::*;

    /// Of one image to two hosts.
    pub(in crate::control) fn request() -> Send {
        Send {
            images: vec!["demo:1".to_owned()],
            hosts: Hosts { names: vec!["b".to_owned(), "c".to_owned()], ..Hosts::default() },
            rename: None,
            platforms: Platforms::default(),
            all_tags: true,
            dry_run: false,
            limit_bytes_per_s: None,
            host_limit_bytes_per_s: None,
            max_parallel: None,
            canary: None,
            stop_on_failure: false,
            detach: false,
            from: None,
        }
    }

    fn job() -> Arc<Job> {
        let job = Job::new(7, request(), Duration::ZERO, Asker::Client, &CancellationToken::new());
        job.tell(Event::Accepted { id: 7 });
        job
    }

    fn planned(host: &str) -> Event {
        let layers = vec![PlannedLayer { digest: Digest::of(b"a"), size_bytes: 9, present_bytes: 0 }];
        Event::Planned(Planned { host: host.to_owned(), image: "demo:1".to_owned(), layers, send_bytes: 9, present_bytes: 0 })
    }

    fn progress(host: &str, verified_bytes: u64) -> Event {
        Event::Progress(Progress { host: host.to_owned(), image: "demo:1".to_owned(), digest: Digest::of(b"a"), verified_bytes })
    }

    fn failed(host: &str) -> Event {
        Event::HostFailed { host: host.to_owned(), image: "demo:1".to_owned(), failure: failure(FailureKind::NoSpace, "full") }
    }

    fn summary() -> Event {
        Event::Summary(Summary { total: 2, done: 1, failed: 1, egress_bytes: 9, elapsed_ms: 1 })
    }

    async fn followed(job: &Job) -> Vec<Event> {
        let (events, mut receiver) = mpsc::channel(64);
        job.follow(&events).await.unwrap();
        drop(events);
        let mut all = vec![];
        while let Some(event) = receiver.recv().await {
            all.push(event);
        }
        all
    }

    #[tokio::test]
    async fn who_comes_late_hears_the_last_word_on_everything() {
        let job = job();
        for event in
            [planned("b"), planned("c"), progress("b", 3), progress("b", 6), progress("c", 2), progress("x", 1), failed("c"), summary()]
        {
            job.tell(event);
        }
        job.end(Ok(()));
        assert_eq!(followed(&job).await, [Event::Accepted { id: 7 }, planned("b"), planned("c"), progress("b", 6), failed("c"), summary()]);
    }

    #[tokio::test]
    async fn who_is_there_hears_it_as_it_happens() {
        let job = job();
        let (events, mut receiver) = mpsc::channel(1);
        let following = {
            let job = job.clone();
            tokio::spawn(async move { job.follow(&events).await })
        };
        assert!(matches!(receiver.recv().await, Some(Event::Accepted { id: 7, .. })));
        for step in [planned("b"), progress("b", 1), progress("b", 9)] {
            job.tell(step.clone());
            assert_eq!(receiver.recv().await, Some(step));
        }
        job.end(Err(failure(FailureKind::ShuttingDown, "over")));
        assert_eq!(following.await.unwrap().unwrap_err().kind, FailureKind::ShuttingDown);
    }

    #[test]
    fn what_failed_is_asked_for_again_and_nothing_else() {
        let job = job();
        assert_eq!(retry(&job, false).unwrap_err().kind, FailureKind::Usage, "not over yet");
        job.tell(failed("c"));
        job.end(Ok(()));
        let again = retry(&job, true).unwrap();
        assert_eq!((again.hosts.names, again.images), (vec!["c".to_owned()], vec!["demo:1".to_owned()]));
        assert!(again.detach && !again.all_tags);
    }
}
