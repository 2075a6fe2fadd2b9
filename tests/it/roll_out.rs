//! One command for many hosts: which of them when, what comes of it, and what can be asked about it later.

use agent::store::{Import, Store};
use proto::Digest;
use proto::control::{Event, FailureKind, Request, Retry, Send, Status, Summary};
use tests::fleet::{self, Client, Host, PATIENCE, done, failed, send};
use tests::rogue::Rogue;
use tests::sample::{Recipe, Sample};

/// Hosts of one fleet; the first has the image. With `refusing`, that host takes nothing that is pushed.
async fn hosts(names: &[&str], sample: &Sample, refusing: Option<&str>) -> Vec<Host> {
    let mut hosts = stopped(names);
    hosts[0].have(sample).await;
    if let Some(host) = hosts.iter().find(|host| refusing == Some(&host.name)) {
        policy(host, "[[push]]\nname = \"nothing\"\nallow = false\n");
    }
    fleet::found(&mut hosts).await;
    hosts
}

/// Hosts whose agents do not run yet.
fn stopped(names: &[&str]) -> Vec<Host> {
    names.iter().map(|name| Host::new(name)).collect()
}

fn policy(host: &Host, text: &str) {
    std::fs::write(host.path().join("policy.toml"), text).unwrap();
}

fn summary(events: &[Event]) -> &Summary {
    events.iter().find_map(|event| if let Event::Summary(summary) = event { Some(summary) } else { None }).unwrap()
}

fn number(events: &[Event]) -> u64 {
    events.iter().find_map(|event| if let Event::Accepted { id } = event { Some(*id) } else { None }).unwrap()
}

fn names(events: &[Event]) -> Vec<&str> {
    let mut names: Vec<&str> = done(events).iter().map(|done| done.host.as_str()).collect();
    names.sort();
    names
}

fn all(image: &str) -> Send {
    let mut request = send(image, &[]);
    request.hosts.all = true;
    request
}

async fn has(host: &Host, id: Digest) -> bool {
    host.images().await.iter().any(|(_, image_id)| *image_id == id)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_host_has_it_and_says_from_whom() {
    let sample = Recipe::new(700, &[3_000_000, 1_000]).build("demo:1");
    let hosts = hosts(&["a", "b", "c", "d"], &sample, None).await;
    let events = hosts[0].must(Request::Send(all("demo:1"))).await;
    assert_eq!((names(&events), summary(&events).failed), (vec!["b", "c", "d"], 0));
    let layers: u64 = sample.image.layers().iter().map(|layer| layer.descriptor.size_bytes).sum();
    for done in done(&events) {
        assert_eq!(done.image_id, sample.image_id());
        assert_eq!(done.sources.iter().map(|source| source.received_bytes).sum::<u64>(), layers, "{done:?}");
    }
    let queued = events.iter().filter(|event| matches!(event, Event::Queued { .. })).count();
    assert_eq!(queued, 3);
    assert!(matches!(events[0], Event::Accepted { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn exceptions_are_left_out() {
    let sample = Recipe::new(701, &[1_000]).build("demo:1");
    let hosts = hosts(&["a", "web01", "web02", "web03"], &sample, None).await;
    let mut request = all("demo:1");
    request.hosts.except = vec!["web[02-03]".to_owned()];
    assert_eq!(names(&hosts[0].must(Request::Send(request.clone())).await), ["web01"]);
    request.hosts.except = vec!["web*".to_owned()];
    let failure = hosts[0].ask(Request::Send(request)).await.unwrap_err();
    assert!(matches!(failure.kind, FailureKind::HostNotFound(_)) && failure.causes[0].contains("exceptions"), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_canary_fails_nobody_else_is_begun_with() {
    let sample = Recipe::new(702, &[200_000]).build("demo:1");
    let hosts = hosts(&["a", "b", "c", "d"], &sample, Some("b")).await;
    let mut request = send("demo:1", &["b", "c", "d"]);
    request.canary = Some(1);
    let events = hosts[0].must(Request::Send(request)).await;
    let failed = failed(&events);
    assert_eq!(failed.len(), 3, "{failed:?}");
    assert_eq!((failed[0].0, &failed[0].1.kind), ("b", &FailureKind::Denied));
    assert!(failed[1..].iter().all(|(_, failure)| failure.kind == FailureKind::Skipped("b".to_owned())), "{failed:?}");
    assert_eq!((summary(&events).failed, summary(&events).egress_bytes), (3, 0));
    assert!(!has(&hosts[2], sample.image_id()).await && !has(&hosts[3], sample.image_id()).await);

    let mut request = send("demo:1", &["c", "b", "d"]);
    request.canary = Some(1);
    let events = hosts[0].must(Request::Send(request)).await;
    assert_eq!(names(&events), ["c", "d"], "the canary is alive; who fails later fails alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_stops_the_others_when_that_is_wanted() {
    let sample = Recipe::new(703, &[200_000]).build("demo:1");
    let hosts = hosts(&["a", "b", "c", "d"], &sample, Some("c")).await;
    let mut request = send("demo:1", &["b", "c", "d"]);
    (request.stop_on_failure, request.max_parallel) = (true, Some(1));
    let events = hosts[0].must(Request::Send(request)).await;
    assert_eq!(names(&events), ["b"]);
    assert_eq!(failed(&events)[1].1.kind, FailureKind::Skipped("c".to_owned()));
    assert!(!has(&hosts[3], sample.image_id()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_is_sent_again_by_the_number_of_the_send() {
    let sample = Recipe::new(704, &[200_000]).build("demo:1");
    let mut hosts = hosts(&["a", "b", "c"], &sample, Some("c")).await;
    let first = hosts[0].must(Request::Send(all("demo:1"))).await;
    assert_eq!((names(&first), failed(&first)[0].0), (vec!["b"], "c"));
    hosts[2].stop().await;
    policy(&hosts[2], "");
    hosts[2].start().await;
    let again = hosts[0].must(Request::Retry(Retry { id: number(&first), detach: false })).await;
    assert_eq!((names(&again), summary(&again).total), (vec!["c"], 1));
    let nothing = hosts[0].ask(Request::Retry(Retry { id: number(&again), detach: false })).await.unwrap_err();
    assert!(nothing.causes[0].contains("nothing of send"), "{nothing:?}");
    let unknown = hosts[0].ask(Request::Retry(Retry { id: 999, detach: false })).await.unwrap_err();
    assert_eq!(unknown.kind, FailureKind::TransferNotFound(999));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_outlives_its_client_and_can_be_watched() {
    let sample = Recipe::new(705, &[2_000_000]).build("demo:1");
    let hosts = hosts(&["a", "b", "c"], &sample, None).await;
    let mut request = all("demo:1");
    (request.detach, request.limit_bytes_per_s) = (true, Some(2_000_000));
    let begun = hosts[0].must(Request::Send(request)).await;
    let id = number(&begun);
    assert_eq!(begun.len(), 1, "{begun:?}");

    // Who only looks on stops nothing by going away.
    let mut looker = Client::connect(&hosts[0].socket()).await;
    looker.write(&Request::Status(Status { id: Some(id), watch: true })).await;
    assert!(matches!(looker.next().await, Event::Accepted { .. }));
    drop(looker);

    let watched = hosts[0].must(Request::Status(Status { id: Some(id), watch: true })).await;
    assert_eq!((names(&watched), number(&watched)), (vec!["b", "c"], id));
    let rows = hosts[0].must(Request::Status(Status { id: Some(id), watch: false })).await;
    assert_eq!(rows.len(), 2, "one row for each host, under one number: {rows:?}");
    assert_eq!(names(&hosts[0].must(Request::Status(Status { id: None, watch: true })).await), ["b", "c"], "the last one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_cancelled_as_a_whole() {
    let sample = Recipe::new(706, &[8_000_000]).build("demo:1");
    let hosts = hosts(&["a", "b", "c"], &sample, None).await;
    let mut request = all("demo:1");
    (request.detach, request.limit_bytes_per_s) = (true, Some(500_000));
    let id = number(&hosts[0].must(Request::Send(request)).await);
    hosts[0].must(Request::Cancel(id)).await;
    let watched = hosts[0].must(Request::Status(Status { id: Some(id), watch: true })).await;
    assert!(failed(&watched).iter().all(|(_, failure)| failure.kind == FailureKind::Cancelled), "{watched:?}");
    assert_eq!(failed(&watched).len(), 2);
    let failure = hosts[0].ask(Request::Cancel(id)).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::TransferNotFound(id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_tells_what_would_leave_the_source() {
    let mut hosts = stopped(&["a", "b", "c"]);
    // The same seed makes the same lower layers.
    let base = Recipe::new(707, &[2_000_000]).build("demo:base");
    let sample = Recipe::new(707, &[2_000_000, 300_000]).build("demo:1");
    hosts[0].have(&sample).await;
    hosts[1].have(&base).await;
    fleet::found(&mut hosts).await;
    let mut request = all("demo:1");
    request.dry_run = true;
    let forecast = summary(&hosts[0].must(Request::Send(request.clone())).await).clone();
    // The base is there once already: whoever lacks it gets it from there.
    assert!((300_000..340_000).contains(&forecast.egress_bytes), "{forecast:?}");
    request.dry_run = false;
    let sent = hosts[0].must(Request::Send(request)).await;
    assert_eq!(summary(&sent).egress_bytes, forecast.egress_bytes);
    let of_c = done(&sent).into_iter().find(|done| done.host == "c").unwrap();
    assert!(of_c.sources.iter().any(|source| source.host == "b" && source.received_bytes > 2_000_000), "{of_c:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_restricts_pulls_serves_only_what_came_with_the_job() {
    let mut hosts = stopped(&["a", "b", "c"]);
    let base = Recipe::new(708, &[2_000_000]).build("demo:base");
    let sample = Recipe::new(708, &[2_000_000, 3_000_000]).build("demo:1");
    hosts[0].have(&sample).await;
    hosts[1].have(&base).await;
    policy(&hosts[1], "[[pull]]\nname = \"only a\"\nby = [\"a\"]\n");
    fleet::found(&mut hosts).await;
    let sent = hosts[0].must(Request::Send(all("demo:1"))).await;
    assert_eq!(names(&sent), ["b", "c"]);
    let of_c = done(&sent).into_iter().find(|done| done.host == "c").unwrap();
    let from_b: u64 = of_c.sources.iter().filter(|source| source.host == "b").map(|source| source.received_bytes).sum();
    // The upper layer comes through b, or from a; the lower one never from b.
    assert!(from_b <= 3_100_000, "{of_c:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_between_other_hosts_goes_past_the_one_that_asks() {
    let sample = Recipe::new(709, &[1_500_000, 1_000]).build("demo:1");
    let mut hosts = stopped(&["a", "b", "c", "d"]);
    hosts[1].have(&sample).await;
    fleet::found(&mut hosts).await;
    let mut request = send("demo:1", &["c", "d"]);
    request.from = Some("b".to_owned());
    let events = hosts[0].must(Request::Send(request.clone())).await;
    assert_eq!((names(&events), summary(&events).done), (vec!["c", "d"], 2));
    assert!(has(&hosts[2], sample.image_id()).await && has(&hosts[3], sample.image_id()).await);
    assert!(!has(&hosts[0], sample.image_id()).await);
    let rows = hosts[0].must(Request::Status(Status { id: Some(number(&events)), watch: false })).await;
    assert_eq!(rows.len(), 2, "{rows:?}");

    // All others: the source is none of them, the asking host is.
    request.hosts = all("demo:1").hosts;
    assert_eq!(names(&hosts[0].must(Request::Send(request.clone())).await), ["a", "c", "d"]);
    request.dry_run = true;
    assert_eq!(names(&hosts[0].must(Request::Send(request.clone())).await), ["a", "c", "d"]);
    request.dry_run = false;
    request.images = vec!["absent:1".to_owned()];
    let failure = hosts[0].ask(Request::Send(request.clone())).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::ImageNotFound);
    request.hosts = send("demo:1", &["b"]).hosts;
    let failure = hosts[0].ask(Request::Send(request)).await.unwrap_err();
    assert!(failure.causes[0].contains("b is the source"), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_a_copy_gets_no_rights_by_it() {
    let sample = Recipe::new(710, &[1_000]).build("demo:1");
    let mut hosts = stopped(&["a", "b", "c"]);
    hosts[1].have(&sample).await;
    policy(&hosts[2], "[[push]]\nname = \"only b\"\nfrom = [\"b\"]\n");
    fleet::found(&mut hosts).await;
    let mut request = send("demo:1", &["c"]);
    request.from = Some("b".to_owned());
    let events = hosts[0].must(Request::Send(request.clone())).await;
    assert_eq!(failed(&events)[0].1.kind, FailureKind::Denied, "c takes nothing of a, nor what a has b send");
    assert!(hosts[1].must(Request::Send(send("demo:1", &["c"]))).await.iter().any(|event| matches!(event, Event::Done(_))));

    hosts[1].stop().await;
    policy(&hosts[1], "[[pull]]\nname = \"only c\"\nby = [\"c\"]\n");
    hosts[1].start().await;
    let failure = hosts[0].ask(Request::Send(request)).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Denied, "b gives nothing to a: {failure:?}");
}

/// What a client of a asks b to send to c is under way, with its number on b.
async fn copying(seed: u64) -> (Sample, Vec<Host>, Client, u64) {
    let sample = Recipe::new(seed, &[8_000_000]).build("demo:1");
    let mut hosts = stopped(&["a", "b", "c"]);
    hosts[1].have(&sample).await;
    fleet::found(&mut hosts).await;
    let mut request = send("demo:1", &["c"]);
    (request.from, request.limit_bytes_per_s) = (Some("b".to_owned()), Some(500_000));
    let mut client = Client::connect(&hosts[0].socket()).await;
    client.write(&Request::Send(request)).await;
    while !matches!(client.next().await, Event::Planned(_)) {}
    let rows = hosts[1].must(Request::Status(Status::default())).await;
    let id = rows.iter().find_map(|row| if let Event::Transfer(row) = row { Some(row.id) } else { None }).unwrap();
    (sample, hosts, client, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_ends_with_the_one_who_asked() {
    let (sample, hosts, client, id) = copying(711).await;
    drop(client);
    // It is under way there as any other send, but not as the last one of that host.
    let id = Some(id);
    let ended = tokio::time::timeout(PATIENCE, hosts[1].ask(Request::Status(Status { id, watch: true }))).await.unwrap().unwrap();
    assert!(hosts[1].ask(Request::Status(Status { id: None, watch: true })).await.is_err());
    assert_eq!(failed(&ended)[0].1.kind, FailureKind::Cancelled);
    assert!(!has(&hosts[2], sample.image_id()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_cancelled_at_its_source_has_failed() {
    let (_, hosts, mut client, id) = copying(715).await;
    hosts[1].must(Request::Cancel(id)).await;
    let mut events = vec![];
    let ending = async {
        while !matches!(events.last(), Some(Event::End | Event::Failed(_))) {
            events.push(client.next().await);
        }
    };
    tokio::time::timeout(PATIENCE, ending).await.expect("it ends");
    assert_eq!(failed(&events)[0].1.kind, FailureKind::Cancelled, "{events:?}");
    assert_eq!((summary(&events).done, summary(&events).failed), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sends_of_one_image_at_once_both_end_well() {
    let sample = Recipe::new(712, &[3_000_000]).build("demo:1");
    let hosts = hosts(&["a", "b", "c", "d"], &sample, None).await;
    let (one, other) = tokio::join!(hosts[0].must(Request::Send(all("demo:1"))), hosts[0].must(Request::Send(all("demo:1"))));
    assert_eq!((names(&one), names(&other)), (vec!["b", "c", "d"], vec!["b", "c", "d"]));
    assert!(has(&hosts[3], sample.image_id()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_senders_of_one_name_leave_one_of_their_images_everywhere() {
    let (ours, theirs) = (Recipe::new(713, &[900_000]).build("demo:1"), Recipe::new(714, &[900_000]).build("demo:1"));
    let mut hosts = stopped(&["a", "b", "c", "d"]);
    hosts[0].have(&ours).await;
    hosts[1].have(&theirs).await;
    fleet::found(&mut hosts).await;
    let to = send("demo:1", &["c", "d"]);
    let (one, other) = tokio::join!(hosts[0].must(Request::Send(to.clone())), hosts[1].must(Request::Send(to.clone())));
    assert_eq!((summary(&one).failed, summary(&other).failed), (0, 0));
    for host in &hosts[2..] {
        let images = host.images().await;
        let named: Vec<_> = images.iter().filter(|(name, _)| name == "demo:1").collect();
        assert!(matches!(named[..], [(_, id)] if *id == ours.image_id() || *id == theirs.image_id()), "{images:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_late_gets_it_while_others_are_under_way() {
    let sample = Recipe::new(715, &[6_000_000]).build("demo:1");
    let mut hosts = hosts(&["a", "b", "c"], &sample, None).await;
    hosts[2].stop().await;
    let mut request = all("demo:1");
    (request.detach, request.limit_bytes_per_s) = (true, Some(1_000_000));
    let id = number(&hosts[0].must(Request::Send(request)).await);
    let mut looker = Client::connect(&hosts[0].socket()).await;
    looker.write(&Request::Status(Status { id: Some(id), watch: true })).await;
    while !matches!(looker.next().await, Event::Waiting { host, .. } if host == "c") {}
    hosts[2].start().await;
    let watched = hosts[0].must(Request::Status(Status { id: Some(id), watch: true })).await;
    assert_eq!(names(&watched), ["b", "c"], "{watched:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_never_comes_is_named_when_the_others_are_done() {
    let sample = Recipe::new(716, &[100_000]).build("demo:1");
    let mut hosts = hosts(&["a", "b", "c"], &sample, None).await;
    hosts[2].stop().await;
    let events = hosts[0].must(Request::Send(all("demo:1"))).await;
    assert_eq!(names(&events), ["b"]);
    assert_eq!(failed(&events)[0].1.kind, FailureKind::HostUnreachable("c".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_of_another_platform_is_named_and_the_others_get_it() {
    let sample = Recipe::new(717, &[100_000]).platform("linux/amd64").build("demo:1");
    let mut hosts = hosts(&["a", "b", "c"], &sample, None).await;
    let foreign = Rogue::replace(hosts.remove(2)).await.of_platform("linux/s390x");
    let _connection = foreign.connect(hosts[0].address()).await.unwrap();
    let events = hosts[0].must(Request::Send(all("demo:1"))).await;
    assert_eq!(names(&events), ["b"]);
    let (host, failure) = failed(&events)[0];
    assert_eq!(host, "c");
    assert!(failure.causes.iter().any(|cause| cause.contains("linux/s390x")), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_roll_out_is_of_one_image_whatever_becomes_of_its_name() {
    let (old, new) = (Recipe::new(90, &[400_000]).build("demo:1"), Recipe::new(91, &[1_000]).build("demo:2"));
    let mut hosts = vec![Host::new("a"), Host::new("b"), Host::new("c")];
    hosts[0].have(&old).await;
    hosts[0].have(&new).await;
    fleet::found(&mut hosts).await;
    // The name moves while the canary receives, and goes before the others have begun.
    let request = Send { canary: Some(1), limit_bytes_per_s: Some(200_000), ..send("demo:1", &["b", "c"]) };
    let mut client = fleet::Client::connect(&hosts[0].socket()).await;
    client.write(&Request::Send(request)).await;
    let mut events = vec![];
    loop {
        let event = client.next().await;
        if matches!(event, Event::Planned(_)) && events.iter().all(|event| !matches!(event, Event::Planned(_))) {
            hosts[0].must(Request::Tag { image: "demo:2".to_owned(), name: "demo:1".parse().unwrap() }).await;
        }
        let is_end = event == Event::End;
        events.push(event);
        if is_end {
            break;
        }
    }
    assert_eq!(done(&events).len(), 2, "{events:?}");
    for host in &hosts[1..] {
        assert_eq!(host.images().await, [("demo:1".to_owned(), old.image_id())], "{} has another image", host.name);
    }
    let resolved = events.iter().find_map(|event| if let Event::Resolved(resolved) = event { Some(resolved) } else { None });
    assert_eq!(resolved.unwrap().image_id, old.image_id());
    let moved = events.iter().find_map(|event| if let Event::Moved(moved) = event { Some(moved) } else { None }).expect("it is said");
    assert_eq!((moved.sent, moved.image_id), (old.image_id(), Some(new.image_id())));
}

/// The events of a send, from its last word on everything to its end.
async fn watched(host: &Host, id: u64) -> Result<Vec<Event>, proto::control::Failure> {
    host.ask(Request::Status(Status { id: Some(id), watch: true })).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detached_send_goes_on_after_a_restart_with_the_image_that_it_began_with() {
    let (old, new) = (Recipe::new(92, &[2_000_000]).build("demo:1"), Recipe::new(93, &[1_000]).build("demo:2"));
    let mut hosts = stopped(&["a", "b", "c"]);
    hosts[0].have(&old).await;
    hosts[0].have(&new).await;
    fleet::found(&mut hosts).await;
    let request = Send { detach: true, max_parallel: Some(1), host_limit_bytes_per_s: Some(1_000_000), ..send("demo:1", &["b", "c"]) };
    let accepted = hosts[0].must(Request::Send(request)).await;
    let Some(Event::Accepted { id }) = accepted.first() else { panic!("{accepted:?}") };
    // One host has it, the other one has begun.
    let mut watching = Client::connect(&hosts[0].socket()).await;
    watching.write(&Request::Status(Status { id: Some(*id), watch: true })).await;
    while !matches!(watching.next().await, Event::Done(_)) {}
    while !matches!(watching.next().await, Event::Progress(_)) {}
    hosts[0].stop().await;
    // Meanwhile the name moves, and another one keeps the image.
    {
        let store = hosts[0].store();
        for (name, image) in [("kept:1", &old.image), ("demo:1", &new.image)] {
            let mut import = store.import(proto::Image { reference: Some(name.parse().unwrap()), ..image.clone() }).await.unwrap();
            assert!(import.missing().await.unwrap().is_empty());
            import.commit().await.unwrap();
        }
    }
    hosts[0].start().await;
    let events = watched(&hosts[0], *id).await.unwrap();
    assert_eq!(done(&events).len(), 2, "{events:?}");
    assert_eq!((summary(&events).total, summary(&events).done), (2, 2));
    for host in &hosts[1..] {
        assert_eq!(host.images().await, [("demo:1".to_owned(), old.image_id())]);
    }
    // And it is remembered after one more restart.
    hosts[0].stop().await;
    hosts[0].start().await;
    let rows = hosts[0].must(Request::Status(Status { id: Some(*id), watch: false })).await;
    assert_eq!(rows.iter().filter(|row| matches!(row, Event::Transfer(_))).count(), 2, "{rows:?}");
    assert_eq!(done(&watched(&hosts[0], *id).await.unwrap()).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_is_sent_again_after_a_restart() {
    let sample = Recipe::new(94, &[10_000]).build("demo:1");
    let mut hosts = hosts(&["a", "b", "c"], &sample, Some("c")).await;
    let events = hosts[0].must(Request::Send(send("demo:1", &["b", "c"]))).await;
    let Some(Event::Accepted { id }) = events.first() else { panic!("{events:?}") };
    assert_eq!(failed(&events)[0].0, "c");
    hosts[0].stop().await;
    std::fs::remove_file(hosts[2].path().join("policy.toml")).unwrap();
    hosts[2].stop().await;
    hosts[2].start().await;
    hosts[0].start().await;
    let again = hosts[0].must(Request::Retry(Retry { id: *id, detach: false })).await;
    assert_eq!(done(&again).iter().map(|done| done.host.as_str()).collect::<Vec<_>>(), ["c"], "{again:?}");
    let Some(Event::Accepted { id: next }) = again.first() else { panic!("{again:?}") };
    assert!(next > id, "numbers are not given twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_detached_sends_are_all_kept() {
    let sample = Recipe::new(97, &[300_000]).build("demo:1");
    let mut hosts = hosts(&["a", "b"], &sample, None).await;
    let mut ids = vec![];
    for _ in 0..16 {
        let request = Send { detach: true, limit_bytes_per_s: Some(20_000), ..send("demo:1", &["b"]) };
        ids.push(number(&hosts[0].must(Request::Send(request)).await));
    }
    hosts[0].stop().await;
    hosts[0].start().await;
    for id in ids {
        hosts[0].must(Request::Status(Status { id: Some(id), watch: true })).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_send_from_another_host_goes_on_when_that_one_restarts() {
    let sample = Recipe::new(95, &[3_000_000]).build("demo:1");
    let mut hosts = stopped(&["a", "b", "c"]);
    hosts[1].have(&sample).await;
    fleet::found(&mut hosts).await;
    let request = Send { from: Some("b".to_owned()), host_limit_bytes_per_s: Some(1_000_000), ..send("demo:1", &["c"]) };
    let mut client = Client::connect(&hosts[0].socket()).await;
    client.write(&Request::Send(request)).await;
    while !matches!(client.next().await, Event::Progress(_)) {}
    hosts[1].stop().await;
    hosts[1].start().await;
    let mut events = vec![];
    let ending = tokio::time::timeout(PATIENCE, async {
        loop {
            match client.next().await {
                Event::End => return,
                Event::Failed(failure) => panic!("{failure:?}"),
                event => events.push(event),
            }
        }
    });
    ending.await.expect("it goes on");
    assert_eq!((summary(&events).total, summary(&events).done), (1, 1), "{events:?}");
    assert_eq!(hosts[2].images().await, [("demo:1".to_owned(), sample.image_id())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fan_out_keeps_to_a_small_limit_and_leaves_its_host_once() {
    let sample = Recipe::new(96, &[150_000]).build("demo:1");
    let hosts = hosts(&["a", "b", "c", "d"], &sample, None).await;
    let request = Send { limit_bytes_per_s: Some(10_000), ..send("demo:1", &["b", "c", "d"]) };
    let events = hosts[0].must(Request::Send(request)).await;
    assert_eq!(done(&events).len(), 3, "{events:?}");
    let layer_bytes = sample.image.layers()[0].descriptor.size_bytes;
    let documents_bytes: u64 = sample.image.documents().iter().map(|document| document.size_bytes).sum();
    // Documents go from the head to every host.
    let egress_bytes = summary(&events).egress_bytes - 3 * documents_bytes;
    assert!(egress_bytes * 100 <= layer_bytes * 105, "{egress_bytes} bytes left for a layer of {layer_bytes}");
}
