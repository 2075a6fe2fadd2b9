//! The Unix socket for `imgctl`: one connection, one request, its events. One file for each verb.

mod client;
mod diff;
mod doctor;
mod failure;
mod fleet;
mod hosts;
mod images;
mod job;
mod jobs;
mod journal;
mod list;
mod load;
mod peers;
mod prune;
mod pull;
mod relay;
mod role;
mod roll_out;
mod save;
mod scrub;
mod send;
mod status;

use std::sync::Arc;
use std::time::Duration;

use proto::control::{Event, Failure, FailureKind, Request};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tracing::{Instrument, debug, error, info_span};

use self::client::Client;
use self::jobs::Jobs;
pub use self::journal::Journal;
pub use self::role::{RoleError, Roles};
use crate::store::Store;
use crate::sys::socket::PeerUser;
use crate::transfer::{Context, Relay};

/// How long another host may take to say what images it has: who asks a whole fleet does not wait for a dead one.
const ANSWER_MS: u64 = 8_000;

/// Clients without a role that are answered at once: where the socket is open to everybody, they keep nobody else from it.
const STRANGERS: usize = 8;

/// A verb's result: what it had to say it has said as events.
type Done = Result<(), Failure>;

/// Serves clients until the agent stops. Then running requests are told, and get a moment to tell their clients. Jobs of an earlier life of the
/// agent that go on without a client are gone on with.
pub async fn serve<S: Store>(
    context: Arc<Context<S>>,
    journal: Journal,
    (listener, roles): (UnixListener, Roles),
    mut relays: mpsc::Receiver<Relay>,
) {
    let (roles, strangers) = (Arc::new(roles), Arc::new(Semaphore::new(STRANGERS)));
    let jobs = Arc::new(send::go_on(&context, journal).await);
    let (mut clients, mut relayed) = (JoinSet::new(), JoinSet::new());
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    let user = crate::sys::socket::peer_user(&socket);
                    let place = roles.of(&user).is_none().then(|| strangers.clone().try_acquire_owned());
                    if matches!(place, Some(Err(_))) {
                        continue;
                    }
                    let span = info_span!("control", uid = user.uid, pid = user.pid);
                    let answering = answer(context.clone(), jobs.clone(), socket, user, roles.clone());
                    clients.spawn(async move { (answering.await, place).0 }.instrument(span));
                }
                Err(error) => {
                    // Out of file descriptors: clients that end give some back.
                    debug!(%error, "client not accepted");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            },
            Some(ended) = clients.join_next() => {
                if let Err(error) = ended {
                    error!(%error, "answering imgctl failed");
                }
            }
            Some(relay) = relays.recv() => {
                let span = info_span!("relay", peer = relay.peer.name());
                relayed.spawn(relay::answer(context.clone(), jobs.clone(), relay).instrument(span));
            }
            Some(ended) = relayed.join_next() => {
                if let Err(error) = ended {
                    error!(%error, "sending for a peer failed");
                }
            }
            () = context.shutdown.cancelled() => break,
        }
    }
    // Jobs hear of it themselves; then those who follow them.
    jobs.ended().await;
    while relayed.join_next().await.is_some() {}
    while clients.join_next().await.is_some() {}
}

async fn answer<S: Store>(context: Arc<Context<S>>, jobs: Arc<Jobs>, socket: UnixStream, user: PeerUser, roles: Arc<Roles>) {
    let (mut client, request) = match client::greet(socket).await {
        Ok(Some(greeted)) => greeted,
        Ok(None) => return,
        Err(error) => {
            debug!(%error, "client not understood");
            return;
        }
    };
    context.trust.audit().requested(&user, request.verb());
    let result = match roles.check(&user, &request) {
        Ok(()) => dispatch(&context, &jobs, &mut client, &user.to_string(), request).await,
        Err(refused) => {
            context.trust.audit().refused(&user.to_string(), request.verb(), &refused.causes.join(": "));
            Err(refused)
        }
    };
    if let Err(failure) = &result {
        debug!(causes = ?failure.causes, "failed");
    }
    client.event(result.map_or_else(Event::Failed, |()| Event::End)).await;
    client.close().await;
}

async fn dispatch<S: Store>(context: &Arc<Context<S>>, jobs: &Jobs, client: &mut Client, who: &str, request: Request) -> Done {
    // These have to hear of it themselves when the client goes: one reads from it, the other may go on without it.
    match request {
        Request::Load => return load::load(context, client, who).await,
        Request::Send(request) => return send::send(context, jobs, client, request, Duration::ZERO).await,
        Request::SendWaiting { send, wait_s } => return send::send(context, jobs, client, send, Duration::from_secs(wait_s)).await,
        Request::Retry(request) => return send::retry(context, jobs, client, request).await,
        request => {
            let gone = client.gone();
            tokio::select! {
                done = quick(context, jobs, client, who, request) => done,
                () = gone => Err(Failure { kind: FailureKind::Cancelled, causes: vec!["the client went away".to_owned()] }),
                () = context.shutdown.cancelled() => Err(failure::shutting_down()),
            }
        }
    }
}

async fn quick<S: Store>(context: &Arc<Context<S>>, jobs: &Jobs, client: &Client, who: &str, request: Request) -> Done {
    match request {
        Request::Send(_) | Request::SendWaiting { .. } | Request::Retry(_) | Request::Load => Ok(()),
        Request::Pull(request) => pull::pull(context, client, who, request).await,
        Request::List(hosts) => list::list(context, client, &hosts).await,
        Request::Peers => peers::peers(context, client).await,
        Request::Status(request) => status::status(context, jobs, client, &request).await,
        Request::Cancel(id) => status::cancel(context, jobs, id).await,
        Request::Save(request) => save::save(context, client, request).await,
        Request::Tag { image, name } => images::tag(context, who, &image, name).await,
        Request::Remove(images) => images::remove(context, client, who, &images).await,
        Request::Inspect(images) => images::inspect(context, client, &images).await,
        Request::Diff { image, hosts } => diff::diff(context, client, &image, &hosts).await,
        Request::WhoHas(image) => diff::who_has(context, client, &image).await,
        Request::Scrub => scrub::scrub(context, client).await,
        Request::Prune => prune::prune(context, client).await,
        Request::Fleet(request) => fleet::fleet(context, client, request).await,
        Request::Doctor(host) => doctor::doctor(context, client, host.as_deref()).await,
    }
}
