//! A send from a third host: what is asked of it here, and what it does when it is asked.

use std::sync::Arc;
use std::time::Instant;

use proto::control::{Event, Failure, FailureKind, Hosts, Moved, Resolved, Send, Summary, TransferState};
use proto::host::Member;
use proto::limits::{RELAYED_LAYERS, SEND_PAIRS, STALL_TIMEOUT_MS};
use proto::peer::{Answer, Request, SHARED_OFFERS, SIGNS_OF_LIFE};
use proto::session::OutOfTurn;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::failure::{self, failure};
use super::job::{self, Job};
use super::jobs::Jobs;
use super::send;
use crate::net::NetError;
use crate::store::Store;
use crate::sys;
use crate::transfer::{Context, Relay, Retry, Transfer};

/// How long whoever asked may take to hear the last word.
const LAST_WORD_MS: u64 = 1_000;

/// Bytes of the images of one send, as a source names them.
const NAME_BYTES: usize = 4 * 1024 * 1024;

/// Bytes that a job keeps of what a source tells: some 10,000 images on their hosts, with a few layers each.
const KEPT_BYTES: usize = 24 * 1024 * 1024;

/// After so many bytes it is looked how much is kept.
const LOOK_BYTES: usize = 1024 * 1024;

/// Has `source` carry out the job, and ends it. A source that is lost is waited for, and asked again for what is not done.
pub(super) async fn run<S: Store>(context: Arc<Context<S>>, job: Arc<Job>, source: Member) {
    let started = Instant::now();
    let transfers = job.request.hosts.names.iter().map(|host| {
        let image = job.request.images.join(" ");
        context.transfers.start(job.id, false, &image, host, &job.cancel)
    });
    let transfers: Vec<Transfer> = transfers.collect();
    let cancelled = cancelled(&transfers);
    let asking = async {
        let (mut retry, mut egress_bytes) = (Retry::default(), 0);
        loop {
            let lost = match ask(&context, &job, &source, &transfers, &mut egress_bytes).await {
                Ok(()) => return Ok(egress_bytes),
                Err(Ended::Failed(failure)) => return Err(failure),
                Err(Ended::Lost(failure)) => failure,
            };
            let received_bytes = transfers.iter().map(Transfer::done_bytes).sum();
            let Some(pause) = retry.next(received_bytes) else { return Err(lost) };
            warn!(source = source.name, causes = ?lost.causes, "the source is lost, trying again");
            for host in job.pending().0 {
                job.tell(Event::Waiting { host, reason: format!("{} is lost", source.name) });
            }
            tokio::time::sleep(pause).await;
        }
    };
    let result = tokio::select! {
        result = asking => result,
        () = cancelled => Err(failure(FailureKind::Cancelled, format!("cannot send from {}: cancelled", source.name))),
    };
    for transfer in transfers.iter().filter(|transfer| transfer.is_running()) {
        match &result {
            Ok(_) => transfer.end(TransferState::Done),
            Err(failure) if failure.kind == FailureKind::Cancelled => transfer.end(TransferState::Cancelled),
            Err(failure) => transfer.end(TransferState::Failed(failure.causes.join(": "))),
        }
    }
    if let Ok(egress_bytes) = result {
        let (done, failed) = job.ended(&[]);
        let elapsed_ms = started.elapsed().as_millis() as u64;
        job.tell(Event::Summary(Summary { total: done + failed, done, failed, egress_bytes, elapsed_ms }));
    }
    job.end(result.map(drop));
}

/// How asking a source ended.
enum Ended {
    /// It says why not.
    Failed(Failure),
    /// It is gone, or leaves, after it was reached once; it may come back.
    Lost(Failure),
}

/// Carries out what a peer asks for, and tells it. Its going away cancels what is not done.
pub(super) async fn answer<S: Store>(context: Arc<Context<S>>, jobs: Arc<Jobs>, relay: Relay) {
    let Relay { peer, mut stream, request } = relay;
    let Some(_session) = peer.session() else {
        let busy = failure(FailureKind::Other, format!("{} has too many sessions at once here", peer.name()));
        let _ = stream.send(&Answer::Event(Event::Failed(busy))).await;
        return stream.flush().await;
    };
    let result = match send::begin_for(&context, &jobs, request, &peer).await {
        Err(failure) => Err(failure),
        Ok(job) => {
            let (events, mut receiver) = mpsc::channel(64);
            let following = async {
                let result = job.follow(&events).await;
                drop(events);
                result
            };
            let forwarding = async {
                loop {
                    let event = tokio::select! {
                        event = receiver.recv() => event,
                        _ = stream.given_up() => None,
                    };
                    let Some(event) = event else { break };
                    if event.is_job_news() && peer.hello().capabilities & SIGNS_OF_LIFE == 0 {
                        continue;
                    }
                    // Who does not read is as good as gone.
                    if !matches!(sys::deadline(STALL_TIMEOUT_MS, stream.send(&Answer::Event(event))).await, Some(Ok(()))) {
                        break;
                    }
                }
                // Who asked is gone, or all is said.
                job.cancel.cancel();
                receiver.close();
            };
            let (result, ()) = tokio::join!(following, forwarding);
            result
        }
    };
    let last = result.map_or_else(Event::Failed, |()| Event::End);
    let telling = async {
        match stream.send(&Answer::Event(last)).await {
            Ok(()) => stream.flush().await,
            Err(error) => debug!(host = peer.name(), %error, "who asked does not hear of the end"),
        }
    };
    let _ = sys::deadline(LAST_WORD_MS, telling).await;
}

async fn ask<S: Store>(
    context: &Context<S>,
    job: &Job,
    source: &Member,
    transfers: &[Transfer],
    egress_bytes: &mut u64,
) -> Result<(), Ended> {
    let what = || format!("cannot send from {}", source.name);
    let (pending, over) = job.pending();
    if over > 0 && pending.is_empty() {
        // It was lost before its last word.
        return Ok(());
    }
    let was_reached = over > 0 || !job.resolved().is_empty();
    let lost = |error: NetError, was_reached: bool| {
        let failure = failure::net(what(), &source.name, &error);
        if was_reached && error.is_passing() { Ended::Lost(failure) } else { Ended::Failed(failure) }
    };
    let peer = context.net.connect(&source.id).await.map_err(|error| lost(error, was_reached))?;
    if peer.hello().capabilities & SHARED_OFFERS == 0 {
        let old = format!("{} is too old to send for another host: update its imgd", source.name);
        return Err(Ended::Failed(failure(FailureKind::Unsupported, old)));
    }
    let (mut layers, mut name_bytes, mut told_bytes, mut given_up) = (0, 0, 0, vec![]);
    let hosts = Hosts { names: pending, ..Hosts::default() };
    let request = Send { from: None, detach: false, hosts, ..job.request.clone() };
    let mut stream = peer.request(&Request::Send(request)).await.map_err(|error| lost(error, true))?;
    loop {
        let event = match stream.receive::<Answer>().await.map_err(|error| lost(error, true))? {
            Answer::Event(event) => event,
            Answer::Refused(refusal) => {
                return Err(Ended::Failed(failure::net(what(), &source.name, &NetError::Answer(refusal))));
            }
            _ => return Err(lost(OutOfTurn("an answer that is no event").into(), true)),
        };
        if let Event::Planned(planned) = &event {
            layers += planned.layers.len() + 1;
        }
        if let Event::Resolved(Resolved { image, .. }) | Event::Moved(Moved { image, .. }) = &event {
            name_bytes += image.len() + size_of::<Event>();
        }
        if name_bytes > NAME_BYTES {
            return Err(lost(OutOfTurn("more images than any send has").into(), true));
        }
        told_bytes += job::event_bytes(&event);
        if told_bytes > LOOK_BYTES {
            // Most of what is told takes the place of what was told before.
            told_bytes = 0;
            if job.bytes() > KEPT_BYTES {
                return Err(lost(OutOfTurn("more news than any send has").into(), true));
            }
        }
        if layers > RELAYED_LAYERS {
            return Err(lost(OutOfTurn("more layers than any send has").into(), true));
        }
        match event {
            Event::End => {
                tell_all(given_up, job, transfers);
                return Ok(());
            }
            Event::Failed(mut failure) => {
                let leaves = failure.kind == FailureKind::ShuttingDown;
                failure.causes.insert(0, what());
                if leaves {
                    return Err(Ended::Lost(failure));
                }
                tell_all(given_up, job, transfers);
                return Err(Ended::Failed(failure));
            }
            // Its own number means nothing here.
            Event::Accepted { .. } => {}
            Event::Resolved(now) if job.resolved().iter().any(|before| before.image == now.image && before.root != now.root) => {
                let other = format!("{} is another image on {} now than when the send began", now.image, source.name);
                return Err(Ended::Failed(failure(FailureKind::ImageNotFound, other)));
            }
            // Of this attempt alone.
            Event::Summary(summary) => *egress_bytes = egress_bytes.saturating_add(summary.egress_bytes),
            event => match host(&event) {
                Some(host) if !job.request.hosts.names.contains(host) => {
                    warn!(source = source.name, "tells of a host that was not asked for");
                }
                None if !matches!(event, Event::Resolved(_) | Event::Moved(_)) => {
                    return Err(lost(OutOfTurn("an event that no send has").into(), true));
                }
                // Its last word says whether it leaves, which is no failure of the host, or somebody has cancelled this.
                _ if is_given_up(&event) => given_up.push(event),
                _ => tell_all([event], job, transfers),
            },
        }
        if given_up.len() > SEND_PAIRS {
            return Err(lost(OutOfTurn("more failures than any send has").into(), true));
        }
    }
}

fn is_given_up(event: &Event) -> bool {
    matches!(event, Event::HostFailed { failure, .. } if matches!(failure.kind, FailureKind::ShuttingDown | FailureKind::Cancelled))
}

fn tell_all(events: impl IntoIterator<Item = Event>, job: &Job, transfers: &[Transfer]) {
    for event in events {
        note(&event, job, transfers);
        job.tell(event);
    }
}

/// Resolves when a person has cancelled the job, all of whose transfers have one number.
async fn cancelled(transfers: &[Transfer]) {
    match transfers.first() {
        Some(first) => first.cancelled().cancelled_owned().await,
        None => std::future::pending().await,
    }
}

/// The host that an event is about.
fn host(event: &Event) -> Option<&String> {
    match event {
        Event::Queued { host, .. } => Some(host),
        Event::Planned(planned) => Some(&planned.host),
        Event::Progress(progress) => Some(&progress.host),
        Event::Drawn(drawn) => Some(&drawn.host),
        Event::Hashing(hashing) => Some(&hashing.host),
        Event::Waiting { host, .. } | Event::HostFailed { host, .. } => Some(host),
        Event::Done(done) => Some(&done.host),
        _ => None,
    }
}

/// For `status`.
fn note(event: &Event, job: &Job, transfers: &[Transfer]) {
    let of = |host: &String| job.request.hosts.names.iter().position(|name| name == host).and_then(|number| transfers.get(number));
    let Some(transfer) = host(event).and_then(of) else { return };
    match event {
        Event::Planned(planned) => transfer.progress(0, planned.send_bytes),
        Event::Drawn(drawn) => transfer.received(drawn.sources.iter().map(|source| source.received_bytes).sum()),
        Event::Waiting { .. } => transfer.waiting(),
        Event::Done(done) => {
            transfer.progress(done.sent_bytes, done.sent_bytes);
            transfer.end(TransferState::Done);
        }
        Event::HostFailed { failure, .. } => transfer.end(TransferState::Failed(failure.causes.join(": "))),
        _ => {}
    }
}
