//! Pulling: both sides of an offer that was asked for.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proto::control::{Done, Event, Hashing, Platforms, Progress, Pull, TransferState};
use proto::image::Selection;
use proto::limits::{OFFERED_BLOB_BYTES, OFFERS_BYTES};
use proto::peer::{Answer, FORMS, Offer, Refusal, Request, Want};
use proto::session::OutOfTurn;
use proto::session::send::Step;
use proto::{Platform, Reference, peer};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::interest::{Interest, News};
use super::offering::{self, Offering};
use super::receive;
use super::retry::Retry;
use super::send::display_name;
use super::serve::refuse;
use super::{Context, Limit, Pinned, STORE_CHANGES, Transfer, TransferError, refusal, rights};
use crate::net::{NetError, Peer, Stream};
use crate::store::{Form, Held, Query, Store, StoreError};
use crate::sys;

/// How long a source may take to offer what it is asked for.
const OFFER_MS: u64 = 600_000;

/// Brings an image here for `who` from one host that has it, through whatever happens on the way: a source that is lost is waited for, as a receiver is.
pub async fn pull<S: Store>(
    context: &Arc<Context<S>>,
    source: &Peer,
    pull: &Pull,
    who: &str,
    transfer: &Transfer,
    events: &mpsc::Sender<Event>,
) -> Result<Done, TransferError> {
    let cancelled = transfer.cancelled();
    let (mut retry, mut changes, mut total) = (Retry::default(), 0, Total::default());
    let mut peer: Result<Peer, NetError> = Ok(source.clone());
    let result = loop {
        let attempt = match &peer {
            Ok(peer) => pull_from(context, peer, pull, who, transfer, events, &mut total).await,
            Err(error) => Err(TransferError::Net(NetError::Lost(error.to_string()))),
        };
        let is_lost = peer.as_ref().is_ok_and(|peer| !peer.is_alive());
        let (pause, reason) = match attempt {
            // What is missing now is found out at once, but not for ever.
            Err(TransferError::Here(Refusal::StoreChanged) | TransferError::Refused(Refusal::StoreChanged)) if changes < STORE_CHANGES => {
                changes += 1;
                continue;
            }
            // It answers, and has others to serve first, or this host has room for others first.
            Err(TransferError::Refused(Refusal::Busy) | TransferError::Here(Refusal::Busy)) => {
                (Some(retry.queued()), Refusal::Busy.to_string())
            }
            Err(TransferError::Net(error)) if error.is_passing() => (retry.next(total.received_bytes), error.to_string()),
            Err(TransferError::Refused(Refusal::ShuttingDown) | TransferError::Here(Refusal::ShuttingDown))
                if !context.shutdown.is_cancelled() =>
            {
                (retry.next(total.received_bytes), Refusal::ShuttingDown.to_string())
            }
            // An engine is restarted, perhaps, after it has worked.
            Err(TransferError::Here(Refusal::StoreUnavailable(reason)) | TransferError::Refused(Refusal::StoreUnavailable(reason)))
                if total.was_planned =>
            {
                (retry.next(total.received_bytes), reason)
            }
            // What failed is the way to the source.
            Err(TransferError::Here(Refusal::Store(reason))) if is_lost => (retry.next(total.received_bytes), reason),
            result => break result,
        };
        let Some(pause) = pause else { break Err(TransferError::Net(NetError::Lost(reason))) };
        warn!(reason, "no connection, trying again");
        transfer.waiting();
        let _ = events.send(Event::Waiting { host: source.name().to_owned(), reason }).await;
        let reconnected = async {
            tokio::time::sleep(pause).await;
            context.net.connect(&source.id()).await
        };
        peer = tokio::select! {
            reconnected = reconnected => reconnected,
            () = cancelled.cancelled() => break Err(TransferError::Cancelled),
        };
    };
    if let Ok(done) = &result {
        transfer.progress(done.sent_bytes, done.sent_bytes);
    }
    transfer.end(match &result {
        Ok(_) => TransferState::Done,
        Err(TransferError::Cancelled) => TransferState::Cancelled,
        Err(error) => TransferState::Failed(error.to_string()),
    });
    result
}

/// What all attempts together have come to.
#[derive(Debug, Default)]
struct Total {
    /// It was known what is missing: the stores of both sides work, or have worked.
    was_planned: bool,
    received_bytes: u64,
    wire_bytes: u64,
}

async fn pull_from<S: Store>(
    context: &Arc<Context<S>>,
    peer: &Peer,
    pull: &Pull,
    who: &str,
    transfer: &Transfer,
    events: &mpsc::Sender<Event>,
    total: &mut Total,
) -> Result<Done, TransferError> {
    let wire_start_bytes = peer.wire_bytes();
    let platform = match &pull.platforms {
        Platforms::Receiver => Some(Platform::host()),
        Platforms::One(platform) => Some(platform.clone()),
        Platforms::All => None,
    };
    // A digest names the manifest as it is.
    let is_unpacked = context.store.properties().form == Form::Unpacked;
    let takes_any_form = is_unpacked && pull.image.digest().is_none() && peer.hello().capabilities & FORMS != 0;
    let cancelled = transfer.cancelled();
    let ask = async {
        let turn = peer.open_session().await;
        let request = peer::Pull { reference: pull.image.clone(), platform, dry_run: pull.dry_run };
        let mut stream = peer.request(&if takes_any_form { Request::PullUnpacked(request) } else { Request::Pull(request) }).await?;
        // It looks the image up, which takes a while where an engine has to save it.
        let answer = sys::deadline(OFFER_MS, stream.receive()).await.unwrap_or(Err(NetError::Silent(OFFER_MS / 1000)))?;
        Ok::<_, NetError>((turn, stream, answer))
    };
    // Until there is an offer; from then on the session itself hears of it, and tells the source.
    let (_turn, mut stream, answer) = tokio::select! {
        asked = ask => asked?,
        () = cancelled.cancelled() => return Err(TransferError::Cancelled),
    };
    let mut offer = match answer {
        Answer::Offer(offer) => offer,
        Answer::Refused(refusal) => return Err(TransferError::Refused(refusal)),
        _ => return Err(NetError::OutOfTurn(OutOfTurn("an answer to a pull")).into()),
    };
    if !answers(pull, &offer.image) {
        return Err(NetError::OutOfTurn(OutOfTurn("an offer of an image that was not asked for")).into());
    }
    offer.dry_run = pull.dry_run;
    // Whoever pulls names it.
    offer.image.reference = Some(pull.rename.clone().unwrap_or_else(|| pull.image.clone()));
    let image = offer.image.clone();
    let (news, mut receiver) = mpsc::channel(64);
    let (name, host) = (display_name(&image), peer.name().to_owned());
    let limit = pull.limit_bytes_per_s.map(|bytes_per_s| Arc::new(Limit::new(bytes_per_s)));
    let is_refused = Arc::<AtomicBool>::default();
    let interest = Interest { asked_here: Some(who), news: Some(news), limit, is_refused: is_refused.clone(), ..Interest::default() };
    let received = {
        let receiving = receive::receive(context, peer, &mut stream, offer, transfer.cancelled(), interest);
        let publishing = publish(&mut receiver, &host, &image, transfer, events);
        let (received, (image_is_planned, attempt_bytes)) = tokio::join!(receiving, publishing);
        total.received_bytes += received
            .as_ref()
            .ok()
            .and_then(|received| received.committed.as_ref())
            .map_or(attempt_bytes, |committed| committed.received_bytes);
        total.was_planned |= image_is_planned;
        total.wire_bytes += peer.wire_bytes() - wire_start_bytes;
        received.map_err(|refusal| match is_refused.load(Ordering::Relaxed) {
            _ if cancelled.is_cancelled() => TransferError::Cancelled,
            true => TransferError::Refused(refusal),
            false => TransferError::Here(refusal),
        })?
    };
    let plan = offering::plan(&host, &name, &image, &Want { missing: received.missing });
    let committed = received.committed;
    if pull.dry_run {
        context.trust.audit().planned(who, &format!("pull of {name}"), &received.rule);
    }
    let config_digest = image.id(&Platform::host()).unwrap_or(image.root.digest);
    Ok(Done {
        host,
        image: name,
        image_id: committed.as_ref().map_or(config_digest, |committed| committed.image_id),
        source_image_id: config_digest,
        config_digest,
        sent_bytes: total.received_bytes,
        wire_bytes: total.wire_bytes,
        sources: vec![],
        present_bytes: plan.present_bytes,
        layers_sent: plan.layers.iter().filter(|layer| layer.present_bytes < layer.size_bytes).count() as u64,
        layers_total: plan.layers.len() as u64,
        elapsed_ms: transfer.elapsed_ms(),
        replaced: committed.and_then(|committed| committed.replaced),
        dry_run: pull.dry_run,
    })
}

/// True when an offer is of the name, and of the digest, that was asked for: a digest is that of the image itself, not of something in it, and whoever
/// is asked does not choose what moves here.
fn answers(pull: &Pull, image: &proto::Image) -> bool {
    let named = |reference: &proto::Reference| {
        reference.repository() == pull.image.repository() && pull.image.tag().is_none_or(|tag| reference.tag() == Some(tag))
    };
    image.reference.as_ref().is_none_or(named) && pull.image.fits(&image.root.digest)
}

/// Turns the news of a session into events, until it ends. Whether it was known what is missing, and the bytes that came in it.
async fn publish(
    receiver: &mut mpsc::Receiver<News>,
    host: &str,
    image: &proto::Image,
    transfer: &Transfer,
    events: &mpsc::Sender<Event>,
) -> (bool, u64) {
    let name = display_name(image);
    let mut is_planned = false;
    let (mut total_bytes, mut staged_bytes, mut done_bytes, mut verified) = (0, 0, 0, HashMap::new());
    while let Some(news) = receiver.recv().await {
        match news {
            News::Wanted(missing) => {
                is_planned = true;
                staged_bytes = missing.iter().map(|missing| missing.staged_bytes).sum();
                let plan = offering::plan(host, &name, image, &Want { missing });
                total_bytes = plan.send_bytes;
                let _ = events.send(Event::Planned(plan)).await;
            }
            News::Hashing(peer::HashingProgress { done_bytes, total_bytes }) => {
                let (host, source) = (host.to_owned(), host.to_owned());
                let _ = events.try_send(Event::Hashing(Hashing { host, image: name.clone(), source, done_bytes, total_bytes }));
            }
            News::Progress(peer::Progress { digest, verified_bytes }) => {
                verified.insert(digest, verified_bytes);
                done_bytes = verified.values().sum::<u64>().saturating_sub(staged_bytes);
                transfer.progress(done_bytes.min(total_bytes), total_bytes);
                let (host, image) = (host.to_owned(), name.clone());
                let _ = events.try_send(Event::Progress(Progress { host, image, digest, verified_bytes }));
            }
        }
    }
    (is_planned, done_bytes)
}

async fn deny<S>(context: &Context<S>, peer: &Peer, stream: &mut Stream, reference: &proto::Reference) -> Result<(), NetError> {
    context.trust.audit().refused(peer.name(), &format!("pull of {}", reference.familiar()), "policy");
    stream.send(&Answer::Refused(Refusal::Policy(format!("{} may not pull {}", peer.name(), reference.repository())))).await
}

/// The image that is asked for, with the manifests that are.
async fn look_up<S: Store>(store: &S, reference: &Reference, selection: Selection) -> Result<Held, StoreError> {
    Pinned::new(store, Query::from(reference.clone())).await?.select(store, selection).await
}

/// Answers a peer that pulls into a store of any form, or into one that keeps layers unpacked: offers what it asks for, if it may have it.
pub(super) async fn answer<S: Store>(
    context: &Arc<Context<S>>,
    peer: &Peer,
    stream: &mut Stream,
    pull: peer::Pull,
    form: Form,
) -> Result<(), NetError> {
    if rights::may_pull(context, &peer.id(), &pull.reference.repository()).is_none() {
        return deny(context, peer, stream, &pull.reference).await;
    }
    let selection = pull.platform.map_or(Selection::All, |platform| offering::one(platform, peer.hello()));
    let turn = peer.answer().await;
    let held = match look_up(&*context.store, &pull.reference, selection).await {
        Ok(held) => held,
        Err(StoreError::NotFound(_)) => return stream.send(&Answer::Refused(Refusal::ImageNotFound(pull.reference))).await,
        Err(error) => return refuse(peer, stream, refusal(&error)).await,
    };
    let decision = match rights::may_get(context, &peer.id(), Some(&pull.reference), &held).await {
        Ok(Some(decision)) => decision,
        Ok(None) => return deny(context, peer, stream, &pull.reference).await,
        Err(error) => return refuse(peer, stream, refusal(&error)).await,
    };
    let other = Some(&held).filter(|_| form == Form::Unpacked).and_then(Held::in_other_form);
    let held = other.unwrap_or(held);
    let entries = held.image.entries();
    peer.look_at(entries).await;
    let Some(_room) = peer.offer((entries * OFFERED_BLOB_BYTES).min(OFFERS_BYTES)) else {
        return refuse(peer, stream, Refusal::Busy).await;
    };
    let audit = context.trust.audit();
    match pull.dry_run {
        true => audit.planned(peer.name(), &format!("pull of {}", pull.reference.familiar()), &decision.rule),
        false => audit.pull_accepted(peer.name(), &pull.reference, &held.image_id, &decision.rule),
    }
    let transfer = context.transfers.start(context.transfers.number(), false, &pull.reference.familiar(), peer.name(), &context.shutdown);
    let mut image = held.image.clone();
    image.reference = image.reference.map(|reference| reference.without_digest());
    let standing = context.offers.stand(peer.id(), held, None, false);
    stream.send(&Answer::Offer(Offer { image: image.clone(), dry_run: pull.dry_run })).await?;
    drop(turn);
    let mut offering = Offering::new(stream, peer, &image, pull.dry_run, transfer.cancelled());
    // It hears that this host leaves, and waits for it.
    offering.leaves_with(&context.shutdown);
    let mut total_bytes = 0;
    let mut _preparing = None;
    loop {
        match offering.next().await {
            Ok(Step::Forecast(_)) => {
                transfer.end(TransferState::Done);
                return Ok(());
            }
            Ok(Step::Planned(want)) => {
                _preparing = Some(standing.prepare(&want, context));
                total_bytes = offering::plan(peer.name(), "", &image, &want).send_bytes;
                transfer.progress(0, total_bytes);
            }
            Ok(Step::Progress(_) | Step::Trouble(_) | Step::Drawn(_)) => transfer.progress(standing.sent_bytes(), total_bytes),
            Ok(Step::Suspect(digest)) => offering::inspect_suspect(context, digest).await,
            Ok(Step::Committed(_)) => {
                transfer.progress(standing.sent_bytes(), standing.sent_bytes());
                transfer.end(TransferState::Done);
                info!(image = %pull.reference.familiar(), host = peer.name(), sent_bytes = standing.sent_bytes(), "pulled by peer");
                return Ok(());
            }
            Ok(Step::Refused(refusal)) => {
                transfer.end(TransferState::Failed(refusal.to_string()));
                return Ok(());
            }
            Err(error) => {
                transfer.end(TransferState::Failed(error.to_string()));
                warn!(image = %pull.reference.familiar(), host = peer.name(), %error, "pull by peer ended early");
                return Ok(());
            }
        }
    }
}
