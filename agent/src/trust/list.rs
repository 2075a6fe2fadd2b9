//! Member lists: signing, checking, and joining two that were made at once.

use std::collections::{BTreeMap, BTreeSet};

use proto::HostId;
use proto::frame::{self, Bounded};
use proto::host::{Member, MemberList, SignedMemberList};
use proto::limits::{FRAME_MEMBERS, HOST_NAME_BYTES};

use super::TrustError;
use super::key::{PublicKey, SecretKey};

/// What is signed is never anything but a member list.
const CONTEXT: &[u8] = b"imgd member list\0";

/// Left free in a frame, for what travels around a list: two certificates and a signature.
const FRAME_REST: usize = 16 * 1024;

/// Signs a list, which is brought into order first. Refuses one that is too large to be sent.
pub(super) fn sign(list: &mut MemberList, authority: &SecretKey) -> Result<SignedMemberList, TrustError> {
    list.members.sort_by(|one, other| one.name.cmp(&other.name));
    let bytes = frame::encode_body(list);
    if !list.within_limits() || bytes.len() > FRAME_MEMBERS - FRAME_REST {
        return Err(TrustError::Full);
    }
    let signature = authority.sign(&[CONTEXT, &bytes].concat());
    Ok(SignedMemberList { list: bytes, signature })
}

/// The list of the fleet of this CA key. Nothing is decoded before the signature was checked.
pub(super) fn verify(signed: &SignedMemberList, authority: &PublicKey) -> Result<MemberList, TrustError> {
    let fleet = authority.id();
    if !signed.within_limits() || !authority.has_signed(&[CONTEXT, &signed.list].concat(), &signed.signature) {
        return Err(TrustError::ForgedList(fleet));
    }
    let list: MemberList = frame::decode(&signed.list).map_err(|_| TrustError::ForgedList(fleet))?;
    if list.fleet == fleet { Ok(list) } else { Err(TrustError::OtherFleet { ours: fleet, theirs: list.fleet }) }
}

/// The epoch after this one.
pub(super) fn next_epoch(epoch: u64) -> Result<u64, TrustError> {
    epoch.checked_add(1).ok_or(TrustError::Full)
}

/// Two lists of one epoch made into one of the next. The order of the two does not matter, so that two signers who both
/// do it make the same list and agree. Who was removed on either stays removed; where two hosts got one name, the one
/// with the higher id gets the beginning of its id behind it.
pub(super) fn merge(one: &MemberList, other: &MemberList) -> Result<MemberList, TrustError> {
    let removed: BTreeSet<HostId> = one.removed.iter().chain(&other.removed).copied().collect();
    let mut members: BTreeMap<HostId, Member> = BTreeMap::new();
    for member in one.members.iter().chain(&other.members).filter(|member| !removed.contains(&member.id)) {
        members.entry(member.id).and_modify(|known| merge_member(known, member)).or_insert_with(|| member.clone());
    }
    let mut names = BTreeSet::new();
    for member in members.values_mut() {
        if !names.insert(member.name.clone()) {
            member.name = told_apart(member);
            names.insert(member.name.clone());
        }
    }
    Ok(MemberList {
        fleet: one.fleet,
        epoch: next_epoch(one.epoch.max(other.epoch))?,
        members: members.into_values().collect(),
        removed: removed.into_iter().collect(),
    })
}

/// Adds who is on an older list and was not removed since: a member leaves a list by its removal only, so that the newer one was made without
/// knowledge of the older one. A name that is taken there gets the beginning of the id behind it.
pub(super) fn keep_members(newer: &mut MemberList, older: &MemberList) {
    for member in &older.members {
        if newer.by_id(&member.id).is_some() || newer.removed.contains(&member.id) {
            continue;
        }
        let mut member = member.clone();
        if newer.by_name(&member.name).is_some() {
            member.name = told_apart(&member);
        }
        newer.members.push(member);
    }
    newer.members.sort_by(|one, other| one.name.cmp(&other.name));
}

/// Takes those off a list who were removed on another one.
pub(super) fn keep_removed(list: &mut MemberList, other: &MemberList) {
    list.members.retain(|member| !other.removed.contains(&member.id));
    for id in &other.removed {
        if !list.removed.contains(id) {
            list.removed.push(*id);
        }
    }
}

/// The name of a host whose own is taken.
fn told_apart(member: &Member) -> String {
    format!("{:.*}-{}", HOST_NAME_BYTES - 13, member.name, member.id.short())
}

fn merge_member(known: &mut Member, other: &Member) {
    if other.name < known.name {
        known.name.clone_from(&other.name);
    }
    if known.roles.is_empty() {
        known.roles.clone_from(&other.roles);
    }
    let groups: BTreeSet<String> = known.groups.drain(..).chain(other.groups.iter().cloned()).collect();
    known.groups = groups.into_iter().collect();
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn member(key: u8, name: &str, groups: &[&str]) -> Member {
        let groups = groups.iter().map(|&group| group.to_owned()).collect();
        Member { id: HostId::of_public_key(&[key]), name: name.to_owned(), roles: Vec::new(), groups }
    }

    fn list(fleet: HostId, members: &[Member], removed: &[u8]) -> MemberList {
        let removed = removed.iter().map(|key| HostId::of_public_key(&[*key])).collect();
        MemberList { fleet, epoch: 7, members: members.to_vec(), removed }
    }

    #[test]
    fn only_the_ca_of_the_fleet_signs() {
        let (ca, other) = (SecretKey::generate().unwrap(), SecretKey::generate().unwrap());
        let fleet = ca.public().id();
        let mut members = list(fleet, &[member(2, "b", &[]), member(1, "a", &[])], &[]);
        let signed = sign(&mut members, &ca).unwrap();
        assert_eq!(verify(&signed, ca.public()).unwrap(), members);
        assert_eq!(members.members[0].name, "a");
        assert!(matches!(verify(&signed, other.public()), Err(TrustError::ForgedList(_))));
        let mut changed = signed.clone();
        *changed.list.last_mut().unwrap() ^= 1;
        assert!(matches!(verify(&changed, ca.public()), Err(TrustError::ForgedList(_))));
        let short = SignedMemberList { signature: signed.signature[1..].to_vec(), ..signed };
        assert!(matches!(verify(&short, ca.public()), Err(TrustError::ForgedList(_))));
        let foreign = sign(&mut list(other.public().id(), &[], &[]), &ca).unwrap();
        assert!(matches!(verify(&foreign, ca.public()), Err(TrustError::OtherFleet { .. })));
        // The CA's signature over something else is no list.
        let mut bare = sign(&mut members, &ca).unwrap();
        bare.signature = ca.sign(&bare.list);
        assert!(verify(&bare, ca.public()).is_err());
    }

    #[test]
    fn a_list_that_cannot_travel_is_not_signed() {
        let ca = SecretKey::generate().unwrap();
        let groups: Vec<String> = (0..64).map(|n| format!("{n:063}")).collect();
        let members = (0..300_u32).map(|n| Member {
            id: HostId::of_public_key(&n.to_le_bytes()),
            name: format!("host{n}"),
            roles: Vec::new(),
            groups: groups.clone(),
        });
        let mut large = list(ca.public().id(), &members.collect::<Vec<_>>(), &[]);
        assert!(matches!(sign(&mut large, &ca), Err(TrustError::Full)));
    }

    #[test]
    fn two_signers_come_to_the_same_list() {
        let fleet = HostId::of_public_key(b"ca");
        let one = list(fleet, &[member(1, "a", &["web"]), member(2, "b", &[]), member(3, "new", &[]), member(5, "e", &[])], &[]);
        let other = list(fleet, &[member(1, "a", &["db"]), member(4, "new", &[]), member(5, "e", &[])], &[2]);
        let merged = merge(&one, &other).unwrap();
        assert_eq!(merged, merge(&other, &one).unwrap());
        assert_eq!(merged.epoch, 8);
        assert_eq!(merged.by_name("a").unwrap().groups, ["db", "web"]);
        assert!(merged.by_name("b").is_none());
        assert_eq!(merged.removed, [HostId::of_public_key(&[2])]);
        let names: Vec<_> = merged.members.iter().filter(|member| member.name.starts_with("new")).collect();
        assert_eq!(names.len(), 2);
        assert_ne!(names[0].name, names[1].name);
        assert!(merged.within_limits());
    }
}
