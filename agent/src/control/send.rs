//! `imgctl send`: every image to every host.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use proto::control::{Event, Failure, FailureKind, Moved, Resolved, Retry, Send, Summary};
use proto::host::Member;
use proto::limits::SEND_PAIRS;
use proto::{HostId, Reference};

use super::client::Client;
use super::failure::{self, failure};
use super::job::{self, Asker, Job};
use super::jobs::Jobs;
use super::journal::Journal;
use super::{Done, hosts, images, relay, roll_out};
use crate::net::Peer;
use crate::store::{Query, Store};
use crate::transfer::{self, Context, Pinned};
use tracing::{error, info, warn};

/// What is sent where: everything that can be wrong before the first connection was looked at.
#[derive(Debug)]
pub(super) struct Plan {
    /// The images, held until the job ends.
    pub(super) images: Vec<Arc<Pinned>>,
    /// The hosts.
    pub(super) hosts: Vec<Member>,
    /// So many of them first.
    pub(super) canary: Option<u32>,
    /// The member that asked for it, when it was not a client of this host.
    pub(super) on_behalf_of: Option<HostId>,
}

/// Sends. A host that has not answered yet is waited for, for `wait`. With `detach` the client may go as soon as it has the number; else its going cancels what is not done.
pub(super) async fn send<S: Store>(context: &Arc<Context<S>>, jobs: &Jobs, client: &Client, request: Send, wait: Duration) -> Done {
    carry_out(context, jobs, client, request, wait, vec![]).await
}

/// `earlier`: what the images of an earlier send were, of which this one is the rest.
async fn carry_out<S: Store>(
    context: &Arc<Context<S>>,
    jobs: &Jobs,
    client: &Client,
    request: Send,
    wait: Duration,
    earlier: Vec<Resolved>,
) -> Done {
    let detach = request.detach;
    let job = begin(context, jobs, request, wait, &earlier).await?;
    if detach {
        // From here on it outlives this agent, too.
        if let Err(error) = jobs.save(&job).await {
            job.cancel.cancel();
            return Err(failure::store("cannot send without a client: what is under way cannot be kept on disk", &error));
        }
        client.event(Event::Accepted { id: job.id }).await;
        return Ok(());
    }
    let events = client.events();
    tokio::select! {
        result = job.follow(&events) => result,
        () = client.gone() => {
            job.cancel.cancel();
            Err(failure(FailureKind::Cancelled, "the client went away"))
        }
    }
}

/// Takes up what an earlier life of the agent has left: what is known of its jobs, and those that were to go on without a client.
pub(super) async fn go_on<S: Store>(context: &Arc<Context<S>>, journal: Journal) -> Jobs {
    let (jobs, pending) = match Jobs::open(journal, &context.shutdown).await {
        Ok(opened) => opened,
        Err(error) => {
            error!(%error, "what was sent before is not known");
            (Jobs::default(), vec![])
        }
    };
    context.transfers.after(jobs.last_id());
    jobs.all().iter().flat_map(|job| job.rows()).for_each(|row| context.transfers.remember(row));
    for job in pending {
        info!(job = job.id, "a send goes on");
        if let Err(failure) = go_on_with(context, &jobs, &job).await {
            fail(context, &job, failure);
            jobs.save_or_warn(&job).await;
        }
    }
    jobs
}

/// The hosts that have not got everything get the images that the others got.
async fn go_on_with<S: Store>(context: &Arc<Context<S>>, jobs: &Jobs, job: &Arc<Job>) -> Result<(), Failure> {
    let members = context.trust.members().ok_or_else(|| failure(FailureKind::NoFleet, "this host is in no fleet"))?;
    let (pending, over) = job.pending();
    if over > 0 && pending.is_empty() {
        // What is missing is its end.
        let (done, failed) = job.ended(&[]);
        job.tell(Event::Summary(Summary { total: done + failed, done, failed, egress_bytes: 0, elapsed_ms: 0 }));
        job.end(Ok(()));
        return jobs.save(job).await.map_err(|error| failure::store("cannot keep what was sent", &error));
    }
    if let Some(from) = &job.request.from {
        let source = hosts::one(&members, &context.peers, from, "--from")?;
        jobs.spawn(job.clone(), relay::run(context.clone(), job.clone(), source));
        return Ok(());
    }
    let by_name = |name: &String| members.members.iter().find(|member| member.name == *name).cloned();
    let canary = job.request.canary.map(|canary| canary.saturating_sub(over as u32)).filter(|canary| *canary > 0);
    let hosts = pending.iter().filter_map(by_name).collect();
    jobs.spawn(job.clone(), go_on_here(context.clone(), job.clone(), hosts, canary));
    Ok(())
}

/// Ends a job of an earlier life of the agent that does not go on.
fn fail<S>(context: &Context<S>, job: &Job, failure: Failure) {
    let before = job.rows().len();
    job.fail(failure);
    job.rows().into_iter().skip(before).for_each(|row| context.transfers.remember(row));
}

/// An engine that starts later than this agent, as after a boot, is waited for as a host is.
async fn go_on_here<S: Store>(context: Arc<Context<S>>, job: Arc<Job>, hosts: Vec<Member>, canary: Option<u32>) {
    let mut waiting = transfer::Retry::default();
    let images = loop {
        let failure = match images_again(&context, &job).await {
            Ok(images) => break images,
            Err(failure) => failure,
        };
        let pause = if failure.kind == FailureKind::Store { waiting.next(0) } else { None };
        let Some(pause) = pause else {
            warn!(job = job.id, causes = ?failure.causes, "a send does not go on");
            return fail(&context, &job, failure);
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = job.cancel.cancelled() => return job.end(Err(self::failure(FailureKind::Cancelled, "it was cancelled"))),
        }
    };
    let plan = Plan { images, hosts, canary, on_behalf_of: None };
    roll_out::run(context, job, plan).await;
}

/// The images that the others got.
async fn images_again<S: Store>(context: &Context<S>, job: &Job) -> Result<Vec<Arc<Pinned>>, Failure> {
    let mut images = vec![];
    for resolved in job.resolved() {
        let what = format!("cannot go on to send {} as it was", resolved.image);
        let image = Pinned::again(&*context.store, images::query(&resolved.image)?, &resolved.root).await;
        images.push(Arc::new(image.map_err(|error| failure::store(what, &error))?));
    }
    if images.is_empty() { self::images(context, &job.request).await } else { Ok(images) }
}

/// Sends again what failed of an earlier send.
pub(super) async fn retry<S: Store>(context: &Arc<Context<S>>, jobs: &Jobs, client: &Client, request: Retry) -> Done {
    let job = jobs.find(Some(request.id))?;
    let again = job::retry(&job, request.detach)?;
    carry_out(context, jobs, client, again, job.wait, job.resolved()).await
}

/// Looks at everything that can be wrong, and begins.
async fn begin<S: Store>(
    context: &Arc<Context<S>>,
    jobs: &Jobs,
    mut request: Send,
    wait: Duration,
    earlier: &[Resolved],
) -> Result<Arc<Job>, Failure> {
    let members = context.trust.members().ok_or_else(|| failure(FailureKind::NoFleet, "this host is in no fleet"))?;
    let source = match request.from.as_deref().map(|from| hosts::one(&members, &context.peers, from, "--from")).transpose()? {
        // Asked for by its name, it is still this host.
        Some(source) if source.id == context.trust.id() => None,
        source => source,
    };
    let source_name = source.as_ref().map_or_else(|| context.trust.name(), |source| source.name.clone());
    let selected = hosts::select(&members, &context.peers, &request.hosts, &source_name)?;
    check(&request, &selected, &source_name)?;
    request.hosts = hosts::named(&selected);
    let Some(source) = source else {
        let images = images(context, &request).await?;
        let moved: Vec<Moved> = images.iter().filter_map(|image| moved(image, earlier)).collect();
        let plan = Plan { images, hosts: selected, canary: request.canary, on_behalf_of: None };
        let job = roll_out(context, jobs, request, wait, Asker::Client, plan);
        moved.into_iter().for_each(|moved| job.tell(Event::Moved(moved)));
        return Ok(job);
    };
    if !wait.is_zero() {
        return Err(failure(FailureKind::Usage, "the source of a send is not told to wait: --wait goes without --from"));
    }
    let job = jobs.begin(context.transfers.number(), request, wait, Asker::Client, &context.shutdown);
    jobs.spawn(job.clone(), relay::run(context.clone(), job.clone(), source));
    Ok(job)
}

/// What a peer wants to be sent from here, with the rights of that peer: it may have what it could pull.
pub(super) async fn begin_for<S: Store>(
    context: &Arc<Context<S>>,
    jobs: &Jobs,
    mut request: Send,
    asker: &Peer,
) -> Result<Arc<Job>, Failure> {
    let members = context.trust.members().ok_or_else(|| failure(FailureKind::NoFleet, "this host is in no fleet"))?;
    let here = context.trust.name();
    // Whoever asks has looked up the names: patterns are for people.
    let by_name = |name: &String| members.members.iter().find(|member| member.name == *name).cloned();
    let selected: Vec<Member> = request.hosts.names.iter().filter_map(by_name).collect();
    if selected.len() != request.hosts.names.len() || request.hosts.all || selected.len() > members.members.len() {
        return Err(failure(FailureKind::Usage, format!("{} asks for hosts that are not known on {here}", asker.name())));
    }
    check(&request, &selected, &here)?;
    request.hosts = hosts::named(&selected);
    let images = images(context, &request).await?;
    for image in &images {
        // What it is decides, not what it was called: an ID may look like a name.
        let (query, held) = (image.query(), image.held());
        let decision = transfer::may_get(context, &asker.id(), held.image.reference.as_ref(), held).await;
        match decision.map_err(|error| failure::store(format!("cannot send {query}"), &error))? {
            Some(decision) => context.trust.audit().relay_accepted(asker.name(), &query.to_string(), &held.image_id, &decision.rule),
            None => {
                context.trust.audit().refused(asker.name(), &format!("sending of {query}"), "policy");
                return Err(failure(FailureKind::Denied, format!("{} may not pull {query} from {here}", asker.name())));
            }
        }
    }
    let plan = Plan { images, hosts: selected, canary: request.canary, on_behalf_of: Some(asker.id()) };
    Ok(roll_out(context, jobs, request, Duration::ZERO, Asker::Peer, plan))
}

fn roll_out<S: Store>(context: &Arc<Context<S>>, jobs: &Jobs, request: Send, wait: Duration, asker: Asker, plan: Plan) -> Arc<Job> {
    let job = jobs.begin(context.transfers.number(), request, wait, asker, &context.shutdown);
    jobs.spawn(job.clone(), roll_out::run(context.clone(), job.clone(), plan));
    job
}

fn check(request: &Send, hosts: &[Member], source: &str) -> Result<(), Failure> {
    if let Some(host) = hosts.iter().find(|host| host.name == source) {
        let name = &host.name;
        let what = if request.from.is_some() { format!("{name} is the source") } else { format!("{name} is this host") };
        return Err(failure(FailureKind::Usage, format!("{what}: the image is there already")));
    }
    if hosts.is_empty() {
        let what =
            if request.hosts.except.is_empty() { "there is no other host in the fleet" } else { "no host is left with these exceptions" };
        return Err(failure(FailureKind::HostNotFound(String::new()), what));
    }
    check_name(request, request.images.len())
}

fn check_name(request: &Send, images: usize) -> Result<(), Failure> {
    if images > 1 && request.rename.is_some() {
        return Err(failure(FailureKind::Usage, "--as names one image, but several are sent"));
    }
    check_rename(request.rename.as_ref())
}

/// A digest in a name is that of its image already: nobody gives it.
pub(super) fn check_rename(rename: Option<&Reference>) -> Result<(), Failure> {
    match rename.filter(|name| name.digest().is_some()) {
        Some(name) => {
            Err(failure(FailureKind::Usage, format!("cannot name an image {}: a name with a digest cannot be given", name.familiar())))
        }
        None => Ok(()),
    }
}

/// The name of an image leads elsewhere than in an earlier send.
fn moved(image: &Pinned, earlier: &[Resolved]) -> Option<Moved> {
    let (name, held) = (image.query().to_string(), image.held());
    let before = earlier.iter().find(|before| before.image == name && before.root != held.image.root.digest)?;
    Some(Moved { image: name, sent: before.image_id, image_id: Some(held.image_id) })
}

/// The images that are meant, each once. Absent ones are an error now, not later.
async fn images<S: Store>(context: &Context<S>, request: &Send) -> Result<Vec<Arc<Pinned>>, Failure> {
    let mut queries = vec![];
    for image in &request.images {
        queries.extend(images::queries(context, image, request.all_tags).await?);
    }
    let mut seen = HashSet::new();
    queries.retain(|query: &Query| seen.insert(query.to_string()));
    check_name(request, queries.len())?;
    let pairs = queries.len() * request.hosts.names.len();
    if pairs > SEND_PAIRS {
        let what = format!("{} images to {} hosts are more than one send takes", queries.len(), request.hosts.names.len());
        return Err(failure(FailureKind::Usage, what));
    }
    let mut pinned = Vec::with_capacity(queries.len());
    for query in queries {
        let what = format!("cannot send {query}");
        let image = Pinned::new(&*context.store, query).await.map_err(|error| failure::store(what, &error))?;
        pinned.push(Arc::new(image));
    }
    Ok(pinned)
}
