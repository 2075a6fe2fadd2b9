//! Tags of our own in engines that keep layers unpacked: none is left, and none takes an image along that should stay. Each check takes an
//! engine without images.

use std::path::PathBuf;
use std::time::Duration;

use agent::store::engine::{Deadlines, Engine, EngineStore, Settings};
use agent::store::{Import, Store};
use proto::Digest;
use proto::image::Selection;
use tempfile::TempDir;
use tests::conformance::{bring, query};
use tests::engine::docker::Docker;
use tests::engine::host::{self, Host};
use tests::engine::podman::Podman;
use tests::sample::{Recipe, Sample, archive_file, layer_tar, noise};
use tests::skipped;

use super::docker::of_layers;
use super::loads::{feed, sample};

/// The name that moves, as engines write it.
const NAME: &str = "docker.io/library/demo:app";
/// What an engine lists of an image without a name.
const NONE: &str = "<none>:<none>";

/// An engine and its own tool.
pub(crate) struct Tool<'a> {
    pub(crate) engine: Engine,
    pub(crate) socket: PathBuf,
    pub(crate) run: &'a dyn Fn(&[&str]) -> String,
    pub(crate) clear: &'a dyn Fn(),
}

impl Tool<'_> {
    fn run(&self, arguments: &[&str]) {
        (self.run)(arguments);
    }

    /// All that the engine lists, without registries, sorted.
    fn names(&self) -> Vec<String> {
        let list = (self.run)(&["images", "--all", "--format", "{{.Repository}}:{{.Tag}}"]);
        let mut names: Vec<String> = list.lines().map(|name| name.rsplit('/').next().unwrap().to_owned()).collect();
        names.sort();
        names
    }

    fn has(&self, id: &Digest) -> bool {
        (self.run)(&["images", "--all", "--quiet", "--no-trunc"]).contains(&id.hex())
    }

    fn open(&self, state: &TempDir) -> EngineStore {
        let deadlines = Deadlines::default();
        EngineStore::open(Settings { engine: self.engine, socket: self.socket.clone(), state_dir: state.path(), deadlines }).unwrap()
    }

    /// Another image takes the name, as with the engine's own load.
    fn move_name(&self, to: &Sample) {
        self.run(&["tag", &to.image_id().hex(), NAME]);
    }
}

/// All checks.
pub(crate) async fn check(tool: Tool<'_>) {
    macro_rules! checks {
        ($($check:ident),*) => { $({
            let state = tempfile::tempdir().unwrap();
            println!("{}", stringify!($check));
            Box::pin($check(&tool, &tool.open(&state), &state)).await;
            (tool.clear)();
        })* };
    }
    checks!(
        a_send_keeps_the_image_that_had_the_name,
        sends_at_once_keep_it,
        a_base_that_loses_its_name_stays,
        what_is_read_stays_when_its_name_moves,
        what_a_container_uses_stays,
        what_is_removed_goes_with_its_last_pin,
        what_arrives_after_it_was_removed_stays,
        what_a_killed_agent_left,
        names_change_one_after_the_other,
        questions_that_are_given_up
    );
}

/// Images of which each has the layers of the one before.
fn versions<const N: usize>(seed: u64) -> [Sample; N] {
    let sizes = [50_000, 60_000, 70_000, 80_000];
    std::array::from_fn(|count| {
        let mut recipe = Recipe::new(seed, &sizes[..=count]);
        recipe.note = format!("version {count}");
        recipe.build(NAME)
    })
}

async fn a_send_keeps_the_image_that_had_the_name(tool: &Tool<'_>, store: &EngineStore, _: &TempDir) {
    let [old, new] = versions(400);
    bring(store, &old).await.unwrap();
    let (imported, _) = bring(store, &new).await.unwrap();
    assert_eq!(imported.replaced, Some(old.image_id()));
    assert_eq!(tool.names(), [NONE, "demo:app"]);
    assert!(tool.has(&old.image_id()));
    // The way back.
    let (imported, written) = bring(store, &old).await.unwrap();
    assert_eq!((imported.replaced, written), (Some(new.image_id()), vec![]));
    assert_eq!(tool.names(), [NONE, "demo:app"]);
}

async fn sends_at_once_keep_it(tool: &Tool<'_>, store: &EngineStore, _: &TempDir) {
    let [old, a, b, c] = versions(401);
    bring(store, &old).await.unwrap();
    let (first, second, third) = tokio::join!(bring(store, &a), bring(store, &b), bring(store, &c));
    let replaced = [first, second, third].map(|result| result.unwrap().0.replaced.unwrap());
    assert!(replaced.contains(&old.image_id()), "{replaced:?}");
    store.close().await;
    assert_eq!(tool.names(), [NONE, NONE, NONE, "demo:app"]);
}

async fn a_base_that_loses_its_name_stays(tool: &Tool<'_>, store: &EngineStore, _: &TempDir) {
    let [old, new] = versions(402);
    bring(store, &old).await.unwrap();
    let mut import = store.import(new.image.clone()).await.unwrap();
    let missing = import.missing().await.unwrap();
    tool.run(&["rmi", NAME]);
    for blob in &missing {
        feed(&import, blob, &new.blobs[&blob.digest]).await.unwrap();
    }
    assert_eq!(import.commit().await.unwrap().replaced, None);
    store.close().await;
    assert_eq!(tool.names(), [NONE, "demo:app"]);
}

async fn what_is_read_stays_when_its_name_moves(tool: &Tool<'_>, store: &EngineStore, _: &TempDir) {
    let [old, new] = versions(403);
    bring(store, &old).await.unwrap();
    bring(store, &new.clone().named("demo:other")).await.unwrap();
    // Each lease has a pin of its own.
    let held = [
        store.resolve(&query("demo:app"), Selection::All).await.unwrap(),
        store.resolve(&query("demo:app"), Selection::All).await.unwrap(),
    ];
    tool.move_name(&new);
    assert!(store.list().await.unwrap().iter().any(|row| row.reference.is_none() && row.image_id == old.image_id()), "it is still listed");
    drop(held);
    store.close().await;
    assert_eq!(tool.names(), [NONE, "demo:app", "demo:other"]);
    store.remove(&query(&old.image_id().hex())).await.unwrap();
    assert!(!tool.has(&old.image_id()));
}

async fn what_a_container_uses_stays(tool: &Tool<'_>, store: &EngineStore, _: &TempDir) {
    let layer = |seed| layer_tar("file", &noise(seed, 1_000)).into();
    let old = of_layers(NAME, &[layer(404)]);
    let new = of_layers(NAME, &[layer(404), layer(405)]);
    bring(store, &old).await.unwrap();
    tool.run(&["create", "--name", "user", "--network", "none", NAME]);
    bring(store, &new).await.unwrap();
    assert_eq!(tool.names(), [NONE, "demo:app"]);
    tool.run(&["rm", "user"]);
    assert!(tool.has(&old.image_id()));
    // A container keeps what was removed while it was read.
    tool.run(&["create", "--name", "user", "--network", "none", NAME]);
    let held = store.resolve(&query("demo:app"), Selection::All).await.unwrap();
    store.remove(&query("demo:app")).await.unwrap();
    drop(held);
    store.close().await;
    assert_eq!(tool.names(), [NONE, NONE]);
    tool.run(&["rm", "user"]);
}

async fn what_is_removed_goes_with_its_last_pin(tool: &Tool<'_>, store: &EngineStore, _: &TempDir) {
    let [named, nameless] = versions(406);
    bring(store, &named).await.unwrap();
    bring(store, &nameless.clone().untagged()).await.unwrap();
    let first = store.resolve(&query("demo:app"), Selection::All).await.unwrap();
    let second = store.resolve(&query("demo:app"), Selection::All).await.unwrap();
    let third = store.resolve(&query(&nameless.image_id().hex()), Selection::All).await.unwrap();
    store.remove(&query("demo:app")).await.unwrap();
    store.remove(&query(&nameless.image_id().hex())).await.unwrap();
    assert!(store.list().await.unwrap().is_empty());
    drop((first, third));
    store.close().await;
    assert!(!tool.has(&nameless.image_id()));
    assert!(tool.has(&named.image_id()), "it is still read");
    drop(second);
    store.close().await;
    assert_eq!(tool.names(), Vec::<String>::new());
}

async fn what_arrives_after_it_was_removed_stays(tool: &Tool<'_>, store: &EngineStore, _: &TempDir) {
    let [named, nameless] = versions(407);
    bring(store, &named).await.unwrap();
    bring(store, &nameless.clone().untagged()).await.unwrap();
    let held = [
        store.resolve(&query("demo:app"), Selection::All).await.unwrap(),
        store.resolve(&query(&nameless.image_id().hex()), Selection::All).await.unwrap(),
    ];
    store.remove(&query("demo:app")).await.unwrap();
    store.remove(&query(&nameless.image_id().hex())).await.unwrap();
    bring(store, &named).await.unwrap();
    bring(store, &nameless.clone().untagged()).await.unwrap();
    tool.move_name(&nameless);
    drop(held);
    store.close().await;
    assert_eq!(tool.names(), [NONE, "demo:app"]);
}

/// Its pins go when it comes back, and take nothing along: not what lost its name meanwhile, nor what a container uses.
async fn what_a_killed_agent_left(tool: &Tool<'_>, store: &EngineStore, state: &TempDir) {
    let [new, _] = versions(408);
    let layer = layer_tar("file", &noise(409, 1_000)).into();
    let old = of_layers(NAME, &[layer]);
    let killed = tool.open(state);
    bring(store, &new.clone().named("demo:other")).await.unwrap();
    bring(&killed, &old).await.unwrap();
    let held = killed.resolve(&query("demo:app"), Selection::All).await.unwrap();
    // Nobody is left to take the tag away.
    drop(killed);
    drop(held);
    tool.run(&["create", "--name", "user", "--network", "none", NAME]);
    tool.move_name(&new);
    // An anchor that no tag has moved to yet.
    let id = std::fs::read_to_string(state.path().join(tool.engine.kind()).join("agent")).unwrap();
    let config = serde_json::json!({"config": {"Labels": {"imgctl.partial": format!("{id} {}", u32::MAX)}}});
    bring(store, &anchor(config).untagged()).await.unwrap();
    assert_eq!(tool.names().len(), 4);
    let again = tool.open(state);
    assert_eq!(again.list().await.unwrap().len(), 3);
    assert_eq!(tool.names(), [NONE, "demo:app", "demo:other"]);
    tool.run(&["rm", "user"]);
    assert!(tool.has(&old.image_id()));
}

/// An image without layers.
fn anchor(mut config: serde_json::Value) -> Sample {
    let platform = proto::Platform::host();
    config["architecture"] = platform.architecture.into();
    config["os"] = platform.os.into();
    config["rootfs"] = serde_json::json!({"type": "layers", "diff_ids": []});
    sample(NAME, &[], config)
}

/// Podman 4.3 undoes one of two changes of an image's names that meet.
async fn names_change_one_after_the_other(tool: &Tool<'_>, store: &EngineStore, _: &TempDir) {
    let [image] = versions(410);
    bring(store, &image).await.unwrap();
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let store = store.clone();
        readers.spawn(async move {
            for _ in 0..8 {
                drop(store.resolve(&query("demo:app"), Selection::All).await.unwrap());
            }
        });
    }
    while let Some(ended) = readers.join_next().await {
        ended.unwrap();
    }
    store.close().await;
    assert_eq!(tool.names(), ["demo:app"]);
}

/// The engine may carry out what nobody waits for any more.
async fn questions_that_are_given_up(tool: &Tool<'_>, store: &EngineStore, _: &TempDir) {
    let [image] = versions(411);
    bring(store, &image).await.unwrap();
    let started = std::time::Instant::now();
    drop(store.resolve(&query("demo:app"), Selection::All).await.unwrap());
    let whole = started.elapsed();
    for part in 1..=40 {
        let resolved = tokio::time::timeout(whole * part / 40, store.resolve(&query("demo:app"), Selection::All)).await;
        drop(resolved);
    }
    // The housekeeping of every hour finds what was carried out late.
    let tidy = async {
        while tool.names() != ["demo:app"] {
            store.maintain().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(20), tidy).await.unwrap();
}

/// With the programs: an image under a name that another one had, to an engine with a container of that one.
#[test]
fn a_send_deletes_nothing() {
    let docker = Docker::system().map(|binary| host::Engine::Docker(Docker::start(&binary, "overlay2")));
    let podman = Podman::is_installed().then(|| host::Engine::Podman(Podman::start()));
    if docker.is_none() || podman.is_none() {
        skipped("no Docker Engine or no Podman here (apt-get install docker.io podman)");
    }
    let source = Host::start("source", host::Engine::Layout);
    let engines = [("docker", docker), ("podman", podman)].into_iter();
    let targets: Vec<Host> = engines.filter_map(|(name, engine)| Some(Host::start(name, engine?))).collect();
    host::found(&[&source].into_iter().chain(&targets).collect::<Vec<_>>());
    for target in &targets {
        let name = target.name();
        let layers: Vec<bytes::Bytes> = [412, 413].map(|seed| layer_tar("file", &noise(seed, 1_000)).into()).into();
        let [old, new] = [1, 2].map(|count| of_layers(&format!("app:{count}"), &layers[..count]));
        for image in [&old, &new] {
            source.agent.must(&["load", "-i", archive_file(source.agent.path(), image).to_str().unwrap()]);
        }
        source.agent.must(&["send", "app:1", name, "--as", "app:now"]);
        target.said(&["create", "--name", "user", "--network", "none", &target.own_name("app:now")]);
        source.agent.must(&["send", "app:2", name, "--as", "app:now"]);
        assert_eq!(target.id("app:now"), new.image_id().to_string());
        target.has_only(&[NONE, "app:now"]);
        target.said(&["rm", "user"]);
        assert_eq!(target.row("app:now")["image_id"], new.image_id().to_string());
        target.said(&["image", "inspect", &old.image_id().hex()]);
        // What the receiver offers in turn has no further name, either.
        target.agent.must(&["send", "app:now", "source", "--as", "back:1"]);
        target.has_only(&[NONE, "app:now"]);
    }
}
