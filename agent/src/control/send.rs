//! `imgctl send`: every image to every host.

use std::sync::Arc;
use std::time::Instant;

use proto::control::{Event, Failure, FailureKind, Send, Summary, TransferState};
use proto::HostId;
use proto::host::Member;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::client::Client;
use super::failure::{self, failure};
use super::{Done, hosts, images};
use crate::store::{Query, Store};
use crate::transfer::{self, Context, Fan, Limit, SendJob, Sent};

/// Sends. With `detach` the client may go as soon as it knows the numbers; else its going cancels what is not done.
pub(super) async fn send<S: Store>(context: &Arc<Context<S>>, client: &Client, request: Send) -> Done {
    let plan = plan(context, &request).await?;
    let (events, mut receiver) = mpsc::channel(256);
    let running = context.shutdown.child_token();
    let mut to_accept = plan.queries.len() * plan.hosts.len();
    let job = tokio::spawn(run(context.clone(), request.clone(), plan, events, running.clone()));
    let forward = async {
        while let Some(event) = receiver.recv().await {
            to_accept -= usize::from(matches!(event, Event::Accepted { .. }));
            client.event(event).await;
            if request.detach && to_accept == 0 {
                return;
            }
        }
    };
    tokio::select! {
        () = forward => {}
        () = client.gone() => {
            if !request.detach {
                running.cancel();
            }
        }
    }
    if request.detach {
        return Ok(());
    }
    // Nobody listens any more: what the job still says must not make it wait.
    drop(receiver);
    match job.await {
        Ok(()) => Ok(()),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(failure::shutting_down()),
        },
    }
}

/// What is sent where: everything that can be wrong before the first connection.
struct Plan {
    queries: Vec<Query>,
    hosts: Vec<Member>,
}

async fn plan<S: Store>(context: &Context<S>, request: &Send) -> Result<Plan, Failure> {
    let members = context.trust.members().ok_or_else(|| failure(FailureKind::NoFleet, "this host is in no fleet"))?;
    let here = context.trust.name();
    let hosts = hosts::select(&members, &request.hosts, &here)?;
    if let Some(host) = hosts.iter().find(|host| host.name == here) {
        return Err(failure(FailureKind::Usage, format!("{} is this host: the image is here already", host.name)));
    }
    if hosts.is_empty() {
        return Err(failure(FailureKind::HostNotFound(String::new()), "there is no other host in the fleet"));
    }
    let mut queries = vec![];
    for image in &request.images {
        queries.extend(images::queries(context, image, request.all_tags).await?);
    }
    if queries.len() > 1 && request.rename.is_some() {
        return Err(failure(FailureKind::Usage, "--as names one image, but several are sent"));
    }
    Ok(Plan { queries, hosts })
}

async fn run<S: Store>(
    context: Arc<Context<S>>,
    request: Send,
    plan: Plan,
    events: mpsc::Sender<Event>,
    running: tokio_util::sync::CancellationToken,
) {
    let started = Instant::now();
    let limit = request.limit_bytes_per_s.map(|bytes_per_s| Arc::new(Limit::new(bytes_per_s)));
    // All at once unless it is said otherwise: they read from each other.
    let places = Arc::new(Semaphore::new(request.max_parallel.map_or(plan.hosts.len(), |most| most as usize).max(1)));
    let mut hosts = JoinSet::new();
    let mut planners = JoinSet::new();
    let members: Vec<HostId> = plan.hosts.iter().map(|host| host.id).collect();
    let is_shared = members.len() > 1 && !request.dry_run;
    let mut fan = || is_shared.then(|| Fan::start(context.trust.id(), members.clone(), &mut planners));
    let images: Vec<(Query, Option<Fan>)> = plan.queries.into_iter().map(|query| (query, fan())).collect();
    for host in plan.hosts {
        let mut jobs = vec![];
        for (query, fan) in &images {
            let transfer = context.transfers.start(false, &query.to_string(), &host.name, &running);
            let _ = events.send(Event::Accepted { id: transfer.id() }).await;
            let (rename, platforms) = (request.rename.clone(), request.platforms.clone());
            let (name, id, dry_run, limit) = (host.name.clone(), host.id, request.dry_run, limit.clone());
            let fan = fan.clone();
            jobs.push((SendJob { query: query.clone(), rename, platforms, host: name, id, dry_run, limit, fan }, transfer));
        }
        let (context, events, places) = (context.clone(), events.clone(), places.clone());
        hosts.spawn(async move {
            let _place = places.acquire_owned().await;
            let mut results = vec![];
            for (job, transfer) in jobs {
                results.push(one(&context, &job, &transfer, &events).await);
                // The plan of an image ends with its last host.
                drop(job);
            }
            results
        });
    }
    drop(images);
    let mut summary = Summary { total: 0, done: 0, failed: 0, egress_bytes: 0, elapsed_ms: 0 };
    while let Some(results) = hosts.join_next().await {
        for egress_bytes in results.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())) {
            summary.total += 1;
            match egress_bytes {
                Some(egress_bytes) => (summary.done, summary.egress_bytes) = (summary.done + 1, summary.egress_bytes + egress_bytes),
                None => summary.failed += 1,
            }
        }
    }
    summary.elapsed_ms = started.elapsed().as_millis() as u64;
    // The hosts hear that it is over.
    while planners.join_next().await.is_some() {}
    let _ = events.send(Event::Summary(summary)).await;
}

/// One image to one host; `None` when it failed.
async fn one<S: Store>(
    context: &Arc<Context<S>>,
    job: &SendJob,
    transfer: &transfer::Transfer,
    events: &mpsc::Sender<Event>,
) -> Option<u64> {
    match transfer::send(context, job, transfer, events).await {
        Ok(Sent { done, egress_bytes }) => {
            let _ = events.send(Event::Done(done)).await;
            Some(egress_bytes)
        }
        Err(error) => {
            let what = format!("cannot send {} to {}", job.query, job.host);
            let failure = failure::transfer(what, &job.host, &error);
            transfer.end(if failure.kind == FailureKind::Cancelled {
                TransferState::Cancelled
            } else {
                TransferState::Failed(error.to_string())
            });
            let _ = events.send(Event::HostFailed { host: job.host.clone(), image: job.query.to_string(), failure }).await;
            None
        }
    }
}
