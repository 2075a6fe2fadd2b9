//! Which members are meant by names, globs, ranges and groups.

use proto::control::{Failure, FailureKind, Hosts};
use proto::host::{Member, MemberList};

use super::failure::failure;

/// More hosts than one pattern may stand for.
const EXPANSION: usize = proto::limits::MEMBERS;

/// The members that `hosts` names, each once, in the order of first mention. `all` leaves out the host `here`.
pub(super) fn select(list: &MemberList, hosts: &Hosts, here: &str) -> Result<Vec<Member>, Failure> {
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
        let found = matching(list, name)?;
        // A pattern means the others, too; only a plain name can mean this host by mistake.
        let pattern = name.starts_with('@') || name.contains(['*', '?', '[']);
        found.into_iter().filter(|member| !pattern || member.name != here).for_each(&mut add);
    }
    for name in &hosts.except {
        let excepted = matching(list, name)?;
        selected.retain(|member| !excepted.contains(&member));
    }
    Ok(selected)
}

/// The one member that `name` means, as a value of the option `option`.
pub(super) fn one(list: &MemberList, name: &str, option: &str) -> Result<Member, Failure> {
    match &matching(list, name)?[..] {
        [member] => Ok((*member).clone()),
        several => Err(failure(FailureKind::Usage, format!("{name} names {} hosts: {option} takes one", several.len()))),
    }
}

/// The same hosts, by their names.
pub(super) fn named(hosts: &[Member]) -> Hosts {
    Hosts { names: hosts.iter().map(|host| host.name.clone()).collect(), all: false, except: vec![] }
}

fn matching<'a>(list: &'a MemberList, name: &str) -> Result<Vec<&'a Member>, Failure> {
    let unknown = |what: String| failure(FailureKind::HostNotFound(name.to_owned()), what);
    if let Some(group) = name.strip_prefix('@') {
        let members: Vec<&Member> = list.members.iter().filter(|member| member.groups.iter().any(|own| own == group)).collect();
        return if members.is_empty() { Err(unknown(format!("no host is in group {name}"))) } else { Ok(members) };
    }
    let patterns = expand(name).map_err(unknown)?;
    let mut members = vec![];
    for pattern in patterns {
        let wild = pattern.contains(['*', '?']);
        let found: Vec<&Member> = list.members.iter().filter(|member| matches(&pattern, &member.name)).collect();
        if found.is_empty() {
            let what = if wild { format!("no host matches {pattern}") } else { format!("no host {pattern} in the fleet") };
            return Err(unknown(what));
        }
        members.extend(found);
    }
    Ok(members)
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
        select(&list, &hosts, "here").map(|members| members.into_iter().map(|member| member.name).collect())
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
}
