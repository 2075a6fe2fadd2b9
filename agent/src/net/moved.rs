//! A host that moves takes its connections nowhere: what was opened at its old address is as good as gone, and would be waited for until it times out.
//! It closes them itself when an address of its own is gone, and dials anew. Where it arrives, connections on which nothing comes any more are closed.

use std::collections::HashSet;
use std::pin::pin;

use proto::HostId;
use proto::peer::INSTANCES;
use tracing::{debug, info};

use super::pool::Net;
use super::{NetError, Peer};
use crate::sys;

/// How long a connection may bring nothing, not even an acknowledgement of what it is asked, before another one takes its place.
const SILENT_MS: u64 = 2_000;

/// How often it is looked whether something has come.
const LOOK_EVERY_MS: u64 = 50;

impl Net {
    /// Closes the connections that lead from an address which this host does not have any more. The hosts that they led to.
    pub fn leave_lost_addresses(&self) -> HashSet<HostId> {
        let peers: Vec<Peer> = self.every_connection();
        let lost = peers.iter().filter(|peer| peer.local_ip().is_some_and(|ip| !sys::interface::is_ours(ip)));
        lost.map(|peer| {
            info!(host = peer.name(), address = ?peer.local_ip(), "an address of this host is gone: connecting anew");
            peer.close("an address is gone");
            peer.id()
        })
        .collect()
    }

    /// A connection to a member that answers now: a warm one may lead to where the host was.
    pub async fn connect_awake(&self, id: &HostId) -> Result<Peer, NetError> {
        let peer = self.connect(id).await?;
        if self.is_awake(&peer).await {
            return Ok(peer);
        }
        let found = self.search(id).await;
        match &found {
            Ok(_) => self.close_silent(id).await,
            // The way is blocked, or it hangs: nobody has to wait for this connection any more.
            Err(error) if error.is_passing() && !self.is_awake(&peer).await => peer.close("silent"),
            Err(_) => return Ok(peer),
        }
        found
    }

    /// Whether anything comes on a connection after a question was asked on it.
    async fn is_awake(&self, peer: &Peer) -> bool {
        let before = peer.received_datagrams();
        let mut asking = pin!(self.ask_instance(peer));
        let mut looked = 0;
        while looked * LOOK_EVERY_MS < SILENT_MS && peer.is_alive() {
            let answered = sys::deadline(LOOK_EVERY_MS, &mut asking).await.is_some();
            if peer.received_datagrams() > before {
                return true;
            }
            if answered {
                // It does not know the question, or could not be asked.
                return peer.is_alive() && peer.hello().capabilities & INSTANCES == 0;
            }
            looked += 1;
        }
        false
    }

    /// Closes those connections to a host that are silent while another one is not.
    pub(super) async fn close_silent(&self, host: &HostId) {
        let peers = self.connections(host);
        let before: Vec<u64> = peers.iter().map(Peer::received_datagrams).collect();
        let asking = async {
            for peer in &peers {
                self.ask_instance(peer).await;
            }
            std::future::pending::<()>().await;
        };
        sys::deadline(SILENT_MS, asking).await;
        let is_silent = |(peer, before): (&Peer, u64)| peer.is_alive() && peer.received_datagrams() == before;
        let silent: Vec<bool> = peers.iter().zip(before).map(is_silent).collect();
        if peers.iter().zip(&silent).any(|(peer, silent)| peer.is_alive() && !silent) {
            for peer in peers.iter().zip(silent).filter_map(|(peer, silent)| silent.then_some(peer)) {
                debug!(host = peer.name(), address = %peer.address(), "silent: another connection answers");
                peer.close("another connection answers");
            }
            if let [only] = &self.connections(host)[..] {
                only.widen();
            }
        }
    }
}
