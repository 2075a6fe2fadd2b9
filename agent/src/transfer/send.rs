//! Sending one image to one host, through whatever happens on the way.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proto::control::{Done, Drawn, Event, Hashing, Platforms, Progress, Source, TransferState};
use proto::job;
use proto::limits::MEMBERS;
use proto::peer::{Committed, FORMS, HashingProgress, Missing, Offer, Refusal, Request, SHARED_OFFERS, Want};
use proto::session::send::Step;
use proto::{Digest, HostId, Image, Reference};
use tokio::sync::{mpsc, watch};
use tracing::{Instrument, debug, info, info_span, warn};

use super::fan_out::{Fan, News};
use super::offering::{self, Offering};
use super::offers::Preparing;
use super::retry::Retry;
use super::{Context, Limit, Pinned, STORE_CHANGES, Transfer, TransferError};
use crate::net::{NetError, Peer, Share};
use crate::store::{Form, Held, Store, StoreError};
use crate::sys;

/// Pause before a host of a fan-out that has not come yet is tried again.
const ABSENT_PAUSE: Duration = Duration::from_secs(1);

/// Nothing was heard of a host of a fan-out for so long: whoever looks on hears of it, and none of the others counts on it. It may still answer.
const QUIET_MS: u64 = 2_000;

/// Offers in a row that a host may leave without an answer.
const SILENT_OFFERS: u32 = 2;

/// A turn that does not come at once is waited for, and that is said.
const TURN_MS: u64 = 500;

/// What is said of a receiver that does not know of shares.
const TOO_OLD: &str = "its imgd is too old for --from and for a limit of its own";

/// One image for one host.
#[derive(Debug, Clone)]
pub struct SendJob {
    /// The image: the same for every host, and at every attempt.
    pub image: Arc<Pinned>,
    /// Name at the destination, when it is another one.
    pub rename: Option<Reference>,
    /// Which of an index.
    pub platforms: Platforms,
    /// Name of the receiving host.
    pub host: String,
    /// Its identity.
    pub id: HostId,
    /// Only plan.
    pub dry_run: bool,
    /// Shared with other jobs.
    pub limit: Option<Arc<Limit>>,
    /// Bytes a second that the host shall not exceed.
    pub host_limit_bytes_per_s: Option<u64>,
    /// How long the host is waited for where it has not answered yet.
    pub wait: Duration,
    /// Who asked this host to send it.
    pub on_behalf_of: Option<HostId>,
    /// Hosts that get the same image read it from each other.
    pub fan: Option<Fan>,
    /// Counts the blob bytes that leave this host.
    pub egress_bytes: Arc<AtomicU64>,
}

/// An image that has arrived, or would.
#[derive(Debug, Clone)]
pub struct Sent {
    /// For people.
    pub done: Done,
    /// What the host lacked.
    pub missing: Vec<Missing>,
}

/// Brings the image to the host. Events go to `events`; the result is for whoever counts.
pub async fn send<S: Store>(
    context: &Arc<Context<S>>,
    job: &SendJob,
    transfer: &Transfer,
    events: &mpsc::Sender<Event>,
) -> Result<Sent, TransferError> {
    let span = info_span!("send", image = %job.image.query(), host = job.host, transfer = transfer.id());
    let result = Sending {
        context,
        job,
        transfer,
        events,
        sent_before_bytes: 0,
        wire_before_bytes: 0,
        travelled_bytes: 0,
        drawn: HashMap::new(),
        source_failure: None,
        was_planned: false,
    }
    .run()
    .instrument(span.clone())
    .await;
    let _entered = span.enter();
    match &result {
        Ok(Sent { done, .. }) => {
            transfer.progress(done.sent_bytes, done.sent_bytes);
            transfer.end(TransferState::Done);
            info!(id = %done.image_id, sent_bytes = done.sent_bytes, present_bytes = done.present_bytes, elapsed_ms = done.elapsed_ms, "sent");
        }
        Err(TransferError::Cancelled) => {
            transfer.end(TransferState::Cancelled);
            info!("cancelled");
        }
        Err(error) => {
            transfer.end(TransferState::Failed(error.to_string()));
            warn!(%error, "not sent");
        }
    }
    result
}

struct Sending<'a, S> {
    context: &'a Arc<Context<S>>,
    job: &'a SendJob,
    transfer: &'a Transfer,
    events: &'a mpsc::Sender<Event>,
    /// Of attempts that were lost.
    sent_before_bytes: u64,
    wire_before_bytes: u64,
    /// To the receiver, from whichever host.
    travelled_bytes: u64,
    /// From whom, of all attempts before this one.
    drawn: HashMap<HostId, u64>,
    /// Why the store of this host could not give what the receiver asked for, in the last attempt.
    source_failure: Option<String>,
    /// The receiver has said what it lacks, in this attempt or an earlier one: its store works, or has worked.
    was_planned: bool,
}

impl<S: Store> Sending<'_, S> {
    async fn run(mut self) -> Result<Sent, TransferError> {
        let cancelled = self.transfer.cancelled();
        let mut retry = Retry::default();
        let (mut was_connected, mut changes, mut silent_offers) = (false, 0, 0);
        let job = self.job;
        let (begun, mut hope) = (Instant::now(), job.fan.as_ref().map(Hope::new));
        // Why a host that may come late has not come yet.
        let mut absent: Option<NetError> = None;
        loop {
            let attempt = async {
                let peer = self.reach(&mut hope, &mut absent, was_connected, begun.elapsed() < job.wait).await?;
                (absent, was_connected) = (None, true);
                self.attempt(&peer).await
            };
            let result = tokio::select! {
                result = attempt => result,
                () = cancelled.cancelled() => Err(TransferError::Cancelled),
            };
            // What it comes to when it does not come back.
            let unavailable = match &result {
                Err(TransferError::Refused(refusal @ Refusal::StoreUnavailable(_))) => Some(refusal.clone()),
                _ => None,
            };
            let is_silent = matches!(result, Err(TransferError::Net(NetError::Silent(_)))) && was_connected && !self.was_planned;
            silent_offers = if is_silent { silent_offers + 1 } else { 0 };
            let error = match result {
                // It takes connections, and answers no offer: it hangs, and would for ever.
                Err(error) if silent_offers >= SILENT_OFFERS => {
                    self.tell(News::Gone(self.job.id)).await;
                    return Err(error);
                }
                Err(TransferError::Net(error)) if was_connected && error.is_passing() => error,
                Err(TransferError::Net(error))
                    if !was_connected && error.is_passing() && (self.others_under_way(&mut hope) || begun.elapsed() < job.wait) =>
                {
                    if absent.is_none() {
                        self.tell_waiting(&error).await;
                    }
                    absent = Some(error);
                    tokio::select! {
                        () = tokio::time::sleep(ABSENT_PAUSE) => {}
                        () = cancelled.cancelled() => return Err(TransferError::Cancelled),
                    }
                    continue;
                }
                // What is missing now is found out at once, but not for ever.
                Err(TransferError::Refused(Refusal::StoreChanged)) if changes < STORE_CHANGES => {
                    changes += 1;
                    continue;
                }
                // It is restarted, perhaps.
                Err(TransferError::Refused(refusal @ Refusal::ShuttingDown)) => NetError::Lost(refusal.to_string()),
                // Its engine, or ours, is restarted, perhaps: it is waited for, once the engine has worked.
                Err(TransferError::Refused(Refusal::StoreUnavailable(reason))) if self.was_planned => NetError::Lost(reason),
                Err(TransferError::Store(error @ (StoreError::Unreachable { .. } | StoreError::Silent { .. }))) if self.was_planned => {
                    NetError::Lost(error.to_string())
                }
                // It answers, and has other images to take in first: its turn comes, however long that takes.
                Err(TransferError::Refused(Refusal::Busy)) => {
                    self.tell(News::Gone(self.job.id)).await;
                    self.tell_waiting(&NetError::Answer(Refusal::Busy)).await;
                    tokio::select! {
                        () = tokio::time::sleep(retry.queued()) => {}
                        () = cancelled.cancelled() => return Err(TransferError::Cancelled),
                    }
                    continue;
                }
                result => {
                    self.tell(match result {
                        Ok(_) => News::Done(self.job.id),
                        Err(_) => News::Gone(self.job.id),
                    })
                    .await;
                    return result;
                }
            };
            self.tell(News::Gone(self.job.id)).await;
            let Some(pause) = retry.next(self.travelled_bytes) else {
                // The receiver says what it has heard from here.
                let refused = |refusal| self.source_failure.map_or(TransferError::Refused(refusal), TransferError::Source);
                return Err(unavailable.map_or_else(|| error.into(), refused));
            };
            self.tell_waiting(&error).await;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = cancelled.cancelled() => return Err(TransferError::Cancelled),
            }
        }
    }

    /// Connects. `absent`: why a host has not come yet; it may come for as long as others of its fan-out are under way, or as it is waited for.
    async fn reach(
        &self,
        hope: &mut Option<Hope>,
        absent: &mut Option<NetError>,
        was_connected: bool,
        may_wait: bool,
    ) -> Result<Peer, NetError> {
        let fan = self.job.fan.as_ref();
        let mut connecting = pin!(async {
            // Only a host that has answered once is waited for.
            match was_connected {
                true => self.context.net.connect(&self.job.id).await,
                false => self.context.net.connect_awake(&self.job.id).await,
            }
        });
        if absent.is_some() && may_wait {
            return connecting.await;
        }
        if absent.is_some() {
            return tokio::select! {
                connected = connecting => connected,
                () = left_behind(fan) => Err(absent.take().unwrap_or(NetError::NoAddress)),
            };
        }
        if fan.is_some() {
            if let Some(connected) = sys::deadline(QUIET_MS, &mut connecting).await {
                return connected;
            }
            drop(hope.take());
            self.tell_waiting(absent.insert(NetError::Silent(QUIET_MS / 1000))).await;
        }
        connecting.await
    }

    async fn tell_waiting(&self, error: &NetError) {
        warn!(%error, "no connection, trying again");
        self.transfer.waiting();
        let _ = self.events.send(Event::Waiting { host: self.job.host.clone(), reason: error.to_string() }).await;
    }

    /// True while hosts of the same fan-out have not got the image yet, this one not counted, which does not come.
    fn others_under_way(&self, hope: &mut Option<Hope>) -> bool {
        drop(hope.take());
        self.job.fan.as_ref().is_some_and(|fan| *fan.hopeful.borrow() > 0)
    }

    /// Its turn to receive one more image from this host.
    async fn turn(&self, peer: &Peer) -> Option<Share> {
        let mut turn = pin!(peer.open_session());
        if let Some(turn) = sys::deadline(TURN_MS, &mut turn).await {
            return turn;
        }
        self.tell_waiting(&NetError::Answer(Refusal::Busy)).await;
        turn.await
    }

    async fn attempt(&mut self, peer: &Peer) -> Result<Sent, TransferError> {
        let job = self.job;
        let _turn = self.turn(peer).await;
        let selection = offering::selection(&job.platforms, peer.hello());
        let held = job.image.select(&*self.context.store, selection).await?;
        let offered = self.offer(peer, held.clone(), Form::Packed).await;
        let other = match &offered {
            Err(TransferError::Store(StoreError::UnpackedOnly(_))) if peer.hello().capabilities & FORMS != 0 => held.in_other_form(),
            _ => None,
        };
        let Some(other) = other else { return offered };
        match self.offer(peer, other, Form::Unpacked).await {
            // It keeps images as they are.
            Err(TransferError::Refused(Refusal::Unsupported(_))) => offered,
            other => other,
        }
    }

    /// Offers the image to a store of any form, or in another form to one that keeps layers unpacked.
    async fn offer(&mut self, peer: &Peer, held: Held, form: Form) -> Result<Sent, TransferError> {
        let job = self.job;
        let source_image_id = held.image_id;
        let mut image = held.image.clone();
        image.reference = job.rename.clone().or(image.reference.map(|reference| reference.without_digest()));
        let fan = job.fan.as_ref().filter(|_| form == Form::Packed && peer.hello().capabilities & SHARED_OFFERS != 0);
        let standing = self.context.offers.stand(peer.id(), held, job.limit.clone(), fan.is_some());
        let wire_start_bytes = peer.wire_bytes();
        let _egress = Egress(standing.clone(), job.egress_bytes.clone());
        let mut travelled = Travelled::default();
        let offered = async {
            let offer = Offer { image: image.clone(), dry_run: job.dry_run };
            let mut stream = peer
                .request(&match fan {
                    Some(fan) => Request::Share(job::Share {
                        offer,
                        job: fan.id,
                        members: fan.members.to_vec(),
                        on_behalf_of: job.on_behalf_of,
                        limit_bytes_per_s: job.host_limit_bytes_per_s,
                    }),
                    // It would take our rights for those of whoever asked us, or not keep to its limit.
                    None if job.on_behalf_of.is_some() || job.host_limit_bytes_per_s.is_some() => {
                        return Err(TransferError::Refused(Refusal::Unsupported(TOO_OLD.to_owned())));
                    }
                    None if form == Form::Unpacked => Request::OfferUnpacked(offer),
                    None => Request::Offer(offer),
                })
                .await?;
            let mut offering = Offering::new(&mut stream, peer, &image, job.dry_run, self.transfer.cancelled());
            if fan.is_some() {
                offering.leaves_with(&self.context.shutdown);
            }
            self.follow(peer, fan, &mut offering, &image, &standing, &mut travelled).await
        };
        let result = offered.await;
        self.was_planned |= travelled.is_planned;
        debug!(path = ?peer.path(), "path of the attempt");
        self.sent_before_bytes += standing.sent_bytes();
        self.source_failure = standing.failure();
        let Travelled { received, drawn, .. } = travelled;
        drawn.into_iter().for_each(|(host, bytes)| *self.drawn.entry(host).or_default() += bytes);
        self.wire_before_bytes += peer.wire_bytes() - wire_start_bytes;
        let received_bytes: u64 = received.values().sum();
        self.travelled_bytes += match &result {
            Ok((_, Some(committed))) => received_bytes.max(committed.received_bytes),
            _ => received_bytes,
        };
        let (want, committed) = result?;
        self.done(&image, source_image_id, &want, committed)
    }

    /// `travelled` follows what does.
    async fn follow(
        &self,
        peer: &Peer,
        fan: Option<&Fan>,
        offering: &mut Offering<'_>,
        image: &Image,
        standing: &Arc<super::offers::Offer>,
        travelled: &mut Travelled,
    ) -> Result<(Want, Option<Committed>), TransferError> {
        let (host, name) = (&self.job.host, display_name(image));
        let mut planned: Option<(Want, u64)> = None;
        let mut preparing: Option<Preparing> = None;
        loop {
            let step = {
                // Half a message must not be lost: the wait for it goes on while others are told.
                let mut next = pin!(offering.next());
                loop {
                    tokio::select! {
                        step = &mut next => break step?,
                        progress = prepared(preparing.as_mut()) => self.tell_hashing(&name, progress),
                    }
                }
            };
            match step {
                Step::Planned(want) | Step::Forecast(want) => {
                    // What the receiver has does not have to be read here.
                    standing.can_read(&want)?;
                    let plan = offering::plan(host, &name, image, &want);
                    let total_bytes = plan.send_bytes;
                    self.transfer.progress(0, total_bytes);
                    let _ = self.events.send(Event::Planned(plan)).await;
                    if self.job.dry_run {
                        return Ok((want, None));
                    }
                    let (root, size_bytes) = (image.root.digest, image.size_bytes());
                    preparing = Some(standing.prepare(&want, self.context));
                    if fan.is_some() {
                        self.tell(News::Joined { peer: peer.clone(), root, size_bytes, missing_bytes: total_bytes }).await;
                    }
                    travelled.is_planned = true;
                    planned = Some((want, total_bytes));
                }
                Step::Progress(progress) => {
                    let total_bytes = planned.as_ref().map_or(0, |(_, total_bytes)| *total_bytes);
                    let (digest, verified_bytes) = (progress.digest, progress.verified_bytes);
                    let had = |want: &Want| want.missing.iter().find(|blob| blob.digest == digest).map_or(0, |blob| blob.staged_bytes);
                    let had_bytes = planned.as_ref().map_or(0, |(want, _)| had(want));
                    travelled.received.insert(digest, verified_bytes.saturating_sub(had_bytes));
                    match fan {
                        Some(_) => {
                            let received_bytes = travelled.received.values().sum();
                            self.transfer.progress(received_bytes, total_bytes);
                            self.tell(News::Progress(self.job.id, received_bytes)).await;
                        }
                        None => self.transfer.progress(standing.sent_bytes(), total_bytes),
                    }
                    // A client that is slow to draw misses a step, and nothing waits for it.
                    let _ =
                        self.events.try_send(Event::Progress(Progress { host: host.clone(), image: name.clone(), digest, verified_bytes }));
                }
                Step::Drawn(sources) => {
                    travelled.drawn = sources.into_iter().collect();
                    let from_head_bytes = travelled.drawn.get(&self.context.trust.id()).copied().unwrap_or(0);
                    self.tell(News::FromHead(self.job.id, from_head_bytes)).await;
                    let sources = self.sources(&travelled.drawn);
                    let _ = self.events.try_send(Event::Drawn(Drawn { host: host.clone(), image: name.clone(), sources }));
                }
                Step::Trouble(trouble) => self.tell(News::Trouble(self.job.id, trouble)).await,
                Step::Suspect(digest) => offering::inspect_suspect(self.context, digest).await,
                Step::Committed(committed) => {
                    return Ok((planned.map(|(want, _)| want).unwrap_or(Want { missing: vec![] }), Some(committed)));
                }
                // It says what it has heard from here.
                Step::Refused(Refusal::Store(reason)) => {
                    let failure = standing.failure();
                    return Err(failure.map_or_else(|| TransferError::Refused(Refusal::Store(reason)), TransferError::Source));
                }
                Step::Refused(refusal) => return Err(TransferError::Refused(refusal)),
            }
        }
    }

    /// A client that is slow to draw misses a step.
    fn tell_hashing(&self, image: &str, progress: HashingProgress) {
        let HashingProgress { done_bytes, total_bytes } = progress;
        let (host, source) = (self.job.host.clone(), self.context.trust.name());
        let _ = self.events.try_send(Event::Hashing(Hashing { host, image: image.to_owned(), source, done_bytes, total_bytes }));
    }

    /// From whom the host has received, with what it received in attempts before this one; by name, the most first.
    fn sources(&self, drawn: &HashMap<HostId, u64>) -> Vec<Source> {
        let mut all = self.drawn.clone();
        drawn.iter().for_each(|(host, bytes)| *all.entry(*host).or_default() += bytes);
        let members = self.context.trust.members();
        let name = |host: &HostId| {
            members.as_ref().and_then(|list| list.by_id(host)).map_or_else(|| host.to_string(), |member| member.name.clone())
        };
        let mut sources: Vec<Source> = all.iter().map(|(host, bytes)| Source { host: name(host), received_bytes: *bytes }).collect();
        sources.sort_by(|one, other| (other.received_bytes, &one.host).cmp(&(one.received_bytes, &other.host)));
        sources.truncate(MEMBERS);
        sources
    }

    async fn tell(&self, news: News) {
        if let Some(fan) = &self.job.fan {
            let _ = fan.news.send(news).await;
        }
    }

    fn done(&self, image: &Image, source_image_id: Digest, want: &Want, committed: Option<Committed>) -> Result<Sent, TransferError> {
        let plan = offering::plan(&self.job.host, &display_name(image), image, want);
        let configs = || image.manifests.iter().map(|manifest| manifest.config.digest);
        let ours = configs().next().unwrap_or(source_image_id);
        let config_digest = committed.as_ref().map_or(ours, |committed| committed.config_digest);
        if !configs().any(|config| config == config_digest) {
            return Err(TransferError::OtherConfig { ours, theirs: config_digest });
        }
        let done = Done {
            host: self.job.host.clone(),
            image: plan.image,
            image_id: committed.as_ref().map_or(source_image_id, |committed| committed.image_id),
            source_image_id,
            config_digest,
            sent_bytes: if self.job.fan.is_some() { self.travelled_bytes } else { self.sent_before_bytes },
            sources: self.sources(&HashMap::new()),
            wire_bytes: self.wire_before_bytes,
            present_bytes: plan.present_bytes,
            layers_sent: plan.layers.iter().filter(|layer| layer.present_bytes < layer.size_bytes).count() as u64,
            layers_total: plan.layers.len() as u64,
            elapsed_ms: self.transfer.elapsed_ms(),
            replaced: committed.and_then(|committed| committed.replaced),
            dry_run: self.job.dry_run,
        };
        Ok(Sent { done, missing: want.missing.clone() })
    }
}

/// The next word on what is hashed ahead.
async fn prepared(preparing: Option<&mut Preparing>) -> HashingProgress {
    match preparing {
        Some(preparing) => preparing.next().await,
        None => std::future::pending().await,
    }
}

/// What of an image has travelled in one attempt.
#[derive(Debug, Default)]
struct Travelled {
    /// The receiver has said what it lacks.
    is_planned: bool,
    /// Of each blob.
    received: HashMap<Digest, u64>,
    /// From each source, in a fan-out.
    drawn: HashMap<HostId, u64>,
}

/// Counts what has left this host for an offer when that ends, however it does.
struct Egress(Arc<super::offers::Offer>, Arc<AtomicU64>);

impl Drop for Egress {
    fn drop(&mut self) {
        self.1.fetch_add(self.0.sent_bytes(), Ordering::Relaxed);
    }
}

/// Counts a host among those from which more is to be expected, until it is dropped.
struct Hope(Arc<watch::Sender<usize>>);

impl Hope {
    /// It was counted from the start.
    fn new(fan: &Fan) -> Self {
        Self(fan.hopeful.clone())
    }
}

impl Drop for Hope {
    fn drop(&mut self) {
        self.0.send_modify(|hopeful| *hopeful = hopeful.saturating_sub(1));
    }
}

/// Resolves when no host of the fan-out is under way any more.
async fn left_behind(fan: Option<&Fan>) {
    if let Some(fan) = fan {
        let _ = fan.hopeful.subscribe().wait_for(|hopeful| *hopeful == 0).await;
    }
}

/// The name under which people know an image.
pub(super) fn display_name(image: &Image) -> String {
    image.reference.as_ref().map_or_else(|| image.root.digest.to_string(), Reference::familiar)
}
