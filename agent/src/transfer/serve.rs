//! What peers ask of us: one stream, one request, one task.

use std::sync::Arc;

use proto::control::TransferState;
use proto::host::{Role, SignedMemberList};
use proto::image::Selection;
use proto::job::Share;
use proto::limits::{FRAME, NAMES};
use proto::peer::{Answer, ImageRow, Offer, Refusal, Request};
use proto::{Image, Reference};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{Instrument, debug, error, info, info_span, warn};

use super::interest::{FanOut, Interest};
use super::last_word::Received;
use super::rights::{may_get, may_pull};
use super::send::display_name;
use super::{Context, Limit, Relay, fan_out, provide, pull, receive, refusal};
use crate::net::{NetError, Peer, Stream};
use crate::store::{Form, Query, Store, StoreError};
use crate::trust::{Accepted, TrustError};

/// Serves a peer until its connection ends or the agent stops. Every stream has its own task; none of them outlives the connection but those
/// of fan-outs, which the hosts that are left finish among themselves.
pub async fn serve<S: Store>(context: Arc<Context<S>>, peer: Peer) {
    let (mut streams, mut fan_outs) = (JoinSet::new(), JoinSet::new());
    let (begun, mut begin) = mpsc::channel(1);
    loop {
        tokio::select! {
            accepted = peer.accept() => match accepted {
                Ok(stream) => {
                    let (context, peer, begun) = (context.clone(), peer.clone(), begun.clone());
                    let span = info_span!("peer", name = peer.name());
                    streams.spawn(answer(context, peer, stream, begun).instrument(span));
                }
                Err(error) => {
                    debug!(host = peer.name(), %error, "connection ended");
                    streams.shutdown().await;
                    while fan_outs.join_next().await.is_some() {}
                    return;
                }
            },
            Some((stream, share)) = begin.recv() => {
                let span = info_span!("peer", name = peer.name());
                fan_outs.spawn(fan_out::receive_share(context.clone(), peer.clone(), stream, share).instrument(span));
            }
            Some(ended) = fan_outs.join_next() => {
                if let Err(error) = ended {
                    error!(host = peer.name(), %error, "a fan-out failed");
                }
            }
            Some(ended) = streams.join_next() => {
                if let Err(error) = ended {
                    error!(host = peer.name(), %error, "answering a request failed");
                }
            }
        }
    }
}

async fn answer<S: Store>(context: Arc<Context<S>>, peer: Peer, mut stream: Stream, begun: mpsc::Sender<(Stream, Share)>) {
    let answered = match stream.receive_or_end(FRAME).await {
        Ok(None) => Ok(()),
        Ok(Some(Request::Share(share))) => {
            // Goes on in a task that outlives this connection.
            let _ = begun.send((stream, share)).await;
            return;
        }
        Ok(Some(Request::Send(request))) => {
            // So does this one, and it is not carried out here.
            let _ = context.relays.send(Relay { peer, stream, request }).await;
            return;
        }
        Ok(Some(request)) => dispatch(&context, &peer, &mut stream, request).await,
        Err(error) => Err(error),
    };
    match answered {
        Ok(()) => stream.flush().await,
        Err(error) => {
            debug!(%error, "stream ended early");
            stream.reset();
        }
    }
}

async fn dispatch<S: Store>(context: &Arc<Context<S>>, peer: &Peer, stream: &mut Stream, request: Request) -> Result<(), NetError> {
    match request {
        Request::OfferUnpacked(_) if context.store.properties().form == Form::Packed => {
            let reason = "its store keeps images as they are".to_owned();
            stream.send(&Answer::Refused(Refusal::Unsupported(reason))).await
        }
        Request::Pull(request) => match peer.session() {
            Some(_session) => pull::answer(context, peer, stream, request, Form::Packed).await,
            None => stream.send(&Answer::Refused(Refusal::Busy)).await,
        },
        Request::PullUnpacked(request) => match peer.session() {
            Some(_session) => pull::answer(context, peer, stream, request, Form::Unpacked).await,
            None => stream.send(&Answer::Refused(Refusal::Busy)).await,
        },
        Request::Offer(offer) | Request::OfferUnpacked(offer) => match peer.session() {
            Some(_session) => receive_offer(context, peer, stream, offer).await,
            None => stream.send(&Answer::Refused(Refusal::Busy)).await,
        },
        // Taken out before.
        Request::Share(_) | Request::Send(_) => Ok(()),
        Request::Sources(sources) => {
            context.jobs.set_sources(&peer.id(), &sources);
            stream.send(&Answer::Done).await
        }
        Request::EndJob(id) => {
            context.jobs.end(&peer.id(), id);
            stream.send(&Answer::Done).await
        }
        Request::Proof(digest) => fan_out::prove(context, peer, stream, digest).await,
        Request::Hashes(digest) => fan_out::hashes(context, peer, stream, digest).await,
        Request::Get(get) => provide::provide(context, peer, stream, get).await,
        Request::List => list(context, peer, stream).await,
        Request::Describe(reference) => {
            context.trust.audit().read(peer.name(), &format!("description of {}", reference.familiar()));
            if may_pull(context, &peer.id(), &reference.repository()).is_none() {
                return stream.send(&Answer::Described(None)).await;
            }
            let _turn = peer.answer().await;
            let described = described(context, peer, reference).await;
            if let Ok(Some(image)) = &described {
                peer.look_at(image.entries()).await;
            }
            match described {
                Ok(image) => stream.send(&Answer::Described(image)).await,
                Err(error) => refuse(peer, stream, refusal(&error)).await,
            }
        }
        Request::Date(date) => {
            let trust = context.trust.clone();
            if let Err(error) = crate::sys::blocking(move || trust.accept_date(&date)).await {
                warn!(%error, "date of the member list refused");
            }
            stream.send(&Answer::Done).await
        }
        Request::Instance => stream.send(&Answer::Instance(context.net.instance())).await,
        Request::Where(host) => stream.send(&Answer::Where(context.peers.addresses(&host))).await,
        Request::Members(list) => match accept_members(context, list).await {
            Ok(_) => stream.send(&Answer::Done).await,
            // The other side does not know of ours. Only a signer can make one of both.
            Err(error @ (TrustError::StaleList { .. } | TrustError::ConflictingList(_))) => {
                debug!(%error, "member list not taken over");
                let told = stream.send(&Answer::Refused(Refusal::OutOfTurn)).await;
                if let Some(ours) = context.trust.signed_members().filter(|_| is_signer(context, peer)) {
                    stream.finish();
                    let mut showing = peer.request(&Request::Members(ours)).await?;
                    showing.receive::<Answer>().await?;
                }
                told
            }
            Err(error) => {
                warn!(%error, "member list refused");
                stream.send(&Answer::Refused(Refusal::OutOfTurn)).await
            }
        },
    }
}

/// The image of that name, if the peer may have it.
async fn described<S: Store>(context: &Context<S>, peer: &Peer, reference: Reference) -> Result<Option<Image>, StoreError> {
    let held = match context.store.resolve(&Query::from(reference.clone()), Selection::Present).await {
        Err(StoreError::NotFound(_)) => return Ok(None),
        held => held?,
    };
    let allowed = may_get(context, &peer.id(), Some(&reference), &held).await?;
    Ok(allowed.map(|_| held.image))
}

fn is_signer<S>(context: &Context<S>, peer: &Peer) -> bool {
    let members = context.trust.members();
    members.is_some_and(|list| list.by_id(&peer.id()).is_some_and(|member| member.roles.contains(&Role::Signer)))
}

async fn accept_members<S: Store>(context: &Context<S>, list: SignedMemberList) -> Result<Accepted, TrustError> {
    let trust = context.trust.clone();
    crate::sys::blocking(move || trust.accept_members(&list)).await
}

async fn receive_offer<S: Store>(context: &Arc<Context<S>>, peer: &Peer, stream: &mut Stream, offer: Offer) -> Result<(), NetError> {
    received(context, peer, stream, offer, None, None).await;
    Ok(())
}

/// Receives, and says in the log and in `status` what came of it.
pub(super) async fn received<S: Store>(
    context: &Arc<Context<S>>,
    peer: &Peer,
    stream: &mut Stream,
    offer: Offer,
    limit: Option<Arc<Limit>>,
    fan_out: Option<&mut FanOut>,
) {
    let (name, dry_run) = (display_name(&offer.image), offer.dry_run);
    let transfer = context.transfers.start(context.transfers.number(), true, &name, peer.name(), &context.shutdown);
    let interest = Interest { transfer: Some(&transfer), limit, fan_out, ..Interest::default() };
    let result = receive::receive(context, peer, stream, offer, transfer.cancelled(), interest).await;
    match result {
        Ok(Received { committed: Some(committed), .. }) => {
            let elapsed_ms = transfer.elapsed_ms();
            transfer.progress(committed.received_bytes, committed.received_bytes);
            transfer.end(TransferState::Done);
            info!(image = name, id = %committed.image_id, received_bytes = committed.received_bytes, elapsed_ms, "received");
        }
        Ok(Received { rule, .. }) => {
            context.trust.audit().planned(peer.name(), &format!("push of {name}"), &rule);
            transfer.end(TransferState::Done);
            debug!(image = name, dry_run, "planned");
        }
        Err(Refusal::Busy) => context.transfers.forget(&transfer),
        Err(refusal) => {
            transfer.end(if refusal == Refusal::Cancelled { TransferState::Cancelled } else { TransferState::Failed(refusal.to_string()) });
            context.trust.audit().refused(peer.name(), &format!("push of {name}"), &refusal.to_string());
        }
    }
}

async fn list<S: Store>(context: &Context<S>, peer: &Peer, stream: &mut Stream) -> Result<(), NetError> {
    context.trust.audit().read(peer.name(), "list of images");
    // An image without a name is in no repository: who may pull that may see it.
    let repository = |row: &ImageRow| row.reference.as_ref().map(Reference::repository).unwrap_or_default();
    let visible = |row: &ImageRow| may_pull(context, &peer.id(), &repository(row)).is_some();
    let _turn = peer.answer().await;
    let rows: Vec<ImageRow> = match context.store.list().await {
        Ok(rows) => rows.into_iter().filter(visible).collect(),
        Err(error) => return refuse(peer, stream, refusal(&error)).await,
    };
    peer.look_at(rows.len() as u64).await;
    for chunk in rows.chunks(NAMES / 4) {
        stream.send(&Answer::Images(chunk.to_vec())).await?;
    }
    stream.send(&Answer::Images(vec![])).await
}

/// Tells a peer why not, in words that it knows.
pub(super) async fn refuse(peer: &Peer, stream: &mut Stream, refusal: Refusal) -> Result<(), NetError> {
    stream.send(&Answer::Refused(refusal.for_capabilities(peer.hello().capabilities))).await
}
