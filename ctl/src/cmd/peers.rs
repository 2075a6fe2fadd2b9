//! `imgctl peers`

use proto::control::{Event, PeerRow, PeerState, Request};
use proto::text::escape;
use serde_json::json;

use crate::context::Context;
use crate::exit::Exit;
use crate::format::ago;

/// Lists the hosts that are seen, members or not.
pub(crate) fn run(context: &Context) -> super::Result {
    let mut twins = vec![];
    let mut rows = vec![["NAME", "ADDRESS", "STATE", "STORE", "VERSION", "LAST SEEN", "ID"].map(str::to_owned).to_vec()];
    context.each(&Request::Peers, |event| {
        if let Event::Peer(peer) = event {
            context.output.object(&json!({
                "event": "peer", "name": peer.name, "id": peer.id.map(|id| id.to_string()), "addresses": peer.addresses, "store": peer.store,
                "software": peer.software, "state": state(peer.state), "last_seen_unix_s": peer.last_seen_unix_s,
            }));
            rows.push(row(&peer));
            if peer.state == PeerState::TwoMachines {
                twins.extend(peer.name);
            }
        }
    })?;
    if rows.len() == 1 {
        context.output.line("no other hosts are seen; imgctl doctor says why that may be");
    }
    context.output.table(&rows);
    for name in twins {
        let name = escape(&name);
        context.output.line(&format!("the key of {name} is in use on two machines: imgctl doctor {name} says where, and what to do"));
    }
    Ok(Exit::Done)
}

fn row(peer: &PeerRow) -> Vec<String> {
    let text = |text: Option<&String>| text.map_or_else(|| "-".to_owned(), |text| escape(text));
    let address = match &peer.addresses[..] {
        [first, _, ..] => format!("{} (+{})", escape(first), peer.addresses.len() - 1),
        few => text(few.first()),
    };
    vec![
        text(peer.name.as_ref()),
        address,
        state(peer.state).to_owned(),
        text(peer.store.as_ref()),
        text(peer.software.as_ref()),
        peer.last_seen_unix_s.map_or_else(|| "-".to_owned(), ago),
        peer.id.map_or_else(|| "-".to_owned(), |id| id.short()),
    ]
}

fn state(state: PeerState) -> &'static str {
    match state {
        PeerState::Connected => "connected",
        PeerState::Trusted => "trusted",
        PeerState::NotMember => "not a member",
        PeerState::Removed => "removed",
        PeerState::Here => "this host",
        PeerState::TwoMachines => "two machines",
    }
}
