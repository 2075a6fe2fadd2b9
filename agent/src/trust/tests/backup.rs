use proto::host::Role;

use super::super::TrustError;
use super::{Host, once, pair};

#[test]
fn a_new_host_becomes_a_signer() {
    let (time, signer, member) = pair();
    let token = signer.token(once());
    let backup = signer.backup().unwrap();
    let new = Host::new("stapp09", &time);
    new.restore(&backup).unwrap();
    assert_eq!(new.fleet(), signer.fleet());
    assert!(new.is_signer() && new.reopened("stapp09").is_signer());
    let list = new.members().unwrap();
    assert_eq!(list.by_name("stapp09").unwrap().roles, [Role::Signer]);
    assert!(list.by_id(&signer.id()).is_some());
    signer.learn(&new);
    member.learn(&new);
    // The invitation has come along.
    let late = Host::new("stapp10", &time);
    late.joined(&token.fleet, new.asked(&late, &token, "stapp10")).unwrap();
    member.renew(&new).unwrap();
    assert!(member.members().unwrap().by_name("stapp10").is_some());
}

#[test]
fn a_member_becomes_a_signer_and_keeps_the_newer_list() {
    let (time, signer, member) = pair();
    let backup = signer.backup().unwrap();
    Host::new("stapp03", &time).join(&signer);
    member.learn(&signer);
    member.restore(&backup).unwrap();
    let list = member.members().unwrap();
    assert_eq!(list.epoch, 4);
    assert!(list.by_name("stapp03").is_some());
    assert_eq!(list.by_name("stapp02").unwrap().roles, [Role::Signer]);
    // A second time changes nothing.
    member.restore(&backup).unwrap();
    assert_eq!(member.epoch(), 4);
}

#[test]
fn a_reinstalled_signer_takes_its_name_back() {
    let (time, signer, member) = pair();
    let backup = signer.backup().unwrap();
    let again = Host::new("stapp01", &time);
    again.restore(&backup).unwrap();
    assert_eq!(again.members().unwrap().by_name("stapp01").unwrap().id, again.id());
    assert!(again.is_removed(&signer.id()));
    // The name of a host that is no signer is not taken.
    let other = Host::new("stapp02", &time);
    assert!(matches!(other.restore(&backup), Err(TrustError::NameTaken { holder, .. }) if holder == member.id()));
    assert_eq!(other.fleet(), None);
}

#[test]
fn what_is_no_backup_of_this_fleet_is_refused() {
    let (time, signer, member) = pair();
    let backup = signer.backup().unwrap();
    assert!(matches!(member.backup(), Err(TrustError::NotSigner(_))));
    let foreign = Host::signer("z", &time);
    assert!(matches!(foreign.restore(&backup), Err(TrustError::OtherFleet { .. })));
    let text = std::str::from_utf8(&backup).unwrap();
    let secret = text.lines().find(|line| line.starts_with("ca_key")).unwrap();
    let damaged = [
        String::new(),
        "imgd_fleet_backup = 1".to_owned(),
        text.replace("imgd_fleet_backup = 1", "imgd_fleet_backup = 2"),
        text.replace("ca_key = \"", "ca_key = \"x"),
        text.replace("ca_key", "key"),
        text.replace(secret, &format!("{secret}\n{secret}")),
        text.replace("members = \"", "members = \"AAAA"),
        text.replace(&signer.fleet().unwrap().to_string(), &foreign.fleet().unwrap().to_string()),
    ];
    let host = Host::new("x", &time);
    for text in damaged {
        let error = host.restore(text.as_bytes()).unwrap_err();
        assert!(matches!(error, TrustError::Backup(_) | TrustError::ForgedList(_)), "{error}");
        assert!(!format!("{error:?}").contains(&secret[20..60]));
    }
    assert_eq!(host.fleet(), None);
    signer.remove(&["stapp02".to_owned()]).unwrap();
    member.learn(&signer);
    assert!(matches!(member.restore(&backup), Err(TrustError::Removed(_))));
}
