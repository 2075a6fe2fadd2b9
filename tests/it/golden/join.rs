//! A host that asks to be let in.

use proto::host::SignedMemberList;
use proto::join::{JoinAnswer, JoinPurpose, JoinRefusal, JoinRequest};

use super::{Golden, id, text};

fn purposes() -> Vec<JoinPurpose> {
    vec![JoinPurpose::Join { name: text("stapp03"), proof: [7; 32] }, JoinPurpose::Renew]
}

fn refusals() -> Vec<JoinRefusal> {
    vec![
        JoinRefusal::NotSigner,
        JoinRefusal::Token,
        JoinRefusal::NameTaken { name: text("stapp03"), holder: id("a"), asker: id("b") },
        JoinRefusal::OtherName { name: text("stapp03") },
        JoinRefusal::Removed(id("a")),
        JoinRefusal::NotMember(id("a")),
        JoinRefusal::Invalid,
        JoinRefusal::Version { ours: 1 },
        JoinRefusal::Full,
    ]
}

fn answers() -> Vec<JoinAnswer> {
    let members = SignedMemberList { list: vec![1, 2, 3], signature: vec![4; 64] };
    vec![JoinAnswer::Accepted { certificate: vec![1], ca_certificate: vec![2, 3], members }, JoinAnswer::Refused(JoinRefusal::Token)]
}

#[test]
fn join_messages_keep_their_bytes() {
    let mut golden = Golden::default();
    golden.variants("Request", purposes(), |purpose| JoinRequest { major: 1, purpose, public_key: vec![8; 4], possession: vec![9; 4] });
    golden.variants("Answer", answers(), |answer| answer);
    golden.variants("Answer::Refused", refusals(), JoinAnswer::Refused);
    golden.compare(include_str!("join.txt"));
}

#[test]
fn what_a_proof_covers_keeps_its_bytes() {
    let [join, renew] = &purposes()[..] else { panic!("two purposes") };
    assert_eq!(join.signed_bytes(), [&[0, 7], &b"stapp03"[..], &[7; 32]].concat());
    assert_eq!(renew.signed_bytes(), [1]);
}
