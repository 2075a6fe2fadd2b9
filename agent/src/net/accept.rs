//! Connections that others open: the order of suspicion.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::limits::{HANDSHAKE_TIMEOUT_MS, HANDSHAKES, HANDSHAKES_PER_ADDRESS};
use quinn::crypto::rustls::HandshakeData;
use quinn::{Connection, Incoming};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::connection::connected_id;
use super::pool::{Net, Purpose};
use super::{NetError, Stream, TURNED_AWAY, join};

/// Looks at first packets for as long as the endpoint lives. Every handshake has its own task, a deadline and a place among the few.
pub(super) async fn run(net: Arc<Net>) {
    let places = Places::default();
    let mut handshakes = JoinSet::new();
    loop {
        let incoming = tokio::select! {
            incoming = net.quinn().accept() => incoming,
            Some(_) = handshakes.join_next() => continue,
        };
        let Some(incoming) = incoming else { return };
        if !incoming.remote_address_validated() {
            // Costs the stranger a round trip and us nothing: no state is kept for an address that cannot answer.
            let _ = incoming.retry();
            continue;
        }
        let address = incoming.remote_address().ip();
        let Some(place) = places.take(address, net.peers().is_proven(address)) else {
            incoming.refuse();
            continue;
        };
        let net = net.clone();
        handshakes.spawn(async move {
            let address = incoming.remote_address();
            let handshake = tokio::time::timeout(Duration::from_millis(HANDSHAKE_TIMEOUT_MS), handshake(&net, incoming));
            let handled = tokio::select! {
                handled = handshake => handled,
                () = place.evicted.cancelled() => return debug!(%address, "connection not accepted: others wait"),
            };
            drop(place);
            match handled {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%address, %error, "connection not accepted"),
                Err(_) => debug!(%address, "connection not accepted: it took too long"),
            }
        });
    }
}

async fn handshake(net: &Arc<Net>, incoming: Incoming) -> Result<(), NetError> {
    let connecting = incoming.accept().map_err(|error| NetError::Lost(error.to_string()))?;
    let connection = connecting.await.map_err(|error| NetError::Handshake(error.to_string()))?;
    let guard = CloseUnlessKept(Some(connection.clone()));
    if alpn(&connection).as_deref() == Some(proto::join::ALPN) {
        if let Some(member) = join::answer(&connection, net.trust(), net.guesses()).await? {
            // It asked from the socket on which it listens.
            net.peers().announced(member, [connection.remote_address()]);
        }
        return Ok(());
    }
    let Some(id) = connected_id(&connection) else {
        return Err(NetError::Handshake("no client certificate".to_owned()));
    };
    let accepted = connection.accept_bi().await?;
    net.welcome(Stream::new(accepted), id, connection, Purpose::Use).await?;
    guard.keep();
    Ok(())
}

fn alpn(connection: &Connection) -> Option<Vec<u8>> {
    connection.handshake_data()?.downcast::<HandshakeData>().ok()?.protocol
}

/// Closes a connection whose handshake did not come to its end.
struct CloseUnlessKept(Option<Connection>);

impl CloseUnlessKept {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for CloseUnlessKept {
    fn drop(&mut self) {
        if let Some(connection) = &self.0 {
            connection.close(TURNED_AWAY.into(), b"");
        }
    }
}

/// Handshakes under way, oldest first. Where there are too many, of one network or in all, the oldest one that is not of a member's address gives its
/// place to the next: an honest one is over in a moment.
#[derive(Clone, Default)]
struct Places(Arc<Mutex<Taken>>);

#[derive(Default)]
struct Taken {
    next: u64,
    places: VecDeque<Waiting>,
}

struct Waiting {
    number: u64,
    /// Of a member the address, of a stranger the network.
    network: IpAddr,
    /// A member was reached at this address before.
    is_known: bool,
    evict: CancellationToken,
}

struct Place {
    places: Places,
    number: u64,
    /// Somebody else has got it.
    evicted: CancellationToken,
}

impl Places {
    /// `None` only where all are taken by members.
    fn take(&self, address: IpAddr, is_known: bool) -> Option<Place> {
        let network = if is_known { address.to_canonical() } else { network(address) };
        let most = if network.is_ipv6() && !is_known { HANDSHAKES / 2 } else { HANDSHAKES_PER_ADDRESS };
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Hosts of a LAN share a /64: strangers make room for each other there, and members only for others at their own address.
        let is_like_it = |place: &Waiting| place.network == network && place.is_known == is_known;
        let evicted = if taken.places.iter().filter(|place| is_like_it(place)).count() >= most {
            taken.places.iter().position(is_like_it)
        } else if taken.places.len() >= HANDSHAKES {
            let stranger = taken.places.iter().position(|place| !place.is_known);
            Some(stranger.or(is_known.then_some(0))?)
        } else {
            None
        };
        if let Some(evicted) = evicted.and_then(|at| taken.places.remove(at)) {
            evicted.evict.cancel();
        }
        let (number, evicted) = (taken.next, CancellationToken::new());
        taken.next += 1;
        taken.places.push_back(Waiting { number, network, is_known, evict: evicted.clone() });
        Some(Place { places: self.clone(), number, evicted })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.0.lock().unwrap_or_else(PoisonError::into_inner).places.retain(|place| place.number != self.number);
    }
}

/// What one host has: an IPv4 address, or the /64 of an IPv6 address (RFC 4291, section 2.5.4), of which it can take any other one.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        address => address,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_network_cannot_take_all_places() {
        let places = Places::default();
        let address = |last: u16| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]);
        let held: Vec<_> = (0..100).map(|last| places.take(address(last), false).unwrap()).collect();
        let alive: Vec<_> = held.iter().filter(|place| !place.evicted.is_cancelled()).map(|place| place.number).collect();
        assert_eq!(alive, (68..100).collect::<Vec<u64>>(), "the newest ones of the /64");
        // Members of the same /64 are not touched by that, and take no place from each other.
        let members: Vec<_> = (100..120).map(|last| places.take(address(last), true).unwrap()).collect();
        let strangers: Vec<_> = (200..300).map(|last| places.take(address(last), false).unwrap()).collect();
        assert!(members.iter().all(|place| !place.evicted.is_cancelled()));
        let one = IpAddr::from([10, 0, 0, 1]);
        let of_one: Vec<_> = (0..20).map(|_| places.take(one, false).unwrap()).collect();
        assert_eq!(of_one.iter().filter(|place| !place.evicted.is_cancelled()).count(), HANDSHAKES_PER_ADDRESS);
        drop((held, members, strangers, of_one));
        assert!(places.0.lock().unwrap().places.is_empty());
    }

    #[test]
    fn idle_handshakes_of_strangers_make_room_and_those_of_members_stay() {
        let places = Places::default();
        let address = |i: usize| IpAddr::from([10, 0, i as u8, 1]);
        let member = places.take(address(200), true).unwrap();
        let strangers: Vec<_> = (0..HANDSHAKES + 10).map(|i| places.take(address(i), false).unwrap()).collect();
        assert!(!member.evicted.is_cancelled());
        let evicted = strangers.iter().filter(|place| place.evicted.is_cancelled()).count();
        assert_eq!(evicted, 11);
        assert!(strangers[0].evicted.is_cancelled() && !strangers[20].evicted.is_cancelled());
        drop(strangers);
        // Where all are members, a stranger waits.
        let members: Vec<_> = (0..HANDSHAKES).map(|i| places.take(address(i), true).unwrap()).collect();
        assert!(places.take(address(100), false).is_none());
        assert!(places.take(address(100), true).is_some());
        drop(members);
    }
}
