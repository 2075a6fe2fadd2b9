//! The receiving side of a session, driven: what the machine asks for is done in tasks, what they come to is told to the machine.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::job::Trouble;
use proto::limits::{DOCUMENT_BYTES, OFFERED_BLOB_BYTES, OFFERS_BYTES, STALL_TIMEOUT_MS};
use proto::peer::{Answer, Committed, HashingProgress, Missing, Offer, Progress, Refusal, SIGNS_OF_LIFE};
use proto::session::Receive;
use proto::session::receive::{Action, Input};
use proto::{Descriptor, Digest, HostId, Image};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::arriving::{Arriving, blamed, feed_in};
use super::finish::{By, finish};
use super::get::{self, Fetch, GetError, Patience};
use super::interest::{Interest, News};
use super::job::Place;
use super::last_word::{self, Received, SEND_MS};
use super::reservation::Reservation;
use super::sessions::{Running, makes_room};
use super::sharing::{Sharing, renewed};
use super::{Context, documents, possession, refusal, rights};
use crate::net::{Peer, Share, Stream};
use crate::staging::StagedBlob;
use crate::store::{Form, Import, Imported, Store, StoreError};
use crate::sys;

/// How often the other side and the client are told how far it is.
const REPORT_EVERY: Duration = Duration::from_millis(200);

/// The same when a fan-out begins, and for how long that is: a slow host holds up all who read from it until it is seen to be slow.
const REPORT_FIRST_EVERY: Duration = Duration::from_millis(50);
const REPORT_FIRST_FOR: Duration = Duration::from_secs(2);

/// How often the other side hears that the session goes on, whatever it waits for.
const SIGN_OF_LIFE_MS: u64 = 5_000;

/// What goes wrong with sources before anybody was told.
const TROUBLES: usize = 16;

/// How long a host of a fan-out goes on without a byte when the host that started it is gone.
const ORPHANED: Duration = Duration::from_secs(60);

/// Receives what `peer` offers on `stream`. Ends when the image is in the store, or with the reason why it will not be; the peer knows the same.
/// What was verified until then stays in staging.
pub(super) async fn receive<S: Store>(
    context: &Arc<Context<S>>,
    peer: &Peer,
    stream: &mut Stream,
    mut offer: Offer,
    cancel: CancellationToken,
    interest: Interest<'_>,
) -> Result<Received, Refusal> {
    // An image of very many blobs is kept for its host's account: one such fits.
    let offer_bytes = (offer.image.entries() * OFFERED_BLOB_BYTES).min(OFFERS_BYTES);
    let (_room, image) = match (peer.offer(offer_bytes), rights::canonical(offer.image)) {
        (Some(room), Ok(image)) => (room, image),
        (room, image) => {
            let refusal = if room.is_none() { Refusal::Busy } else { image.err().unwrap_or(Refusal::OutOfTurn) };
            let result = Err(refusal);
            last_word::tell(stream, peer, &result).await;
            return result;
        }
    };
    offer.image = image;
    if context.store.properties().form == Form::Unpacked {
        offer.image.leave_attestations_out();
    }
    let mut session = Session::new(context, peer, &offer, interest);
    let result = session.run(stream, &offer, cancel).await;
    session.report_sources(stream).await;
    if let Some(sharing) = &session.sharing {
        sharing.job().give_up();
    }
    if let Err(Refusal::Corrupt(_)) = &result {
        // Hashes of a source that lied about one blob are not worth keeping for the next session. What others bring too is theirs.
        let own = session.layers.values().filter(|arriving| !arriving.staged.was_joined());
        own.for_each(|arriving| arriving.staged.discard());
    }
    // Nothing of the session goes on behind its end, and nothing is kept for it while the other side hears of that.
    session.tasks.shutdown().await;
    let is_unheard = session.is_unheard;
    drop(session);
    if !is_unheard {
        last_word::tell(stream, peer, &result).await;
    }
    result
}

struct Session<'a, S: Store> {
    context: &'a Arc<Context<S>>,
    peer: &'a Peer,
    machine: Receive,
    image: Image,
    import: Option<Arc<S::Import>>,
    missing: Vec<Missing>,
    documents: Arc<Mutex<HashMap<Digest, Bytes>>>,
    /// Room for them.
    _room: Option<Share>,
    layers: HashMap<Digest, Arriving>,
    /// Layers that the store has consumed, and would lose with this process until the image is in.
    kept: Vec<Arc<StagedBlob>>,
    /// Layers that a store which takes nothing but bytes has taken, and those of which the machine knows that they are complete.
    fed: HashSet<Digest>,
    complete: HashSet<Digest>,
    /// Blobs that are here, and have to come all the same.
    unproven: HashSet<Digest>,
    /// On the disks of this host.
    reservation: Option<Reservation>,
    /// Among all sessions of this host.
    running: Option<Arc<Running>>,
    received_bytes: Arc<AtomicU64>,
    /// How far the source is that hashes before it serves.
    hashing: watch::Sender<Option<HashingProgress>>,
    /// Of layers that are in the store already.
    stored_bytes: u64,
    imported: Option<Imported>,
    tasks: JoinSet<Outcome>,
    /// Where layers come from in a fan-out.
    sharing: Option<Arc<Sharing>>,
    reported_sources: Vec<(HostId, u64)>,
    /// Layers that are complete, of which the last bytes are not reported yet.
    finished: Vec<Progress>,
    troubles: (mpsc::Sender<Trouble>, mpsc::Receiver<Trouble>),
    /// In a fan-out: the host that started it is gone. When the last byte came, as far as that is known.
    orphaned: Option<(Instant, u64)>,
    interest: Interest<'a>,
    rule: String,
    /// The name is about to move: from now on nobody is in time to stop it.
    committing: bool,
    /// The other side does not read what it is told.
    is_unheard: bool,
}

/// What a task came to.
enum Outcome {
    Input(Input),
    Claimed(Digest, Box<Arriving>),
    Fed(Digest),
    NotFed(Digest, StoreError),
    Imported(Imported),
    Accompanied,
}

impl<'a, S: Store> Session<'a, S> {
    fn new(context: &'a Arc<Context<S>>, peer: &'a Peer, offer: &Offer, interest: Interest<'a>) -> Self {
        Self {
            context,
            peer,
            machine: if interest.fan_out.is_some() { Receive::shared(offer) } else { Receive::new(offer) },
            image: offer.image.clone(),
            import: None,
            missing: vec![],
            documents: Arc::default(),
            _room: None,
            layers: HashMap::new(),
            kept: vec![],
            fed: HashSet::new(),
            complete: HashSet::new(),
            unproven: HashSet::new(),
            reservation: None,
            running: None,
            received_bytes: Arc::default(),
            hashing: watch::Sender::new(None),
            stored_bytes: 0,
            imported: None,
            tasks: JoinSet::new(),
            sharing: None,
            reported_sources: vec![],
            finished: vec![],
            troubles: mpsc::channel(TROUBLES),
            orphaned: None,
            interest,
            rule: String::new(),
            committing: false,
            is_unheard: false,
        }
    }

    async fn run(&mut self, stream: &mut Stream, offer: &Offer, cancel: CancellationToken) -> Result<Received, Refusal> {
        let peer = self.peer;
        let admitted = {
            let mut admitting = std::pin::pin!(self.admit(offer));
            loop {
                match sys::deadline(SIGN_OF_LIFE_MS, &mut admitting).await {
                    Some(admitted) => break admitted,
                    // It may have to hash what it has.
                    None => sign_of_life(peer, stream).await,
                }
            }
        };
        self.tell(admitted.map_or_else(Input::Failed, |missing| Input::Admitted { missing }));
        let mut signs = tokio::time::interval(Duration::from_millis(SIGN_OF_LIFE_MS));
        let first = if self.interest.fan_out.is_some() { REPORT_FIRST_FOR } else { Duration::ZERO };
        let (mut report, began) = (tokio::time::interval(REPORT_FIRST_EVERY), Instant::now());
        loop {
            while let Some(action) = self.machine.poll() {
                if let Action::Finish(result) = action {
                    return result.and_then(|()| self.received());
                }
                self.act(action, stream).await;
            }
            tokio::select! {
                Some(outcome) = self.tasks.join_next() => match outcome {
                    Ok(outcome) => self.take(outcome),
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
                _ = report.tick() => {
                    self.report(stream).await;
                    report.reset_after(if began.elapsed() < first { REPORT_FIRST_EVERY } else { REPORT_EVERY });
                }
                _ = signs.tick() => sign_of_life(peer, stream).await,
                Some(trouble) = self.troubles.1.recv() => self.say(stream, Answer::Trouble(trouble)).await,
                () = renewed(self.sharing.as_ref()), if !self.committing => self.tell(Input::Failed(Refusal::Cancelled)),
                has_finished = stream.given_up(), if !self.committing && self.orphaned.is_none() => self.lost(has_finished),
                () = makes_room(self.running.as_ref()), if !self.committing => self.tell(Input::Failed(Refusal::Busy)),
                () = cancel.cancelled(), if !self.committing => {
                    let stopping = self.context.shutdown.is_cancelled();
                    self.tell(Input::Failed(if stopping { Refusal::ShuttingDown } else { Refusal::Cancelled }));
                }
            }
        }
    }

    /// The other side has given up, or leaves, or is gone: then those who have the image in a fan-out finish it among themselves.
    fn lost(&mut self, has_finished: bool) {
        if self.sharing.is_some() && (has_finished || !self.peer.is_alive()) {
            warn!("the host that started the fan-out is gone: others may have the rest");
            self.orphaned = Some((Instant::now(), self.received_bytes()));
        } else if self.interest.asked_here.is_some() && (has_finished || !self.peer.is_alive()) {
            // The source leaves, or is gone, and may come back: whoever asked tries again.
            self.tell(Input::Failed(Refusal::ShuttingDown));
        } else {
            self.tell(Input::Failed(Refusal::Cancelled));
        }
    }

    /// Policy, then the store's question, then room: all before a byte moves.
    async fn admit(&mut self, offer: &Offer) -> Result<Vec<Missing>, Refusal> {
        self.peer.look_at(offer.image.entries()).await;
        self.rule = match self.interest.asked_here {
            Some(_) => format!("asked for on this host, from {}", self.peer.name()),
            None => rights::check_push(self.context, &self.pushers(), &offer.image).await?.rule,
        };
        let store = &self.context.store;
        let mut import = store.import(offer.image.clone()).await.map_err(|error| refusal(&error))?;
        let mut missing = import.missing().await.map_err(|error| refusal(&error))?;
        let unproven = possession::unproven(self.context, self.peer.id(), &offer.image, &missing).await.map_err(|error| refusal(&error))?;
        self.unproven = unproven.iter().map(|blob| blob.digest).collect();
        missing.extend(unproven);
        let missing = possession::staged(self.context, self.peer.id(), missing).await.map_err(|error| refusal(&error))?;
        if !offer.dry_run {
            self.running = Some(self.context.sessions.begin(self.peer.id(), &offer.image).ok_or(Refusal::Busy)?);
            let blobs = offer.image.blobs().into_iter().cloned().collect();
            self.reservation = Some(self.context.reservations.reserve(self.context, &missing, blobs).await?);
        }
        let absent: HashSet<Digest> = missing.iter().map(|blob| blob.digest).collect();
        let documents = offer.image.documents().into_iter().filter(|document| absent.contains(&document.digest));
        let documents_bytes: u64 = documents.map(|document| document.size_bytes).sum();
        if documents_bytes > DOCUMENT_BYTES {
            return Err(Refusal::InvalidImage(format!("its documents have {documents_bytes} bytes, the limit is {DOCUMENT_BYTES}")));
        }
        self._room = Some(self.peer.documents(documents_bytes).ok_or(Refusal::Busy)?);
        self.import = Some(Arc::new(import));
        self.missing = missing.clone();
        if let Some(fan_out) = &mut self.interest.fan_out {
            // Where not every member may pull everything, only what comes with the job is served to its members.
            let present = if self.context.policy.restricts_pull() { Place::Nowhere } else { Place::Store };
            let blobs = offer.image.layers().into_iter().map(|layer| layer.descriptor.clone());
            let place = |blob: Descriptor| {
                let place = if absent.contains(&blob.digest) { Place::Awaited } else { present.clone() };
                (blob, place)
            };
            let job = self.context.jobs.join(self.peer.id(), fan_out.id, &fan_out.members, blobs.map(place));
            fan_out.job = Some(job.clone());
            let sharing = Arc::new(Sharing::new(self.context.net.clone(), job, self.peer.clone(), self.troubles.0.clone()));
            let layers = offer.image.layers().into_iter().map(|layer| layer.descriptor.digest).filter(|digest| absent.contains(digest));
            let accompanying = sharing.clone().accompany(layers.collect());
            self.tasks.spawn(async move {
                accompanying.await;
                Outcome::Accompanied
            });
            self.sharing = Some(sharing);
        }
        Ok(missing)
    }

    /// Whose rights count: those of the host that offers, and of the one that had it do so.
    fn pushers(&self) -> Vec<HostId> {
        let on_behalf_of = self.interest.fan_out.as_ref().and_then(|fan_out| fan_out.on_behalf_of);
        std::iter::once(self.peer.id()).chain(on_behalf_of).collect()
    }

    async fn act(&mut self, action: Action, stream: &mut Stream) {
        match action {
            Action::Want(want) => {
                self.publish(News::Wanted(want.missing.clone()));
                self.say(stream, Answer::Want(want)).await;
            }
            Action::FetchDocument(document) => self.fetch_document(document),
            Action::CheckDocuments => {
                let (context, image, documents) = (self.context.clone(), self.image.clone(), self.documents.clone());
                self.tasks.spawn(async move {
                    input(documents::check(&*context.store, &image, &documents).await.map(|()| Input::DocumentsChecked))
                });
            }
            Action::Claim(layer) => self.claim(layer),
            Action::Fetch { digest, range } => self.fetch(digest, range),
            Action::Store(digest) => self.store(digest),
            Action::Commit => self.commit(),
            Action::Finish(_) => {}
        }
    }

    fn take(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Input(Input::StoredElsewhere(digest)) => {
                let restricted = self.context.policy.restricts_pull();
                self.shared(&digest, if restricted { Place::Nowhere } else { Place::Store });
                let layer = self.missing.iter().find(|missing| missing.digest == digest);
                self.stored_bytes += layer.map_or(0, |layer| layer.size_bytes);
                if let Some(arriving) = self.layers.remove(&digest)
                    && !arriving.staged.was_joined()
                {
                    arriving.staged.discard();
                }
                // Somebody else has brought it: that is no proof that this host has it, too. A new session asks for its bytes.
                self.tell(if restricted { Input::Failed(Refusal::StoreChanged) } else { Input::StoredElsewhere(digest) });
            }
            Outcome::Input(input) => self.tell(input),
            Outcome::Accompanied => {}
            Outcome::Claimed(digest, arriving) => {
                let missing = arriving.staged.missing();
                // What another session left or brings here did not come with the job.
                let is_ours = arriving.is_mixed() && self.context.policy.restricts_pull();
                self.shared(&digest, if is_ours { Place::Nowhere } else { Place::Staged(arriving.staged.reader()) });
                let is_fed = !self.context.store.properties().adopts_files && !self.unproven.contains(&digest);
                if let (true, Some(import)) = (is_fed, self.import.clone()) {
                    let (reader, context, running) = (arriving.staged.reader(), self.context.clone(), self.running.clone());
                    let configs = self.image.configs();
                    self.tasks.spawn(async move {
                        match feed_in(&context.sessions, running.as_deref(), &configs, reader, import).await {
                            Ok(Some(())) => Outcome::Fed(digest),
                            Ok(None) => Outcome::Input(Input::StoredElsewhere(digest)),
                            Err(error) => Outcome::NotFed(digest, error),
                        }
                    });
                }
                self.layers.insert(digest, *arriving);
                self.tell(Input::Claimed { digest, missing });
            }
            Outcome::NotFed(digest, error) => {
                let is_mixed = self.layers.get(&digest).is_some_and(Arriving::is_mixed);
                // The hashes fit the bytes, but not the digest: some source lied, and all of it is suspect.
                if let (StoreError::Corrupt(_), Some(arriving)) = (&error, self.layers.get(&digest)) {
                    arriving.staged.discard();
                }
                self.tell(Input::Failed(blamed(&self.context.staging, digest, &error, is_mixed)));
            }
            Outcome::Fed(digest) => {
                self.fed.insert(digest);
                self.stored_when_fed(digest);
            }
            Outcome::Imported(imported) => {
                self.kept.drain(..).for_each(|staged| staged.discard());
                // In a fan-out others bring most of it.
                if self.sharing.is_none() {
                    possession::brought(self.context, self.peer.id(), &self.image);
                }
                self.imported = Some(imported);
                self.tell(Input::Committed);
            }
        }
    }

    fn tell(&mut self, input: Input) {
        if let Err(error) = self.machine.handle(input) {
            // The machine and this driver disagree: a defect, and no reason to store anything.
            tracing::error!(%error, "session ends");
            let _ = self.machine.handle(Input::Failed(Refusal::OutOfTurn));
        }
    }

    /// Others of a fan-out find a layer there.
    fn shared(&self, digest: &Digest, place: Place) {
        if let Some(blob) = self.sharing.as_ref().and_then(|sharing| sharing.job().blob(digest)) {
            blob.put(place);
        }
    }

    fn fetch_document(&mut self, document: Descriptor) {
        let (peer, documents, received) = (self.peer.clone(), self.documents.clone(), self.received_bytes.clone());
        let is_refused = self.interest.is_refused.clone();
        self.tasks.spawn(async move {
            let digest = document.digest;
            input(match get::document(&peer, &document).await {
                Ok(bytes) => {
                    received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    documents.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, bytes.into());
                    Ok(Input::DocumentFetched(digest))
                }
                Err(error) => Err(error.refusal(digest, &is_refused)),
            })
        });
    }

    fn claim(&mut self, layer: Descriptor) {
        let (context, import, host) = (self.context.clone(), self.import.clone(), self.peer.id());
        // A store that is fed says so when its feeding begins, which may wait for another session that feeds the same layer.
        let looks = context.store.properties().adopts_files && !self.unproven.contains(&layer.digest);
        let source = possession::source(&context, self.peer.id(), &layer.digest);
        self.tasks.spawn(async move {
            let digest = layer.digest;
            let claim = async {
                let staged = context.staging.claim(&layer, source, host).await?;
                let import = import.ok_or(StoreError::BlobMissing(digest))?;
                if looks && import.ingest(&layer).await?.is_none() {
                    return Ok(Outcome::Input(Input::StoredElsewhere(digest)));
                }
                Ok::<_, StoreError>(Outcome::Claimed(digest, Box::new(Arriving::new(staged))))
            };
            claim.await.unwrap_or_else(|error| Outcome::Input(Input::Failed(refusal(&error))))
        });
    }

    fn fetch(&mut self, digest: Digest, range: Range<u64>) {
        let Some(arriving) = self.layers.get(&digest) else {
            // The store has the layer by another way meanwhile.
            return self.tell(Input::Fetched { digest });
        };
        let (peer, sharing, staged) = (self.peer.clone(), self.sharing.clone(), arriving.staged.clone());
        let (received, limit) = (self.received_bytes.clone(), self.interest.limit.clone());
        let (hashing, is_refused) = (self.hashing.clone(), self.interest.is_refused.clone());
        self.tasks.spawn(async move {
            let fetch = Fetch {
                staged: &staged,
                received_bytes: &received,
                limit: limit.as_deref(),
                hashes: None,
                patience: Patience::ORIGIN,
                hashing: Some(&hashing),
            };
            let fetched = async {
                // Other sessions may bring parts of it.
                while let Some((part, fetching)) = staged.turn(range.clone()).await {
                    let mut at = part.start;
                    let coming = async {
                        match &sharing {
                            Some(sharing) => sharing.fetch(fetch, part.start, part.end).await,
                            None => fetch.run(&peer, &mut at, part.end, std::future::pending()).await,
                        }
                    };
                    tokio::select! {
                        biased;
                        () = staged.fetched(part.clone(), &fetching) => {}
                        fetched = coming => fetched?,
                    }
                }
                Ok(())
            };
            input(match fetched.await {
                Ok(()) => Ok(Input::Fetched { digest }),
                Err(error) => Err(GetError::refusal(error, digest, &is_refused)),
            })
        });
    }

    fn store(&mut self, digest: Digest) {
        if !self.context.store.properties().adopts_files && !self.unproven.contains(&digest) {
            self.complete.insert(digest);
            return self.stored_when_fed(digest);
        }
        let (Some(arriving), Some(import)) = (self.layers.remove(&digest), self.import.clone()) else { return };
        self.count_whole(&arriving);
        let (is_mixed, context) = (arriving.is_mixed(), self.context.clone());
        let is_proof = self.unproven.contains(&digest);
        let diff_id = self.image.layers().into_iter().find(|layer| layer.descriptor.digest == digest).and_then(|layer| layer.diff_id);
        self.tasks.spawn(async move {
            let stored = if is_proof {
                possession::prove(arriving.staged, diff_id).await
            } else {
                possession::store(&context, arriving.staged, import, diff_id).await
            };
            input(stored.map(|()| Input::Stored(digest)).map_err(|error| blamed(&context.staging, digest, &error, is_mixed)))
        });
    }

    /// All bytes of a layer are verified.
    fn count_whole(&mut self, arriving: &Arriving) {
        let (digest, size_bytes) = (arriving.staged.descriptor().digest, arriving.staged.descriptor().size_bytes);
        self.stored_bytes += size_bytes;
        self.finished.push(Progress { digest, verified_bytes: size_bytes });
    }

    /// The last byte was verified, and the store has all of them.
    fn stored_when_fed(&mut self, digest: Digest) {
        if !self.fed.contains(&digest) || !self.complete.contains(&digest) {
            return;
        }
        let Some(arriving) = self.layers.remove(&digest) else { return };
        self.count_whole(&arriving);
        match self.context.store.properties().durable_ingests {
            true => arriving.staged.discard(),
            // The store has it for good only with the image.
            false => self.kept.push(arriving.staged),
        }
        self.tell(Input::Stored(digest));
    }

    fn commit(&mut self) {
        self.committing = true;
        let (import, documents) = (self.import.take(), self.documents.clone());
        let pushers = self.pushers();
        let (context, image, running, configs) = (self.context.clone(), self.image.clone(), self.running.clone(), self.image.configs());
        let by = match self.interest.asked_here {
            Some(who) => By::Puller(who.to_owned(), self.rule.clone()),
            None => By::Pushers(self.peer.name().to_owned(), pushers),
        };
        self.tasks.spawn(async move {
            let finishing = finish(&context, &image, import, &documents, by);
            match context.sessions.wait(running.as_deref(), &configs, finishing).await {
                Ok(imported) => Outcome::Imported(imported),
                Err(refusal) => Outcome::Input(Input::Failed(refusal)),
            }
        });
    }

    /// Blob bytes of this session, from whoever they came.
    fn received_bytes(&self) -> u64 {
        let shared = self.sharing.iter().flat_map(|sharing| sharing.drawn()).map(|(_, bytes)| bytes).sum::<u64>();
        self.received_bytes.load(Ordering::Relaxed) + shared
    }

    fn received(&mut self) -> Result<Received, Refusal> {
        let committed = match self.imported.take() {
            None => None,
            Some(imported) => {
                let shown = self.image.manifests.iter().find(|manifest| manifest.config.digest == imported.image_id);
                let config_digest = shown.or(self.image.manifest_for(&proto::Platform::host())).map(|manifest| manifest.config.digest);
                let received_bytes = self.received_bytes();
                let config_digest = config_digest.ok_or(Refusal::OutOfTurn)?;
                Some(Committed { image_id: imported.image_id, config_digest, received_bytes, replaced: imported.replaced })
            }
        };
        Ok(Received { missing: std::mem::take(&mut self.missing), committed, rule: std::mem::take(&mut self.rule) })
    }

    async fn report(&mut self, stream: &mut Stream) {
        let mut reports = std::mem::take(&mut self.finished);
        for (digest, arriving) in &mut self.layers {
            let verified_bytes = arriving.staged.verified_bytes();
            if verified_bytes > arriving.reported_bytes {
                arriving.reported_bytes = verified_bytes;
                reports.push(Progress { digest: *digest, verified_bytes });
            }
        }
        let arriving = self.layers.values().map(|arriving| arriving.staged.verified_bytes()).sum::<u64>();
        if let Some(transfer) = self.interest.transfer {
            let total_bytes = self.missing.iter().map(|missing| missing.size_bytes - missing.staged_bytes).sum();
            transfer.progress((self.stored_bytes + arriving).min(total_bytes), total_bytes);
        }
        if let Some(running) = &self.running {
            let layers =
                self.missing.iter().filter(|missing| self.image.layers().iter().any(|layer| layer.descriptor.digest == missing.digest));
            let total_bytes: u64 = layers.map(|layer| layer.size_bytes).sum();
            running.verified(self.stored_bytes + arriving, total_bytes);
            if let Some(reservation) = &self.reservation {
                let staged_bytes: u64 = self.missing.iter().map(|missing| missing.staged_bytes).sum();
                let bytes = (self.stored_bytes + arriving).saturating_sub(staged_bytes);
                reservation.arrived(bytes, self.stored_bytes + arriving >= total_bytes);
            }
        }
        let received_bytes = self.received_bytes();
        if let Some((since, bytes)) = &mut self.orphaned {
            if received_bytes > *bytes {
                (*since, *bytes) = (Instant::now(), received_bytes);
            } else if since.elapsed() >= ORPHANED && !self.committing {
                return self.tell(Input::Failed(Refusal::Store("the host that sent it is gone, and no other one has the rest".to_owned())));
            }
        }
        self.report_sources(stream).await;
        if let Some(progress) = self.hashing.send_replace(None) {
            self.publish(News::Hashing(progress));
        }
        for progress in reports {
            self.say(stream, Answer::Progress(progress.clone())).await;
            self.publish(News::Progress(progress));
        }
    }

    /// In a fan-out: from whom the bytes came, when there are more than were reported.
    async fn report_sources(&mut self, stream: &mut Stream) {
        let Some(sharing) = &self.sharing else { return };
        let drawn = sharing.drawn();
        if drawn != self.reported_sources {
            self.say(stream, Answer::Drawn(drawn.clone())).await;
            self.reported_sources = drawn;
        }
    }

    /// Tells the other side. A stream that is lost is noticed where the next answer is awaited; who does not read is as good as gone.
    async fn say(&mut self, stream: &mut Stream, answer: Answer) {
        if !self.is_unheard && sys::deadline(SEND_MS, stream.send(&answer)).await.is_none() {
            self.is_unheard = true;
            self.tell(Input::Failed(Refusal::Cancelled));
        }
    }

    fn publish(&self, news: News) {
        if let Some(sender) = &self.interest.news {
            // Whoever is slow to read misses some progress, never the plan: it is the first news and fits the channel.
            let _ = sender.try_send(news);
        }
    }
}

/// Says that the session goes on, to who understands it.
async fn sign_of_life(peer: &Peer, stream: &mut Stream) {
    if peer.hello().capabilities & SIGNS_OF_LIFE != 0 {
        // A stream that is lost is noticed where the next answer is awaited.
        let _ = sys::deadline(STALL_TIMEOUT_MS, stream.send(&Answer::Working)).await;
    }
}

fn input(result: Result<Input, Refusal>) -> Outcome {
    Outcome::Input(result.unwrap_or_else(Input::Failed))
}
