//! Sends as they are kept: what becomes of them when they cannot go on, when they are cancelled, and when they cannot be kept.

use proto::control::{Event, FailureKind, Request, Retry, Send, Status, TransferState};
use tests::fleet::{self, Client, Host, failed, send};
use tests::sample::{Recipe, Sample};

/// Two hosts; the first has the image.
async fn two(sample: &Sample) -> [Host; 2] {
    let mut hosts = [Host::new("a"), Host::new("b")];
    hosts[0].have(sample).await;
    fleet::found(&mut hosts).await;
    hosts
}

/// Begins a slow send without a client, and waits until bytes have moved.
async fn detached(host: &Host, image: &str, to: &str) -> u64 {
    let request = Send { detach: true, limit_bytes_per_s: Some(500_000), ..send(image, &[to]) };
    let accepted = host.must(Request::Send(request)).await;
    let Some(Event::Accepted { id }) = accepted.first() else { panic!("{accepted:?}") };
    let mut watching = Client::connect(&host.socket()).await;
    watching.write(&Request::Status(Status { id: Some(*id), watch: true })).await;
    while !matches!(watching.next().await, Event::Progress(_)) {}
    *id
}

async fn states(host: &Host, id: u64) -> Vec<TransferState> {
    let rows = host.must(Request::Status(Status { id: Some(id), watch: false })).await;
    rows.into_iter().filter_map(|event| if let Event::Transfer(row) = event { Some(row.state) } else { None }).collect()
}

/// The image was removed, and the agent restarted: the send cannot go on, and that is told, host by host.
#[tokio::test(flavor = "multi_thread")]
async fn a_send_that_cannot_go_on_has_failed() {
    let sample = Recipe::new(60, &[3_000_000]).build("demo:1");
    let mut hosts = two(&sample).await;
    let id = detached(&hosts[0], "demo:1", "b").await;
    hosts[0].must(Request::Remove(vec!["demo:1".to_owned()])).await;
    hosts[0].stop().await;
    hosts[0].start().await;
    let watch = Request::Status(Status { id: Some(id), watch: true });
    let failure = hosts[0].ask(watch).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::ImageNotFound, "{failure:?}");
    let states = states(&hosts[0], id).await;
    assert!(matches!(&states[..], [TransferState::Failed(_)]), "{states:?}");
    // It can be repeated once the image is there again.
    hosts[0].stop().await;
    hosts[0].have(&sample).await;
    hosts[0].start().await;
    let again = hosts[0].must(Request::Retry(Retry { id, detach: false })).await;
    assert_eq!((fleet::done(&again).len(), failed(&again).len()), (1, 0), "{again:?}");
}

/// Whoever hears that a send is cancelled can rely on it: no later life of the agent goes on with it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_cancelled_is_cancelled_on_disk() {
    let sample = Recipe::new(61, &[3_000_000]).build("demo:1");
    let hosts = two(&sample).await;
    let id = detached(&hosts[0], "demo:1", "b").await;
    hosts[0].must(Request::Cancel(id)).await;
    let kept = std::fs::read_to_string(hosts[0].path().join(format!("jobs/{id}.json"))).unwrap();
    assert!(kept.to_lowercase().contains("cancelled"), "{kept}");
}

/// A send that shall go on without its client is refused when it cannot be kept.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_kept_is_not_detached() {
    let sample = Recipe::new(62, &[100_000]).build("demo:1");
    let hosts = two(&sample).await;
    let jobs = hosts[0].path().join("jobs");
    std::fs::remove_dir_all(&jobs).unwrap();
    std::fs::write(&jobs, "no directory").unwrap();
    let request = Send { detach: true, ..send("demo:1", &["b"]) };
    let failure = hosts[0].ask(Request::Send(request)).await.unwrap_err();
    assert!(failure.causes.concat().contains("cannot be kept on disk"), "{failure:?}");
    // With a client it does not matter.
    hosts[0].send("demo:1", "b").await;
}

/// The host is lost, and at the other addresses that are known somebody else answers: that says nothing about the host.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_host_is_waited_for_though_others_answer() {
    let sample = Recipe::new(63, &[3_000_000]).build("demo:1");
    let mut hosts = [Host::new("a"), Host::new("b"), Host::new("c")];
    hosts[1].have(&sample).await;
    fleet::found(&mut hosts).await;
    let id = detached(&hosts[1], "demo:1", "c").await;
    hosts[2].stop().await;
    let mut client = Client::connect(&hosts[1].socket()).await;
    client.write(&Request::Status(Status { id: Some(id), watch: true })).await;
    // The second attempt has tried all addresses.
    for _ in 0..2 {
        while !matches!(until(&mut client).await, Event::Waiting { host, .. } if host == "c") {}
    }
    hosts[2].start().await;
    while !matches!(until(&mut client).await, Event::Done(_)) {}
}

/// The next event, which is no failure.
async fn until(client: &mut Client) -> Event {
    match client.next().await {
        Event::HostFailed { failure, .. } | Event::Failed(failure) => panic!("{failure:?}"),
        event => event,
    }
}

/// Faults of the source are told as such where the send was asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_cannot_read_says_so() {
    let sample = Recipe::new(64, &[300_000; 8]).build("demo:1");
    let hosts = two(&sample).await;
    let id = detached(&hosts[0], "demo:1", "b").await;
    let last = sample.image.layers()[7].descriptor.digest;
    std::fs::remove_file(hosts[0].layout().join("blobs/sha256").join(last.hex())).unwrap();
    let events = hosts[0].must(Request::Status(Status { id: Some(id), watch: true })).await;
    let failure = failed(&events)[0].1;
    assert!(failure.causes.concat().contains("the store of this host failed"), "{failure:?}");
    assert!(failure.causes.concat().contains(&last.to_string()), "{failure:?}");
}
