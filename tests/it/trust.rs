//! Who gets in, who does not, and who is thrown out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use proto::control::{Check, Event, FailureKind, Fleet, Hosts, Platforms, Pull, Request, Send, Status, Verdict};
use tests::fleet::{self, Host, failed, fleet, invite, join, send_request};
use tests::sample::{Recipe, Sample};

#[tokio::test(flavor = "multi_thread")]
async fn members_see_each_other_by_name() {
    let hosts = fleet(&["stapp01", "stapp02", "stapp03"]).await;
    let events = hosts[2].must(Request::Fleet(Fleet::List)).await;
    let names: Vec<&str> =
        events.iter().filter_map(|event| if let Event::Member(row) = event { Some(row.name.as_str()) } else { None }).collect();
    assert_eq!(names, ["stapp01", "stapp02", "stapp03"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_works_once() {
    let hosts = fleet(&["a"]).await;
    let token = invite(&hosts[0], 1).await;
    let mut others = [Host::new("b"), Host::new("c")];
    for host in &mut others {
        host.start().await;
    }
    let request = || Request::Fleet(Fleet::Join { token: token.clone(), address: None });
    others[0].must(request()).await;
    assert_eq!(others[1].ask(request()).await.unwrap_err().kind, FailureKind::Token);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_another_fleet_pins_another_key() {
    let one = fleet(&["a"]).await;
    let two = fleet(&["x"]).await;
    let token = invite(&one[0], 1).await;
    let mut host = Host::new("b");
    host.start().await;
    let request = Request::Fleet(Fleet::Join { token, address: Some(two[0].address().to_string()) });
    let failure = host.ask(request).await.unwrap_err();
    assert!(failure.causes.concat().contains("handshake failed"), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_cannot_have_one_name() {
    let hosts = fleet(&["a", "b"]).await;
    let mut second = Host::new("b");
    second.start().await;
    let failure = join(&hosts[0], &second).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::NameTaken("b".to_owned()));
    let replace = Fleet::Invite { uses: 1, valid_s: 60, for_name: None, replace: Some("b".to_owned()) };
    let events = hosts[0].must(Request::Fleet(replace)).await;
    let Some(Event::Invited { token, .. }) = events.into_iter().next() else { panic!("no token") };
    second.must(Request::Fleet(Fleet::Join { token, address: None })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_fleets_do_not_see_into_each_other() {
    let sample = Sample::small("demo:1", 1);
    let mut one = [Host::new("a"), Host::new("b")];
    one[0].have(&sample).await;
    fleet::found(&mut one).await;
    let mut two = [Host::new("a"), Host::new("b")];
    fleet::found(&mut two).await;
    let mut spy = Host::new("spy");
    spy.peers = vec![one[0].address().to_string()];
    spy.start().await;
    join(&two[0], &spy).await.unwrap();
    // It knows where a host of the other fleet is, and learns nothing there.
    let events = spy.must(Request::Peers).await;
    let connected = events.iter().filter(|event| matches!(event, Event::Peer(row) if row.state == proto::control::PeerState::Connected));
    let names: Vec<_> = connected.map(|event| if let Event::Peer(row) = event { row.addresses.clone() } else { vec![] }).collect();
    assert!(!names.concat().contains(&one[0].address().to_string()), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn removal_cuts_a_transfer_that_runs() {
    let sample = Recipe::new(1, &[30_000_000]).build("demo:1");
    let mut hosts = [Host::new("a"), Host::new("b")];
    hosts[1].have(&sample).await;
    fleet::found(&mut hosts).await;
    let slow = Request::Send(proto::control::Send { limit_bytes_per_s: Some(2_000_000), ..fleet::send("demo:1", &["a"]) });
    let sending = hosts[1].ask(slow);
    let removing = async {
        wait_for_bytes(&hosts[1]).await;
        hosts[0].must(Request::Fleet(Fleet::Remove(vec!["b".to_owned()]))).await;
    };
    let (sent, ()) = tokio::join!(sending, removing);
    let sent = sent.unwrap();
    let failure = failed(&sent)[0].1;
    assert_eq!(failure.kind, FailureKind::NotTrusted, "{failure:?}");
    assert!(hosts[0].images().await.is_empty());
    // And it does not come back.
    let again = hosts[1].must(send_request("demo:1", &["a"])).await;
    assert_eq!(failed(&again)[0].1.kind, FailureKind::NotTrusted);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_receiver_decides() {
    let sample = Sample::small("demo:1", 1);
    let mut hosts = [Host::new("a"), Host::new("b")];
    hosts[0].have(&sample).await;
    std::fs::write(hosts[1].path().join("policy.toml"), "[[push]]\nname = \"only acme\"\nrepositories = [\"docker.io/acme/*\"]\n").unwrap();
    fleet::found(&mut hosts).await;
    let events = hosts[0].must(send_request("demo:1", &["b"])).await;
    let failure = failed(&events)[0].1;
    assert_eq!(failure.kind, FailureKind::Denied, "{failure:?}");
    let rename = Some("acme/demo:1".parse().unwrap());
    hosts[0].must(Request::Send(proto::control::Send { rename, ..fleet::send("demo:1", &["b"]) })).await;
    assert_eq!(hosts[1].images().await.len(), 1);
}

/// What came of a send of this image to `demo:1` on this host.
async fn moved(from: &Host, image: &str, to: &str) -> Result<(), FailureKind> {
    let events = from.must(Request::Send(Send { rename: Some("demo:1".parse().unwrap()), ..fleet::send(image, &[to]) })).await;
    failed(&events).first().map_or(Ok(()), |(_, failure)| Err(failure.kind.clone()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_moves_only_for_the_member_that_brought_it() {
    let mut hosts = [Host::new("signer"), Host::new("a"), Host::new("b"), Host::new("c")];
    for (name, seed) in [("one:1", 1), ("two:1", 2)] {
        hosts[1].have(&Sample::small(name, seed)).await;
        hosts[2].have(&Sample::small(name, seed)).await;
    }
    std::fs::write(hosts[3].policy(), "[[push]]\nmove_tags = \"same-sender\"\n").unwrap();
    fleet::found(&mut hosts).await;
    moved(&hosts[1], "one:1", "c").await.unwrap();
    let first = hosts[3].images().await;
    assert_eq!(moved(&hosts[2], "two:1", "c").await, Err(FailureKind::Denied));
    // Whoever sends what is there already has not brought it, and whoever has the sender send it has no rights by that.
    moved(&hosts[2], "one:1", "c").await.unwrap();
    assert_eq!(moved(&hosts[2], "two:1", "c").await, Err(FailureKind::Denied));
    let relayed = Send { from: Some("a".to_owned()), rename: Some("demo:1".parse().unwrap()), ..fleet::send("two:1", &["c"]) };
    let relayed = hosts[2].must(Request::Send(relayed)).await;
    assert_eq!(failed(&relayed)[0].1.kind, FailureKind::Denied);
    assert_eq!(hosts[3].images().await, first);
    // It is known after a restart, too.
    hosts[3].stop().await;
    hosts[3].start().await;
    moved(&hosts[1], "two:1", "c").await.unwrap();
    assert_ne!(hosts[3].images().await, first);
    assert_eq!(moved(&hosts[2], "one:1", "c").await, Err(FailureKind::Denied));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_was_set_on_the_host_moves_for_no_member() {
    let mut hosts = [Host::new("a"), Host::new("c")];
    for (name, seed) in [("one:1", 1), ("two:1", 2)] {
        hosts[0].have(&Sample::small(name, seed)).await;
    }
    hosts[1].have(&Sample::small("demo:1", 3)).await;
    hosts[1].have(&Sample::small("local:1", 4)).await;
    std::fs::write(hosts[1].policy(), "[[push]]\nmove_tags = \"same-sender\"\n").unwrap();
    fleet::found(&mut hosts).await;
    assert_eq!(moved(&hosts[0], "one:1", "c").await, Err(FailureKind::Denied));
    // Where the tag is away it comes with the member, until somebody sets it on the host again.
    hosts[1].must(Request::Remove(vec!["demo:1".to_owned()])).await;
    moved(&hosts[0], "one:1", "c").await.unwrap();
    moved(&hosts[0], "two:1", "c").await.unwrap();
    hosts[1].must(Request::Tag { image: "local:1".to_owned(), name: "demo:1".parse().unwrap() }).await;
    assert_eq!(moved(&hosts[0], "one:1", "c").await, Err(FailureKind::Denied));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_fleet_does_not_let_members_move_each_others_tags() {
    let mut hosts = [Host::new("signer"), Host::new("b")];
    hosts[0].have(&Sample::small("demo:1", 1)).await;
    hosts[1].have(&Sample::small("two:1", 2)).await;
    std::fs::remove_file(hosts[0].policy()).unwrap();
    fleet::found(&mut hosts).await;
    assert!(std::fs::read_to_string(hosts[0].policy()).unwrap().contains("\nmove_tags = \"same-sender\"\n"));
    assert_eq!(moved(&hosts[1], "two:1", "signer").await, Err(FailureKind::Denied));
    hosts[0].stop().await;
    hosts[0].start().await;
    assert_eq!(moved(&hosts[1], "two:1", "signer").await, Err(FailureKind::Denied));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_cannot_be_written_is_no_obstacle_to_a_fleet() {
    let mut host = Host::new("a");
    std::fs::remove_file(host.policy()).unwrap();
    host.start().await;
    // In the way of the temporary file, also for root.
    std::fs::create_dir(host.path().join("policy.toml.new")).unwrap();
    let events = host.must(Request::Fleet(Fleet::Init)).await;
    let warned = |event: &Event| matches!(event, Event::Check(Check { verdict: Verdict::Warning, .. }));
    assert!(events.iter().any(warned) && events.iter().any(|event| matches!(event, Event::Joined { .. })), "{events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_makes_another_host_a_signer() {
    let hosts = fleet(&["a", "b"]).await;
    let events = hosts[0].must(Request::Fleet(Fleet::Backup)).await;
    let Some(Event::Backup(backup)) = events.into_iter().next() else { panic!("no backup") };
    assert!(
        matches!(hosts[1].ask(Request::Fleet(Fleet::Backup)).await.unwrap_err().kind, FailureKind::NotSigner(Some(name)) if name == "a")
    );
    hosts[1].must(Request::Fleet(Fleet::Restore(backup))).await;
    let mut third = Host::new("c");
    third.start().await;
    join(&hosts[1], &third).await.unwrap();
}

/// A signer from an old backup signs lists with higher epochs that do not know of a removal. Those who know it keep to it, and show it to the signer.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_signer_learns_who_was_removed() {
    let mut hosts = [Host::new("a"), Host::new("b"), Host::new("bad")];
    hosts[2].have(&Sample::small("demo:1", 1)).await;
    fleet::found(&mut hosts).await;
    let events = hosts[0].must(Request::Fleet(Fleet::Backup)).await;
    let Some(Event::Backup(backup)) = events.into_iter().next() else { panic!("no backup") };
    let told = hosts[0].must(Request::Fleet(Fleet::Remove(vec!["bad".to_owned()]))).await;
    assert_eq!(told, [Event::Told { host: "b".to_owned(), reached: true }]);
    hosts[0].stop().await;
    let mut restored = Host::new("d");
    restored.peers = vec![hosts[1].address().to_string(), hosts[2].address().to_string()];
    restored.start().await;
    restored.must(Request::Fleet(Fleet::Restore(backup))).await;
    for group in ["one", "two", "three"] {
        restored.must(Request::Fleet(Fleet::Group { group: group.to_owned(), hosts: vec!["b".to_owned()], add: true })).await;
    }
    let names = |events: Vec<Event>| -> Vec<String> {
        events.into_iter().filter_map(|event| if let Event::Member(row) = event { Some(row.name) } else { None }).collect()
    };
    for host in [&restored, &hosts[1]] {
        while names(host.must(Request::Fleet(Fleet::List)).await) != ["a", "b", "d"] {
            tokio::task::yield_now().await;
        }
    }
    let refused = hosts[2].must(send_request("demo:1", &["b"])).await;
    assert_eq!(failed(&refused)[0].1.kind, FailureKind::NotTrusted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_host_is_the_same_host() {
    let sample = Sample::small("demo:1", 3);
    let mut hosts = [Host::new("a"), Host::new("b")];
    hosts[0].have(&sample).await;
    fleet::found(&mut hosts).await;
    let rename = |member: &str, name: &str| Request::Fleet(Fleet::Rename { member: member.to_owned(), name: name.to_owned() });
    assert_eq!(hosts[0].ask(rename("b", "a")).await.unwrap_err().kind, FailureKind::NameTaken("a".to_owned()));
    assert_eq!(hosts[0].ask(rename("c", "d")).await.unwrap_err().kind, FailureKind::HostNotFound("c".to_owned()));
    assert_eq!(hosts[0].ask(rename("b", "no name")).await.unwrap_err().kind, FailureKind::Usage);
    assert!(matches!(hosts[1].ask(rename("b", "web01")).await.unwrap_err().kind, FailureKind::NotSigner(Some(name)) if name == "a"));
    let told = hosts[0].must(rename("b", "web01")).await;
    assert_eq!(told, [Event::Told { host: "web01".to_owned(), reached: true }]);
    assert_eq!(fleet::done(&hosts[0].must(send_request("demo:1", &["web01"])).await).len(), 1);
    // Its own configuration has the old name: it says so.
    let events = hosts[1].must(Request::Doctor(None)).await;
    let named = |event: &&Event| matches!(event, Event::Check(check) if check.subject == "name");
    let Some(Event::Check(check)) = events.iter().find(named) else { panic!("{events:?}") };
    assert_eq!(check.finding, "this host is called b, and web01 in its fleet");
    assert!(check.remedy.as_ref().is_some_and(|remedy| remedy.contains("imgctl fleet rename web01 b")), "{check:?}");
    assert!(!hosts[0].must(Request::Doctor(None)).await.iter().any(|event| named(&event)));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_tokens_are_looked_at_ten_times_a_minute() {
    let hosts = fleet(&["a"]).await;
    let used = invite(&hosts[0], 1).await;
    let mut others = [Host::new("b"), Host::new("c")];
    for host in &mut others {
        host.start().await;
    }
    let join = |token: &str| Request::Fleet(Fleet::Join { token: token.to_owned(), address: None });
    others[0].must(join(&used)).await;
    let guesses = async {
        for _ in 0..10 {
            assert_eq!(others[1].ask(join(&used)).await.unwrap_err().kind, FailureKind::Token);
        }
    };
    guesses.await;
    let audit = || std::fs::read_to_string(hosts[0].path().join("audit.log")).unwrap().matches("join refused").count();
    let refused = audit();
    assert_eq!(refused, 10, "one line for each");
    let failure = others[1].ask(join(&used)).await.unwrap_err();
    assert!(failure.causes.concat().contains("too many wrong tokens"), "{failure:?}");
    assert_eq!(audit(), refused);
}

/// A host that has no room for one more stranger may have some a moment later: who is turned away comes back before it gives up.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_turned_away_comes_back() {
    let mut hosts = fleet(&["a", "b"]).await;
    let address = hosts[1].address();
    hosts[1].stop().await;
    let mut tls = rustls::ServerConfig::builder().with_no_client_auth().with_cert_resolver(Arc::new(NoCertificate));
    tls.alpn_protocols = vec![proto::peer::ALPN.to_vec()];
    let config = quinn::ServerConfig::with_crypto(Arc::new(quinn::crypto::rustls::QuicServerConfig::try_from(tls).unwrap()));
    let full = quinn::Endpoint::server(config, address).unwrap();
    let refusals = Arc::new(AtomicU32::new(0));
    let counted = refusals.clone();
    let refusing = tokio::spawn(async move {
        while let Some(incoming) = full.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            incoming.refuse();
        }
    });
    let pull = Pull {
        image: "demo:1".parse().unwrap(),
        from: Some("b".to_owned()),
        platforms: Platforms::Receiver,
        rename: None,
        dry_run: false,
        limit_bytes_per_s: None,
    };
    let failure = hosts[0].ask(Request::Pull(pull)).await.unwrap_err();
    refusing.abort();
    assert_eq!(failure.kind, FailureKind::HostUnreachable("b".to_owned()));
    assert!(failure.causes.concat().contains("it takes no connection now"), "{failure:?}");
    assert!(refusals.load(Ordering::Relaxed) > 3, "{refusals:?}");
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::server::ResolvesServerCert for NoCertificate {
    fn resolve(&self, _hello: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_the_fleet_and_the_addresses() {
    let sample = Sample::small("demo:1", 3);
    let mut hosts = [Host::new("a"), Host::new("b")];
    hosts[0].have(&sample).await;
    fleet::found(&mut hosts).await;
    for host in &mut hosts {
        host.stop().await;
        host.peers = vec![];
        host.start().await;
    }
    hosts[0].send("demo:1", "b").await;
    assert_eq!(hosts[1].images().await.len(), 1);
    let listed = hosts[0].must(Request::List(Hosts { names: vec!["b".to_owned()], all: false, except: vec![] })).await;
    assert_eq!(listed.len(), 1);
}

/// Waits until a transfer of this host has moved bytes.
async fn wait_for_bytes(host: &Host) {
    loop {
        let rows = host.must(Request::Status(Status::default())).await;
        if rows.iter().any(|event| matches!(event, Event::Transfer(row) if row.done_bytes > 0)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Every join changes the member list, and with it the settings of the signer's endpoint, while the others are in the middle of theirs.
#[tokio::test(flavor = "multi_thread")]
async fn many_hosts_join_at_once() {
    let mut signer = Host::new("signer");
    signer.start().await;
    signer.must(Request::Fleet(Fleet::Init)).await;
    let token = fleet::invite(&signer, 40).await;
    let mut joining = tokio::task::JoinSet::new();
    for number in 0..40 {
        let (token, address) = (token.clone(), Some(signer.address().to_string()));
        joining.spawn(async move {
            let mut host = Host::new(&format!("host{number}"));
            host.start().await;
            let joined = host.ask(Request::Fleet(Fleet::Join { token, address })).await;
            (joined, host)
        });
    }
    let hosts = joining.join_all().await;
    let refused: Vec<_> = hosts.iter().filter_map(|(joined, host)| Some((&host.name, joined.as_ref().err()?))).collect();
    assert!(refused.is_empty(), "{refused:?}");
    let members = signer.must(Request::Fleet(Fleet::List)).await;
    assert_eq!(members.len(), 41);
}
