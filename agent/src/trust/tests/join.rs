use std::time::Duration;

use proto::frame;
use proto::host::{Role, SignedMemberList};
use proto::join::{JoinAnswer, JoinPurpose, JoinRefusal};
use proto::limits::INVITES;

use super::super::key::SecretKey;
use super::super::{Invite, Token, TrustError, issue};
use super::{DAY, EXPORTER, Host, Time, once, pair};

#[test]
fn a_fleet_begins_with_its_signer() {
    let host = Host::new("stapp01", &Time::new());
    assert_eq!((host.fleet(), host.epoch(), host.is_signer()), (None, 0, false));
    let fleet = host.init().unwrap();
    assert_eq!((host.fleet(), host.epoch(), host.is_signer()), (Some(fleet), 1, true));
    let list = host.members().unwrap();
    assert_eq!(list.by_id(&host.id()).unwrap().roles, [Role::Signer]);
    assert!(matches!(host.init(), Err(TrustError::InFleet(id)) if id == fleet));
}

#[test]
fn a_host_joins_with_a_token() {
    let (_, signer, member) = pair();
    assert_eq!(member.fleet(), signer.fleet());
    assert_eq!((member.epoch(), signer.epoch()), (2, 2));
    assert_eq!(member.name(), "stapp02");
    assert!(!member.is_signer());
    assert_eq!(member.members(), signer.members());
    assert!(signer.members().unwrap().by_id(&member.id()).unwrap().roles.is_empty());
    let again = member.reopened("configured-otherwise");
    assert_eq!((again.id(), again.fleet(), again.epoch()), (member.id(), member.fleet(), 2));
    assert_eq!(again.name(), "stapp02");
    assert!(signer.reopened("stapp01").is_signer());
}

#[test]
fn a_token_is_used_as_often_as_it_says() {
    let time = Time::new();
    let signer = Host::signer("a", &time);
    let token = signer.token(Invite { uses: 2, ..once() });
    let hosts = ["b", "c", "d"].map(|name| Host::new(name, &time));
    for host in &hosts[..2] {
        host.joined(&token.fleet, signer.asked(host, &token, &host.name())).unwrap();
    }
    assert_eq!(signer.refusal(&hosts[2], &token, "d"), JoinRefusal::Token);
    assert_eq!(signer.lock().len(), 0);
    assert_eq!(signer.members().unwrap().members.len(), 3);
}

#[test]
fn a_used_token_stays_used_after_a_restart() {
    let time = Time::new();
    let (mut signer, one, other) = (Host::signer("a", &time), Host::new("b", &time), Host::new("c", &time));
    let token = signer.token(once());
    signer.asked(&one, &token, "b");
    signer.trust = signer.reopened("a");
    assert_eq!(signer.refusal(&other, &token, "c"), JoinRefusal::Token);
    assert!(signer.members().unwrap().by_name("b").is_some());
}

#[test]
fn a_token_expires() {
    let time = Time::new();
    let (signer, host) = (Host::signer("a", &time), Host::new("b", &time));
    let invitation = signer.invite(&once()).unwrap();
    assert_eq!(invitation.expires_unix_s, 1_800_000_000 + 86_400);
    let token = Token::parse(&invitation.token).unwrap();
    time.pass(DAY);
    assert_eq!(signer.refusal(&host, &token, "b"), JoinRefusal::Token);
    signer.invite(&once()).unwrap();
    assert_eq!(signer.lock().len(), 1);
}

#[test]
fn a_request_is_of_no_use_on_another_connection() {
    let time = Time::new();
    let (signer, host) = (Host::signer("a", &time), Host::new("b", &time));
    let token = signer.token(once());
    let answer = |request, exporter| signer.answer_join(&request, exporter).unwrap();
    let replayed = host.join_request(&token, "b", &[1; 32]);
    assert_eq!(answer(replayed.clone(), &[2; 32]), JoinAnswer::Refused(JoinRefusal::Invalid));
    // A host that has seen a proof and signs for itself still lacks the secret.
    let thief = Host::new("c", &time);
    let JoinPurpose::Join { name, proof } = replayed.purpose else { panic!() };
    let stolen = thief.request(JoinPurpose::Join { name: name.clone(), proof }, &[2; 32]);
    assert_eq!(answer(stolen, &[2; 32]), JoinAnswer::Refused(JoinRefusal::Token));
    let same_connection = thief.request(JoinPurpose::Join { name, proof }, &[1; 32]);
    assert_eq!(answer(same_connection, &[1; 32]), JoinAnswer::Refused(JoinRefusal::Token));
    // Nor does the host's own proof of another connection do, under a fresh signature.
    let reused = host.request(JoinPurpose::Join { name: "b".to_owned(), proof }, &[2; 32]);
    assert_eq!(answer(reused, &[2; 32]), JoinAnswer::Refused(JoinRefusal::Token));
    assert_eq!(signer.epoch(), 1);
}

#[test]
fn a_request_is_refused_when_any_part_was_changed() {
    let time = Time::new();
    let (signer, host) = (Host::signer("a", &time), Host::new("b", &time));
    let token = signer.token(once());
    let good = host.join_request(&token, "b", &EXPORTER);
    let refusal = |request| match signer.answer_join(&request, &EXPORTER).unwrap() {
        JoinAnswer::Refused(refusal) => refusal,
        JoinAnswer::Accepted { .. } => panic!("let in"),
    };
    let mut request = good.clone();
    request.major += 1;
    assert_eq!(refusal(request), JoinRefusal::Version { ours: 1 });
    let mut request = good.clone();
    request.public_key = Host::new("x", &time).key.public().spki();
    assert_eq!(refusal(request), JoinRefusal::Invalid);
    let mut request = good.clone();
    request.public_key.push(0);
    assert_eq!(refusal(request), JoinRefusal::Invalid);
    let mut request = good.clone();
    request.possession[0] ^= 1;
    assert_eq!(refusal(request), JoinRefusal::Invalid);
    let mut request = good.clone();
    let JoinPurpose::Join { name, .. } = &mut request.purpose else { panic!() };
    *name = "c".to_owned();
    assert_eq!(refusal(request), JoinRefusal::Invalid);
    let mut request = good.clone();
    request.purpose = JoinPurpose::Renew;
    assert_eq!(refusal(request), JoinRefusal::Invalid);
    let proof = [0; 32];
    let unnamed = host.request(JoinPurpose::Join { name: "not a name".to_owned(), proof }, &EXPORTER);
    assert_eq!(refusal(unnamed), JoinRefusal::Invalid);
    let foreign = Host::signer("z", &time).token(once());
    assert_eq!(signer.refusal(&host, &foreign, "b"), JoinRefusal::Token);
    // None of this has cost a use.
    assert!(matches!(signer.answer_join(&good, &EXPORTER).unwrap(), JoinAnswer::Accepted { .. }));
}

#[test]
fn only_a_signer_answers() {
    let (time, signer, member) = pair();
    let token = signer.token(once());
    let host = Host::new("c", &time);
    assert_eq!(member.refusal(&host, &token, "c"), JoinRefusal::NotSigner);
    assert_eq!(host.refusal(&member, &token, "c"), JoinRefusal::NotSigner);
    assert!(matches!(member.invite(&once()), Err(TrustError::NotSigner(Some(name))) if name == "stapp01"));
    assert!(matches!(host.invite(&once()), Err(TrustError::NoFleet)));
}

#[test]
fn two_hosts_cannot_have_one_name() {
    let (time, signer, member) = pair();
    let token = signer.token(once());
    let other = Host::new("stapp02", &time);
    let taken = JoinRefusal::NameTaken { name: "stapp02".to_owned(), holder: member.id(), asker: other.id() };
    assert_eq!(signer.refusal(&other, &token, "stapp02"), taken);
    // The refusal has not used the token up.
    assert!(matches!(signer.asked(&other, &token, "stapp03"), JoinAnswer::Accepted { .. }));
}

#[test]
fn a_reinstalled_host_takes_its_place() {
    let (time, signer, old) = pair();
    signer.group("web", &["stapp02".to_owned()], true).unwrap();
    let token = signer.token(Invite { replace: Some("stapp02".to_owned()), ..once() });
    let new = Host::new("stapp02", &time);
    let other_name = JoinRefusal::OtherName { name: "stapp02".to_owned() };
    assert_eq!(signer.refusal(&new, &token, "stapp09"), other_name);
    new.joined(&token.fleet, signer.asked(&new, &token, "stapp02")).unwrap();
    let list = signer.members().unwrap();
    assert_eq!(list.by_name("stapp02").unwrap().id, new.id());
    assert_eq!(list.by_name("stapp02").unwrap().groups, ["web"]);
    assert!(signer.is_removed(&old.id()) && new.is_removed(&old.id()));
    assert_eq!(signer.refusal(&old, &signer.token(once()), "stapp04"), JoinRefusal::Removed(old.id()));
    let answer = signer.answer_join(&old.renew_request(&EXPORTER), &EXPORTER).unwrap();
    assert_eq!(answer, JoinAnswer::Refused(JoinRefusal::Removed(old.id())));
}

#[test]
fn a_token_can_be_for_one_name() {
    let time = Time::new();
    let (signer, host) = (Host::signer("a", &time), Host::new("b", &time));
    let token = signer.token(Invite { for_name: Some("c".to_owned()), ..once() });
    assert_eq!(signer.refusal(&host, &token, "b"), JoinRefusal::OtherName { name: "c".to_owned() });
    assert!(matches!(signer.asked(&host, &token, "c"), JoinAnswer::Accepted { .. }));
}

#[test]
fn a_member_can_join_again_and_change_its_name() {
    let (_, signer, member) = pair();
    member.join(&signer);
    assert_eq!((signer.epoch(), member.epoch()), (2, 2));
    let token = signer.token(once());
    member.joined(&token.fleet, signer.asked(&member, &token, "renamed")).unwrap();
    assert_eq!(member.name(), "renamed");
    assert_eq!(signer.members().unwrap().members.len(), 2);
}

#[test]
fn invitations_that_make_no_sense_are_refused() {
    let (_, signer, _member) = pair();
    let refused = |invite: Invite| signer.invite(&invite).unwrap_err();
    let name = |name: &str| Some(name.to_owned());
    assert!(matches!(refused(Invite { uses: 0, ..once() }), TrustError::Invite(_)));
    assert!(matches!(refused(Invite { valid: Duration::ZERO, ..once() }), TrustError::Invite(_)));
    assert!(matches!(refused(Invite { for_name: name("A b"), ..once() }), TrustError::Name(_)));
    assert!(matches!(refused(Invite { replace: name("nobody"), ..once() }), TrustError::UnknownMember(_)));
    assert!(matches!(refused(Invite { replace: name("stapp01"), ..once() }), TrustError::Oneself(_)));
    assert!(matches!(refused(Invite { replace: name("stapp02"), uses: 2, ..once() }), TrustError::Invite(_)));
    assert!(matches!(refused(Invite { replace: name("stapp02"), for_name: name("x"), ..once() }), TrustError::Invite(_)));
    assert!(matches!(refused(Invite { address: name("no port"), ..once() }), TrustError::Invite(_)));
    let token = signer.token(Invite { address: name("[fe80::1]:7117"), valid: Duration::MAX, ..once() });
    assert_eq!(token.address.as_deref(), Some("[fe80::1]:7117"));
    for _ in 1..INVITES {
        signer.invite(&once()).unwrap();
    }
    assert!(matches!(refused(once()), TrustError::Invite(_)));
}

#[test]
fn the_asker_checks_all_of_the_answer() {
    let time = Time::new();
    let (signer, host, other) = (Host::signer("a", &time), Host::new("b", &time), Host::new("c", &time));
    let fleet = signer.fleet().unwrap();
    let foreign = Host::signer("z", &time);
    let token = signer.token(Invite { uses: 9, ..once() });
    let JoinAnswer::Accepted { certificate, ca_certificate, members } = signer.asked(&host, &token, "b") else { panic!() };
    let accepted = |certificate: &[u8], ca_certificate: &[u8], members: &SignedMemberList| JoinAnswer::Accepted {
        certificate: certificate.to_vec(),
        ca_certificate: ca_certificate.to_vec(),
        members: members.clone(),
    };
    let foreign_answer = foreign.asked(&host, &foreign.token(once()), "b");
    assert!(matches!(host.joined(&fleet, foreign_answer), Err(TrustError::OtherFleet { .. })));
    let for_other = accepted(&certificate, &ca_certificate, &members);
    assert!(matches!(other.joined(&fleet, for_other), Err(TrustError::Certificate { .. })));
    let forged = SignedMemberList { signature: vec![0; 64], ..members.clone() };
    assert!(matches!(host.joined(&fleet, accepted(&certificate, &ca_certificate, &forged)), Err(TrustError::ForgedList(_))));
    let self_made = SecretKey::generate().unwrap();
    let self_signed = issue::host(&self_made, host.key.public(), time.now()).unwrap();
    let answer = accepted(&self_signed, &ca_certificate, &members);
    assert!(matches!(host.joined(&fleet, answer), Err(TrustError::Certificate { .. })));
    let without_us = foreign.signed_members().unwrap();
    assert!(host.joined(&fleet, accepted(&certificate, &ca_certificate, &without_us)).is_err());
    assert!(host.joined(&fleet, accepted(b"", b"", &members)).is_err());
    let refused = JoinAnswer::Refused(JoinRefusal::Token);
    assert!(matches!(host.joined(&fleet, refused), Err(TrustError::Refused(JoinRefusal::Token))));
    assert_eq!(host.fleet(), None);
    assert!(host.reopened("b").fleet().is_none());
    host.joined(&fleet, accepted(&certificate, &ca_certificate, &members)).unwrap();
    let second = foreign.asked(&host, &foreign.token(once()), "b");
    assert!(matches!(host.joined(&foreign.fleet().unwrap(), second), Err(TrustError::OtherFleet { .. })));
}

#[test]
fn a_clock_that_is_wrong_is_named() {
    let time = Time::new();
    let (signer, late) = (Host::signer("a", &time), Host::new("b", &Time::new()));
    late.time.pass(DAY * 91);
    let answer = signer.asked(&late, &signer.token(once()), "b");
    let error = late.joined(&signer.fleet().unwrap(), answer).unwrap_err();
    assert!(error.to_string().contains("clocks"), "{error}");
}

#[test]
fn a_certificate_that_has_run_out_is_renewed() {
    let (time, signer, member) = pair();
    let before = member.renewal_due().unwrap();
    time.pass(DAY * 200);
    member.renew(&signer).unwrap();
    assert!(member.renewal_due().unwrap() > before + DAY * 100);
    assert_eq!(member.epoch(), 2);
    signer.renew_here().unwrap();
    assert!(signer.renewal_due().unwrap() > time.now());
    assert!(matches!(member.renew_here(), Err(TrustError::NotSigner(_))));
    let stranger = Host::new("x", &time);
    let answer = signer.answer_join(&stranger.renew_request(&EXPORTER), &EXPORTER).unwrap();
    assert_eq!(answer, JoinAnswer::Refused(JoinRefusal::NotMember(stranger.id())));
}

#[test]
fn a_renewal_never_brings_anything_older() {
    let (time, signer, member) = pair();
    let old = signer.answer_join(&member.renew_request(&EXPORTER), &EXPORTER).unwrap();
    time.pass(DAY);
    signer.group("web", &["stapp02".to_owned()], true).unwrap();
    member.renew(&signer).unwrap();
    assert_eq!(member.epoch(), 3);
    let fleet = signer.fleet().unwrap();
    assert!(matches!(member.joined(&fleet, old), Err(TrustError::Certificate { .. })));
    // An old list beside a new certificate: the newer list stays.
    let JoinAnswer::Accepted { certificate, ca_certificate, members } =
        signer.answer_join(&member.renew_request(&EXPORTER), &EXPORTER).unwrap()
    else {
        panic!()
    };
    signer.group("db", &["stapp02".to_owned()], true).unwrap();
    member.learn(&signer);
    member.joined(&fleet, JoinAnswer::Accepted { certificate, ca_certificate, members }).unwrap();
    assert_eq!(member.epoch(), 4);
}

#[test]
fn renewals_are_due_at_50_to_80_percent_and_stay_so() {
    let (time, signer, member) = pair();
    for host in [&signer, &member] {
        let due = host.renewal_due().unwrap();
        assert!(due > time.now() + DAY * 44 && due < time.now() + DAY * 73);
        assert_eq!(host.reopened("x").renewal_due(), Some(due));
    }
    assert_ne!(signer.renewal_due(), member.renewal_due());
    assert_eq!(Host::new("x", &time).renewal_due(), None);
}

#[test]
fn answers_fit_into_a_frame() {
    let (_, signer, member) = pair();
    let answer = signer.answer_join(&member.renew_request(&EXPORTER), &EXPORTER).unwrap();
    let bytes = frame::encode_body(&answer);
    assert_eq!(frame::decode::<JoinAnswer>(&bytes).unwrap(), answer);
    assert!(bytes.len() < 2_000, "{}", bytes.len());
}
