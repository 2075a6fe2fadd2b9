//! Keeping this host in its fleet: joining, renewing the certificate in time, and spreading the member list.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use proto::HostId;
use proto::host::{Member, Role, SignedMemberList};
use proto::join::{JoinAnswer, JoinRefusal};
use proto::peer::{Answer, INSTANCES, Request};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::discovery::{Mdns, MdnsConfig, Peers, fixed};
use crate::net::NetError;
use crate::store::Store;
use crate::sys::{self, netlink::AddressChanges};
use crate::transfer::Context;
use crate::trust::{Token, TrustError};

/// A renewal that failed is tried again after this time at first, and then after twice as long each time, up to the second one: a host whose certificate ran
/// out comes back soon after its signer does.
const RENEWAL_RETRY: Duration = Duration::from_secs(10);
const RENEWAL_RETRY_MOST: Duration = Duration::from_secs(300);

/// How long a spread of the member list may take. Who misses it gets the list with the next connection.
const SPREAD_TIMEOUT_MS: u64 = 5_000;

/// How often signers are shown what they may have missed.
const SHOW_SIGNERS_EVERY: Duration = Duration::from_secs(300);

/// How often the network is asked for everybody.
const LOOK_AROUND_EVERY: Duration = Duration::from_secs(120);

/// How long, and how often, hosts are dialled again to which the connection went over an address that is gone.
const REDIAL_FOR: Duration = Duration::from_secs(60);
const REDIAL_EVERY: Duration = Duration::from_millis(500);

/// How long a join is tried again where it fails at once: a signer turns some away while very many come together.
const JOIN_FOR: Duration = Duration::from_secs(5);
const JOIN_PAUSE: Duration = Duration::from_millis(100);

/// Joins the fleet of a token: at the given address, at the one in the token, at the configured ones, or wherever the fleet announces itself.
pub async fn join<S: Store>(context: &Arc<Context<S>>, token: &Token, address: Option<String>) -> Result<(), NetError> {
    let (begun, mut pause) = (Instant::now(), JOIN_PAUSE);
    loop {
        match join_once(context, token, address.clone()).await {
            // Or nobody has answered the question on the network, which is lost now and then.
            Err(error @ (NetError::Unreachable(_) | NetError::NoAddress)) if begun.elapsed() + pause < JOIN_FOR => {
                debug!(%error, "cannot join yet");
                // Those who were turned away together do not come back together.
                let share = u32::from(context.trust.id().as_bytes()[0]);
                tokio::time::sleep(pause / 2 + pause * share / 256).await;
                pause *= 2;
            }
            // On a host that others cannot reach, that is why.
            Err(error @ (NetError::Unreachable(_) | NetError::NoAddress)) => {
                let no_network = context.net.local_address().and_then(sys::interface::unreachable);
                return Err(no_network.map_or(error, NetError::NoNetwork));
            }
            joined => return joined,
        }
    }
}

async fn join_once<S: Store>(context: &Arc<Context<S>>, token: &Token, address: Option<String>) -> Result<(), NetError> {
    let name = context.trust.name();
    let (mut last, mut clock) = (None, None);
    for address in candidates(context, token, address).await {
        let asked = context.net.ask_signer(&token.fleet, address, |exporter| Ok(context.trust.join_request(token, &name, exporter))).await;
        match take(context, &token.fleet, asked).await {
            Ok(signer) => {
                info!(fleet = ?token.fleet, signer = %address, "joined");
                // From now on both know where the other one is. That this fails now does not undo the join.
                if let Err(error) = context.net.connect(&signer).await {
                    debug!(%error, "joined, but not connected yet");
                }
                return Ok(());
            }
            // Anybody can say so, who answers in the place of a signer: it counts when nobody lets this host in.
            Err(error @ (NetError::Clock(_) | NetError::Trust(TrustError::Clock(_)))) => clock = Some(error),
            Err(error @ NetError::JoinRefused(_)) if !is_not_signer(&error) => return Err(error),
            Err(error) => {
                debug!(%address, %error, "cannot join there");
                let reason = error.to_string();
                match &mut last {
                    Some(NetError::Unreachable(attempts)) => attempts.push((address, reason)),
                    _ => last = Some(NetError::Unreachable(vec![(address, reason)])),
                }
            }
        }
    }
    Err(clock.or(last).unwrap_or(NetError::NoAddress))
}

/// Renews the certificate of this host when it is due. Runs as long as the agent.
pub async fn renew<S: Store>(context: Arc<Context<S>>) {
    let mut changes = context.trust.changes();
    let mut pause = RENEWAL_RETRY;
    loop {
        let due = context.trust.renewal_due();
        let wait = due.map_or(Duration::MAX, |due| due.duration_since(SystemTime::now()).unwrap_or_default());
        tokio::select! {
            () = tokio::time::sleep(wait.min(Duration::from_secs(24 * 3600))) => {}
            _ = changes.changed() => continue,
        }
        if context.trust.renewal_due().is_none_or(|due| due > SystemTime::now()) {
            continue;
        }
        match renew_now(&context).await {
            // One that is due as well would be asked for again and again.
            Ok(()) if context.trust.renewal_due().is_some_and(|due| due <= SystemTime::now()) => {
                warn!("the new certificate is due already: is the clock of the signer right? trying again later");
                tokio::time::sleep(RENEWAL_RETRY_MOST).await;
            }
            Ok(()) => {
                info!("certificate renewed");
                pause = RENEWAL_RETRY;
            }
            Err(error) => {
                warn!(%error, retry_s = pause.as_secs(), "certificate not renewed, trying again later");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RENEWAL_RETRY_MOST);
            }
        }
    }
}

/// Brings the member list to every member that can be reached in this time. Says by name who has it now.
pub async fn spread<S: Store>(context: &Arc<Context<S>>, timeout_ms: u64) -> Vec<(String, bool)> {
    let (Some(signed), Some(members)) = (context.trust.signed_members(), context.trust.members()) else { return vec![] };
    let mut telling = JoinSet::new();
    for member in members.members.iter().filter(|member| member.id != context.trust.id()).cloned() {
        let (context, signed) = (context.clone(), signed.clone());
        telling.spawn(async move {
            let reached = sys::deadline(timeout_ms, show(&context, &member.id, signed)).await;
            if let Some(Err(error)) = &reached {
                debug!(host = member.name, %error, "member list not brought");
            }
            (member.name, matches!(reached, Some(Ok(()))))
        });
    }
    let mut told: Vec<_> = telling.join_all().await;
    told.sort();
    told
}

/// Shows a signed list to one host, which takes it over, or refuses it.
pub async fn show<S: Store>(context: &Arc<Context<S>>, host: &HostId, signed: SignedMemberList) -> Result<(), NetError> {
    // The greeting of a new connection brings the list by itself; a warm connection needs to be told.
    let peer = context.net.connect(host).await?;
    let mut stream = peer.request(&Request::Members(signed)).await?;
    if let Answer::Refused(refusal) = stream.receive().await? {
        return Err(NetError::Lost(refusal.to_string()));
    }
    if let Some(date) = context.trust.list_date().filter(|_| peer.hello().capabilities & INSTANCES != 0) {
        peer.request(&Request::Date(date)).await?.receive::<Answer>().await?;
    }
    Ok(())
}

/// A signer brings every change of the list to the others as it happens: who joins can be reached by name from everywhere. What the signers do not
/// know of each other's changes they are shown: by the other signers, and by whoever knows of a removal that the newest list lacks. Runs as long as
/// the agent, which introduces itself first.
pub async fn spread_changes<S: Store>(context: Arc<Context<S>>) {
    let mut changes = context.trust.changes();
    let mut spread_epoch = context.trust.epoch();
    introduce(&context).await;
    loop {
        let trust = context.trust.clone();
        let is_dated = match sys::blocking(move || trust.date_list()).await {
            Ok(is_dated) => is_dated,
            Err(TrustError::NoFleet) => false,
            Err(error) => {
                warn!(%error, "member list not dated");
                false
            }
        };
        let epoch = context.trust.epoch();
        if context.trust.is_signer() && (epoch > spread_epoch || is_dated) {
            spread(&context, SPREAD_TIMEOUT_MS).await;
        }
        spread_epoch = epoch;
        show_signers(&context).await;
        if let Ok(Err(_)) = tokio::time::timeout(SHOW_SIGNERS_EVERY, changes.changed()).await {
            return;
        }
    }
}

async fn show_signers<S: Store>(context: &Arc<Context<S>>) {
    let mut lists = context.trust.lost_removals();
    if context.trust.is_signer() {
        lists.extend(context.trust.signed_members());
    }
    if lists.is_empty() {
        return;
    }
    let Some(members) = context.trust.members() else { return };
    let is_other_signer = |member: &&Member| member.roles.contains(&Role::Signer) && member.id != context.trust.id();
    for signer in members.members.iter().filter(is_other_signer) {
        for list in &lists {
            match sys::deadline(SPREAD_TIMEOUT_MS, show(context, &signer.id, list.clone())).await {
                Some(Ok(())) => {}
                // Tried again; the other lists would not arrive either.
                _ => break,
            }
        }
    }
}

/// Shows this host to the configured addresses and to the signers, which take note where it is and which process it is. What does not answer is left alone.
pub async fn introduce<S: Store>(context: &Arc<Context<S>>) {
    let mut greeting = JoinSet::new();
    let members = context.trust.members();
    let is_signer = |member: &&Member| member.roles.contains(&Role::Signer) && member.id != context.trust.id();
    for signer in members.iter().flat_map(|list| &list.members).filter(is_signer) {
        let (context, signer) = (context.clone(), signer.id);
        greeting.spawn(async move { context.net.connect(&signer).await.map(|_| ()) });
    }
    let greeted = async {
        while let Some(greeted) = greeting.join_next().await {
            if let Ok(Err(error)) = greeted {
                debug!(%error, "a signer is not reached");
            }
        }
    };
    tokio::join!(greeted, context.net.probe_fixed());
}

/// Announces this host, as long as it is in a fleet, and asks for the others now and then. Runs as long as the agent. `moved`: it has other addresses.
pub async fn announce<S: Store>(context: Arc<Context<S>>, interfaces: Vec<String>, moved: Arc<Notify>) {
    let mut changes = context.trust.changes();
    let mut announced: Option<HostId> = None;
    loop {
        let fleet = context.trust.fleet();
        if fleet != announced {
            announced = fleet;
            context.peers.use_mdns(start(&context, &interfaces));
        }
        let looked = async {
            context.peers.look_around().await;
            tokio::time::sleep(LOOK_AROUND_EVERY).await;
        };
        tokio::select! {
            _ = changes.changed() => {}
            () = moved.notified() => announced = None,
            () = looked => {}
        }
    }
}

/// Connects anew when an address of this host is gone, and has the new one announced. Runs as long as the agent.
pub async fn follow_addresses<S: Store>(context: Arc<Context<S>>, moved: Arc<Notify>) {
    let mut changes = match AddressChanges::watch() {
        Ok(changes) => changes,
        Err(error) => {
            warn!(%error, "changes of the addresses of this host are not seen: connections over one that is gone time out");
            return std::future::pending().await;
        }
    };
    loop {
        if let Err(error) = changes.changed().await {
            warn!(%error, "changes of the addresses of this host are not seen any more");
            return std::future::pending().await;
        }
        moved.notify_one();
        let mut lost: Vec<HostId> = context.net.leave_lost_addresses().into_iter().collect();
        let begun = Instant::now();
        // The new address may come a moment after the old one has gone.
        while !lost.is_empty() && begun.elapsed() < REDIAL_FOR {
            let mut dialling = JoinSet::new();
            for host in lost.drain(..) {
                let context = context.clone();
                dialling.spawn(async move { (host, context.net.connect(&host).await) });
            }
            while let Some(Ok((host, connected))) = dialling.join_next().await {
                if let Err(error) = connected {
                    debug!(?host, %error, "not connected again yet");
                    lost.push(host);
                }
            }
            if !lost.is_empty() {
                tokio::select! {
                    _ = changes.changed() => lost.extend(context.net.leave_lost_addresses()),
                    () = tokio::time::sleep(REDIAL_EVERY) => {}
                }
            }
        }
    }
}

fn start<S: Store>(context: &Arc<Context<S>>, interfaces: &[String]) -> Option<Arc<Mdns>> {
    let config = MdnsConfig {
        id: context.trust.id(),
        fleet: context.trust.fleet()?,
        port: context.net.local_address()?.port(),
        interfaces: interfaces.to_vec(),
    };
    let trust = context.trust.clone();
    match Mdns::start(&config, &context.peers, move || trust.members().map_or(0, |list| list.members.len())) {
        Ok(mdns) => Some(Arc::new(mdns)),
        Err(error) => {
            warn!(%error, "no multicast DNS: other hosts are found by configured and by last-known addresses only");
            None
        }
    }
}

async fn renew_now<S: Store>(context: &Arc<Context<S>>) -> Result<(), NetError> {
    let fleet = context.trust.fleet().ok_or(NetError::Trust(TrustError::NoFleet))?;
    if context.trust.is_signer() {
        let trust = context.trust.clone();
        return sys::blocking(move || trust.renew_here()).await.map_err(NetError::Trust);
    }
    let members = context.trust.members().ok_or(NetError::Trust(TrustError::NoFleet))?;
    let mut last = NetError::NoAddress;
    for signer in members.members.iter().filter(|member| member.roles.contains(&Role::Signer)) {
        context.peers.look_for(&signer.id).await;
        for address in context.peers.addresses(&signer.id) {
            let asked = context.net.ask_signer(&fleet, address, |exporter| Ok(context.trust.renew_request(exporter))).await;
            match take(context, &fleet, asked).await {
                Ok(_) => return Ok(()),
                Err(error) => last = error,
            }
        }
    }
    Err(last)
}

/// Who answered, and what.
type Asked = Result<(HostId, JoinAnswer), NetError>;

async fn take<S: Store>(context: &Arc<Context<S>>, fleet: &HostId, asked: Asked) -> Result<HostId, NetError> {
    match asked? {
        (_, JoinAnswer::Refused(refusal)) => Err(NetError::JoinRefused(refusal)),
        (signer, answer) => {
            let (trust, fleet) = (context.trust.clone(), *fleet);
            sys::blocking(move || trust.joined(&fleet, answer)).await?;
            Ok(signer)
        }
    }
}

async fn candidates<S: Store>(context: &Arc<Context<S>>, token: &Token, address: Option<String>) -> Vec<SocketAddr> {
    let mut candidates = vec![];
    for text in address.iter().chain(token.address.iter().filter(|_| address.is_none())) {
        candidates.extend(fixed::lookup(text).await.unwrap_or_default());
    }
    if address.is_some() {
        return candidates;
    }
    candidates.extend(context.peers.fixed().await);
    candidates.extend(announced(context, token).await);
    let mut unique = vec![];
    candidates.into_iter().for_each(|candidate| {
        if !unique.contains(&candidate) {
            unique.push(candidate);
        }
    });
    unique
}

/// Addresses of whoever announces the fleet that the token names: we are not in it yet, so this asks once, without announcing ourselves.
async fn announced<S: Store>(context: &Arc<Context<S>>, token: &Token) -> Vec<SocketAddr> {
    let found = Peers::transient();
    let Some(interfaces) = &context.mdns_interfaces else { return vec![] };
    let Ok(mdns) = Mdns::ask_only(&token.fleet, &context.trust.id(), interfaces, &found) else { return vec![] };
    mdns.burst(None).await;
    found.all().into_values().flat_map(|sighting| sighting.addresses().collect::<Vec<_>>()).collect()
}

fn is_not_signer(error: &NetError) -> bool {
    matches!(error, NetError::JoinRefused(JoinRefusal::NotSigner))
}
