//! Rights: what a member gets, moves or names that it may not.

use std::sync::Arc;

use proto::control::{FailureKind, Platforms, Pull, Request as Ask, Send};
use proto::peer::{Answer, Offer, Refusal, Request};
use proto::{Digest, Image, Reference};
use tests::fleet::{self, Host, done, failed, send};
use tests::rogue::{Channel, Rogue};
use tests::sample::{Recipe, Sample};

use super::members::honest_and_rogue;
use super::offers::{Lie, offered, serve};

fn pull(image: &str, from: &str) -> Ask {
    Ask::Pull(Pull {
        image: image.parse().unwrap(),
        from: Some(from.to_owned()),
        platforms: Platforms::All,
        rename: None,
        dry_run: false,
        limit_bytes_per_s: None,
    })
}

/// What a host answers to an offer in which every blob is said to be with the rogue.
async fn answer(connection: &quinn::Connection, image: &Image) -> Answer {
    let mut stream = Channel::ask(connection, &Request::Offer(Offer { image: image.clone(), dry_run: false })).await;
    stream.hear().await.unwrap()
}

/// A rogue answers a pull of a pinned image with an index that has the pinned manifest as its second one.
#[tokio::test(flavor = "multi_thread")]
async fn a_digest_pin_is_of_the_whole_image() {
    let recipes = [Recipe::new(1, &[1_000]), Recipe::new(2, &[1_000]).platform("linux/s390x")];
    let index = Sample::index("demo:1", &recipes);
    let pinned = index.image.manifests[1].descriptor.digest;
    // All of it is there already: nothing but the pin stands between this offer and the name.
    let (host, _rogue, connection) = honest_and_rogue(&[&index.clone().named("base:1")], "").await;
    let lying = async {
        loop {
            let mut stream = Channel::accept(&connection).await;
            if matches!(stream.hear().await, Ok(Request::Pull(_))) {
                stream.say(&Answer::Offer(Offer { image: index.image.clone(), dry_run: false })).await.unwrap();
                while stream.hear::<Answer>().await.is_ok() {}
                return;
            }
        }
    };
    let pulling = host.ask(pull(&format!("demo:1@{pinned}"), "rogue"));
    let (pulled, ()) = tokio::join!(pulling, lying);
    assert!(pulled.is_err(), "{pulled:?}");
    assert_eq!(host.images().await.len(), 1);
}

/// Whoever pulls by digest alone does not get a tag moved.
#[tokio::test(flavor = "multi_thread")]
async fn a_pull_by_digest_moves_no_tag() {
    let (ours, theirs) = (Sample::small("demo:latest", 1), Sample::small("demo:latest", 2));
    let mut hosts = vec![Host::new("a"), Host::new("b")];
    hosts[0].have(&ours).await;
    hosts[1].have(&theirs).await;
    fleet::found(&mut hosts).await;
    let name = format!("demo@{}", theirs.image.root.digest);
    hosts[0].must(pull(&name, "b")).await;
    let mut images = hosts[0].images().await;
    images.sort();
    assert_eq!(images, [("demo:latest".to_owned(), ours.image_id()), (name.clone(), theirs.image_id())]);
    // And such a name can be taken away again, alone.
    let remove = Ask::Remove(vec![name]);
    hosts[0].must(remove).await;
    assert_eq!(hosts[0].images().await, [("demo:latest".to_owned(), ours.image_id())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_with_a_digest_belongs_to_that_digest() {
    let (good, evil) = (Sample::small("good:1", 1), Sample::small("evil:1", 2));
    let (host, _rogue, connection) = honest_and_rogue(&[&good], "").await;
    for name in [format!("trusted@{}", good.image.root.digest), format!("trusted:1@{}", Digest::of(b"other"))] {
        let answer = answer(&connection, &evil.clone().named(&name).image).await;
        assert!(matches!(answer, Answer::Refused(Refusal::Unsupported(_))), "{answer:?}");
    }
    // Whoever sends honestly is told before anything is connected.
    let rename: Option<Reference> = Some(format!("trusted@{}", good.image.root.digest).parse().unwrap());
    let failure = host.ask(Ask::Send(Send { rename, ..send("good:1", &["rogue"]) })).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Usage, "{failure:?}");
    assert_eq!(host.images().await.len(), 1);
}

/// `demo:1@sha256:…` is kept as `demo:1`.
#[tokio::test(flavor = "multi_thread")]
async fn a_digest_in_a_name_does_not_get_round_a_rule_on_tags() {
    let (good, evil) = (Sample::small("demo:1", 1), Sample::small("demo:1", 2));
    let (host, _rogue, connection) = honest_and_rogue(&[&good], "[[push]]\nmove_tags = false\n").await;
    for name in ["demo:1".to_owned(), format!("demo:1@{}", evil.image.root.digest)] {
        let answer = answer(&connection, &evil.clone().named(&name).image).await;
        assert!(matches!(answer, Answer::Refused(Refusal::Policy(_))), "{name}: {answer:?}");
    }
    assert_eq!(host.images().await, [("demo:1".to_owned(), good.image_id())]);
}

/// Asked for by its ID, an image is still in the repository that it is in.
#[tokio::test(flavor = "multi_thread")]
async fn an_id_does_not_get_round_a_rule_on_repositories() {
    let (secret, open) = (Sample::small("acme/secret:1", 1), Sample::small("open:1", 2));
    let mut hosts = vec![Host::new("a"), Host::new("b"), Host::new("c")];
    hosts[0].have(&secret).await;
    hosts[0].have(&open).await;
    let policy = "[[pull]]\nrepositories = [\"docker.io/acme/*\"]\nallow = false\n\n[[pull]]\n";
    std::fs::write(hosts[0].path().join("policy.toml"), policy).unwrap();
    fleet::found(&mut hosts).await;
    let ask = |image: String| {
        let request = Send { from: Some("a".to_owned()), rename: Some("x:1".parse().unwrap()), ..send(&image, &["c"]) };
        hosts[1].ask(Ask::Send(request))
    };
    for id in [secret.image_id(), secret.image.root.digest] {
        for digits in [4, 12, 64] {
            let failure = ask(id.hex()[..digits].to_owned()).await.unwrap_err();
            assert_eq!(failure.kind, FailureKind::Denied, "{failure:?}");
        }
    }
    assert!(hosts[2].images().await.is_empty());
    let events = ask(open.image_id().hex()[..12].to_owned()).await.unwrap();
    assert_eq!((done(&events).len(), failed(&events).len()), (1, 0));
}

/// Whoever names a layer that is here, and that it may not pull from here, has not got it by that. Whoever has it may bring it.
#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_here_is_no_gift() {
    let secret = Recipe::new(1, &[100_000]).build("acme/secret:1");
    let (host, _rogue, connection) = honest_and_rogue(&[&secret], "[[pull]]\nrepositories = [\"docker.io/library/*\"]\n").await;
    let layer = secret.image.layers()[0];
    for diff_id in [Digest::of(b"invented"), layer.diff_id.unwrap()] {
        let stolen = Sample::naming("x:1", std::slice::from_ref(&layer.descriptor), &[diff_id]);
        let answer = offered(&connection, &stolen).await;
        assert!(matches!(answer, Answer::Refused(_)), "{answer:?}");
        // With bytes of its own that have the size.
        let mut invented = stolen.clone();
        invented.blobs.insert(layer.descriptor.digest, vec![0; layer.descriptor.size_bytes as usize].into());
        let answer = offered(&connection, &invented).await;
        assert!(matches!(answer, Answer::Refused(_)), "{answer:?}");
    }
    // The config of a secret image is no gift either.
    let config = secret.image.manifests[0].config.clone();
    let mut copy = secret.clone().named("x:1");
    copy.blobs.remove(&config.digest);
    assert!(matches!(offered(&connection, &copy).await, Answer::Refused(_)));
    assert_eq!(host.images().await.len(), 1);
    let mut own = Sample::naming("x:1", std::slice::from_ref(&layer.descriptor), &[layer.diff_id.unwrap()]);
    own.blobs.insert(layer.descriptor.digest, secret.blobs[&layer.descriptor.digest].clone());
    assert!(matches!(offered(&connection, &own).await, Answer::Committed(_)));
    assert_eq!(host.images().await.len(), 2);
    assert_eq!(host.staged_files(), 0);
    // From now on it may pull the layer, and has proved that it has it: it does not travel again.
    let next = Sample::naming("x:2", &[layer.descriptor.clone(), layer.descriptor.clone()], &[layer.diff_id.unwrap(); 2]);
    assert!(matches!(offered(&connection, &next).await, Answer::Committed(_)));
}

/// Many images for one new name at once, where tags may not move: the first one has it, and the others are refused, however close they come.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_pushes_of_a_new_name_one_is_the_first() {
    let (host, _rogue, connection) = honest_and_rogue(&[], "[[push]]\nmove_tags = false\n").await;
    for round in 0..4 {
        let name = format!("demo:{round}");
        let samples: Vec<Sample> = (0..8).map(|i| Recipe::new(1000 + round * 100 + i, &[1_000]).build(&name)).collect();
        let mut all = samples[0].clone();
        samples.iter().for_each(|sample| all.blobs.extend(sample.blobs.clone()));
        let serving = tokio::spawn(serve(connection.clone(), Arc::new(all), Lie::None));
        let mut pushes = tokio::task::JoinSet::new();
        for sample in samples {
            let connection = connection.clone();
            pushes.spawn(async move {
                let offer = Request::Offer(Offer { image: sample.image.clone(), dry_run: false });
                let mut stream = Channel::ask(&connection, &offer).await;
                loop {
                    match stream.hear().await.unwrap() {
                        Answer::Committed(_) => return true,
                        Answer::Refused(Refusal::Policy(_)) => return false,
                        Answer::Refused(refusal) => panic!("{refusal:?}"),
                        _ => {}
                    }
                }
            });
        }
        let committed = pushes.join_all().await.into_iter().filter(|committed| *committed).count();
        serving.abort();
        assert_eq!(committed, 1, "round {round}");
    }
    assert_eq!(host.images().await.len(), 4);
}

/// Who may bring images and not pull them sends a layer once.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_proved_is_remembered() {
    let samples: Vec<Sample> = (0..3)
        .map(|i| {
            let mut recipe = Recipe::new(1, &[200_000]);
            recipe.note = i.to_string();
            recipe.build(&format!("demo:{i}"))
        })
        .collect();
    let mut hosts = vec![Host::new("a"), Host::new("b")];
    for sample in &samples {
        hosts[0].have(sample).await;
    }
    hosts[1].have(&samples[0].clone().named("acme/base:1")).await;
    std::fs::write(hosts[1].path().join("policy.toml"), "[[pull]]\nby = [\"@nobody\"]\n").unwrap();
    fleet::found(&mut hosts).await;
    let mut sent = vec![];
    for sample in &samples {
        let events = hosts[0].send(&sample.image.reference.as_ref().unwrap().familiar(), "b").await;
        sent.push(done(&events)[0].layers_sent);
    }
    assert_eq!(sent, [1, 0, 0]);
}

/// A rogue names a layer that another host is about to bring, and holds back its documents until that one has. It has to send the layer all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_comes_meanwhile_is_no_gift() {
    let secret = Recipe::new(1, &[100_000]).build("acme/secret:1");
    let mut hosts = vec![Host::new("a"), Host::new("b"), Host::new("rogue")];
    hosts[1].have(&secret).await;
    std::fs::write(hosts[0].path().join("policy.toml"), "[[pull]]\nrepositories = [\"docker.io/library/*\"]\n").unwrap();
    fleet::found(&mut hosts).await;
    let rogue = Rogue::replace(hosts.pop().unwrap()).await;
    let connection = rogue.connect(hosts[0].address()).await.unwrap();
    let layer = secret.image.layers()[0];
    let stolen = Sample::naming("x:1", std::slice::from_ref(&layer.descriptor), &[layer.diff_id.unwrap()]);
    let offer = Request::Offer(Offer { image: stolen.image.clone(), dry_run: false });
    let mut stream = Channel::ask(&connection, &offer).await;
    assert!(matches!(stream.hear().await, Ok(Answer::Want(_))));
    hosts[1].send("acme/secret:1", "a").await;
    // Now it serves its documents, which is all that it has.
    let serving = tokio::spawn(serve(connection.clone(), Arc::new(stolen), Lie::None));
    let answer = loop {
        let answer = stream.hear().await.unwrap();
        if matches!(answer, Answer::Committed(_) | Answer::Refused(_)) {
            break answer;
        }
    };
    serving.abort();
    assert!(matches!(answer, Answer::Refused(_)), "{answer:?}");
    assert_eq!(hosts[0].images().await.len(), 1);
}
