//! `imgctl doctor`: what is wrong with this host, or between here and another one, and what to do about it.

use std::sync::Arc;
use std::time::Duration;

use proto::HostId;
use proto::control::{Check, Event, FailureKind, Hosts, Verdict};
use proto::host::Member;
use proto::peer::{Answer, GreetingRefusal, ImageRow, Request};

use super::client::Client;
use super::failure::failure;
use super::peers::CHECK_MS;
use super::{Done, hosts};
use crate::discovery::is_container_interface;
use crate::membership;
use crate::net::{NetError, Peer, Refused};
use crate::store::{Finding, Store};
use crate::sys;
use crate::transfer::Context;

/// Below this the store is about to be full.
const FREE_BYTES: u64 = 1 << 30;

/// A signer dates the member list every day: who has an older date than this has not heard of it.
const OLD_LIST: Duration = Duration::from_secs(3 * 24 * 3600);

/// How long this host is shown to others, to hear whether they have seen it elsewhere.
const INTRODUCTION_MS: u64 = 1_500;

const SET_CLOCK: &str = "timedatectl on both hosts shows their time; timedatectl set-ntp true, or chronyc makestep, sets it right";

const COME_BACK: &str = "if it shall come back: systemctl stop imgd, rm -r /var/lib/imgd/trust, systemctl start imgd, and imgctl fleet join with a token from \
    imgctl fleet invite on the signer";

/// How long a host may take to answer a question that costs it nothing.
const ANSWER_MS: u64 = 5_000;

/// Checks this host, and the way to `host` when it is named.
pub(super) async fn doctor<S: Store>(context: &Arc<Context<S>>, client: &Client, host: Option<&str>) -> Done {
    let mut checks = store(context).await;
    checks.extend(unfinished(context).await);
    checks.extend([socket(context), fleet(context), certificate(context), interfaces(context)]);
    checks.extend(other_name(context).into_iter().chain(addresses(context)));
    checks.extend(twins(context).await);
    checks.extend(refusals(context));
    checks.extend(clock(context));
    if let Some(host) = host {
        let members = context.trust.members().ok_or_else(|| failure(FailureKind::NoFleet, "this host is in no fleet"))?;
        let selected = hosts::select(
            &members,
            &context.peers,
            &Hosts { names: vec![host.to_owned()], all: false, except: vec![] },
            &context.trust.name(),
        )?;
        for member in selected {
            checks.push(way(context, &member).await);
        }
    }
    for check in checks {
        client.event(Event::Check(check)).await;
    }
    Ok(())
}

async fn store<S: Store>(context: &Context<S>) -> Vec<Check> {
    let kind = context.store.properties().kind;
    let mut checks: Vec<Check> = context.store.examine().await.into_iter().map(found).collect();
    checks.push(match (context.store.list().await, context.store.room().await) {
        (Ok(images), Ok(rooms)) => contents(kind, &images, rooms.iter().map(|room| room.free_bytes).min()),
        // What the engine says is among the findings already.
        (Err(_), _) | (_, Err(_)) if checks.iter().any(|check| check.verdict == Verdict::Wrong) => return checks,
        (Err(error), _) | (_, Err(error)) => check(Verdict::Wrong, "store", format!("{kind}: {error}"), Some("see journalctl -u imgd")),
    });
    checks
}

/// What is kept of transfers that were not finished, when there is any.
async fn unfinished<S: Store>(context: &Context<S>) -> Option<Check> {
    let staging = context.staging.clone();
    match sys::blocking(move || staging.unclaimed(&[])).await {
        Ok(unclaimed) if unclaimed.blobs == 0 => None,
        Ok(unclaimed) => {
            let kept =
                format!("{} MB of unfinished transfers are kept for a day ({} layers)", unclaimed.bytes / 1_000_000, unclaimed.blobs);
            Some(check(
                Verdict::Ok,
                "staging",
                format!("{kept}; imgctl prune frees them, and so does the next image that needs the room"),
                None,
            ))
        }
        Err(error) => Some(check(Verdict::Wrong, "staging", error.to_string(), Some("see journalctl -u imgd"))),
    }
}

fn found(finding: Finding) -> Check {
    check(finding.verdict, "store", finding.text, finding.remedy.as_deref())
}

fn contents(kind: &str, images: &[ImageRow], free_bytes: Option<u64>) -> Check {
    let count = if images.len() == 1 { "1 image".to_owned() } else { format!("{} images", images.len()) };
    let incomplete: Vec<String> = images.iter().filter(|image| !image.complete).map(name).collect();
    if !incomplete.is_empty() {
        let finding = format!("{kind}, {count}, of which blobs are missing or damaged: {}", incomplete.join(", "));
        return check(Verdict::Wrong, "store", finding, Some("load, pull or send them again, or imgctl rm them"));
    }
    match free_bytes {
        None => check(Verdict::Ok, "store", format!("{kind}, {count}"), None),
        Some(free_bytes) if free_bytes < FREE_BYTES => {
            let remedy = "remove images with imgctl rm, or give the store more space";
            check(Verdict::Warning, "store", format!("{kind}, {count}, only {} MB free", free_bytes / 1_000_000), Some(remedy))
        }
        Some(free_bytes) => check(Verdict::Ok, "store", format!("{kind}, {count}, {} GB free", free_bytes / 1_000_000_000), None),
    }
}

fn name(image: &ImageRow) -> String {
    image.reference.as_ref().map_or_else(|| image.image_id.short(), proto::Reference::familiar)
}

fn socket<S>(context: &Context<S>) -> Check {
    match context.net.local_address() {
        Some(address) => check(Verdict::Ok, "network", format!("listening on UDP {address}"), None),
        None => check(Verdict::Wrong, "network", "not listening".to_owned(), Some("systemctl restart imgd")),
    }
}

fn fleet<S>(context: &Context<S>) -> Check {
    let (Some(fleet), Some(members)) = (context.trust.fleet(), context.trust.members()) else {
        let remedy = "imgctl fleet init on the first host, imgctl fleet join on the others";
        return check(Verdict::Warning, "fleet", "this host is in no fleet".to_owned(), Some(remedy));
    };
    let signers: Vec<&str> = members.members.iter().filter(|member| !member.roles.is_empty()).map(|member| member.name.as_str()).collect();
    let finding = format!("{}, {} members, epoch {}, signer {}", fleet.short(), members.members.len(), members.epoch, signers.join(", "));
    if members.by_id(&context.trust.id()).is_none() {
        return check(
            Verdict::Wrong,
            "fleet",
            format!("{finding}; this host is not on its list"),
            Some("imgctl fleet invite on the signer, then imgctl fleet join here"),
        );
    }
    match context.trust.members_age() {
        Some(age) if age >= OLD_LIST => {
            let days = age.as_secs() / 86_400;
            check(
                Verdict::Warning,
                "fleet",
                format!(
                    "{finding}; no signer has said for {days} days that this list is the newest: who was removed since is still let in here"
                ),
                Some("see that the signer runs and can be reached: imgctl doctor SIGNER"),
            )
        }
        _ => check(Verdict::Ok, "fleet", finding, None),
    }
}

/// Hosts whose key is in use on two machines, this one among them.
async fn twins<S: Store>(context: &Arc<Context<S>>) -> Vec<Check> {
    let remedy = "on the copy: systemctl stop imgd, remove /var/lib/imgd/trust, and give it a machine ID of its own (rm /etc/machine-id, \
        systemd-machine-id-setup); then systemctl start imgd, and imgctl fleet join with a new token";
    sys::deadline(INTRODUCTION_MS, membership::introduce(context)).await;
    context.net.check_members(CHECK_MS).await;
    let Some(members) = context.trust.members() else { return vec![] };
    let name = |id: &HostId| members.by_id(id).map_or_else(|| id.short(), |member| member.name.clone());
    let mut checks: Vec<Check> = vec![];
    for (host, [one, other]) in context.net.twins() {
        let finding = format!("the key of {} is in use on two machines, at {one} and {other}: neither is spoken to", name(&host));
        checks.push(check(Verdict::Wrong, "members", finding, Some(remedy)));
    }
    for (host, addresses) in context.net.told_twins() {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let finding = format!("{} says that the key of this host is in use on two machines, at {}", name(&host), addresses.join(" and "));
        checks.push(check(Verdict::Wrong, "identity", finding, Some(remedy)));
    }
    checks
}

/// What others say of this host, who do not speak to it.
fn refusals<S>(context: &Context<S>) -> Vec<Check> {
    let Some(members) = context.trust.members() else { return vec![] };
    let mut removed: Vec<String> = vec![];
    let mut checks = vec![];
    for (id, refused) in context.net.refusals() {
        // Who was removed from the list meanwhile says nothing that counts.
        let Some(member) = members.by_id(&id) else { continue };
        match refused {
            Refused::Removed => removed.push(member.name.clone()),
            Refused::Clock(words) => checks.push(check(Verdict::Wrong, &format!("clock, seen by {}", member.name), words, Some(SET_CLOCK))),
        }
    }
    if !removed.is_empty() {
        removed.sort();
        let finding = format!("this host was removed from its fleet: {} says so", removed.join(", "));
        checks.push(check(Verdict::Wrong, "fleet", finding, Some(COME_BACK)));
    }
    checks
}

/// The clock of this host beside its own certificate.
fn clock<S>(context: &Context<S>) -> Option<Check> {
    let skew = context.trust.certificate_skew()?;
    Some(check(Verdict::Wrong, "clock", format!("{skew}: that of the signer of its certificate"), Some(SET_CLOCK)))
}

fn certificate<S>(context: &Context<S>) -> Check {
    let Some(due) = context.trust.renewal_due() else { return check(Verdict::Ok, "certificate", "none needed yet".to_owned(), None) };
    match due.duration_since(std::time::SystemTime::now()) {
        Ok(left) => check(Verdict::Ok, "certificate", format!("to be renewed in {} days", left.as_secs() / 86_400), None),
        Err(late) => {
            let finding = format!("should have been renewed {} hours ago", late.duration().as_secs() / 3600);
            check(
                Verdict::Warning,
                "certificate",
                finding,
                Some("see that the fleet's signer runs and can be reached: imgctl fleet ls, imgctl doctor SIGNER"),
            )
        }
    }
}

/// The host was renamed, and the fleet does not know.
fn other_name<S>(context: &Context<S>) -> Option<Check> {
    let (configured, name) = (context.trust.other_name()?, context.trust.name());
    let remedy = format!("imgctl fleet rename {name} {configured} on the signer, or name = \"{name}\" in /etc/imgd/config.toml here");
    Some(check(Verdict::Warning, "name", format!("this host is called {configured}, and {name} in its fleet"), Some(&remedy)))
}

/// Where other hosts cannot reach it.
fn addresses<S>(context: &Context<S>) -> Option<Check> {
    let finding = context.net.local_address().and_then(sys::interface::unreachable)?;
    Some(check(
        Verdict::Wrong,
        "addresses",
        finding.to_string(),
        Some("give it one, from DHCP, router advertisements or by ip address add"),
    ))
}

fn interfaces<S>(context: &Context<S>) -> Check {
    let Some(named) = &context.mdns_interfaces else {
        return check(Verdict::Ok, "interfaces", "multicast DNS is off: other hosts are found by address".to_owned(), None);
    };
    if !named.is_empty() {
        return check(Verdict::Ok, "interfaces", format!("multicast DNS (UDP 5353) on {} only, as configured", named.join(", ")), None);
    }
    let names =
        std::fs::read_dir("/sys/class/net").map(|entries| entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()));
    let names: Vec<String> = names.map(Iterator::collect).unwrap_or_default();
    let (skipped, used): (Vec<String>, Vec<String>) =
        names.into_iter().filter(|name| name != "lo").partition(|name| is_container_interface(name));
    let mut finding = format!("multicast DNS (UDP 5353) on {}", if used.is_empty() { "no interface".to_owned() } else { used.join(", ") });
    if !skipped.is_empty() {
        finding += &format!("; not on container interfaces {}", skipped.join(", "));
    }
    let remedy = used.is_empty().then_some("name an interface with --interface, or the other hosts with --peer");
    check(if used.is_empty() { Verdict::Warning } else { Verdict::Ok }, "interfaces", finding, remedy)
}

async fn way<S: Store>(context: &Context<S>, member: &Member) -> Check {
    let subject = format!("way to {}", member.name);
    if member.id == context.trust.id() {
        return check(Verdict::Ok, &subject, "this is the host itself".to_owned(), None);
    }
    match asked(context, member).await {
        Ok(peer) => {
            let (hello, trip) = (peer.hello(), peer.round_trip_us());
            let finding = format!("{} answers at {} in {trip} µs: {}, store {}", member.name, peer.address(), hello.software, hello.store);
            check(Verdict::Ok, &subject, finding, None)
        }
        Err(error @ (NetError::TwoMachines(_) | NetError::Refused(GreetingRefusal::TwoMachines(_)))) => check(
            Verdict::Wrong,
            &subject,
            error.to_string(),
            Some("its key is in use on two machines: the line about that says what to do"),
        ),
        Err(error @ (NetError::Clock(_) | NetError::OutOfDate)) => check(Verdict::Wrong, &subject, error.to_string(), Some(SET_CLOCK)),
        Err(error @ NetError::Revoked) => check(Verdict::Wrong, &subject, error.to_string(), Some(COME_BACK)),
        Err(error @ (NetError::Handshake(_) | NetError::Refused(_) | NetError::NotMember(_))) => {
            let remedy = "one of the two does not take the other for a member: imgctl fleet ls on both says who is; \
                a host that was removed joins again with a new key (README, \"Trust\")";
            check(Verdict::Wrong, &subject, error.to_string(), Some(remedy))
        }
        Err(error) => {
            let port = context.net.local_address().map_or(7117, |address| address.port());
            let remedy = format!(
                "see that imgd runs on {name} and that UDP {port} (and 5353 for discovery) is open, or start imgd with --peer {name}:{port}",
                name = member.name
            );
            Check { verdict: Verdict::Wrong, subject, finding: error.to_string(), remedy: Some(remedy) }
        }
    }
}

/// A connection over which the host has just answered: one that was made before may be to a host that is gone or hangs.
async fn asked<S: Store>(context: &Context<S>, member: &Member) -> Result<Peer, NetError> {
    let peer = context.net.connect(&member.id).await?;
    let asking = async { peer.request(&Request::Where(member.id)).await?.receive::<Answer>().await };
    match sys::deadline(ANSWER_MS, asking).await {
        Some(answer) => answer.map(|_| peer),
        None => Err(NetError::Silent(ANSWER_MS / 1000)),
    }
}

fn check(verdict: Verdict, subject: &str, finding: String, remedy: Option<&str>) -> Check {
    Check { verdict, subject: subject.to_owned(), finding, remedy: remedy.map(str::to_owned) }
}
