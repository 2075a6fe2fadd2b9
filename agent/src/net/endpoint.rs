//! The UDP socket, and every setting of quinn with its reason.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use proto::limits::{HANDSHAKE_TIMEOUT_MS, STREAM_WINDOW, WINDOW_BEFORE_WELCOME};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{AckFrequencyConfig, ClientConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig, TransportConfig, VarInt};
use quinn_proto::HashedConnectionIdGenerator;
use ring::{hkdf, hmac};
use tracing::warn;

use super::{NetError, congestion};

/// A peer that does not answer for this long is gone. Three keep-alives may be lost on the way.
const IDLE_TIMEOUT: Duration = Duration::from_millis(12_000);
const KEEP_ALIVE: Duration = Duration::from_millis(3_000);

/// Asked of the kernel for the socket; it may give less (net.core.rmem_max). Bursts of 2.5 Gbit/s fit while a core is busy elsewhere.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// Payload of a UDP packet on an Ethernet with jumbo frames. Discovery finds what the path carries; loopback carries this too.
const MTU_UPPER_BOUND: u16 = 8_952;

/// A packet is lost that is not acknowledged after so many round trips, while later ones are. RFC 9002 (6.1.2) has 9/8, beside the packets that have overtaken it. Where
/// nothing but jitter makes the round trip, the longest one is twice as long as the mean.
const TIME_THRESHOLD: f32 = 2.25;

/// A peer acknowledges when more packets than this have come, or after this time. Each acknowledgement costs both sides about as much CPU as a packet.
const ACKNOWLEDGED_AFTER: u32 = 15;
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_millis(5);

/// Opens the socket. It serves once [`server`] settings are given to it.
///
/// `secret` stays the same after a restart, so that the new process can reset the connections of the old one (RFC 9000, 10.3): a peer
/// learns at once that they are gone, and does not wait for the idle timeout.
pub(super) fn bind(address: SocketAddr, secret: &[u8; 32]) -> Result<quinn::Endpoint, NetError> {
    let open = || {
        let socket = match std::net::UdpSocket::bind(address) {
            Err(error) if is_without_ipv6(&error, address) => {
                let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
                warn!(%address, "this host has no IPv6: listening for IPv4 alone");
                std::net::UdpSocket::bind(address)?
            }
            bound => bound?,
        };
        // Smaller buffers cost speed, not correctness.
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES);
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER_BYTES);
        let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, secret)));
        let (key, _) = secret.split_first_chunk().unwrap_or((&[0; 8], &[]));
        let key = u64::from_le_bytes(*key);
        config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(key)));
        // Without it peers never send more than 1472 bytes in a packet, whatever the path carries.
        config.max_udp_payload_size(MTU_UPPER_BOUND).map_err(std::io::Error::other)?;
        quinn::Endpoint::new(config, None, socket, Arc::new(quinn::TokioRuntime))
    };
    open().map_err(|source| NetError::Bind { address, source })
}

/// Where every address is meant, and the kernel has no IPv6 (`ipv6.disable=1`).
fn is_without_ipv6(error: &std::io::Error, address: SocketAddr) -> bool {
    address.ip() == Ipv6Addr::UNSPECIFIED && error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

/// Settings for connections that others open. The key of retry tokens follows from `secret`, so that a token which somebody has got stays good when the
/// settings change: with every host that joins, and with every restart.
pub(super) fn server(tls: Arc<rustls::ServerConfig>, secret: &[u8; 32]) -> Result<ServerConfig, NetError> {
    let crypto = QuicServerConfig::try_from(tls).map_err(|error| NetError::Handshake(error.to_string()))?;
    let tokens = hkdf::Salt::new(hkdf::HKDF_SHA256, b"imgd retry token").extract(secret);
    let mut config = ServerConfig::new(Arc::new(crypto), Arc::new(tokens));
    config.transport_config(Arc::new(transport()));
    // First packets that wait for us to look at them. Whoever has not proven his address is answered with a retry and forgotten.
    config.max_incoming(256);
    config.incoming_buffer_size(8 * 1024);
    config.incoming_buffer_size_total(512 * 1024);
    config.retry_token_lifetime(Duration::from_millis(HANDSHAKE_TIMEOUT_MS));
    // Servers do not roam, but a router in between may give one of them another port.
    config.migration(true);
    Ok(config)
}

/// Settings for connections that we open.
pub(super) fn client(tls: Arc<rustls::ClientConfig>) -> Result<ClientConfig, NetError> {
    let crypto = QuicClientConfig::try_from(tls).map_err(|error| NetError::Handshake(error.to_string()))?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport()));
    Ok(config)
}

fn transport() -> TransportConfig {
    let mut config = TransportConfig::default();
    config.max_idle_timeout(IdleTimeout::try_from(IDLE_TIMEOUT).ok());
    config.keep_alive_interval(Some(KEEP_ALIVE));
    // Before the Welcome: one stream and a small window. Raised at run time after it.
    config.max_concurrent_bidi_streams(VarInt::from_u32(1));
    config.max_concurrent_uni_streams(VarInt::from_u32(0));
    config.receive_window(VarInt::from_u32(WINDOW_BEFORE_WELCOME));
    config.stream_receive_window(VarInt::from_u32(STREAM_WINDOW));
    config.send_window(WINDOW_BEFORE_WELCOME.into());
    config.datagram_receive_buffer_size(None);
    // A LAN: the default of 333 ms makes the first loss wait for a third of a second.
    config.initial_rtt(Duration::from_millis(20));
    config.congestion_controller_factory(Arc::new(congestion::Factory::default()));
    // How many packets have overtaken one says nothing on a path that reorders them: time alone does.
    config.packet_threshold(u32::MAX);
    config.time_threshold(TIME_THRESHOLD);
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(MTU_UPPER_BOUND);
    // A lost burst looks like a path that has shrunk. On a LAN it was a full buffer: try again soon.
    discovery.black_hole_cooldown(Duration::from_secs(1));
    config.mtu_discovery_config(Some(discovery));
    // Half as many packets as with an acknowledgement for every second one; with few in flight the delay is a fraction of what a disk takes.
    let mut acknowledge = AckFrequencyConfig::default();
    acknowledge.ack_eliciting_threshold(VarInt::from_u32(ACKNOWLEDGED_AFTER)).max_ack_delay(Some(ACKNOWLEDGED_WITHIN));
    config.ack_frequency_config(Some(acknowledge));
    config
}
