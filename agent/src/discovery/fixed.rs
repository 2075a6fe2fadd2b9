//! Addresses that somebody configured: `--peer stapp02:7117`.

use std::net::SocketAddr;

use tracing::warn;

/// The port of an agent unless it is configured otherwise.
pub const DEFAULT_PORT: u16 = 7117;

/// All addresses of all names; a name that does not resolve is skipped with a warning.
pub(super) async fn resolve(fixed: &[String]) -> Vec<SocketAddr> {
    let mut addresses = vec![];
    for peer in fixed {
        match lookup(peer).await {
            Ok(found) => addresses.extend(found),
            Err(error) => warn!(peer, %error, "configured peer cannot be resolved"),
        }
    }
    addresses
}

/// The addresses of `HOST`, `HOST:PORT`, `ADDRESS` or `[ADDRESS]:PORT`.
pub async fn lookup(peer: &str) -> std::io::Result<Vec<SocketAddr>> {
    if let Ok(address) = peer.parse::<SocketAddr>() {
        return Ok(vec![address]);
    }
    if let Ok(ip) = peer.trim_matches(['[', ']']).parse::<std::net::IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, DEFAULT_PORT)]);
    }
    let with_port = if peer.contains(':') { peer.to_owned() } else { format!("{peer}:{DEFAULT_PORT}") };
    Ok(tokio::net::lookup_host(with_port).await?.collect())
}
