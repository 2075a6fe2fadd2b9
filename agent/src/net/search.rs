//! The search for a host: all addresses that are known of it side by side, and from a moment later on, when none has answered, whatever members, the
//! network and the configuration know beside. The first that answers as the host wins. (The idea of racing addresses is that of RFC 8305.)

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use proto::HostId;
use proto::peer::{Answer, Request};
use quinn::Connection;
use tokio::task::JoinSet;
use tracing::debug;

use super::pool::{Net, Purpose};
use super::{NetError, Peer};
use crate::sys;
use crate::trust::TrustError;

/// How long the addresses that are known have before others are asked. On a LAN a host that is there answers in a few milliseconds.
const HEAD_START: Duration = Duration::from_millis(250);

/// How often an address is dialled again at which somebody has no room for us, and how long after it has said so: first, and twice as long each time.
const ROOM_TRIES: u32 = 5;
const ROOM_PAUSE: Duration = Duration::from_millis(100);

/// How long connected members may take to say where another one is.
const ASK_TIMEOUT_MS: u64 = 1_000;

impl Net {
    /// Finds a host, and connects to it.
    pub(super) async fn search(&self, id: &HostId) -> Result<Peer, NetError> {
        let found = self.found(id).await;
        self.note(id, found.as_ref().err());
        found
    }

    async fn found(&self, id: &HostId) -> Result<Peer, NetError> {
        if self.trust().fleet().is_none() {
            return Err(NetError::Trust(TrustError::NoFleet));
        }
        let mut dials = Dials::new(self, id);
        dials.begin(self.peers().addresses(id));
        let (mut asked, mut fixed) = (JoinSet::new(), JoinSet::new());
        let mut head_start = pin!(tokio::time::sleep(HEAD_START));
        let (mut looking, mut is_looking, mut was_looking) = (pin!(self.peers().look_for(id)), false, false);
        loop {
            if !was_looking && dials.are_over() {
                head_start.as_mut().reset(tokio::time::Instant::now());
            }
            tokio::select! {
                Some((address, dialled)) = dials.running.join_next_dial() => {
                    if let Some(ended) = dials.take(address, dialled).await {
                        return ended;
                    }
                }
                () = &mut head_start, if !was_looking => {
                    (is_looking, was_looking) = (true, true);
                    asked = self.ask_around(id);
                    let peers = self.shared_peers();
                    fixed.spawn(async move { peers.fixed().await });
                }
                () = &mut looking, if is_looking => is_looking = false,
                // A hint like any other.
                Some(answer) = asked.join_next() => self.peers().announced(*id, answer.unwrap_or_default()),
                Some(configured) = fixed.join_next() => {
                    // At these somebody else answers.
                    let taken: Vec<SocketAddr> = self.alive().iter().map(Peer::address).collect();
                    let configured = configured.unwrap_or_default().into_iter().filter(|address| !taken.contains(address));
                    dials.guess(configured.collect());
                }
                else => return Err(dials.failed()),
            }
            dials.begin(self.peers().addresses(id));
        }
    }

    /// Asks the connected members where another one is.
    fn ask_around(&self, id: &HostId) -> JoinSet<Vec<SocketAddr>> {
        let mut asked = JoinSet::new();
        for peer in self.alive() {
            let request = Request::Where(*id);
            asked.spawn(async move {
                let ask = async { peer.request(&request).await?.receive::<Answer>().await };
                match sys::deadline(ASK_TIMEOUT_MS, ask).await {
                    Some(Ok(Answer::Where(addresses))) => addresses,
                    _ => vec![],
                }
            });
        }
        asked
    }
}

/// Dials to one host, and what they have come to.
struct Dials<'a> {
    net: &'a Net,
    id: HostId,
    running: Running,
    tried: Vec<SocketAddr>,
    /// Of those, which nobody has said to be the host's.
    guessed: Vec<SocketAddr>,
    attempts: Vec<(SocketAddr, String)>,
    /// How often somebody there had no room.
    turned_away: HashMap<SocketAddr, u32>,
    /// Attempts that ended in a handshake.
    handshakes: Vec<SocketAddr>,
    /// Why somebody there does not take this host for a member.
    refusal: Option<NetError>,
}

#[derive(Default)]
struct Running(JoinSet<(SocketAddr, Result<Connection, NetError>)>);

impl Running {
    async fn join_next_dial(&mut self) -> Option<(SocketAddr, Result<Connection, NetError>)> {
        self.0.join_next().await?.ok()
    }
}

impl<'a> Dials<'a> {
    fn new(net: &'a Net, id: &HostId) -> Self {
        Self {
            net,
            id: *id,
            running: Running::default(),
            tried: vec![],
            guessed: vec![],
            attempts: vec![],
            turned_away: HashMap::new(),
            handshakes: vec![],
            refusal: None,
        }
    }

    /// Dials those that were not tried.
    fn begin(&mut self, addresses: impl IntoIterator<Item = SocketAddr>) {
        for address in addresses {
            if !self.tried.contains(&address) {
                self.tried.push(address);
                let dial = self.net.dialler(Some(self.id), address);
                self.running.0.spawn(async move { (address, dial.await) });
            }
        }
    }

    /// The same with addresses at which any host may be.
    fn guess(&mut self, addresses: Vec<SocketAddr>) {
        self.guessed.extend(addresses.iter().filter(|address| !self.tried.contains(address)));
        self.begin(addresses);
    }

    /// Dials again in a while, unless that was done often enough.
    fn may_again(&mut self, address: SocketAddr) -> bool {
        let times = self.turned_away.entry(address).or_default();
        let pause = ROOM_PAUSE * 2u32.pow(*times);
        *times += 1;
        let is_last = *times > ROOM_TRIES;
        if !is_last {
            let dial = self.net.dialler(Some(self.id), address);
            self.running.0.spawn(async move {
                tokio::time::sleep(pause).await;
                (address, dial.await)
            });
        }
        !is_last
    }

    fn are_over(&self) -> bool {
        self.running.0.is_empty()
    }

    /// The end of a dial; what ends the search with it.
    async fn take(&mut self, address: SocketAddr, dialled: Result<Connection, NetError>) -> Option<Result<Peer, NetError>> {
        match self.net.admit(dialled, Some(self.id), Purpose::Use).await {
            Ok(peer) => {
                let failed: Vec<SocketAddr> = self.attempts.iter().map(|(address, _)| *address).collect();
                self.net.peers().failed(&self.id, &failed);
                return Some(Ok(peer));
            }
            Err(NetError::TurnedAway) if self.may_again(address) => {}
            Err(error) if error.is_passing() => self.attempts.push((address, error.to_string())),
            Err(NetError::Handshake(reason)) => {
                self.handshakes.push(address);
                self.attempts.push((address, reason));
            }
            // Anybody can say that, at an address that is not the host's: it counts when nobody else answers.
            Err(NetError::Clock(_)) if self.net.trust().certificate_skew().is_some() => self.refusal = Some(NetError::OutOfDate),
            Err(error @ (NetError::Clock(_) | NetError::OutOfDate | NetError::Revoked)) => self.refusal = Some(error),
            Err(error) => return Some(Err(error)),
        }
        debug!(host = ?self.id, %address, "no answer as the host that is looked for");
        None
    }

    fn failed(self) -> NetError {
        if let Some(refusal) = self.refusal {
            return refusal;
        }
        if self.tried.is_empty() {
            return NetError::NoAddress;
        }
        // Where somebody answers at every address of the host, and nobody as that host, waiting does not help.
        let silent = |(address, _): &&(SocketAddr, String)| !self.handshakes.contains(address) && !self.guessed.contains(address);
        let only_handshakes = !self.handshakes.is_empty() && self.attempts.iter().find(silent).is_none();
        let error = NetError::Unreachable(self.attempts);
        if only_handshakes { NetError::Handshake(error.to_string()) } else { error }
    }
}
