//! A member that does not keep to its part: as a receiver, and as a reader.

use proto::control::{Event, FailureKind, Platforms, Request as Ask};
use proto::limits::RANGE_BYTES;
use proto::peer::{Answer, Block, Committed, Get, Missing, Offer, Progress, Pull, Refusal, Request, Want};
use proto::{Digest, Image};
use quinn::Connection;
use tests::fleet::{self, Host, failed, send_request};
use tests::rogue::{Channel, Rogue};
use tests::sample::{Recipe, Sample};

/// An honest host with images and a policy, and a connection of a rogue to it.
pub(super) async fn honest_and_rogue(has: &[&Sample], policy: &str) -> (Host, Rogue, Connection) {
    let mut hosts = vec![Host::new("a"), Host::new("rogue")];
    for sample in has {
        hosts[0].have(sample).await;
    }
    std::fs::write(hosts[0].path().join("policy.toml"), policy).unwrap();
    fleet::found(&mut hosts).await;
    let rogue = Rogue::replace(hosts.pop().unwrap()).await;
    let host = hosts.pop().unwrap();
    let connection = rogue.connect(host.address()).await.unwrap();
    // When it answers, it knows the connection, and asks on it.
    let mut stream = Channel::ask(&connection, &Request::List).await;
    stream.hear::<Answer>().await.unwrap();
    (host, rogue, connection)
}

fn sample() -> Sample {
    Recipe::new(80, &[300_000]).build("demo:1")
}

async fn refusal(connection: &Connection, get: Get) -> Option<Refusal> {
    let mut stream = Channel::ask(connection, &Request::Get(get)).await;
    match stream.hear().await {
        Ok(Block::Refused(refusal)) => Some(refusal),
        Ok(Block::Bytes(_) | Block::Waiting | Block::Hashing(_)) => panic!("served"),
        Err(_) => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_was_offered_is_served_and_only_in_whole_ranges() {
    let sample = sample();
    let (_host, _rogue, connection) = honest_and_rogue(&[&sample], "").await;
    let layer = sample.image.layers()[0].descriptor.clone();
    let get = |offset, length_bytes| Get { digest: layer.digest, offset, length_bytes };
    assert_eq!(refusal(&connection, get(0, RANGE_BYTES)).await, Some(Refusal::BlobNotOffered(layer.digest)));
    let pull = Pull { reference: "demo:1".parse().unwrap(), platform: None, dry_run: false };
    let mut standing = Channel::ask(&connection, &Request::Pull(pull)).await;
    assert!(matches!(standing.hear().await, Ok(Answer::Offer(_))));
    let unknown = Digest::of(b"something else");
    let other = Get { digest: unknown, offset: 0, length_bytes: 1 };
    assert_eq!(refusal(&connection, other).await, Some(Refusal::BlobNotOffered(unknown)));
    for (offset, length_bytes) in
        [(0, layer.size_bytes + 1), (0, 5), (RANGE_BYTES, 0), (RANGE_BYTES * 64, RANGE_BYTES), (RANGE_BYTES, layer.size_bytes)]
    {
        assert_eq!(refusal(&connection, get(offset, length_bytes)).await, Some(Refusal::OutOfTurn), "{offset} {length_bytes}");
    }
    for (offset, length_bytes) in [(1, RANGE_BYTES), (u64::MAX / RANGE_BYTES * RANGE_BYTES, RANGE_BYTES), (0, u64::MAX)] {
        assert_eq!(refusal(&connection, get(offset, length_bytes)).await, None, "{offset} {length_bytes}");
    }
    // The offer ends with its stream.
    let mut served = Channel::ask(&connection, &Request::Get(get(0, RANGE_BYTES))).await;
    assert!(matches!(served.hear().await, Ok(Block::Bytes(_))));
    drop(standing);
    while refusal_or_bytes(&connection, get(0, RANGE_BYTES)).await.is_none() {
        tokio::task::yield_now().await;
    }
}

/// `None` while it is still served.
async fn refusal_or_bytes(connection: &Connection, get: Get) -> Option<Refusal> {
    let mut stream = Channel::ask(connection, &Request::Get(get)).await;
    match stream.hear().await.unwrap() {
        Block::Refused(refusal) => Some(refusal),
        Block::Bytes(_) | Block::Waiting | Block::Hashing(_) => None,
    }
}

/// Answers that no receiver gives, for an image.
fn wrong_answers(image: &Image) -> Vec<(&'static str, Vec<Answer>)> {
    let layer = image.layers()[0].descriptor.clone();
    let missing = |digest, size_bytes, staged_bytes| Want { missing: vec![Missing { digest, size_bytes, staged_bytes }] };
    let want = Answer::Want(missing(layer.digest, layer.size_bytes, 0));
    let progress = |verified_bytes| Answer::Progress(Progress { digest: layer.digest, verified_bytes });
    let config_digest = image.manifests[0].config.digest;
    let committed = Answer::Committed(Committed { image_id: config_digest, config_digest, received_bytes: 0, replaced: None });
    let other = Answer::Committed(Committed { image_id: layer.digest, config_digest: layer.digest, received_bytes: 0, replaced: None });
    vec![
        ("progress before the plan", vec![progress(1)]),
        ("an end before the plan", vec![committed]),
        ("a blob that was not offered", vec![Answer::Want(missing(Digest::of(b"x"), 1, 0))]),
        ("another size", vec![Answer::Want(missing(layer.digest, 1, 0))]),
        ("more staged than there is", vec![Answer::Want(missing(layer.digest, layer.size_bytes, layer.size_bytes + 1))]),
        ("two plans", vec![want.clone(), want.clone()]),
        ("progress that goes back", vec![want.clone(), progress(9), progress(8)]),
        ("progress beyond the end", vec![want.clone(), progress(layer.size_bytes + 1)]),
        ("another image", vec![want, other]),
        ("an answer to something else", vec![Answer::Done]),
        ("a list", vec![Answer::Images(vec![])]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_out_of_turn_ends_the_send() {
    let sample = sample();
    let (host, _rogue, connection) = honest_and_rogue(&[&sample], "").await;
    for (what, answers) in wrong_answers(&sample.image) {
        let lying = async {
            let mut stream = Channel::accept(&connection).await;
            assert!(matches!(stream.hear().await, Ok(Request::Offer(_))));
            for answer in &answers {
                let _ = stream.say(answer).await;
            }
            stream
        };
        let (events, _stream) = tokio::join!(host.must(send_request("demo:1", &["rogue"])), lying);
        assert_eq!(failed(&events).len(), 1, "{what}: {events:?}");
    }
    assert_eq!(host.images().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_asked_does_not_choose_the_name() {
    let sample = sample();
    let (host, _rogue, connection) = honest_and_rogue(&[&sample], "").await;
    // All of it is there already: nothing but its name stands between this offer and the store.
    let other = sample.clone().named("base:1");
    let pull = proto::control::Pull {
        image: "wanted:1".parse().unwrap(),
        from: Some("rogue".to_owned()),
        platforms: Platforms::All,
        rename: None,
        dry_run: false,
        limit_bytes_per_s: None,
    };
    let lying = async {
        loop {
            let mut stream = Channel::accept(&connection).await;
            if matches!(stream.hear().await, Ok(Request::Pull(_))) {
                stream.say(&Answer::Offer(Offer { image: other.image.clone(), dry_run: false })).await.unwrap();
                while stream.hear::<Answer>().await.is_ok() {}
                return;
            }
            // Anything else is a question that needs no true answer.
            let _ = stream.say(&Answer::Described(Some(other.image.clone()))).await;
        }
    };
    let (pulled, ()) = tokio::join!(host.ask(Ask::Pull(pull)), lying);
    let failures = match pulled {
        Ok(events) => events.into_iter().filter(|event| matches!(event, Event::HostFailed { .. })).count(),
        Err(failure) => usize::from(failure.kind != FailureKind::Usage),
    };
    assert_eq!(failures, 1);
    assert_eq!(host.images().await, [("demo:1".to_owned(), sample.image_id())]);
}
