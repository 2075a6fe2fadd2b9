//! The endpoint with all its connections: one warm connection for each peer that is needed, made when it is needed.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::HostId;
use proto::join::{JoinAnswer, JoinRequest};
use proto::limits::{CONNECTIONS_PER_HOST, HANDSHAKE_TIMEOUT_MS};
use proto::peer::{CAPABILITIES, GreetingRefusal, Hello, Instance, MAJOR};
use quinn::Connection;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::task::JoinSet;
use tracing::debug;

use super::allowance::Allowance;
use super::connection::connected_id;
use super::guesses::Guesses;
use super::instances::Instances;
use super::twins::Check;
use super::{NetError, Peer, Stream, accept, endpoint, greeting, join, twins};
use crate::discovery::Peers;
use crate::trust::{self, Trust};

/// Hosts whose addresses wait to be asked for the process behind them.
const CHECKS: usize = 64;

/// What the network side of an agent needs to know.
#[derive(Debug)]
pub struct NetConfig {
    /// Where to listen; port 0 is any.
    pub listen: SocketAddr,
    /// Kind of the store, for the Hello.
    pub store: String,
}

/// The network side of an agent.
#[derive(Debug)]
pub struct Net {
    quinn: quinn::Endpoint,
    store: String,
    trust: Arc<Trust>,
    peers: Arc<Peers>,
    pool: Mutex<HashMap<HostId, Known>>,
    dialling: Mutex<HashMap<HostId, Arc<AsyncMutex<()>>>>,
    welcomed: mpsc::Sender<Peer>,
    /// This process.
    instance: Instance,
    /// The processes that have answered as other hosts.
    pub(super) instances: Mutex<Instances>,
    guesses: Guesses,
    /// Members that do not take this host for one, or for one of another time: what came of the last search for each.
    refusals: Mutex<HashMap<HostId, Refused>>,
    /// Where somebody said that our own key is in use on two machines, and who.
    pub(super) told_twins: Mutex<HashMap<HostId, Vec<SocketAddr>>>,
    pub(super) checks: mpsc::Sender<Check>,
    due_checks: Mutex<Option<mpsc::Receiver<Check>>>,
}

/// Why a member does not speak to this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// It knows that this host was removed.
    Removed,
    /// One of the two clocks is wrong; in words.
    Clock(String),
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Whatever comes: it is kept warm.
    Use,
    /// To know which process is at the other end. It is kept out of the pool, also when two machines have the key.
    Check,
}

/// A host that proved its identity once, and its connections.
#[derive(Debug, Default)]
struct Known {
    peers: Vec<Peer>,
    /// Connections that lead to a process whose name is asked for, and no further.
    checks: Vec<Peer>,
    /// Connections that are being greeted: they count, or many at once would slip through.
    greeting: usize,
    allowance: Arc<Allowance>,
}

impl Known {
    fn alive(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(|peer| peer.is_alive())
    }
}

impl Net {
    /// Opens the socket. Every peer that is welcomed, whoever dialled, comes out of the channel once, to be served.
    pub fn bind(config: NetConfig, trust: Arc<Trust>, peers: Arc<Peers>) -> Result<(Arc<Self>, mpsc::Receiver<Peer>), NetError> {
        let quinn = endpoint::bind(config.listen, &trust.reset_secret())?;
        let (welcomed, receiver) = mpsc::channel(16);
        let (checks, due_checks) = mpsc::channel(CHECKS);
        let net = Self {
            quinn,
            store: config.store,
            trust,
            peers,
            pool: Mutex::default(),
            dialling: Mutex::default(),
            welcomed,
            instance: draw_instance()?,
            instances: Mutex::default(),
            guesses: Guesses::default(),
            refusals: Mutex::default(),
            told_twins: Mutex::default(),
            checks,
            due_checks: Mutex::new(Some(due_checks)),
        };
        Ok((Arc::new(net), receiver))
    }

    /// Accepts connections, and follows what changes in trust: new certificates are used, removed hosts are cut. Runs until [`Net::close`].
    pub async fn run(self: Arc<Self>) {
        let mut changes = self.trust.changes();
        let accepting = accept::run(self.clone());
        let following = async {
            loop {
                self.follow_trust();
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let due = self.due_checks.lock().unwrap_or_else(PoisonError::into_inner).take();
        tokio::select! {
            () = accepting => {}
            () = following => {}
            () = twins::run(self.clone(), due) => {}
        }
    }

    /// Which process this is, for whoever asks.
    pub fn instance(&self) -> Instance {
        self.instance
    }

    /// A connection to a member: a warm one, else a new one by the best address that answers.
    pub async fn connect(&self, id: &HostId) -> Result<Peer, NetError> {
        if let Some(peer) = self.warm(id) {
            return Ok(peer);
        }
        let turn = self.dialling.lock().unwrap_or_else(PoisonError::into_inner).entry(*id).or_default().clone();
        let _turn = turn.lock().await;
        if let Some(peer) = self.warm(id) {
            return Ok(peer);
        }
        self.settle_twins(id).await?;
        let peer = self.search(id).await?;
        self.look_for_twins(id).await?;
        Ok(peer)
    }

    /// Asks a member something that may be asked twice. A warm connection may lead to an agent that was restarted since, which only the question
    /// finds out, and there may be several: then it is asked once more, on the next one, and at last on a fresh one.
    pub async fn ask<T, F>(&self, id: &HostId, question: impl Fn(Peer) -> F) -> Result<T, NetError>
    where
        F: Future<Output = Result<T, NetError>>,
    {
        for _ in 0..CONNECTIONS_PER_HOST {
            let peer = self.connect(id).await?;
            match question(peer.clone()).await {
                Err(error) if error.is_passing() && !peer.is_alive() => {}
                answer => return answer,
            }
        }
        question(self.connect(id).await?).await
    }

    /// Finds out who answers at the configured addresses that no connection leads to.
    pub async fn probe_fixed(&self) {
        let mut probes = JoinSet::new();
        let connected: Vec<SocketAddr> = self.alive().iter().map(Peer::address).collect();
        for address in self.peers.fixed().await.into_iter().filter(|address| !connected.contains(address)) {
            let dial = self.dialler(None, address);
            probes.spawn(async move { (address, dial.await) });
        }
        while let Some(Ok((address, dialled))) = probes.join_next().await {
            match self.admit(dialled, None, Purpose::Use).await {
                Ok(peer) => debug!(%address, host = peer.name(), "configured address answers"),
                Err(error) => debug!(%address, %error, "configured address does not answer"),
            }
        }
    }

    /// Asks for a place in a fleet, or for a new certificate, at one address. Tells who answered.
    pub async fn ask_signer(
        &self,
        fleet: &HostId,
        address: SocketAddr,
        request: impl FnOnce(&[u8; 32]) -> Result<JoinRequest, NetError>,
    ) -> Result<(HostId, JoinAnswer), NetError> {
        let (signer, answer) = join::ask(&self.quinn, &self.trust, fleet, address, request).await?;
        self.peers.announced(signer, [address]);
        Ok((signer, answer))
    }

    /// Peers with a connection now.
    pub fn alive(&self) -> Vec<Peer> {
        let pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        pool.values().filter_map(|known| known.alive().next().cloned()).collect()
    }

    /// Where others reach us.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.quinn.local_addr().ok()
    }

    /// Closes every connection, telling the peers why, and waits until they know, but not for long.
    pub async fn close(&self) {
        self.quinn.close(0u32.into(), b"agent is shutting down");
        let _ = tokio::time::timeout(Duration::from_secs(1), self.quinn.wait_idle()).await;
    }

    pub(super) fn quinn(&self) -> &quinn::Endpoint {
        &self.quinn
    }

    pub(super) fn peers(&self) -> &Peers {
        &self.peers
    }

    pub(super) fn shared_peers(&self) -> Arc<Peers> {
        self.peers.clone()
    }

    /// What members say of this host that do not speak to it.
    pub fn refusals(&self) -> Vec<(HostId, Refused)> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(id, refused)| (*id, refused.clone())).collect()
    }

    /// How a search has ended.
    pub(super) fn note(&self, id: &HostId, error: Option<&NetError>) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        match error {
            Some(NetError::Revoked) => drop(refusals.insert(*id, Refused::Removed)),
            Some(clock @ (NetError::Clock(_) | NetError::OutOfDate)) => drop(refusals.insert(*id, Refused::Clock(clock.to_string()))),
            _ => drop(refusals.remove(id)),
        }
    }

    pub(super) fn guesses(&self) -> &Guesses {
        &self.guesses
    }

    pub(super) fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// Greets, and keeps the connection when both sides say Welcome.
    pub(super) async fn welcome(&self, mut stream: Stream, id: HostId, connection: Connection, purpose: Purpose) -> Result<Peer, NetError> {
        let place = Greeting::take(self, id);
        let refusal = self.refusal(&id, purpose, place.full);
        if let Some(GreetingRefusal::TwoMachines(_)) = &refusal {
            // One of the two may be gone by now.
            let _ = self.begin_due_check(&id);
        }
        let greeted = match greeting::greet(&mut stream, id, &self.hello(), &self.trust, refusal).await {
            Ok(greeted) => greeted,
            Err(error) => {
                // A refusal is of use only to a peer that gets it before the connection ends.
                let _ = tokio::time::timeout(Duration::from_millis(500), stream.flush()).await;
                connection.close(0u32.into(), b"not welcome");
                match &error {
                    NetError::Refused(GreetingRefusal::TwoMachines(addresses)) => self.heard_of_twins(id, addresses),
                    // Where it is now, for the next look.
                    NetError::TwoMachines(_) => self.peers.announced(id, [connection.remote_address()]),
                    _ => {}
                }
                if matches!(error, NetError::Refused(_) | NetError::NotMember(_)) {
                    self.trust.audit().connection_refused(&id.to_string(), &error.to_string());
                }
                return Err(error);
            }
        };
        stream.finish();
        self.peers.reached(&id, connection.remote_address());
        let (peer, has_moved) = {
            let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
            let known = pool.entry(id).or_default();
            known.peers.retain(Peer::is_alive);
            let peer = Peer::new(id, greeted.member.name, greeted.hello, connection, known.allowance.clone(), known.peers.is_empty());
            known.checks.retain(Peer::is_alive);
            let has_moved = known.peers.iter().any(|other| other.address() != peer.address());
            match purpose {
                // The newest one leads to where the host is now.
                Purpose::Use => known.peers.insert(0, peer.clone()),
                Purpose::Check => known.checks.push(peer.clone()),
            }
            (peer, has_moved && purpose == Purpose::Use)
        };
        drop(place);
        if self.trust.members().is_none_or(|list| list.by_id(&id).is_none()) {
            // Removed between the verdict and now: whoever follows the list has not seen this connection.
            peer.close("no longer a member");
            return Err(NetError::NotMember(id));
        }
        // Whoever serves has stopped when this fails: then the agent is about to end.
        let _ = self.welcomed.send(peer.clone()).await;
        if has_moved {
            self.begin_close_silent(id);
        }
        self.identify(&peer, purpose).await?;
        Ok(peer)
    }

    /// Why this host is not welcomed, should it be a member.
    fn refusal(&self, id: &HostId, purpose: Purpose, full: bool) -> Option<GreetingRefusal> {
        if full {
            return Some(GreetingRefusal::TooManyConnections);
        }
        let twins = self.instances.lock().unwrap_or_else(PoisonError::into_inner).twins(id);
        twins.filter(|_| purpose == Purpose::Use).map(|twins| GreetingRefusal::TwoMachines(twins.to_vec()))
    }

    /// All connections to a host.
    pub(super) fn connections(&self, id: &HostId) -> Vec<Peer> {
        let pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        pool.get(id).map(|known| known.alive().cloned().collect()).unwrap_or_default()
    }

    /// All connections to everybody.
    pub(super) fn every_connection(&self) -> Vec<Peer> {
        let pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        pool.values().flat_map(|known| known.alive().cloned()).collect()
    }

    fn warm(&self, id: &HostId) -> Option<Peer> {
        let pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        pool.get(id)?.alive().next().cloned()
    }

    /// The handshake alone; it may run beside others.
    pub(super) fn dialler(
        &self,
        id: Option<HostId>,
        address: SocketAddr,
    ) -> impl Future<Output = Result<Connection, NetError>> + Send + 'static {
        let quinn = self.quinn.clone();
        let prepared = self.trust.tls_client(id).map_err(NetError::Trust).and_then(endpoint::client);
        let fleet = self.trust.fleet();
        async move {
            let (config, fleet) = (prepared?, fleet.ok_or(NetError::Trust(trust::TrustError::NoFleet))?);
            // For an address whose host is not known yet the name is not what is verified: the key is.
            let name = trust::server_name(&id.unwrap_or(fleet), &fleet);
            let connecting = quinn.connect_with(config, address, &name).map_err(|error| NetError::Lost(error.to_string()))?;
            match tokio::time::timeout(Duration::from_millis(HANDSHAKE_TIMEOUT_MS), connecting).await {
                Ok(Ok(connection)) => Ok(connection),
                Ok(Err(quinn::ConnectionError::TimedOut)) | Err(_) => Err(NetError::Silent(HANDSHAKE_TIMEOUT_MS / 1000)),
                Ok(Err(error)) => Err(error.into()),
            }
        }
    }

    pub(super) async fn admit(
        &self,
        dialled: Result<Connection, NetError>,
        expected: Option<HostId>,
        purpose: Purpose,
    ) -> Result<Peer, NetError> {
        let connection = dialled?;
        let id = connected_id(&connection).filter(|id| expected.is_none_or(|expected| expected == *id) && *id != self.trust.id());
        let id = id.ok_or(NetError::OtherHost)?;
        let greeting = async {
            let opened = connection.open_bi().await?;
            self.welcome(Stream::new(opened), id, connection.clone(), purpose).await
        };
        match tokio::time::timeout(Duration::from_millis(HANDSHAKE_TIMEOUT_MS), greeting).await {
            Ok(greeted) => greeted,
            Err(_) => {
                connection.close(0u32.into(), b"no greeting");
                Err(NetError::Silent(HANDSHAKE_TIMEOUT_MS / 1000))
            }
        }
    }

    fn hello(&self) -> Hello {
        Hello {
            major: MAJOR,
            capabilities: CAPABILITIES,
            software: concat!("imgd ", env!("CARGO_PKG_VERSION")).to_owned(),
            name: self.trust.name(),
            platform: proto::Platform::host(),
            store: self.store.clone(),
            members_epoch: self.trust.epoch(),
        }
    }

    fn follow_trust(&self) {
        let secret = self.trust.reset_secret();
        let config = self.trust.tls_server().ok().and_then(|tls| endpoint::server(tls, &secret).ok());
        self.quinn.set_server_config(config);
        let pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        let members = self.trust.members();
        for (id, known) in pool.iter() {
            if members.as_ref().is_none_or(|list| list.by_id(id).is_none()) {
                known.peers.iter().chain(&known.checks).for_each(|peer| peer.close("no longer a member"));
            }
        }
    }
}

fn draw_instance() -> Result<Instance, NetError> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NetError::Lost("no random numbers".to_owned()))?;
    Ok(Instance(bytes))
}

/// A connection between the proof of its identity and the Welcome.
struct Greeting<'a> {
    net: &'a Net,
    id: HostId,
    /// The host holds as many connections as it may.
    full: bool,
}

impl<'a> Greeting<'a> {
    fn take(net: &'a Net, id: HostId) -> Self {
        let mut pool = net.pool.lock().unwrap_or_else(PoisonError::into_inner);
        let known = pool.entry(id).or_default();
        let checks = known.checks.iter().filter(|peer| peer.is_alive()).count();
        let full = known.alive().count() + checks + known.greeting >= CONNECTIONS_PER_HOST;
        known.greeting += 1;
        Self { net, id, full }
    }
}

impl Drop for Greeting<'_> {
    fn drop(&mut self) {
        let mut pool = self.net.pool.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = pool.get_mut(&self.id) {
            known.greeting -= 1;
        }
    }
}
