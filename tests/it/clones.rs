//! A machine that was copied after it joined: one key, two agents.

use agent::store::{Query, Store as _};
use proto::control::{Check, Event, FailureKind, PeerState, Request, Verdict};
use tests::fleet::{self, Host, failed, send_request};
use tests::sample::Sample;

/// What doctor finds wrong.
async fn wrong(host: &Host) -> Vec<Check> {
    let events = host.must(Request::Doctor(None)).await;
    let checks = events.into_iter().filter_map(|event| if let Event::Check(check) = event { Some(check) } else { None });
    checks.filter(|check| check.verdict == Verdict::Wrong).collect()
}

/// Waits until doctor finds something wrong, and says what.
async fn found(host: &Host) -> Check {
    loop {
        match &mut wrong(host).await[..] {
            [] => {}
            [check] => return check.clone(),
            several => panic!("one thing is wrong, not {several:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_host_is_refused_until_one_of_the_two_is_gone() {
    let sample = Sample::small("demo:1", 3);
    let mut hosts = [Host::new("a"), Host::new("b")];
    hosts[0].have(&sample).await;
    fleet::found(&mut hosts).await;
    let [a, mut b] = hosts;
    b.stop().await;
    let mut copy = Host::clone_of(&b);
    copy.peers = b.peers.clone();
    b.start().await;
    a.send("demo:1", "b").await;
    b.must(Request::Remove(vec!["demo:1".to_owned()])).await;
    // Both have shown themselves to the signer when they started.
    copy.start().await;
    let check = found(&a).await;
    let places = [b.address().to_string(), copy.address().to_string()];
    assert!(places.iter().all(|place| check.finding.contains(place)), "{check:?}");
    assert!(check.finding.contains("the key of b") && check.remedy.unwrap().contains("imgctl fleet join"));
    let events = a.must(Request::Peers).await;
    let row = events
        .iter()
        .find_map(|event| if let Event::Peer(row) = event { row.name.as_ref().filter(|name| *name == "b").and(Some(row)) } else { None });
    assert_eq!(row.unwrap().state, PeerState::TwoMachines);
    let events = a.must(send_request("demo:1", &["b"])).await;
    let [(_, failure)] = failed(&events)[..] else { panic!("{events:?}") };
    assert!(failure.kind == FailureKind::NotTrusted && failure.causes.iter().any(|cause| cause.contains("two machines")), "{failure:?}");
    for host in [&b, &copy] {
        assert!(host.images().await.is_empty(), "neither has got it");
        let check = found(host).await;
        assert!(check.finding.starts_with("a says that the key of this host is in use on two machines"), "{check:?}");
    }
    copy.stop().await;
    loop {
        let events = a.must(send_request("demo:1", &["b"])).await;
        match failed(&events)[..] {
            [] => break,
            [(_, failure)] => assert_eq!(failure.kind, FailureKind::NotTrusted, "{failure:?}"),
            _ => panic!("{events:?}"),
        }
    }
    assert!(wrong(&a).await.is_empty());
    b.stop().await;
    b.store().resolve(&Query::from(sample.image.reference.clone().unwrap()), proto::image::Selection::Present).await.unwrap();
}

/// Who has two addresses, and another machine answers at the second one: that is seen before anything is sent.
#[tokio::test(flavor = "multi_thread")]
async fn all_addresses_are_asked_before_the_first_byte() {
    let sample = Sample::small("demo:1", 3);
    let mut hosts = [Host::new("a"), Host::new("b")];
    hosts[0].have(&sample).await;
    fleet::found(&mut hosts).await;
    let [mut a, mut b] = hosts;
    a.stop().await;
    b.stop().await;
    let mut copy = Host::clone_of(&b);
    (b.peers, copy.peers) = (vec![], vec![]);
    b.start().await;
    copy.start().await;
    // Both addresses were good once.
    let file = a.path().join("peers.json");
    let saved = std::fs::read_to_string(&file).unwrap();
    let (old, new) = (format!("\"{}\"", b.address()), format!("\"{}\", \"{}\"", b.address(), copy.address()));
    assert!(saved.contains(&old), "{saved}");
    std::fs::write(&file, saved.replace(&old, &new)).unwrap();
    a.start().await;
    let events = a.must(send_request("demo:1", &["b"])).await;
    let [(_, failure)] = failed(&events)[..] else { panic!("{events:?}") };
    assert!(failure.causes.iter().any(|cause| cause.contains("two machines")), "{failure:?}");
    assert!(b.images().await.is_empty() && copy.images().await.is_empty());
}
