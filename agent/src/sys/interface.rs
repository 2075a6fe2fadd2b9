//! Addresses of this host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// The address under which other hosts of the LAN reach a socket that listens on `local`: itself when it is a specific one, else the
/// address that the default route leaves from. `None` on a host without a network.
pub fn reachable(local: SocketAddr) -> Option<SocketAddr> {
    if !local.ip().is_unspecified() {
        return Some(local);
    }
    let v4 = source_of(IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
    let v6 = || source_of(IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)));
    v4.or_else(v6).map(|ip| SocketAddr::new(ip, local.port()))
}

/// Why no other host can reach this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoNetwork {
    /// No interface but the loopback one has an address.
    #[error("this host has no address but that of its loopback interface")]
    NoAddress,
    /// Nothing but `fe80::/10`.
    #[error("this host has link-local IPv6 addresses only (fe80::…), which imgd does not use")]
    LinkLocal,
}

/// Looks at the addresses of all interfaces, for a socket that listens on `local`. `None`: others can reach this host, or are not to, or the addresses
/// cannot be listed.
pub fn unreachable(local: SocketAddr) -> Option<NoNetwork> {
    if local.ip().is_loopback() {
        return None;
    }
    let addresses = if_addrs::get_if_addrs().ok()?;
    judge(addresses.iter().map(if_addrs::Interface::ip))
}

fn judge(addresses: impl Iterator<Item = IpAddr>) -> Option<NoNetwork> {
    let mut worst = Some(NoNetwork::NoAddress);
    for address in addresses.filter(|address| !address.is_loopback()) {
        match address {
            IpAddr::V6(v6) if v6.is_unicast_link_local() => worst = Some(NoNetwork::LinkLocal),
            _ => return None,
        }
    }
    worst
}

/// False when no interface of this host has the address.
pub fn is_ours(ip: IpAddr) -> bool {
    !matches!(UdpSocket::bind((ip, 0)), Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable)
}

/// The address of this host from which it sends to another one now.
pub fn source_to(address: SocketAddr) -> Option<IpAddr> {
    let address = SocketAddr::new(address.ip().to_canonical(), address.port());
    let from = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    source_of(from, address.ip())
}

/// Connecting a UDP socket sends nothing: it only asks the kernel for a route. The targets above are documentation addresses.
fn source_of(from: IpAddr, to: IpAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind((from, 0)).ok()?;
    socket.connect((to, 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_unspecified())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn link_local_addresses_are_no_network() {
        let judge = |addresses: &[&str]| judge(addresses.iter().map(|address| address.parse().unwrap()));
        assert_eq!(judge(&["127.0.0.1", "::1"]), Some(NoNetwork::NoAddress));
        assert_eq!(judge(&["127.0.0.1", "::1", "fe80::1"]), Some(NoNetwork::LinkLocal));
        assert_eq!(judge(&["::1", "fe80::1", "10.0.0.1"]), None);
        assert_eq!(judge(&["::1", "fe80::1", "fd00::1"]), None);
        assert_eq!(judge(&["169.254.3.4"]), None);
    }
}
