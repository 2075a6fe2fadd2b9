//! Announcing ourselves and asking for our fleet by multicast DNS. The only file that names mdns-sd.
//!
//! Multicast is open to everybody on the network, so it is used sparingly: we ask for the subtype of our own fleet, in bursts of two seconds, and
//! stop a burst that brings more hosts than a fleet has any reason to. Between bursts what others multicast is ignored.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mdns_sd::{IfKind, IfPredicate, ResolvedService, ScopedIp, ServiceDaemon, ServiceEvent, ServiceInfo};
use proto::HostId;
use tracing::{debug, warn};

use super::Peers;

const SERVICE: &str = "_imgd._udp.local.";
const BURST: Duration = Duration::from_secs(2);
/// Unknown instances that end a burst: each one makes the library send queries of its own.
const STRANGERS: usize = 32;
/// After such a burst the network is not asked again for this long.
const COOL_DOWN: Duration = Duration::from_secs(300);

/// What is announced.
#[derive(Debug, Clone)]
pub struct MdnsConfig {
    /// Our identity.
    pub id: HostId,
    /// Our fleet: only hosts of it are asked for.
    pub fleet: HostId,
    /// Our UDP port.
    pub port: u16,
    /// Only these interfaces; all that are not container interfaces, when it is empty.
    pub interfaces: Vec<String>,
}

/// The running responder, and the way to ask. Stops when it is dropped.
pub struct Mdns {
    daemon: ServiceDaemon,
    subtype: String,
    ours: HostId,
    peers: std::sync::Weak<Peers>,
    members: Box<dyn Fn() -> usize + Send + Sync>,
    asking: tokio::sync::Mutex<()>,
    resting_until: Mutex<Option<Instant>>,
}

impl Mdns {
    /// Announces this host. `members` tells how many hosts the fleet has now.
    pub fn start(
        config: &MdnsConfig,
        peers: &Arc<Peers>,
        members: impl Fn() -> usize + Send + Sync + 'static,
    ) -> Result<Self, mdns_sd::Error> {
        let mut mdns = Self::ask_only(&config.fleet, &config.id, &config.interfaces, peers)?;
        let fleet = config.fleet.short();
        let id = config.id.to_string();
        let properties = [("v", "1"), ("id", id.as_str()), ("fleet", fleet.as_str())];
        // The instance and the host carry the identity, not the name: strangers learn no names.
        let host = format!("imgd-{}.local.", config.id.short());
        let service = ServiceInfo::new(&mdns.subtype, &config.id.short(), &host, "", config.port, &properties[..])?.enable_addr_auto();
        mdns.daemon.register(service)?;
        mdns.members = Box::new(members);
        Ok(mdns)
    }

    /// Only asks for a fleet, and announces nothing: for a host that is about to join it. What is found goes to `peers`.
    pub fn ask_only(fleet: &HostId, ours: &HostId, interfaces: &[String], peers: &Arc<Peers>) -> Result<Self, mdns_sd::Error> {
        let daemon = ServiceDaemon::new()?;
        daemon.disable_interface(vec![IfKind::LoopbackV4, IfKind::LoopbackV6])?;
        if interfaces.is_empty() {
            daemon.disable_interface(IfKind::Predicate(IfPredicate::new(|interface| is_container_interface(&interface.name))))?;
        } else {
            daemon.disable_interface(IfKind::All)?;
            daemon.enable_interface(interfaces.iter().map(|name| IfKind::Name(name.clone())).collect::<Vec<_>>())?;
        }
        Ok(Self {
            daemon,
            subtype: format!("_{}._sub.{SERVICE}", fleet.short()),
            ours: *ours,
            peers: Arc::downgrade(peers),
            members: Box::new(|| 0),
            asking: tokio::sync::Mutex::default(),
            resting_until: Mutex::default(),
        })
    }

    /// Asks for the fleet, for two seconds or until `wanted` has answered.
    pub async fn burst(&self, wanted: Option<HostId>) {
        let _asking = self.asking.lock().await;
        if self.resting_until.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| Instant::now() < until) {
            return;
        }
        // The library answers a question for a subtype with the record of the type, and takes such an answer only when it takes every one.
        let _ = self.daemon.accept_unsolicited(true);
        let _listening = Listening(self);
        if let Ok(events) = self.daemon.browse(&self.subtype) {
            let _ = tokio::time::timeout(BURST, self.listen(&events, wanted)).await;
        }
    }

    async fn listen(&self, events: &mdns_sd::Receiver<ServiceEvent>, wanted: Option<HostId>) {
        let mut found = HashSet::new();
        while let Ok(event) = events.recv_async().await {
            match event {
                ServiceEvent::ServiceFound(_, instance) => {
                    found.insert(instance);
                    if found.len() > (self.members)() * 2 + STRANGERS {
                        warn!(instances = found.len(), "more hosts are announced than the fleet has: not asking the network for a while");
                        *self.resting_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + COOL_DOWN);
                        return;
                    }
                }
                ServiceEvent::ServiceResolved(service) => {
                    let id = self.take(&service);
                    if id.is_some() && id == wanted {
                        return;
                    }
                }
                _ => {}
            }
        }
    }

    fn take(&self, service: &ResolvedService) -> Option<HostId> {
        let id: HostId = service.get_property_val_str("id")?.parse().ok()?;
        if id == self.ours {
            return None;
        }
        let addresses: Vec<SocketAddr> = service.addresses.iter().filter_map(|ip| usable(ip, service.port)).collect();
        debug!(host = ?id, ?addresses, "announced");
        // One that cannot be used is no answer: another record may have one that can.
        let is_answer = !addresses.is_empty();
        self.peers.upgrade()?.announced(id, addresses);
        is_answer.then_some(id)
    }
}

/// A burst, which ends however it ends: whoever waits for it may go.
struct Listening<'a>(&'a Mdns);

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        let _ = self.0.daemon.stop_browse(&self.0.subtype);
        let _ = self.0.daemon.accept_unsolicited(false);
    }
}

impl Drop for Mdns {
    fn drop(&mut self) {
        let _ = self.daemon.shutdown();
    }
}

impl std::fmt::Debug for Mdns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mdns")
    }
}

/// True for interfaces that lead to containers and virtual machines of this host, and not to other hosts.
pub fn is_container_interface(name: &str) -> bool {
    ["docker", "br-", "veth", "cni", "podman", "virbr", "flannel", "cali", "vnet", "lxc", "lxdbr"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// Link-local addresses of IPv6 need a scope that we cannot check; hosts of a LAN have others.
fn usable(ip: &ScopedIp, port: u16) -> Option<SocketAddr> {
    match ip.to_ip_addr() {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => None,
        ip => Some(SocketAddr::new(ip, port)),
    }
}
