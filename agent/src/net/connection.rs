//! A peer that was welcomed.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use proto::HostId;
use proto::limits::{SEND_WINDOW, STREAMS, WINDOW, WINDOW_FURTHER};
use proto::peer::{Hello, Request};
use quinn::VarInt;
use rustls::pki_types::CertificateDer;

use super::allowance::Allowance;
use super::{NetError, Share, Stream};
use crate::sys::interface;
use crate::trust;

/// A connection to another member, after the Welcome on both sides. Cheap to clone; all clones are the same connection.
#[derive(Debug, Clone)]
pub struct Peer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: HostId,
    name: String,
    hello: Hello,
    connection: quinn::Connection,
    /// The address of this host that it leads from.
    local_ip: Option<IpAddr>,
    allowance: Arc<Allowance>,
}

/// Who the handshake has proven to be at the other end; `None` without a certificate.
pub(super) fn connected_id(connection: &quinn::Connection) -> Option<HostId> {
    let certificates = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    trust::peer_id(&certificates)
}

impl Peer {
    /// Raises the limits of a connection that has been welcomed. `first`: it is the only one to that host.
    pub(super) fn new(
        id: HostId,
        name: String,
        hello: Hello,
        connection: quinn::Connection,
        allowance: Arc<Allowance>,
        first: bool,
    ) -> Self {
        connection.set_max_concurrent_bi_streams(VarInt::from_u32(STREAMS));
        connection.set_receive_window(VarInt::from_u32(WINDOW_FURTHER));
        connection.set_send_window(WINDOW_FURTHER.into());
        // The kernel tells it with every datagram that comes, quinn only that of a connection which the other side opened.
        let local_ip = connection.local_ip().or_else(|| interface::source_to(connection.remote_address()));
        let local_ip = local_ip.map(|ip| ip.to_canonical());
        let peer = Self(Arc::new(Inner { id, name, hello, connection, local_ip, allowance }));
        if first {
            peer.widen();
        }
        peer
    }

    /// It is the only connection to its host, now or again.
    pub(super) fn widen(&self) {
        self.0.connection.set_receive_window(VarInt::from_u32(WINDOW));
        self.0.connection.set_send_window(SEND_WINDOW);
    }

    /// A place for a session that it opens; `None` when it has as many as it may have.
    pub fn session(&self) -> Option<Share> {
        self.0.allowance.session()
    }

    /// Our turn to open a session there: there are only so many at once.
    pub async fn open_session(&self) -> Option<Share> {
        self.0.allowance.open().await
    }

    /// Room for the documents of a session; `None` when its sessions hold too much already.
    pub fn documents(&self, bytes: u64) -> Option<Share> {
        self.0.allowance.documents(bytes)
    }

    /// Room for an offer of this many bytes, until its session is over; `None` when its offers take too much already.
    pub fn offer(&self, bytes: u64) -> Option<Share> {
        self.0.allowance.offer(bytes)
    }

    /// Its turn to have an answer made that may be large, until it has read it.
    pub async fn answer(&self) -> Option<Share> {
        self.0.allowance.answer().await
    }

    /// Its turn to have an offer of so many blobs looked at.
    pub async fn look_at(&self, blobs: u64) {
        self.0.allowance.look_at(blobs).await;
    }

    /// A range that it reads from us at full speed; `None` when it reads as many as it may.
    pub fn provide(&self) -> Option<Share> {
        self.0.allowance.provide()
    }

    /// Its turn to read a block of a further range from us.
    pub async fn block_out(&self) -> Option<Share> {
        self.0.allowance.block_out().await
    }

    /// Room for a block that comes from it, until the block is on the disk.
    pub async fn block_in(&self) -> Option<Share> {
        self.0.allowance.block_in().await
    }

    /// Our turn to read a range from it.
    pub async fn ask(&self) -> Option<Share> {
        self.0.allowance.ask().await
    }

    /// Its identity, proven by the handshake.
    pub fn id(&self) -> HostId {
        self.0.id
    }

    /// Its name on the member list.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What it said of itself.
    pub fn hello(&self) -> &Hello {
        &self.0.hello
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        crate::discovery::canonical(self.0.connection.remote_address())
    }

    /// The address of this host that the connection leads from, where that is known.
    pub(super) fn local_ip(&self) -> Option<IpAddr> {
        self.0.local_ip
    }

    /// Datagrams that have come on this connection.
    pub(super) fn received_datagrams(&self) -> u64 {
        self.0.connection.stats().udp_rx.datagrams
    }

    /// Bytes that crossed the network on this connection so far, in both directions, with all their headers above UDP.
    pub fn wire_bytes(&self) -> u64 {
        let stats = self.0.connection.stats();
        stats.udp_tx.bytes + stats.udp_rx.bytes
    }

    /// How the path behaves: for the log.
    pub fn path(&self) -> quinn::PathStats {
        self.0.connection.stats().path
    }

    /// Smoothed round trip, in microseconds.
    pub fn round_trip_us(&self) -> u64 {
        self.0.connection.rtt().as_micros() as u64
    }

    /// Opens a stream and asks.
    pub async fn request(&self, request: &Request) -> Result<Stream, NetError> {
        let opened = self.0.connection.open_bi().await?;
        let mut stream = Stream::welcomed(opened, &self.0.allowance);
        stream.send(request).await?;
        Ok(stream)
    }

    /// The next stream that the peer opens.
    pub async fn accept(&self) -> Result<Stream, NetError> {
        Ok(Stream::welcomed(self.0.connection.accept_bi().await?, &self.0.allowance))
    }

    /// False once the connection is gone.
    pub fn is_alive(&self) -> bool {
        self.0.connection.close_reason().is_none()
    }

    /// Resolves when the connection is gone.
    pub async fn closed(&self) {
        self.0.connection.closed().await;
    }

    /// Ends the connection, with all its streams, now.
    pub fn close(&self, reason: &str) {
        self.0.connection.close(VarInt::from_u32(0), reason.as_bytes());
    }
}
