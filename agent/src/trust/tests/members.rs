use std::time::Duration;

use proto::host::{MemberList, SignedMemberList};

use super::super::{Accepted, TrustError, list};
use super::{DAY, Host, Time, once, pair};

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn newer_lists_are_taken_over_and_kept() {
    let (_, signer, member) = pair();
    let mut changes = member.changes();
    changes.mark_unchanged();
    signer.group("web", &names(&["stapp02", "stapp01"]), true).unwrap();
    let newer = signer.signed_members().unwrap();
    assert_eq!(member.accept_members(&newer).unwrap(), Accepted::Changed);
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    assert_eq!(member.accept_members(&newer).unwrap(), Accepted::Unchanged);
    assert!(!changes.has_changed().unwrap());
    let again = member.reopened("stapp02");
    assert_eq!(again.epoch(), 3);
    assert_eq!(again.members().unwrap().by_id(&member.id()).unwrap().groups, ["web"]);
}

#[test]
fn older_and_forged_lists_are_refused() {
    let (time, signer, member) = pair();
    let older = signer.signed_members().unwrap();
    signer.group("web", &names(&["stapp02"]), true).unwrap();
    member.learn(&signer);
    assert!(matches!(member.accept_members(&older), Err(TrustError::StaleList { ours: 3, theirs: 2 })));
    let foreign = Host::signer("z", &time).signed_members().unwrap();
    assert!(matches!(member.accept_members(&foreign), Err(TrustError::ForgedList(_))));
    let mut forged = signer.signed_members().unwrap();
    forged.list[40] ^= 1;
    assert!(matches!(member.accept_members(&forged), Err(TrustError::ForgedList(_))));
    let unsigned = SignedMemberList { list: Vec::new(), signature: Vec::new() };
    assert!(matches!(member.accept_members(&unsigned), Err(TrustError::ForgedList(_))));
    assert!(matches!(Host::new("x", &time).accept_members(&older), Err(TrustError::NoFleet)));
    assert_eq!(member.epoch(), 3);
}

#[test]
fn another_list_of_the_same_epoch_is_refused_by_a_member_and_merged_by_a_signer() {
    let (time, signer, member) = pair();
    let other = Host::new("stapp03", &time);
    let backup = signer.backup().unwrap();
    other.restore(&backup).unwrap();
    signer.learn(&other);
    member.learn(&other);
    assert_eq!((signer.epoch(), other.epoch(), member.epoch()), (3, 3, 3));
    signer.group("web", &names(&["stapp02"]), true).unwrap();
    let (late, token) = (Host::new("stapp04", &time), other.token(once()));
    other.asked(&late, &token, "stapp04");
    member.learn(&signer);
    assert!(matches!(member.accept_members(&other.signed_members().unwrap()), Err(TrustError::ConflictingList(4))));
    let (ours, theirs) = (signer.signed_members().unwrap(), other.signed_members().unwrap());
    assert_eq!(signer.accept_members(&theirs).unwrap(), Accepted::Changed);
    assert_eq!(other.accept_members(&ours).unwrap(), Accepted::Changed);
    assert_eq!(signer.signed_members(), other.signed_members());
    member.learn(&signer);
    let list = member.members().unwrap();
    assert_eq!(list.epoch, 5);
    assert_eq!(list.by_name("stapp04").unwrap().id, late.id());
    assert_eq!(list.by_name("stapp02").unwrap().groups, ["web"]);
}

#[test]
fn removed_hosts_stay_removed() {
    let (time, signer, member) = pair();
    let third = Host::new("stapp03", &time);
    third.join(&signer);
    let removed = signer.remove(&[member.id().to_string(), "stapp02".to_owned()]).unwrap();
    assert_eq!(removed.len(), 1);
    assert_eq!(removed[0].id, member.id());
    assert!(signer.is_removed(&member.id()));
    assert!(signer.members().unwrap().by_name("stapp02").is_none());
    assert!(!third.is_removed(&member.id()));
    third.learn(&signer);
    assert!(third.is_removed(&member.id()));
    member.learn(&signer);
    assert!(member.is_removed(&member.id()));
    assert_eq!(member.name(), "stapp02");
}

/// A signer, another one that was restored from its backup, a member, and one that is to be removed; both signers have one list.
fn two_signers() -> (Time, Host, Host, Host, Host) {
    let (time, signer, member) = pair();
    let (other, bad) = (Host::new("stapp03", &time), Host::new("bad", &time));
    other.restore(&signer.backup().unwrap()).unwrap();
    other.asked(&bad, &other.token(once()), "bad");
    signer.learn(&other);
    (time, signer, other, member, bad)
}

/// Two signers change the list without each other: what one of them has removed does not come back with the other one's newer list, and whom one
/// of them has let in is not lost with it.
#[test]
fn a_newer_list_that_lacks_a_removal_brings_nobody_back() {
    let (time, signer, other, member, bad) = two_signers();
    member.learn(&other);
    signer.remove(&names(&["bad"])).unwrap();
    let (late, token) = (Host::new("late", &time), signer.token(once()));
    signer.asked(&late, &token, "late");
    member.learn(&signer);
    for group in ["one", "two", "three"] {
        other.group(group, &names(&["stapp02"]), true).unwrap();
    }
    let unaware = other.signed_members().unwrap();
    // A member takes the newer list, but not the host.
    assert_eq!(member.accept_members(&unaware).unwrap(), Accepted::Changed);
    for member in [&*member, &*member.reopened("stapp02")] {
        assert!(member.is_removed(&bad.id()) && member.members().unwrap().by_id(&bad.id()).is_none());
        assert_eq!(member.lost_removals().len(), 1);
    }
    // It shows the signer what that one does not know, who signs it.
    for witness in member.lost_removals() {
        assert_eq!(other.accept_members(&witness).unwrap(), Accepted::Changed);
    }
    assert!(other.is_removed(&bad.id()));
    member.learn(&other);
    assert!(member.is_removed(&bad.id()) && member.lost_removals().is_empty());
    // A signer that sees the newer list keeps its removal and its new host.
    assert_eq!(signer.accept_members(&unaware).unwrap(), Accepted::Changed);
    assert!(signer.is_removed(&bad.id()));
    assert!(signer.members().unwrap().by_id(&late.id()).is_some());
    assert_eq!(signer.members().unwrap().by_name("stapp02").unwrap().groups, ["one", "three", "two"]);
    other.accept_members(&signer.signed_members().unwrap()).unwrap();
    signer.accept_members(&other.signed_members().unwrap()).unwrap();
    assert_eq!(*signer.members().unwrap(), *other.members().unwrap());
}

/// A removal that comes late is one all the same: with an older list, and with another one of the same epoch.
#[test]
fn a_removal_counts_on_whatever_list_it_comes() {
    let (time, signer, other, member, bad) = two_signers();
    signer.remove(&names(&["bad"])).unwrap();
    let removal = signer.signed_members().unwrap();
    other.group("one", &names(&["stapp02"]), true).unwrap();
    member.learn(&other);
    assert!(matches!(member.accept_members(&removal), Err(TrustError::ConflictingList(_))));
    assert!(member.is_removed(&bad.id()));
    let late = Host::new("stapp04", &time);
    other.group("two", &names(&["stapp02"]), true).unwrap();
    late.join(&other);
    assert!(!late.is_removed(&bad.id()));
    assert!(matches!(late.accept_members(&removal), Err(TrustError::StaleList { .. })));
    assert!(late.is_removed(&bad.id()) && late.reopened("stapp04").is_removed(&bad.id()));
    // A new certificate with a list that does not know it changes nothing.
    late.renew(&other).unwrap();
    assert!(late.is_removed(&bad.id()));
}

/// Backup, removal, the signer is lost, another host becomes the signer and changes something.
#[test]
fn a_restored_signer_does_not_bring_back_who_was_removed() {
    let (time, signer, member) = pair();
    let (bad, restored) = (Host::new("bad", &time), Host::new("stapp03", &time));
    for host in [&bad, &restored] {
        host.join(&signer);
    }
    let backup = signer.backup().unwrap();
    signer.remove(&names(&["bad"])).unwrap();
    member.learn(&signer);
    restored.restore(&backup).unwrap();
    for group in ["one", "two"] {
        restored.group(group, &names(&["stapp02"]), true).unwrap();
    }
    member.learn(&restored);
    assert!(member.is_removed(&bad.id()));
    // Restored where the removal is known, it is signed at once.
    let known = Host::new("stapp04", &time);
    known.join(&signer);
    known.restore(&backup).unwrap();
    assert!(known.is_removed(&bad.id()));
}

#[test]
fn who_cannot_be_removed_leaves_everything_as_it_was() {
    let (_, signer, member) = pair();
    assert!(matches!(signer.remove(&names(&["stapp02", "nobody"])), Err(TrustError::UnknownMember(name)) if name == "nobody"));
    assert!(matches!(signer.remove(&names(&["stapp02", "stapp01"])), Err(TrustError::Oneself(_))));
    assert!(matches!(member.remove(&names(&["stapp01"])), Err(TrustError::NotSigner(Some(name))) if name == "stapp01"));
    assert_eq!(signer.epoch(), 2);
    assert!(!signer.is_removed(&member.id()));
}

#[test]
fn groups_are_sorted_and_a_change_of_nothing_is_none() {
    let (_, signer, member) = pair();
    for group in ["web", "db", "web"] {
        signer.group(group, &names(&["stapp02"]), true).unwrap();
    }
    assert_eq!(signer.epoch(), 4);
    let groups = || signer.members().unwrap().by_name("stapp02").unwrap().groups.clone();
    assert_eq!(groups(), ["db", "web"]);
    signer.group("web", &names(&["stapp02", "stapp01"]), false).unwrap();
    assert_eq!(groups(), ["db"]);
    assert!(matches!(signer.group("web", &names(&["nobody"]), true), Err(TrustError::UnknownMember(_))));
    assert!(matches!(signer.group("@web", &names(&["stapp02"]), true), Err(TrustError::Name(_))));
    assert!(matches!(member.group("web", &names(&["stapp02"]), true), Err(TrustError::NotSigner(_))));
}

#[test]
fn a_signer_that_a_newer_list_lacks_comes_back() {
    let (_, signer, member) = pair();
    let fleet = signer.current.get().unwrap();
    let without = |epoch: u64, removed| {
        let mut list = MemberList { epoch, removed, ..(*fleet.list).clone() };
        list.members.retain(|member| member.name != "stapp01");
        list::sign(&mut list, fleet.signer(&signer.id()).unwrap()).unwrap()
    };
    signer.accept_members(&without(9, Vec::new())).unwrap();
    assert_eq!(signer.epoch(), 10);
    assert!(signer.is_signer());
    member.learn(&signer);
    assert!(member.members().unwrap().by_name("stapp01").is_some());
    // Not so when it was removed: then it signs no more.
    signer.accept_members(&without(20, vec![signer.id()])).unwrap();
    assert_eq!(signer.epoch(), 20);
    assert!(!signer.is_signer());
    assert!(matches!(signer.invite(&once()), Err(TrustError::Removed(_))));
    assert!(matches!(signer.backup(), Err(TrustError::Removed(_))));
}

#[test]
fn a_list_is_dated_every_day_and_an_old_one_is_known_as_such() {
    let (time, signer, member) = pair();
    let other = Host::new("stapp03", &time);
    other.restore(&signer.backup().unwrap()).unwrap();
    signer.learn(&other);
    member.learn(&other);
    let tell = |from: &Host, to: &Host| to.accept_date(&from.list_date().unwrap()).unwrap();
    assert_eq!((signer.members_age(), member.date_list().unwrap()), (None, false));
    assert!(signer.date_list().unwrap() && !signer.date_list().unwrap());
    assert!(tell(&signer, &member) && !tell(&signer, &member) && tell(&signer, &other));
    let epoch = signer.epoch();
    time.pass(DAY);
    assert!(!other.date_list().unwrap(), "one signer after the other");
    assert_eq!((member.members_age(), member.reopened("stapp02").members_age()), (Some(DAY), Some(DAY)));
    assert!(signer.date_list().unwrap() && tell(&signer, &member));
    assert_eq!((member.members_age(), signer.epoch()), (Some(Duration::ZERO), epoch));
    // The first signer is gone.
    time.pass(Duration::from_secs(3_600));
    assert!(other.date_list().unwrap() && tell(&other, &member));
    // A changed list has a date of its own, and nobody else can make one.
    signer.group("web", &names(&["stapp02"]), true).unwrap();
    assert_eq!(signer.list_date(), None);
    assert!(signer.date_list().unwrap() && !tell(&signer, &member), "another list");
    member.learn(&signer);
    let date = signer.list_date().unwrap();
    for wrong in [
        proto::host::ListDate { unix_s: date.unix_s + 1, ..date.clone() },
        proto::host::ListDate { signature: vec![0; 64], ..date.clone() },
    ] {
        assert!(matches!(member.accept_date(&wrong), Err(TrustError::ForgedList(_))));
    }
    assert!(tell(&signer, &member));
}
