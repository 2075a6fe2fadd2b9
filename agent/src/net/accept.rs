//! Connections that others open: the order of suspicion.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::limits::{HANDSHAKE_TIMEOUT_MS, HANDSHAKES, HANDSHAKES_PER_ADDRESS};
use quinn::crypto::rustls::HandshakeData;
use quinn::{Connection, Incoming};
use tokio::task::JoinSet;
use tracing::debug;

use super::connection::connected_id;
use super::pool::Net;
use super::{NetError, Stream, join};

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
        let Some(place) = places.take(incoming.remote_address().ip()) else {
            incoming.refuse();
            continue;
        };
        let net = net.clone();
        handshakes.spawn(async move {
            let address = incoming.remote_address();
            let handled = tokio::time::timeout(Duration::from_millis(HANDSHAKE_TIMEOUT_MS), handshake(&net, incoming)).await;
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
        if let Some(member) = join::answer(&connection, net.trust()).await? {
            // It asked from the socket on which it listens.
            net.peers().announced(member, [connection.remote_address()]);
        }
        return Ok(());
    }
    let Some(id) = connected_id(&connection) else {
        return Err(NetError::Handshake("no client certificate".to_owned()));
    };
    let accepted = connection.accept_bi().await?;
    net.welcome(Stream::new(accepted), id, connection).await?;
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
            connection.close(0u32.into(), b"");
        }
    }
}

/// Handshakes under way, of all addresses and of each.
#[derive(Clone, Default)]
struct Places(Arc<Mutex<HashMap<IpAddr, usize>>>);

struct Place {
    places: Places,
    address: IpAddr,
}

impl Places {
    fn take(&self, address: IpAddr) -> Option<Place> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.values().sum::<usize>() >= HANDSHAKES || taken.get(&address).is_some_and(|&count| count >= HANDSHAKES_PER_ADDRESS) {
            return None;
        }
        *taken.entry(address).or_default() += 1;
        Some(Place { places: self.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_all_places() {
        let places = Places::default();
        let address = |last: u8| IpAddr::from([10, 0, 0, last]);
        let held: Vec<_> = (0..HANDSHAKES_PER_ADDRESS).map(|_| places.take(address(1)).unwrap()).collect();
        assert!(places.take(address(1)).is_none());
        let others: Vec<_> = (2..9).flat_map(|last| (0..8).filter_map(|_| places.take(address(last))).collect::<Vec<_>>()).collect();
        assert_eq!(held.len() + others.len(), HANDSHAKES);
        assert!(places.take(address(99)).is_none());
        drop(held);
        assert!(places.take(address(1)).is_some());
        drop(others);
        assert!(places.0.lock().unwrap().is_empty());
    }
}
