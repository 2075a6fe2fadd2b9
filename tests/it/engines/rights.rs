//! Rules of a host whose engine keeps layers unpacked, and shows no manifests: they hold there, too.

use agent::store::engine::{Deadlines, Engine, EngineStore, Settings};
use proto::control::{FailureKind, Fleet, Request as Ask, Send};
use proto::peer::Answer;
use tests::conformance::bring;
use tests::engine::docker::Docker;
use tests::engine::podman::Podman;
use tests::fleet::{Host, join, send};
use tests::rogue::Rogue;
use tests::sample::{Recipe, Sample};
use tests::skipped;

use crate::abuse::offers::offered;

const POLICY: &str =
    "[[push]]\nmove_tags = \"same-sender\"\n\n[[pull]]\nrepositories = [\"docker.io/acme/*\"]\nallow = false\n\n[[pull]]\n";

async fn rules_hold(settings: Settings<'_>) {
    let secret = Recipe::new(1, &[100_000]).build("acme/secret:1");
    let open = Sample::small("open:1", 2);
    let store = EngineStore::open(settings).unwrap();
    bring(&store, &secret).await.unwrap();
    let (mut host, mut other, mut rogue) = (Host::new("a"), Host::new("b"), Host::new("rogue"));
    std::fs::write(host.path().join("policy.toml"), POLICY).unwrap();
    host.start_with(store).await;
    other.have(&open).await;
    for member in [&mut other, &mut rogue] {
        member.peers = vec![host.address().to_string()];
        member.start().await;
    }
    host.must(Ask::Fleet(Fleet::Init)).await;
    for member in [&other, &rogue] {
        join(&host, member).await.unwrap();
        member.must(Ask::Peers).await;
    }
    // An ID does not get round the rule on the repository.
    let by_id = Send { from: Some("a".to_owned()), rename: Some("x:1".parse().unwrap()), ..send(&secret.image_id().hex()[..12], &["b"]) };
    let failure = rogue.ask(Ask::Send(by_id)).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Denied, "{failure:?}");
    // What a tag shows already does not move it.
    other.send("open:1", "a").await;
    other.send("open:1", "a").await;
    let rogue = Rogue::replace(rogue).await;
    let connection = rogue.connect(host.address()).await.unwrap();
    let answer = offered(&connection, &open).await;
    assert!(matches!(answer, Answer::Committed(_)), "{answer:?}");
    let evil = Sample::small("open:1", 3);
    let answer = offered(&connection, &evil).await;
    assert!(matches!(answer, Answer::Refused(_)), "{answer:?}");
    // A layer that is here is no gift, by whatever digest its diff ID is named.
    let layer = secret.image.layers()[0];
    let packed = proto::Descriptor { digest: proto::Digest::of(b"invented"), ..layer.descriptor.clone() };
    for named in [&layer.descriptor, &packed] {
        let stolen = Sample::naming("x:1", std::slice::from_ref(named), &[layer.diff_id.unwrap()]);
        let answer = offered(&connection, &stolen).await;
        assert!(matches!(answer, Answer::Refused(_)), "{answer:?}");
    }
    let mut own = Sample::naming("x:1", std::slice::from_ref(&layer.descriptor), &[layer.diff_id.unwrap()]);
    own.blobs.insert(layer.descriptor.digest, secret.blobs[&layer.descriptor.digest].clone());
    let answer = offered(&connection, &own).await;
    assert!(matches!(answer, Answer::Committed(_)), "{answer:?}");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_hold_on_docker() {
    let Some(binary) = Docker::system() else { return skipped("no Docker Engine here (apt-get install docker.io)") };
    let docker = Docker::start(&binary, "overlay2");
    let state = tempfile::tempdir().unwrap();
    let settings = Settings { engine: Engine::Docker, socket: docker.socket(), state_dir: state.path(), deadlines: Deadlines::default() };
    Box::pin(rules_hold(settings)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_hold_on_podman() {
    if !Podman::is_installed() {
        return skipped("no Podman here (apt-get install podman)");
    }
    let podman = Podman::start();
    let state = tempfile::tempdir().unwrap();
    let settings = Settings { engine: Engine::Podman, socket: podman.socket(), state_dir: state.path(), deadlines: Deadlines::default() };
    Box::pin(rules_hold(settings)).await;
}
