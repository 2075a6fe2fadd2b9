//! Which members are meant by names, globs, ranges and groups.

use std::net::{IpAddr, SocketAddr};

use proto::control::{Failure, FailureKind, Hosts};
use proto::host::{Member, MemberList, usable_name};

use super::failure::failure;
use crate::discovery::Peers;

/// More hosts than one pattern may stand for.
const EXPANSION: usize = proto::limits::MEMBERS;

/// The members that `hosts` names, each once, in the order of first mention. `all` leaves out the host `here`.
pub(super) fn select(list: &MemberList, peers: &Peers, hosts: &Hosts, here: &str) -> Result<Vec<Member>, Failure> {
    let mut selected: Vec<Member> = vec![];
    let mut add = |member: &Member| {
        if !selected.contains(member) {
            selected.push(member.clone());
        }
    };
    if hosts.all {
        list.members.iter().filter(|member| member.name != here).for_each(&mut add);
    }
    for name in &hosts.names {
        let found = matching(list, peers, name)?;
        // A pattern means the others, too; only a plain name can mean this host by mistake.
        let pattern = name.starts_with('@') || name.contains(['*', '?', '[']);
        found.into_iter().filter(|member| !pattern || member.name != here).for_each(&mut add);
    }
    for name in &hosts.except {
        let excepted = matching(list, peers, name)?;
        selected.retain(|member| !excepted.contains(&member));
    }
    Ok(selected)
}

/// The one member that `name` means, as a value of the option `option`.
pub(super) fn one(list: &MemberList, peers: &Peers, name: &str, option: &str) -> Result<Member, Failure> {
    match &matching(list, peers, name)?[..] {
        [member] => Ok((*member).clone()),
        several => Err(failure(FailureKind::Usage, format!("{name} names {} hosts: {option} takes one", several.len()))),
    }
}

/// The same hosts, by their names.
pub(super) fn named(hosts: &[Member]) -> Hosts {
    Hosts { names: hosts.iter().map(|host| host.name.clone()).collect(), all: false, except: vec![] }
}

fn matching<'a>(list: &'a MemberList, peers: &Peers, name: &str) -> Result<Vec<&'a Member>, Failure> {
    let unknown = |what: String| failure(FailureKind::HostNotFound(name.to_owned()), what);
    if let Some(group) = name.strip_prefix('@') {
        let members: Vec<&Member> = list.members.iter().filter(|member| member.groups.iter().any(|own| own == group)).collect();
        return if members.is_empty() { Err(unknown(format!("no host is in group {name}"))) } else { Ok(members) };
    }
    // Host names know no case (RFC 4343).
    let name = &name.to_ascii_lowercase();
    let is_pattern = name.contains(['*', '?']) || (name.contains('[') && name.parse::<SocketAddr>().is_err() && !name.starts_with('['));
    let member = if is_pattern { None } else { plain(list, peers, name)? };
    if let Some(member) = member {
        return Ok(vec![member]);
    }
    let patterns = expand(name).map_err(unknown)?;
    let mut members = vec![];
    for pattern in patterns {
        let wild = pattern.contains(['*', '?']);
        let found: Vec<&Member> = list.members.iter().filter(|member| matches(&pattern, &member.name)).collect();
        if found.is_empty() {
            return Err(unknown(match nearest(list, &pattern) {
                _ if wild => format!("no host matches {pattern}"),
                Some(near) => format!("no host {pattern} in the fleet: is {near} meant?"),
                None => format!("no host {pattern} in the fleet"),
            }));
        }
        members.extend(found);
    }
    Ok(members)
}

/// The member that people name as they do for `ssh`: by its name, with its domain, by an address at which it was reached.
fn plain<'a>(list: &'a MemberList, peers: &Peers, name: &str) -> Result<Option<&'a Member>, Failure> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if let Some(member) = list.by_name(name) {
        return Ok(Some(member));
    }
    let (ip, port) = match (name.parse::<SocketAddr>(), name.trim_matches(['[', ']']).parse::<IpAddr>()) {
        (Ok(address), _) => (address.ip(), Some(address.port())),
        (_, Ok(ip)) => (ip, None),
        // What an agent calls itself on a host whose name is no DNS label.
        _ => return Ok(list.by_name(&usable_name(name))),
    };
    let is_there = |address: &SocketAddr| address.ip() == ip.to_canonical() && port.is_none_or(|port| port == address.port());
    let there: Vec<&Member> = list.members.iter().filter(|member| peers.proven(&member.id).iter().any(is_there)).collect();
    match there[..] {
        [member] => Ok(Some(member)),
        [] => Ok(None),
        _ => {
            let names: Vec<&str> = there.iter().map(|member| member.name.as_str()).collect();
            Err(failure(FailureKind::Usage, format!("several hosts were reached at {name}: {}", names.join(", "))))
        }
    }
}

/// The member whose name is written almost so.
fn nearest<'a>(list: &'a MemberList, name: &str) -> Option<&'a str> {
    let names = list.members.iter().map(|member| (strsim::damerau_levenshtein(&member.name, name), member.name.as_str()));
    names.filter(|(distance, _)| *distance <= 2 && *distance * 3 <= name.len()).min().map(|(_, near)| near)
}

/// `web[01-03]` is `web01`, `web02`, `web03`; the width of the first number is kept.
fn expand(name: &str) -> Result<Vec<String>, String> {
    let Some((head, rest)) = name.split_once('[') else { return Ok(vec![name.to_owned()]) };
    let wrong = || format!("\"{}\" is not a range of hosts: write web[01-40]", proto::text::escape(name));
    let (range, tail) = rest.split_once(']').ok_or_else(wrong)?;
    let (first, last) = range.split_once('-').ok_or_else(wrong)?;
    let digits = |text: &str| !text.is_empty() && text.len() <= 6 && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(first) || !digits(last) {
        return Err(wrong());
    }
    let (from, to): (usize, usize) = (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
    if from > to || to - from >= EXPANSION {
        return Err(wrong());
    }
    let tails = expand(tail)?;
    let names = (from..=to).flat_map(|number| tails.iter().map(move |tail| format!("{head}{number:0width$}{tail}", width = first.len())));
    Ok(names.take(EXPANSION).collect())
}

/// `*` stands for any characters, `?` for one.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        if p < pattern.len() && pattern[p] == b'*' {
            star = Some((p, n));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == b'?' || pattern[p] == name[n]) {
            (p, n) = (p + 1, n + 1);
        } else if let Some((at, taken)) = star {
            star = Some((at, taken + 1));
            (p, n) = (at + 1, taken + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&b| b == b'*')
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proto::HostId;

    use super::*;

    fn list(names: &[(&str, &str)]) -> MemberList {
        let member = |(name, group): &(&str, &str)| Member {
            id: HostId::of_public_key(name.as_bytes()),
            name: (*name).to_owned(),
            roles: vec![],
            groups: vec![(*group).to_owned()],
        };
        MemberList { fleet: HostId::of_public_key(b"f"), epoch: 1, members: names.iter().map(member).collect(), removed: vec![] }
    }

    fn names(hosts: &[&str], all: bool) -> Result<Vec<String>, Failure> {
        let list = list(&[("here", "web"), ("web01", "web"), ("web02", "web"), ("web10", "web"), ("db-a", "db")]);
        let hosts = Hosts { names: hosts.iter().map(|name| (*name).to_owned()).collect(), all, except: vec![] };
        select(&list, &Peers::transient(), &hosts, "here").map(|members| members.into_iter().map(|member| member.name).collect())
    }

    #[test]
    fn every_form_names_its_hosts() {
        assert_eq!(names(&["web02", "web01", "web02"], false).unwrap(), ["web02", "web01"]);
        assert_eq!(names(&["web[01-02]"], false).unwrap(), ["web01", "web02"]);
        assert_eq!(names(&["web*"], false).unwrap(), ["web01", "web02", "web10"]);
        assert_eq!(names(&["web?0", "d*a"], false).unwrap(), ["web10", "db-a"]);
        assert_eq!(names(&["@web"], false).unwrap(), ["web01", "web02", "web10"]);
        assert_eq!(names(&[], true).unwrap(), ["web01", "web02", "web10", "db-a"]);
        assert_eq!(names(&["here"], false).unwrap(), ["here"]);
    }

    #[test]
    fn what_names_nobody_is_an_error() {
        for host in ["web03", "web[01-03]", "x*", "@nobody", "web[3-1]", "web[a-b]", "web[01-", "web[1-99999]"] {
            let failure = names(&[host], false).unwrap_err();
            assert!(matches!(failure.kind, FailureKind::HostNotFound(_)), "{host}");
        }
    }

    /// As people type it for `ssh`.
    #[test]
    fn a_host_is_known_by_its_name_its_domain_and_its_address() {
        let list = list(&[("stapp03", ""), ("stapp-04", ""), ("db", "")]);
        let peers = Peers::transient();
        let reached = |member: usize, address: &str| peers.reached(&list.members[member].id, address.parse().unwrap());
        for (member, address) in
            [(0, "10.0.0.3:7117"), (0, "[2001:db8::3]:7117"), (2, "10.0.0.9:7117"), (2, "10.0.0.9:7118"), (1, "10.0.0.9:7118")]
        {
            reached(member, address);
        }
        // Somebody says that another one is there.
        peers.announced(list.members[1].id, ["10.0.0.3:7117".parse().unwrap()]);
        let chosen = |name: &str| {
            let hosts = Hosts { names: vec![name.to_owned()], all: false, except: vec![] };
            select(&list, &peers, &hosts, "here").map(|members| members[0].name.clone())
        };
        for name in
            ["stapp03", "STAPP03", "Stapp03.", "stapp03.example.com", "10.0.0.3", "10.0.0.3:7117", "2001:db8::3", "[2001:db8::3]:7117"]
        {
            assert_eq!(chosen(name).unwrap(), list.members[0].name, "{name}");
        }
        assert_eq!(chosen("stapp_04.example.com").unwrap(), "stapp-04");
        assert_eq!(chosen("10.0.0.9:7117").unwrap(), "db");
        let said = |name: &str| chosen(name).unwrap_err().causes.join(": ");
        assert!(said("10.0.0.9").contains("several hosts were reached at 10.0.0.9: "), "{}", said("10.0.0.9"));
        assert_eq!(said("stap03"), "no host stap03 in the fleet: is stapp03 meant?");
        assert_eq!(said("10.0.0.4"), "no host 10.0.0.4 in the fleet");
        assert_eq!(said("web"), "no host web in the fleet");
        // A pattern is no name.
        for pattern in ["stapp0?", "stapp*", "stapp[03-03]"] {
            assert!(chosen(pattern).is_ok(), "{pattern}");
        }
        assert!(said("db*x").contains("no host matches"), "{}", said("db*x"));
        assert_eq!(chosen("db*").unwrap(), "db");
        assert!(said("stapp-04*1").contains("no host matches"));
    }
}
