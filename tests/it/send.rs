//! The main job: an image from one host to another.

use agent::store::layout::LayoutStore;
use proto::control::{Event, FailureKind, Hosts, Pull, Request};
use tests::fleet::{self, Host, done, failed, send, send_request};
use tests::sample::{Recipe, Sample};
use tests::slow::Slow;

/// Two hosts; the first has the image.
async fn two_with(sample: &Sample) -> Vec<Host> {
    let mut hosts = vec![Host::new("stapp01"), Host::new("stapp03")];
    hosts[0].have(sample).await;
    fleet::found(&mut hosts).await;
    hosts
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_arrives_with_its_name_and_its_id() {
    let sample = Recipe::new(1, &[3_000_000, 70_000, 10]).build("demo:nautilus");
    let hosts = two_with(&sample).await;
    let events = hosts[0].send("demo:nautilus", "stapp03").await;
    let done = done(&events);
    assert_eq!(done.len(), 1);
    assert_eq!((done[0].image_id, done[0].source_image_id), (sample.image_id(), sample.image_id()));
    assert_eq!((done[0].layers_sent, done[0].layers_total), (3, 3));
    assert_eq!(hosts[1].images().await, [("demo:nautilus".to_owned(), sample.image_id())]);
    assert_eq!(hosts[1].staged_files(), 0, "nothing stays in staging");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_does_not_travel() {
    let sample = Recipe::new(2, &[400_000, 90_000]).build("demo:1");
    let hosts = two_with(&sample).await;
    hosts[0].send("demo:1", "stapp03").await;
    let events = hosts[0].send("demo:1", "stapp03").await;
    let again = done(&events)[0];
    assert_eq!((again.sent_bytes, again.layers_sent), (0, 0));
    assert!(again.wire_bytes <= 16 * 1024, "{} bytes on the wire", again.wire_bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_missing_layers_travel() {
    let mut hosts = vec![Host::new("stapp01"), Host::new("stapp03")];
    let first = Recipe::new(3, &[2_000_000, 500_000, 1_000]).build("demo:1");
    // The same seed makes the same lower layers.
    let second = Recipe::new(3, &[2_000_000, 500_000, 2_000]).build("demo:2");
    hosts[0].have(&first).await;
    hosts[0].have(&second).await;
    fleet::found(&mut hosts).await;
    hosts[0].send("demo:1", "stapp03").await;
    let events = hosts[0].send("demo:2", "stapp03").await;
    let difference = done(&events)[0];
    assert_eq!((difference.layers_sent, difference.layers_total), (1, 3));
    assert!(difference.sent_bytes < 20_000, "{}", difference.sent_bytes);
    assert_eq!(hosts[1].images().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_moves_nothing_and_tells_the_bytes() {
    let sample = Recipe::new(4, &[300_000]).build("demo:1");
    let hosts = two_with(&sample).await;
    let request = Request::Send(proto::control::Send { dry_run: true, ..send("demo:1", &["stapp03"]) });
    let events = hosts[0].must(request).await;
    let planned = events.iter().find_map(|event| if let Event::Planned(planned) = event { Some(planned) } else { None }).unwrap();
    let total: u64 = sample.select(proto::image::Selection::All).size_bytes();
    assert_eq!((planned.send_bytes, planned.present_bytes), (total, 0));
    assert!(hosts[1].images().await.is_empty());
    let sent = hosts[0].send("demo:1", "stapp03").await;
    assert_eq!(done(&sent)[0].sent_bytes, total, "the plan was exact");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_name_at_the_destination() {
    let sample = Recipe::new(5, &[1_000]).build("demo:1");
    let hosts = two_with(&sample).await;
    let rename = Some("acme/app:prod".parse().unwrap());
    hosts[0].must(Request::Send(proto::control::Send { rename, ..send("demo:1", &["stapp03"]) })).await;
    assert_eq!(hosts[1].images().await, [("acme/app:prod".to_owned(), sample.image_id())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_hosts_and_one_that_is_down() {
    let sample = Recipe::new(6, &[200_000]).build("demo:1");
    let mut hosts = vec![Host::new("a"), Host::new("b"), Host::new("c")];
    hosts[0].have(&sample).await;
    fleet::found(&mut hosts).await;
    hosts[2].stop().await;
    let events = hosts[0].must(send_request("demo:1", &["b", "c"])).await;
    assert_eq!(done(&events).iter().map(|done| done.host.as_str()).collect::<Vec<_>>(), ["b"]);
    let failed = failed(&events);
    assert_eq!(failed.len(), 1);
    assert!(matches!(&failed[0].1.kind, FailureKind::HostUnreachable(host) if host == "c"), "{failed:?}");
    let Some(Event::Summary(summary)) = events.last() else { panic!("{events:?}") };
    assert_eq!((summary.total, summary.done, summary.failed), (2, 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_name_is_reported() {
    let mut hosts = vec![Host::new("a"), Host::new("b")];
    let old = Recipe::new(7, &[1_000]).build("demo:1");
    let new = Recipe::new(8, &[1_000]).build("demo:1");
    hosts[1].have(&old).await;
    hosts[0].have(&new).await;
    fleet::found(&mut hosts).await;
    let events = hosts[0].send("demo:1", "b").await;
    assert_eq!(done(&events)[0].replaced, Some(old.image_id()));
    assert_eq!(hosts[1].images().await, [("demo:1".to_owned(), new.image_id())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_senders_write_each_blob_once() {
    let sample = Recipe::new(9, &[8_000_000, 4_000_000]).build("demo:1");
    let mut hosts = vec![Host::new("a"), Host::new("b"), Host::new("c")];
    hosts[0].have(&sample).await;
    hosts[1].have(&sample).await;
    fleet::found(&mut hosts).await;
    let (one, two) = tokio::join!(hosts[0].send("demo:1", "c"), hosts[1].send("demo:1", "c"));
    let layers: u64 = sample.select(proto::image::Selection::All).layers().iter().map(|layer| layer.descriptor.size_bytes).sum();
    let sent = done(&one)[0].sent_bytes + done(&two)[0].sent_bytes;
    assert!(sent < layers + 100_000, "{sent} bytes sent for {layers} bytes of layers");
    assert_eq!(hosts[2].images().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_named_before_anything_is_connected() {
    let sample = Recipe::new(10, &[1_000]).build("demo:1");
    let hosts = two_with(&sample).await;
    for (image, host, kind) in [
        ("demo:2", "stapp03", FailureKind::ImageNotFound),
        ("demo:1", "stapp99", FailureKind::HostNotFound("stapp99".to_owned())),
        ("demo:1", "stapp01", FailureKind::Usage),
        ("Demo:1", "stapp03", FailureKind::Usage),
    ] {
        let failure = hosts[0].ask(send_request(image, &[host])).await.unwrap_err();
        assert_eq!(failure.kind, kind, "{failure:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_a_fleet_says_so() {
    let mut host = Host::new("alone");
    host.have(&Sample::small("demo:1", 1)).await;
    host.start().await;
    let failure = host.ask(send_request("demo:1", &["b"])).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::NoFleet);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_blob_is_refused_named_and_put_aside() {
    let sample = Recipe::new(11, &[300_000, 1_000]).build("demo:1");
    let mut hosts = two_with(&sample).await;
    // Hash once, then damage one byte behind the back of the store.
    hosts[0].must(Request::Scrub).await;
    hosts[0].stop().await;
    let layer = sample.select(proto::image::Selection::All).layers()[0].descriptor.digest;
    let path = hosts[0].layout().join("blobs/sha256").join(layer.hex());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[200_000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    hosts[0].start().await;
    let events = hosts[0].must(fleet::send_request("demo:1", &["stapp03"])).await;
    let failure = failed(&events)[0].1;
    assert_eq!(failure.kind, FailureKind::Corrupt, "{failure:?}");
    assert!(failure.causes.concat().contains(&layer.hex()[..12]));
    assert!(hosts[1].images().await.is_empty(), "nothing is visible");
    assert!(!path.exists(), "the damaged blob was put aside");
}

#[tokio::test(flavor = "multi_thread")]
async fn pull_finds_who_has_it() {
    let sample = Recipe::new(12, &[150_000]).build("demo:1");
    let mut hosts = vec![Host::new("a"), Host::new("b"), Host::new("c")];
    hosts[1].have(&sample).await;
    fleet::found(&mut hosts).await;
    let pull = proto::control::Pull {
        image: "demo:1".parse().unwrap(),
        from: None,
        platforms: proto::control::Platforms::Receiver,
        rename: None,
        dry_run: false,
        limit_bytes_per_s: None,
    };
    // a has met both; c knows b only through a's list, and has no address of it: a pulls.
    let events = hosts[0].must(Request::Pull(pull.clone())).await;
    assert_eq!(done(&events)[0].host, "b");
    assert_eq!(hosts[0].images().await, [("demo:1".to_owned(), sample.image_id())]);
    let absent = proto::control::Pull { image: "nothing:1".parse().unwrap(), ..pull };
    assert_eq!(hosts[0].ask(Request::Pull(absent)).await.unwrap_err().kind, FailureKind::ImageNotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_store_type_serves_what_other_tools_wrote() {
    // Without a hash record the blobs are hashed before they are served: what a tool wrote beside us can be sent.
    let sample = Recipe::new(13, &[250_000]).build("demo:1");
    let mut hosts = vec![Host::new("a"), Host::new("b")];
    hosts[0].have(&sample).await;
    std::fs::remove_dir_all(hosts[0].layout().join(".imgd/hashes")).unwrap();
    drop(LayoutStore::open(&hosts[0].layout()).unwrap());
    fleet::found(&mut hosts).await;
    hosts[0].send("demo:1", "b").await;
    assert_eq!(hosts[1].images().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_of_five_gets_it_at_once() {
    let sample = Recipe::new(14, &[500_000]).build("demo:1");
    let mut hosts: Vec<Host> = (1..=5).map(|i| Host::new(&format!("web{i:02}"))).collect();
    hosts[0].have(&sample).await;
    fleet::found(&mut hosts).await;
    let events = hosts[0].must(send_request("demo:1", &["web[02-05]"])).await;
    assert_eq!(done(&events).len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_index_the_receivers_platform_travels_and_the_index_stays_as_it_is() {
    let here = proto::Platform::host();
    let recipes = [Recipe::new(20, &[100_000]), Recipe::new(21, &[100_000]).platform("linux/s390x")];
    let sample = Sample::index("demo:1", &recipes);
    let mut hosts = vec![Host::new("a"), Host::new("b"), Host::new("c")];
    hosts[0].have(&sample).await;
    fleet::found(&mut hosts).await;
    let events = hosts[0].send("demo:1", "b").await;
    assert_eq!(done(&events)[0].layers_total, 1);
    let rows =
        |events: Vec<Event>| events.into_iter().find_map(|event| if let Event::Image { row, .. } = event { Some(row) } else { None });
    let row = rows(hosts[1].must(Request::List(proto::control::Hosts::default())).await).unwrap();
    assert_eq!((row.root, row.platforms), (sample.image.root.digest, vec![here]));
    // From there the other platform cannot be had, and that is said.
    let platforms = proto::control::Platforms::One("linux/s390x".parse().unwrap());
    let request = Request::Send(proto::control::Send { platforms, ..send("demo:1", &["c"]) });
    let events = hosts[1].must(request).await;
    assert_eq!(done(&events).len(), 0, "what is not here cannot be sent");
    let all = Request::Send(proto::control::Send { platforms: proto::control::Platforms::All, ..send("demo:1", &["c"]) });
    let events = hosts[0].must(all).await;
    assert_eq!(done(&events)[0].layers_total, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_for_another_platform_is_refused_unless_it_is_asked_for() {
    let sample = Recipe::new(22, &[1_000]).platform("linux/s390x").build("demo:1");
    let hosts = two_with(&sample).await;
    let events = hosts[0].must(fleet::send_request("demo:1", &["stapp03"])).await;
    let failure = failed(&events)[0].1;
    assert_eq!(failure.kind, FailureKind::PlatformAbsent(vec!["linux/s390x".parse().unwrap()]), "{failure:?}");
    let platforms = proto::control::Platforms::One("linux/s390x".parse().unwrap());
    hosts[0].must(Request::Send(proto::control::Send { platforms, ..send("demo:1", &["stapp03"]) })).await;
    assert_eq!(hosts[1].images().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_of_which_only_another_one_knows_the_address_is_found() {
    let sample = Recipe::new(23, &[1_000]).build("demo:1");
    let mut hosts = vec![Host::new("a"), Host::new("b"), Host::new("c")];
    hosts[1].have(&sample).await;
    for host in &mut hosts {
        host.start().await;
    }
    hosts[0].must(Request::Fleet(proto::control::Fleet::Init)).await;
    fleet::join(&hosts[0], &hosts[1]).await.unwrap();
    fleet::join(&hosts[0], &hosts[2]).await.unwrap();
    // The signer tells b of c by itself.
    let lists_c = |events: &[Event]| events.iter().any(|event| matches!(event, Event::Member(row) if row.name == "c"));
    while !lists_c(&hosts[1].must(Request::Fleet(proto::control::Fleet::List)).await) {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    // b has never met c, and there is no multicast: a knows both.
    hosts[1].send("demo:1", "c").await;
    assert_eq!(hosts[2].images().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_tag_of_a_repository() {
    let mut hosts = vec![Host::new("a"), Host::new("b")];
    for tag in ["demo:1", "demo:2", "other:1"] {
        hosts[0].have(&Sample::small(tag, 5)).await;
    }
    fleet::found(&mut hosts).await;
    hosts[0].must(Request::Send(proto::control::Send { all_tags: true, ..send("demo", &["b"]) })).await;
    let names: Vec<String> = hosts[1].images().await.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["demo:1", "demo:2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_send_holds_up_no_other_that_shares_its_layer() {
    let slow = Recipe::new(60, &[6_000_000, 1_000]).build("slow:1");
    // The same large layer, under another one.
    let fast = Recipe::new(60, &[6_000_000, 2_000]).build("fast:1");
    let mut hosts = vec![Host::new("a"), Host::new("b"), Host::new("c")];
    hosts[0].have(&slow).await;
    hosts[1].have(&fast).await;
    fleet::found(&mut hosts).await;
    // At this rate the layer takes five minutes.
    let request = proto::control::Send { limit_bytes_per_s: Some(20_000), ..send("slow:1", &["c"]) };
    let mut client = fleet::Client::connect(&hosts[0].socket()).await;
    client.write(&Request::Send(request)).await;
    while !matches!(client.next().await, Event::Planned(_)) {}
    let events = hosts[1].send("fast:1", "c").await;
    assert_eq!(done(&events)[0].image_id, fast.image_id());
    // What the fast one has brought the slow one needs no more.
    let ended = tokio::time::timeout(fleet::PATIENCE, async {
        loop {
            match client.next().await {
                Event::Done(done) => return done,
                event => assert!(event != Event::End, "not done"),
            }
        }
    });
    assert!(ended.await.expect("it goes on").sent_bytes < 3_000_000);
    assert_eq!(hosts[2].images().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_sends_than_sessions_wait_for_their_turn() {
    let images: Vec<Sample> = (0..24).map(|i| Recipe::new(200 + i, &[20_000]).build(&format!("many:{i}"))).collect();
    let mut hosts = vec![Host::new("a"), Host::new("b")];
    for image in &images {
        hosts[0].have(image).await;
    }
    fleet::found(&mut hosts).await;
    let sends = (0..images.len()).map(|i| {
        let socket = hosts[0].socket();
        tokio::spawn(async move { fleet::ask(&socket, send_request(&format!("many:{i}"), &["b"])).await })
    });
    for sent in sends.collect::<Vec<_>>() {
        let events = sent.await.unwrap().unwrap();
        assert_eq!(done(&events).len(), 1, "{events:?}");
    }
    assert_eq!(hosts[1].images().await.len(), images.len());
}

/// A plain `pull`, to be changed.
fn pull(image: &str) -> Pull {
    let platforms = proto::control::Platforms::Receiver;
    Pull { image: image.parse().unwrap(), from: None, platforms, rename: None, dry_run: false, limit_bytes_per_s: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_goes_on_when_its_source_restarts() {
    let sample = Recipe::new(61, &[3_000_000]).build("demo:1");
    let mut hosts = two_with(&sample).await;
    let mut client = fleet::Client::connect(&hosts[1].socket()).await;
    let pull = Pull { from: Some("stapp01".to_owned()), limit_bytes_per_s: Some(1_000_000), ..pull("demo:1") };
    client.write(&Request::Pull(pull)).await;
    while !matches!(client.next().await, Event::Progress(_)) {}
    hosts[0].stop().await;
    hosts[0].start().await;
    let ended = tokio::time::timeout(fleet::PATIENCE, async {
        loop {
            match client.next().await {
                Event::Done(done) => return done,
                Event::Failed(failure) => panic!("{failure:?}"),
                _ => {}
            }
        }
    });
    let done = ended.await.expect("it goes on");
    assert!(done.sent_bytes < 3_000_000 + 1_100_000, "{} bytes", done.sent_bytes);
    assert_eq!(hosts[1].images().await, [("demo:1".to_owned(), sample.image_id())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_question_after_a_restart_is_answered() {
    let sample = Recipe::new(62, &[10_000]).build("demo:1");
    let mut hosts = two_with(&sample).await;
    for number in 0..4 {
        // Everybody is connected, and then the other agent is another process, as far as anybody can see.
        hosts[1].must(Request::WhoHas("demo:1".to_owned())).await;
        hosts[0].stop().await;
        hosts[0].start().await;
        let list = Hosts { names: vec!["stapp01".to_owned()], ..Hosts::default() };
        let events = match number {
            0 => hosts[1].must(Request::List(list)).await,
            1 => hosts[1].must(Request::WhoHas("demo:1".to_owned())).await,
            2 => hosts[1].must(Request::Pull(pull("demo:1"))).await,
            _ => hosts[1].must(Request::Diff { image: "demo:1".to_owned(), hosts: list }).await,
        };
        assert!(!events.iter().any(|event| matches!(event, Event::HostSilent { .. })), "{number}: {events:?}");
    }
}

/// A fleet whose first host hashes for fourteen seconds before it serves its only layer: longer than a source of a fan-out may wait for others.
async fn hashing_first(names: &[&str], sample: &Sample) -> Vec<Host> {
    let mut hosts: Vec<Host> = names.iter().map(|name| Host::new(name)).collect();
    hosts[0].have(sample).await;
    fleet::found(&mut hosts).await;
    hosts[0].stop().await;
    let slow = Slow::new(hosts[0].store(), std::time::Duration::from_secs(14), 50_000);
    hosts[0].start_with(slow).await;
    hosts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_hashes_first_is_waited_for_and_says_what_it_does() {
    let sample = Recipe::new(63, &[200_000]).build("demo:1");
    let hosts = hashing_first(&["a", "b", "c"], &sample).await;
    let events = hosts[0].must(send_request("demo:1", &["b", "c"])).await;
    assert_eq!(done(&events).len(), 2, "{events:?}");
    let hashing = events.iter().find_map(|event| if let Event::Hashing(hashing) = event { Some(hashing) } else { None });
    assert_eq!(hashing.expect("it is said").source, "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_waits_for_a_source_that_hashes_first() {
    let sample = Recipe::new(64, &[200_000]).build("demo:1");
    let hosts = hashing_first(&["a", "b"], &sample).await;
    let events = hosts[1].must(Request::Pull(pull("demo:1"))).await;
    assert_eq!(done(&events)[0].image_id, sample.image_id());
    assert!(events.iter().any(|event| matches!(event, Event::Hashing(hashing) if hashing.source == "a")), "{events:?}");
}

/// Half of the image has gone from the source behind its back: that is said of the source, on both sides.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_loses_a_layer_in_the_middle_is_named() {
    let sample = Recipe::new(65, &[300_000; 9]).build("demo:1");
    let hosts = two_with(&sample).await;
    let layers: Vec<String> = sample.image.layers().iter().map(|layer| layer.descriptor.digest.hex()).collect();
    let blob = |hex: &String| hosts[0].layout().join("blobs/sha256").join(hex);
    let kept: Vec<Vec<u8>> = layers.iter().map(|hex| std::fs::read(blob(hex)).unwrap()).collect();
    let send = proto::control::Send { limit_bytes_per_s: Some(500_000), ..send("demo:1", &["stapp03"]) };
    let pull = Pull { from: Some("stapp01".to_owned()), limit_bytes_per_s: Some(500_000), ..pull("demo:1") };
    for (asked, request, expected) in
        [(0, Request::Send(send), "the store of this host failed"), (1, Request::Pull(pull), "refused: its store failed")]
    {
        let mut client = fleet::Client::connect(&hosts[asked].socket()).await;
        client.write(&request).await;
        while !matches!(client.next().await, Event::Progress(_)) {}
        layers.iter().for_each(|hex| std::fs::remove_file(blob(hex)).unwrap());
        let failure = loop {
            match client.next().await {
                Event::Failed(failure) => break failure,
                Event::HostFailed { failure, .. } => break failure,
                Event::Done(done) => panic!("{done:?}"),
                _ => {}
            }
        };
        let said = failure.causes.join(": ");
        assert!(said.contains(expected) && said.contains("stapp0") && !said.contains("by this host"), "{said}");
        layers.iter().zip(&kept).for_each(|(hex, bytes)| std::fs::write(blob(hex), bytes).unwrap());
    }
}
