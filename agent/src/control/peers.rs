//! `imgctl peers`: the hosts that are known, and what is known of them.

use std::collections::HashMap;
use std::net::SocketAddr;

use proto::HostId;
use proto::control::{Event, PeerRow, PeerState};

use super::Done;
use super::client::Client;
use crate::discovery::Sighting;
use crate::net::Peer;
use crate::store::Store;
use crate::transfer::Context;

/// How long it is asked which process is at which address.
pub(super) const CHECK_MS: u64 = 1_500;

/// Asks the network, then lists: this host, the members, and whoever else was seen.
pub(super) async fn peers<S: Store>(context: &Context<S>, client: &Client) -> Done {
    tokio::join!(context.peers.look_around(), context.net.probe_fixed());
    context.net.check_members(CHECK_MS).await;
    let twins: HashMap<HostId, [SocketAddr; 2]> = context.net.twins().into_iter().collect();
    let alive: HashMap<HostId, Peer> = context.net.alive().into_iter().map(|peer| (peer.id(), peer)).collect();
    let mut seen = context.peers.all();
    let members = context.trust.members();
    let here = context.trust.id();
    let mut rows = vec![PeerRow {
        name: Some(context.trust.name()),
        id: Some(here),
        addresses: context.net.local_address().map(|address| address.to_string()).into_iter().collect(),
        store: Some(context.store.properties().kind.to_owned()),
        software: Some(concat!("imgd ", env!("CARGO_PKG_VERSION")).to_owned()),
        state: PeerState::Here,
        last_seen_unix_s: None,
    }];
    for member in members.iter().flat_map(|list| &list.members).filter(|member| member.id != here) {
        let mut row = row(Some(member.name.clone()), member.id, seen.remove(&member.id), alive.get(&member.id), PeerState::Trusted);
        if let Some(twins) = twins.get(&member.id) {
            row.state = PeerState::TwoMachines;
            row.addresses = twins.iter().map(ToString::to_string).collect();
        }
        rows.push(row);
    }
    seen.remove(&here);
    let mut strangers: Vec<(HostId, Sighting)> = seen.into_iter().collect();
    strangers.sort_by_key(|(id, _)| *id);
    for (id, sighting) in strangers {
        let state = if context.trust.is_removed(&id) { PeerState::Removed } else { PeerState::NotMember };
        rows.push(row(None, id, Some(sighting), None, state));
    }
    for row in rows {
        client.event(Event::Peer(row)).await;
    }
    Ok(())
}

fn row(name: Option<String>, id: HostId, sighting: Option<Sighting>, peer: Option<&Peer>, state: PeerState) -> PeerRow {
    let sighting = sighting.unwrap_or_default();
    let last_seen = (sighting.last_seen_unix_s > 0).then_some(sighting.last_seen_unix_s);
    PeerRow {
        name,
        id: Some(id),
        addresses: sighting.addresses().map(|address| address.to_string()).collect(),
        store: peer.map(|peer| peer.hello().store.clone()),
        software: peer.map(|peer| peer.hello().software.clone()),
        state: if peer.is_some() { PeerState::Connected } else { state },
        last_seen_unix_s: if peer.is_some() { Some(crate::discovery::now_unix_s()) } else { last_seen },
    }
}
