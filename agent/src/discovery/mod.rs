//! Where the members of the fleet are: addresses by identity, from three sources, none of them believed.
//!
//! An address is a hint. Whoever answers there has to prove in the handshake that it is the host that was looked for. Names are
//! not known here: they belong to the member list.

pub mod fixed;
mod known;
mod mdns;
mod sighting;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use proto::HostId;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::store::StoreError;

pub use mdns::{Mdns, MdnsConfig, is_container_interface};
pub use sighting::Sighting;

/// Hosts that are kept: more than a fleet has, so that false announcements cannot fill the memory.
const HOSTS: usize = proto::limits::MEMBERS;

/// What is known of where hosts are.
#[derive(Debug)]
pub struct Peers {
    fixed: Vec<String>,
    /// `None`: nothing is kept.
    known: Option<known::Known>,
    seen: Mutex<HashMap<HostId, Sighting>>,
    /// A host was reached at an address that is not saved yet.
    unsaved: Notify,
    mdns: watch::Sender<Option<Arc<Mdns>>>,
}

impl Peers {
    /// With the configured addresses (`host:port` or `address:port`), and those at which members were reached before.
    pub fn open(state_directory: &Path, fixed: Vec<String>) -> Result<Arc<Self>, StoreError> {
        let known = known::Known::open(state_directory)?;
        let seen = known.load();
        Ok(Arc::new(Self { fixed, known: Some(known), seen: Mutex::new(seen), unsaved: Notify::new(), mdns: watch::Sender::new(None) }))
    }

    /// For one question: nothing is configured, and nothing is kept.
    pub fn transient() -> Arc<Self> {
        Arc::new(Self { fixed: vec![], known: None, seen: Mutex::default(), unsaved: Notify::new(), mdns: watch::Sender::new(None) })
    }

    /// From now on the network can be asked; `None`: no longer.
    pub fn use_mdns(&self, mdns: Option<Arc<Mdns>>) {
        self.mdns.send_replace(mdns);
    }

    /// Somebody announced that a host is at these addresses. Of more hosts than a fleet has, those are forgotten that were never reached and were not
    /// heard of for longest.
    pub fn announced(&self, id: HostId, addresses: impl IntoIterator<Item = SocketAddr>) {
        let now_unix_s = now_unix_s();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= HOSTS && !seen.contains_key(&id) {
            let unproven = seen.iter().filter(|(_, sighting)| sighting.proven().next().is_none());
            let Some(oldest) = unproven.min_by_key(|(_, sighting)| sighting.last_seen_unix_s).map(|(id, _)| *id) else { return };
            seen.remove(&oldest);
        }
        let sighting = seen.entry(id).or_default();
        sighting.last_seen_unix_s = now_unix_s;
        addresses.into_iter().for_each(|address| sighting.announced(canonical(address), now_unix_s));
    }

    /// A host was reached at an address, and proved who it is: tried first from now on, also after a restart.
    pub fn reached(&self, id: &HostId, address: SocketAddr) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.entry(*id).or_default().reached(canonical(address), now_unix_s()) {
            self.unsaved.notify_one();
        }
    }

    /// A host was found elsewhere, and does not answer at these addresses: they are mere hints from now on.
    pub fn failed(&self, id: &HostId, addresses: &[SocketAddr]) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sighting) = seen.get_mut(id).filter(|_| !addresses.is_empty()) {
            addresses.iter().for_each(|address| sighting.failed(canonical(*address)));
            self.unsaved.notify_one();
        }
    }

    /// Whether a host of the fleet was reached at this address.
    pub fn is_proven(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.values().flat_map(Sighting::proven).any(|proven| proven.ip() == address)
    }

    /// Saves for the next start what was reached, as soon as something is. Ends when the agent does, with everything saved.
    pub async fn keep(self: Arc<Self>, shutdown: CancellationToken) {
        loop {
            let stops = tokio::select! {
                biased;
                () = self.unsaved.notified() => false,
                () = shutdown.cancelled() => true,
            };
            if stops {
                return;
            }
            // It is synced: not on a thread that moves packets.
            let peers = self.clone();
            crate::sys::blocking(move || peers.save()).await;
        }
    }

    fn save(&self) {
        if let Some(known) = &self.known {
            known.save(&self.all());
        }
    }

    /// Addresses at which a host may be, best first.
    pub fn addresses(&self, id: &HostId) -> Vec<SocketAddr> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(id).map(|sighting| sighting.addresses().collect()).unwrap_or_default()
    }

    /// Addresses at which a host was reached, and proved who it is.
    pub fn proven(&self, id: &HostId) -> Vec<SocketAddr> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(id).map(|sighting| sighting.proven().collect()).unwrap_or_default()
    }

    /// All hosts that were ever seen.
    pub fn all(&self) -> HashMap<HostId, Sighting> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The configured addresses, with their names resolved now.
    pub async fn fixed(&self) -> Vec<SocketAddr> {
        fixed::resolve(&self.fixed).await
    }

    /// Asks the network for a host, and waits until it has announced itself, for a second or two.
    pub async fn look_for(&self, id: &HostId) {
        let mdns = self.mdns.borrow().clone();
        if let Some(mdns) = mdns {
            mdns.burst(Some(*id)).await;
        }
    }

    /// Asks the network for everybody, for a second or two.
    pub async fn look_around(&self) {
        let mdns = self.mdns.borrow().clone();
        if let Some(mdns) = mdns {
            mdns.burst(None).await;
        }
    }
}

/// Seconds since 1970.
pub fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// An IPv4 address as such, also where it comes from a socket that speaks both: one place has one address.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_reached_comes_first_and_survives_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let id = HostId::of_public_key(b"a");
        let address = |port: u16| SocketAddr::from(([10, 0, 0, 1], port));
        let peers = Peers::open(directory.path(), vec![]).unwrap();
        peers.announced(id, [address(2), address(1)]);
        peers.reached(&id, address(2));
        assert_eq!(peers.addresses(&id), [address(2), address(1)]);
        // Even when the agent stops in the same moment.
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        peers.keep(shutdown).await;
        let again = Peers::open(directory.path(), vec![]).unwrap();
        assert_eq!(again.addresses(&id)[0], address(2));
    }

    #[test]
    fn announcements_are_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let peers = Peers::open(directory.path(), vec![]).unwrap();
        let id = HostId::of_public_key(b"a");
        peers.announced(id, (0..1000).map(|port| SocketAddr::from(([10, 0, 0, 1], port))));
        assert_eq!(peers.addresses(&id).len(), sighting::ADDRESSES);
        for i in 0..2 * HOSTS {
            peers.announced(HostId::of_public_key(&i.to_le_bytes()), []);
        }
        assert_eq!(peers.all().len(), HOSTS);
    }

    /// Neither the true address nor a new host is kept out by false ones.
    #[test]
    fn what_nobody_proved_makes_room() {
        let peers = Peers::transient();
        let address = |last: u8, port: u16| SocketAddr::from(([10, 0, 0, last], port));
        let id = HostId::of_public_key(b"a");
        peers.announced(id, (0..100).map(|port| address(9, port)));
        peers.announced(id, [address(1, 7117)]);
        assert_eq!(peers.addresses(&id)[0], address(1, 7117));
        peers.reached(&id, address(1, 7117));
        peers.announced(id, (0..100).map(|port| address(9, port)));
        assert_eq!(peers.addresses(&id)[0], address(1, 7117));
        assert!(peers.is_proven([10, 0, 0, 1].into()) && !peers.is_proven([10, 0, 0, 9].into()));
        for i in 0..2 * HOSTS {
            peers.announced(HostId::of_public_key(&i.to_le_bytes()), [address(9, 1)]);
        }
        let new = HostId::of_public_key(b"new");
        peers.announced(new, [address(2, 7117)]);
        assert_eq!(peers.addresses(&new), [address(2, 7117)]);
        assert_eq!(peers.addresses(&id)[0], address(1, 7117), "what was proved stays");
        // Proved addresses make room for each other.
        (0..100).for_each(|port| peers.reached(&id, address(3, port)));
        assert_eq!((peers.addresses(&id).len(), peers.addresses(&id)[0]), (sighting::ADDRESSES, address(3, 99)));
    }

    #[test]
    fn one_place_has_one_address() {
        let peers = Peers::transient();
        let id = HostId::of_public_key(b"x");
        peers.announced(id, ["10.0.0.2:7117".parse().unwrap(), "[::ffff:10.0.0.2]:7117".parse().unwrap()]);
        peers.reached(&id, "[::ffff:10.0.0.2]:7117".parse().unwrap());
        assert_eq!(peers.addresses(&id), ["10.0.0.2:7117".parse().unwrap()]);
    }
}
