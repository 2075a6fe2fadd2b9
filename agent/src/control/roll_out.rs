//! Carries out a send: which host when, and what is counted.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use proto::control::{Event, FailureKind, Moved, Resolved, Summary, TransferState};
use proto::host::Member;
use proto::peer::Missing;
use proto::{Digest, HostId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::failure::{self, failure};
use super::job::Job;
use super::send::Plan;
use crate::store::{Query, Store};
use crate::transfer::{self, Context, Fan, Limit, Pinned, SendJob, Sent, Transfer, TransferError};

/// Steps of transfers that the job has not taken note of yet.
const STEPS: usize = 256;

/// Sends what is planned, and ends the job.
pub(super) async fn run<S: Store>(context: Arc<Context<S>>, job: Arc<Job>, plan: Plan) {
    let started = Instant::now();
    let (events, mut steps) = mpsc::channel(STEPS);
    let telling = async {
        while let Some(event) = steps.recv().await {
            job.tell(event);
        }
    };
    let ((mut summary, mut planners), ()) = tokio::join!(RollOut::new(&context, &job, plan, events).run(), telling);
    summary.elapsed_ms = started.elapsed().as_millis() as u64;
    job.tell(Event::Summary(summary));
    let stopped = context.shutdown.is_cancelled();
    job.end(if stopped { Err(failure::shutting_down()) } else { Ok(()) });
    // The hosts hear that it is over.
    while planners.join_next().await.is_some() {}
}

/// One host, and every image for it.
struct Errand {
    host: String,
    sends: Vec<(SendJob, Transfer)>,
}

struct RollOut<'a, S> {
    context: &'a Arc<Context<S>>,
    images: Vec<Arc<Pinned>>,
    /// Done and failed before the agent was restarted.
    before: (u64, u64),
    waves: Vec<Vec<Errand>>,
    with_canary: bool,
    stop_on_failure: bool,
    dry_run: bool,
    places: Arc<Semaphore>,
    /// Stops what is under way.
    stop: CancellationToken,
    /// The host because of which nothing more is begun.
    culprit: Arc<OnceLock<String>>,
    planners: JoinSet<()>,
    egress_bytes: Arc<AtomicU64>,
    events: mpsc::Sender<Event>,
}

impl<'a, S: Store> RollOut<'a, S> {
    fn new(context: &'a Arc<Context<S>>, job: &Job, plan: Plan, events: mpsc::Sender<Event>) -> Self {
        let request = &job.request;
        let stop = job.cancel.child_token();
        let limit = request.limit_bytes_per_s.map(|bytes_per_s| Arc::new(Limit::new(bytes_per_s)));
        let egress_bytes = Arc::new(AtomicU64::new(0));
        let mut planners = JoinSet::new();
        let members: Vec<HostId> = plan.hosts.iter().map(|host| host.id).collect();
        // What a receiver has to be told beyond an offer goes with a share of it.
        let is_shared = members.len() > 1 || plan.on_behalf_of.is_some() || request.host_limit_bytes_per_s.is_some();
        let at_once = request.max_parallel.is_none() && plan.canary.is_none();
        let wants_fan = is_shared && (!request.dry_run || plan.on_behalf_of.is_some());
        let links = match request.limit_bytes_per_s.into_iter().chain(request.host_limit_bytes_per_s).min() {
            Some(limit) => Arc::new(Mutex::new(context.links.lock().unwrap_or_else(PoisonError::into_inner).limited(limit))),
            None => context.links.clone(),
        };
        let mut fan = || wants_fan.then(|| Fan::start(context.trust.id(), members.clone(), at_once, links.clone(), &mut planners));
        let images: Vec<(Arc<Pinned>, Option<Fan>)> = plan.images.iter().map(|image| (image.clone(), fan())).collect();
        let errand = |host: Member| {
            let send = |(image, fan): &(Arc<Pinned>, Option<Fan>)| {
                let transfer = context.transfers.start(job.id, false, &image.query().to_string(), &host.name, &stop);
                let send = SendJob {
                    image: image.clone(),
                    rename: request.rename.clone(),
                    platforms: request.platforms.clone(),
                    host: host.name.clone(),
                    id: host.id,
                    dry_run: request.dry_run,
                    wait: job.wait,
                    limit: limit.clone(),
                    host_limit_bytes_per_s: request.host_limit_bytes_per_s,
                    on_behalf_of: plan.on_behalf_of,
                    fan: fan.clone(),
                    egress_bytes: egress_bytes.clone(),
                };
                (send, transfer)
            };
            Errand { host: host.name.clone(), sends: images.iter().map(send).collect() }
        };
        // All at once unless it is said otherwise: they read from each other.
        let places = request.max_parallel.map_or(plan.hosts.len(), |most| most as usize).max(1);
        let before = job.ended(&plan.hosts);
        let waves = waves(plan.hosts.into_iter().map(errand).collect(), plan.canary);
        Self {
            context,
            images: plan.images,
            before,
            with_canary: waves.len() > 1,
            waves,
            stop_on_failure: request.stop_on_failure,
            dry_run: request.dry_run,
            places: Arc::new(Semaphore::new(places)),
            stop,
            culprit: Arc::default(),
            planners,
            egress_bytes,
            events,
        }
    }

    /// What it came to, and the tasks that tell the hosts of its end.
    async fn run(mut self) -> (Summary, JoinSet<()>) {
        for image in &self.images {
            let held = image.held();
            let resolved = Resolved { image: image.query().to_string(), root: held.image.root.digest, image_id: held.image_id };
            let _ = self.events.send(Event::Resolved(resolved)).await;
        }
        for (send, _) in self.waves.iter().flatten().flat_map(|errand| &errand.sends) {
            let _ = self.events.send(Event::Queued { host: send.host.clone(), image: send.image.query().to_string() }).await;
        }
        let (done, failed) = self.before;
        let mut summary = Summary { total: done + failed, done, failed, egress_bytes: 0, elapsed_ms: 0 };
        let mut forecasts: HashMap<Query, Vec<Vec<Missing>>> = HashMap::new();
        for (number, wave) in std::mem::take(&mut self.waves).into_iter().enumerate() {
            let is_canary = self.with_canary && number == 0;
            let mut running = JoinSet::new();
            let mut wave = wave.into_iter();
            let mut next = wave.next();
            loop {
                // In the order in which they were named, as places become free.
                let place = self.places.clone().acquire_owned();
                tokio::select! {
                    biased;
                    Ok(place) = place, if next.is_some() => {
                        if let Some(errand) = next.take() {
                            let stops = self.stops(is_canary);
                            running.spawn(carry_out(self.context.clone(), errand, place, stops, self.events.clone()));
                            next = wave.next();
                        }
                    }
                    Some(results) = running.join_next() => {
                        for (query, result) in results.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())) {
                            summary.total += 1;
                            match result {
                                Some(missing) => {
                                    summary.done += 1;
                                    forecasts.entry(query).or_default().push(missing);
                                }
                                None => summary.failed += 1,
                            }
                        }
                    }
                    else => break,
                }
            }
        }
        self.tell_moved().await;
        summary.egress_bytes = match self.dry_run {
            true => self.forecast(&forecasts),
            false => self.egress_bytes.load(Ordering::Relaxed),
        };
        (summary, self.planners)
    }

    /// What a failure means here.
    fn stops(&self, is_canary: bool) -> Stops {
        Stops { culprit: self.culprit.clone(), is_canary, stop: self.stop_on_failure.then(|| self.stop.clone()) }
    }

    /// Names that lead to another image by now: not to the one that was sent.
    async fn tell_moved(&self) {
        for image in &self.images {
            match image.moved(&*self.context.store).await {
                Ok(None) => {}
                Ok(Some(image_id)) => {
                    let sent = image.held().image_id;
                    let _ = self.events.send(Event::Moved(Moved { image: image.query().to_string(), sent, image_id })).await;
                }
                Err(error) => debug!(image = %image.query(), %error, "not known whether the name has moved"),
            }
        }
    }

    /// What would leave this host.
    fn forecast(&self, forecasts: &HashMap<Query, Vec<Vec<Missing>>>) -> u64 {
        let layers = |query: &Query| {
            let image = self.images.iter().find(|image| image.query() == query);
            image.map(|image| image.held().image.layers().iter().map(|layer| layer.descriptor.digest).collect()).unwrap_or_default()
        };
        forecasts.iter().map(|(query, hosts)| forecast(hosts, &layers(query))).sum()
    }
}

/// The canaries first, and everybody else behind them.
fn waves<T>(mut all: Vec<T>, canary: Option<u32>) -> Vec<Vec<T>> {
    let first = canary.map_or(0, |canary| canary as usize);
    if first == 0 || first >= all.len() {
        return vec![all];
    }
    let rest = all.split_off(first);
    vec![all, rest]
}

/// What one host sends so that all of these get what they lack: of a layer what nobody has, once; every other blob to everybody.
fn forecast(hosts: &[Vec<Missing>], layers: &HashSet<Digest>) -> u64 {
    let mut lacking: HashMap<Digest, Vec<&Missing>> = HashMap::new();
    for missing in hosts.iter().flatten() {
        lacking.entry(missing.digest).or_default().push(missing);
    }
    let rest = |missing: &&Missing| missing.size_bytes - missing.staged_bytes;
    let egress_bytes = |(digest, lacking): (&Digest, &Vec<&Missing>)| match layers.contains(digest) {
        true if lacking.len() < hosts.len() => 0,
        true => lacking.iter().map(rest).min().unwrap_or(0),
        false => lacking.iter().map(rest).sum(),
    };
    lacking.iter().map(egress_bytes).sum()
}

/// What a failure means for the others.
struct Stops {
    culprit: Arc<OnceLock<String>>,
    is_canary: bool,
    /// Stops those that are under way.
    stop: Option<CancellationToken>,
}

impl Stops {
    /// This host has failed.
    fn failed(&self, host: &str) {
        let is_first = (self.is_canary || self.stop.is_some()) && self.culprit.set(host.to_owned()).is_ok();
        if let Some(stop) = self.stop.as_ref().filter(|_| is_first) {
            stop.cancel();
        }
    }

    /// Why another host goes without the image: `is_begun` when it had a part of it already.
    fn culprit(&self, is_begun: bool) -> Option<&String> {
        self.culprit.get().filter(|_| !is_begun || self.stop.is_some())
    }
}

/// What the host lacked of every image; `None` where it failed.
async fn carry_out<S: Store>(
    context: Arc<Context<S>>,
    errand: Errand,
    _place: OwnedSemaphorePermit,
    stops: Stops,
    events: mpsc::Sender<Event>,
) -> Vec<(Query, Option<Vec<Missing>>)> {
    let mut results = vec![];
    for (job, transfer) in errand.sends {
        let is_begun = stops.culprit(false).is_none();
        let result = match is_begun {
            false => Err(TransferError::Cancelled),
            true => transfer::send(&context, &job, &transfer, &events).await,
        };
        let missing = match result {
            Ok(Sent { done, missing }) => {
                let _ = events.send(Event::Done(done)).await;
                Some(missing)
            }
            Err(error) => {
                let culprit = stops.culprit(is_begun).filter(|culprit| **culprit != job.host);
                failed(&job, &transfer, &error, culprit, &events).await;
                stops.failed(&errand.host);
                None
            }
        };
        // The plan of an image ends with its last host.
        results.push((job.image.query().clone(), missing));
    }
    results
}

async fn failed(job: &SendJob, transfer: &Transfer, error: &TransferError, culprit: Option<&String>, events: &mpsc::Sender<Event>) {
    let query = job.image.query();
    let what = format!("cannot send {query} to {}", job.host);
    let failure = match culprit {
        Some(culprit) if matches!(error, TransferError::Cancelled) => {
            let mut skipped = failure(FailureKind::Skipped(culprit.clone()), format!("{query} was not sent to {}", job.host));
            skipped.causes.push(format!("{culprit} failed before"));
            skipped
        }
        _ => failure::transfer(what, &job.host, error),
    };
    transfer.end(match failure.kind {
        FailureKind::Cancelled => TransferState::Cancelled,
        FailureKind::Skipped(_) => TransferState::Failed(failure.causes.last().cloned().unwrap_or_default()),
        _ => TransferState::Failed(error.to_string()),
    });
    let _ = events.send(Event::HostFailed { host: job.host.clone(), image: query.to_string(), failure }).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canaries_go_first() {
        let hosts = || vec!["a", "b", "c"];
        assert_eq!(waves(hosts(), None), [hosts()]);
        assert_eq!(waves(hosts(), Some(1)), [vec!["a"], vec!["b", "c"]]);
        assert_eq!(waves(hosts(), Some(3)), [hosts()], "all of them are canaries");
    }

    #[test]
    fn what_somebody_has_leaves_the_source_for_nobody() {
        let missing = |name: &str, size_bytes, staged_bytes| Missing { digest: Digest::of(name.as_bytes()), size_bytes, staged_bytes };
        let layers = HashSet::from(["base", "top"].map(|name| Digest::of(name.as_bytes())));
        let has_base = vec![missing("config", 7, 0), missing("top", 100, 20)];
        let has_nothing = vec![missing("config", 7, 0), missing("base", 1000, 0), missing("top", 100, 0)];
        assert_eq!(forecast(std::slice::from_ref(&has_nothing), &layers), 1107);
        assert_eq!(forecast(&[has_base, has_nothing], &layers), 2 * 7 + 80);
        assert_eq!(forecast(&[vec![], vec![]], &layers), 0);
    }
}
