//! A fan-out: at the host that starts it, the plan of who reads from whom; at a host that receives, a session that others read from.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use proto::hash::RangeHash;
use proto::job::{JobId, Share, Sources, Trouble};
use proto::limits::JOBS_PER_HOST;
use proto::peer::{Answer, Refusal, Request};
use proto::session::{Chain, Links};
use proto::{Digest, HostId};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{debug, info};

use super::interest::FanOut;
use super::serve::refuse;
use super::{Context, Limit, refusal, serve, share};
use crate::net::{NetError, Peer, Stream};
use crate::store::Store;

/// How often the plan is looked at.
const PLAN_EVERY: Duration = Duration::from_millis(50);
/// How long the first hosts wait for the others to answer.
const GATHER: Duration = Duration::from_millis(500);
/// How long a host may take to say that it has heard.
const ASK_MS: u64 = 3_000;
/// The same at the end, when it matters less.
const END_MS: u64 = 1_000;
/// How long a host that has the image goes on serving others after the last of them has read here, when the host that started the job is gone and
/// nobody says that it is over. Longer than a host without a source looks for one.
const LINGER: Duration = Duration::from_secs(90);

/// What happens to a host of a fan-out, for the plan.
#[derive(Debug)]
pub(super) enum News {
    /// It has answered.
    Joined {
        /// Who.
        peer: Peer,
        /// The image, which is another one for another platform: a manifest or an index.
        root: Digest,
        /// Of the image.
        size_bytes: u64,
        /// What of it has to travel.
        missing_bytes: u64,
    },
    /// So much of it has travelled.
    Progress(HostId, u64),
    /// So much of it came from the host that started it.
    FromHead(HostId, u64),
    /// It complains of a source.
    Trouble(HostId, Trouble),
    /// It has the image.
    Done(HostId),
    /// It will not have it.
    Gone(HostId),
}

/// A fan-out that runs, for those who talk to its hosts.
#[derive(Debug, Clone)]
pub struct Fan {
    pub(super) id: JobId,
    pub(super) members: Arc<[HostId]>,
    pub(super) news: mpsc::Sender<News>,
    /// Hosts that have not got it yet, and of which it is not known that they cannot be reached.
    pub(super) hopeful: Arc<watch::Sender<usize>>,
}

impl Fan {
    /// A fan-out to these hosts; the plan runs in `tasks` until all who have a clone of it are gone. `at_once`: all begin together, and a host that
    /// cannot be reached may come later, while others are under way. It begins with what `links` knows, and adds to it.
    pub fn start(head: HostId, members: Vec<HostId>, at_once: bool, links: Arc<Mutex<Links>>, tasks: &mut JoinSet<()>) -> Self {
        let mut id = [0; 16];
        // Names a job among those of one host; without random numbers no connection would be possible.
        let _ = SystemRandom::new().fill(&mut id);
        let (news, incoming) = mpsc::channel(256);
        let expected = members.len();
        let planner = Planner {
            id: JobId(id),
            head,
            expected,
            began: Instant::now(),
            gathering: None,
            links,
            chains: HashMap::new(),
            peers: HashMap::new(),
            words: 0,
            telling: JoinSet::new(),
        };
        tasks.spawn(planner.run(incoming));
        let hopeful = Arc::new(watch::Sender::new(if at_once { members.len() } else { 0 }));
        Self { id: JobId(id), members: members.into(), news, hopeful }
    }
}

/// Follows what the hosts say, and tells them where to read.
struct Planner {
    id: JobId,
    head: HostId,
    expected: usize,
    began: Instant,
    gathering: Option<Instant>,
    links: Arc<Mutex<Links>>,
    /// By what their hosts receive: whoever gets something else is of no use to them.
    chains: HashMap<Digest, Chain>,
    peers: HashMap<HostId, Peer>,
    words: u64,
    telling: JoinSet<(HostId, bool)>,
}

impl Planner {
    async fn run(mut self, mut news: mpsc::Receiver<News>) {
        let mut tick = tokio::time::interval(PLAN_EVERY);
        loop {
            tokio::select! {
                heard = news.recv() => match heard {
                    Some(heard) => self.hear(heard),
                    None => break,
                },
                _ = tick.tick() => self.plan(),
                Some(Ok((host, heard))) = self.telling.join_next() => self.told(&host, heard),
            }
        }
        let now_ms = self.now_ms();
        self.chains.values().for_each(|chain| chain.teach(&mut links(&self.links), now_ms));
        for (_, peer) in std::mem::take(&mut self.peers) {
            self.telling.spawn(ask(peer, Request::EndJob(self.id), END_MS));
        }
        while self.telling.join_next().await.is_some() {}
    }

    /// Who has not heard where to read is told again.
    fn told(&mut self, host: &HostId, heard: bool) {
        if !heard {
            self.chains.values_mut().for_each(|chain| chain.unheard(host));
        }
    }

    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    fn hear(&mut self, news: News) {
        let now_ms = self.now_ms();
        // A chain ignores whoever is not in it.
        let chains = self.chains.values_mut();
        match news {
            News::Joined { peer, root, size_bytes, missing_bytes } => {
                self.gathering.get_or_insert_with(Instant::now);
                let chain = self.chains.entry(root).or_insert_with(|| Chain::new(self.head, size_bytes, links(&self.links).clone()));
                chain.join(peer.id(), missing_bytes, now_ms);
                self.peers.insert(peer.id(), peer);
                self.plan();
            }
            News::Progress(host, bytes) => chains.for_each(|chain| chain.progress(&host, bytes, now_ms)),
            News::FromHead(host, bytes) => chains.for_each(|chain| chain.from_head(&host, bytes)),
            News::Trouble(host, trouble) => {
                let mut is_news = false;
                chains.for_each(|chain| is_news |= chain.trouble(&host, &trouble, now_ms));
                if is_news {
                    info!(source = %trouble.source, fault = ?trouble.fault, "a source of the fan-out fails");
                    self.plan();
                }
            }
            News::Done(host) => chains.for_each(|chain| chain.done(&host, now_ms)),
            News::Gone(host) => {
                chains.for_each(|chain| chain.gone(&host));
                self.plan();
            }
        }
    }

    /// Tells those whose sources have changed.
    fn plan(&mut self) {
        let now_ms = self.now_ms();
        let Some(gathering) = self.gathering else { return };
        if self.peers.len() >= self.expected || gathering.elapsed() >= GATHER {
            self.chains.values_mut().for_each(|chain| chain.start(now_ms));
        }
        let changes: Vec<_> = self.chains.values_mut().flat_map(|chain| chain.changes(now_ms)).collect();
        for (host, hosts) in changes {
            let Some(peer) = self.peers.get(&host) else { continue };
            debug!(host = peer.name(), ?hosts, "reads from");
            // Streams have no order: whoever hears an older word after a newer one knows it by its number.
            self.words += 1;
            let sources = Sources { job: self.id, number: self.words, hosts };
            self.telling.spawn(ask(peer.clone(), Request::Sources(sources), ASK_MS));
        }
    }
}

fn links(links: &Mutex<Links>) -> MutexGuard<'_, Links> {
    links.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which host it was, and whether it has heard.
async fn ask(peer: Peer, request: Request, timeout_ms: u64) -> (HostId, bool) {
    let asked = async {
        let mut stream = peer.request(&request).await?;
        stream.receive::<Answer>().await
    };
    let answer = crate::sys::deadline(timeout_ms, asked).await;
    if let Some(Err(error)) = &answer {
        debug!(host = peer.name(), %error, "not told");
    }
    (peer.id(), matches!(answer, Some(Ok(Answer::Done))))
}

/// Receives what is shared, and lets the other hosts of the job read it until the job is over.
pub(super) async fn receive_share<S: Store>(context: Arc<Context<S>>, peer: Peer, mut stream: Stream, share: Share) {
    let Some(session) = peer.session() else {
        let _ = stream.send(&Answer::Refused(Refusal::Busy)).await;
        return stream.flush().await;
    };
    let Share { offer, job: id, members, on_behalf_of, limit_bytes_per_s } = share;
    // Whoever is not in the fleet cannot connect. A host that has just joined may be in our list only when it does.
    let members = members.into_iter().filter(|host| *host != context.trust.id()).collect();
    let mut fan_out = FanOut { id, members, on_behalf_of, job: None };
    let dry_run = offer.dry_run;
    let limit = limit_bytes_per_s.map(|bytes_per_s| Arc::new(Limit::new(bytes_per_s)));
    serve::received(&context, &peer, &mut stream, offer, limit, Some(&mut fan_out)).await;
    stream.flush().await;
    // What comes after it holds no import and no documents: others read what is here.
    drop(session);
    let Some(job) = fan_out.job.filter(|_| !dry_run && context.jobs.count(&peer.id()) <= JOBS_PER_HOST) else { return };
    let orphaned = async {
        peer.closed().await;
        // From here on the others have only each other.
        job.read();
        job.unread_for(LINGER).await;
    };
    tokio::select! {
        () = job.ended.cancelled() => {}
        () = job.renewed.cancelled() => {}
        () = orphaned => {}
        () = context.shutdown.cancelled() => {}
    }
}

/// What the hashes of an offered blob hash to.
pub(super) async fn prove<S: Store>(context: &Context<S>, peer: &Peer, stream: &mut Stream, digest: Digest) -> Result<(), NetError> {
    match offered_hashes(context, peer, stream, &digest).await? {
        Some(Ok(hashes)) => share::send_proof(stream, &hashes).await,
        Some(Err(refusal)) => refuse(peer, stream, refusal).await,
        None => stream.send(&Answer::Refused(Refusal::BlobNotOffered(digest))).await,
    }
}

/// The hashes of a blob that was offered, or that comes in here with a job.
pub(super) async fn hashes<S: Store>(context: &Context<S>, peer: &Peer, stream: &mut Stream, digest: Digest) -> Result<(), NetError> {
    match offered_hashes(context, peer, stream, &digest).await? {
        Some(Ok(hashes)) => return share::send_hashes(stream, &hashes).await,
        Some(Err(refusal)) => return refuse(peer, stream, refusal).await,
        None => {}
    }
    match context.jobs.find(&peer.id(), &digest) {
        Some(job) => share::hashes_to(context, peer, stream, &job, digest).await,
        None => stream.send(&Answer::Refused(Refusal::BlobNotOffered(digest))).await,
    }
}

/// The hashes of a blob that was offered to `peer`, which hears how far they are. `None`: it was not.
async fn offered_hashes<S: Store>(
    context: &Context<S>,
    peer: &Peer,
    stream: &mut Stream,
    digest: &Digest,
) -> Result<Option<Result<Arc<[RangeHash]>, Refusal>>, NetError> {
    let Some(offer) = context.offers.find(&peer.id(), digest) else { return Ok(None) };
    let hashing = match offer.hashing(digest, context) {
        Ok(hashing) => hashing,
        Err(error) => return Ok(Some(Err(refusal(&error)))),
    };
    let hashed = hashing.hashes_for(stream, share::hashing_answer(peer)).await?;
    Ok(Some(hashed.map_err(|error| offer.unhashed(digest, &error))))
}
