//! A member that offers what it has not, and serves what it is not.

use std::sync::Arc;

use proto::hash::{BlobHasher, RangeHash};
use proto::limits::{BLOCK_BYTES, RANGE_BYTES};
use proto::peer::{Answer, Block, BlockHeader, Encoding, Offer, Refusal, Request};
use proto::{Digest, Image, Layer};
use quinn::Connection;
use tests::fleet::{Host, fleet};
use tests::rogue::{Channel, Rogue};
use tests::sample::{Recipe, Sample, noise};

/// What a source does to the bytes of layers that it serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    None,
    /// Other bytes under the hashes of the right ones.
    Bytes,
    /// Other bytes, and hashes that fit them.
    BytesAndHashes,
    /// The right bytes, under hashes that somebody made up.
    Hashes,
    /// Other bytes, and hashes that fit them, of the first range; then it breaks off.
    Half,
}

struct Bench {
    host: Host,
    _rogue: Rogue,
    connection: Connection,
}

async fn bench() -> Bench {
    let [host, other]: [Host; 2] = fleet(&["a", "rogue"]).await.try_into().unwrap_or_else(|_| unreachable!());
    let rogue = Rogue::replace(other).await;
    let connection = rogue.connect(host.address()).await.unwrap();
    Bench { host, _rogue: rogue, connection }
}

impl Bench {
    /// Offers an image and serves what is asked for; returns the last answer, or `None` when the stream ends without one.
    async fn offer(&self, image: &Image, sample: &Sample, lie: Lie) -> Option<Answer> {
        let mut stream = Channel::ask(&self.connection, &Request::Offer(Offer { image: image.clone(), dry_run: false })).await;
        let serving = tokio::spawn(serve(self.connection.clone(), Arc::new(sample.clone()), lie));
        let mut last = None;
        while let Ok(answer) = stream.hear().await {
            last = Some(answer);
        }
        serving.abort();
        last
    }

    /// Nothing of a sample is in the store.
    async fn has_nothing_of(&self, sample: &Sample) {
        assert!(self.host.images().await.is_empty());
        for layer in sample.image.layers() {
            let path = self.host.layout().join("blobs/sha256").join(layer.descriptor.digest.hex());
            assert!(!path.exists(), "{}", path.display());
        }
    }
}

/// Offers an image, serves what is in the sample, and says how it ended.
pub(crate) async fn offered(connection: &Connection, sample: &Sample) -> Answer {
    let mut stream = Channel::ask(connection, &Request::Offer(Offer { image: sample.image.clone(), dry_run: false })).await;
    let serving = tokio::spawn(serve(connection.clone(), Arc::new(sample.clone()), Lie::None));
    loop {
        let answer = stream.hear().await.unwrap();
        if matches!(answer, Answer::Committed(_) | Answer::Refused(_)) {
            serving.abort();
            return answer;
        }
    }
}

pub(crate) async fn serve(connection: Connection, sample: Arc<Sample>, lie: Lie) {
    loop {
        let mut stream = Channel::accept(&connection).await;
        let Ok(Request::Get(get)) = stream.hear().await else { continue };
        let Some(bytes) = sample.blobs.get(&get.digest) else {
            let _ = stream.say(&Block::Refused(Refusal::BlobNotOffered(get.digest))).await;
            continue;
        };
        let is_layer = sample.image.layers().iter().any(|layer| layer.descriptor.digest == get.digest);
        let (served, hashes) = told(bytes, if is_layer { lie } else { Lie::None });
        assert!(served.len() as u64 <= BLOCK_BYTES, "the samples here fit into a block");
        let first = (get.offset / RANGE_BYTES) as usize;
        let is_half = is_layer && lie == Lie::Half;
        let most = if is_half { RANGE_BYTES } else { get.length_bytes };
        let served = &served[get.offset as usize..];
        let served = &served[..(most as usize).min(served.len())];
        let count = served.len().div_ceil(RANGE_BYTES as usize).max(1);
        let before = first.checked_sub(1).map_or(RangeHash::START, |last| hashes[last]);
        let after = hashes[first..first + count].to_vec();
        let header = BlockHeader { encoding: Encoding::Raw, encoded_bytes: served.len() as u64, before, after };
        let _ = stream.say(&Block::Bytes(header)).await;
        let _ = stream.bytes(served).await;
        let _ = stream.send.finish();
    }
}

fn told(bytes: &[u8], lie: Lie) -> (Vec<u8>, Vec<RangeHash>) {
    let mut wrong = bytes.to_vec();
    if let Some(byte) = wrong.get_mut(700) {
        *byte ^= 1;
    }
    match lie {
        Lie::None => (bytes.to_vec(), hashes(bytes)),
        Lie::Bytes => (wrong, hashes(bytes)),
        Lie::BytesAndHashes | Lie::Half => (wrong.clone(), hashes(&wrong)),
        Lie::Hashes => (bytes.to_vec(), hashes(bytes).iter().map(|hash| Digest::of(hash.as_bytes()).into()).collect()),
    }
}

fn hashes(bytes: &[u8]) -> Vec<RangeHash> {
    let mut hasher = BlobHasher::default();
    let mut hashes = vec![];
    for range in bytes.chunks(RANGE_BYTES as usize) {
        hasher.update(range);
        let last = hasher.length_bytes() == bytes.len() as u64;
        hashes.push(if last { hasher.clone().finish().into() } else { hasher.state().unwrap() });
    }
    hashes
}

fn sample() -> Sample {
    Recipe::new(90, &[150_000, 1_000]).build("demo:1")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_truth_is_taken() {
    // Else the lies below would be refused for another reason.
    let (bench, sample) = (bench().await, sample());
    let last = bench.offer(&sample.image, &sample, Lie::None).await;
    assert!(matches!(last, Some(Answer::Committed(_))), "{last:?}");
    assert_eq!(bench.host.images().await, [("demo:1".to_owned(), sample.image_id())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_never_stored() {
    let (bench, sample) = (bench().await, sample());
    for lie in [Lie::Bytes, Lie::BytesAndHashes, Lie::Hashes] {
        let last = bench.offer(&sample.image, &sample, lie).await;
        assert!(matches!(last, Some(Answer::Refused(Refusal::Corrupt(_)))), "{lie:?}: {last:?}");
        bench.has_nothing_of(&sample).await;
    }
    let last = bench.offer(&sample.image, &sample, Lie::None).await;
    assert!(matches!(last, Some(Answer::Committed(_))), "lies of before do no harm: {last:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_liar_has_left_is_not_laid_to_the_next_ones_charge() {
    let (bench, sample) = (bench().await, Recipe::new(92, &[150_000]).build("demo:1"));
    let last = bench.offer(&sample.image, &sample, Lie::Half).await;
    assert!(matches!(last, Some(Answer::Refused(Refusal::Store(_)))), "{last:?}");
    let last = bench.offer(&sample.image, &sample, Lie::None).await;
    assert_eq!(last, Some(Answer::Refused(Refusal::StoreChanged)), "a new session is asked for");
    let last = bench.offer(&sample.image, &sample, Lie::None).await;
    assert!(matches!(last, Some(Answer::Committed(_))), "{last:?}");
}

/// Changes one thing in an image.
fn changed(image: &Image, change: impl FnOnce(&mut Image)) -> Image {
    let mut image = image.clone();
    change(&mut image);
    image
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_have_to_say_what_was_offered() {
    let (bench, sample) = (bench().await, sample());
    let other = Recipe::new(91, &[2_000]).build("demo:2");
    let image = &sample.image;
    let foreign = other.image.layers()[0].clone();
    for (what, offered) in [
        ("another diff ID", changed(image, |image| image.manifests[0].layers[0].diff_id = Some(Digest::of(b"x")))),
        ("no diff ID", changed(image, |image| image.manifests[0].layers[0].diff_id = None)),
        ("another layer", changed(image, |image| image.manifests[0].layers[0] = foreign.clone())),
        ("one layer more", changed(image, |image| image.manifests[0].layers.push(foreign.clone()))),
        ("one layer less", changed(image, |image| drop(image.manifests[0].layers.pop()))),
        ("a layer that is larger", changed(image, |image| image.manifests[0].layers[0].descriptor.size_bytes += 1)),
        ("another media type", changed(image, |image| image.manifests[0].layers[0].descriptor.media_type.push('x'))),
        ("another platform", changed(image, |image| image.manifests[0].platform = None)),
        ("another config", changed(image, |image| image.manifests[0].config = other.image.manifests[0].config.clone())),
    ] {
        let mut served = sample.clone();
        served.blobs.extend(other.blobs.clone());
        let last = bench.offer(&offered, &served, Lie::None).await;
        assert!(matches!(last, Some(Answer::Refused(_))), "{what}: {last:?}");
        bench.has_nothing_of(&sample).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_beyond_the_limits_are_not_looked_at() {
    let (bench, sample) = (bench().await, sample());
    let image = &sample.image;
    let layer = |number: usize| Layer { diff_id: None, ..image.manifests[0].layers[number % 2].clone() };
    for (what, offered) in [
        ("2,000 layers", changed(image, |image| image.manifests[0].layers = (0..2_000).map(layer).collect())),
        ("a manifest of 50 GB", changed(image, |image| image.manifests[0].descriptor.size_bytes = 50_000_000_000)),
        ("a config of 50 GB", changed(image, |image| image.manifests[0].config.size_bytes = 50_000_000_000)),
        ("a layer of 2 TB", changed(image, |image| image.manifests[0].layers[0].descriptor.size_bytes = 2 << 40)),
        ("no manifest", changed(image, |image| image.manifests.clear())),
    ] {
        let last = bench.offer(&offered, &sample, Lie::None).await;
        assert!(last.is_none(), "{what}: {last:?}");
    }
    bench.has_nothing_of(&sample).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_do_not_fill_the_memory() {
    let (bench, sample) = (bench().await, sample());
    let mut image = sample.image.clone();
    let one = image.manifests[0].clone();
    for number in 0..500_u64 {
        let mut manifest = one.clone();
        manifest.config.digest = Digest::of(&noise(number, 8));
        manifest.config.size_bytes = 8 << 20;
        image.manifests.push(manifest);
    }
    let last = bench.offer(&image, &sample, Lie::None).await;
    assert!(matches!(last, Some(Answer::Refused(Refusal::InvalidImage(_) | Refusal::NoSpace { .. }))), "{last:?}");
}

/// One that says that it waits, and brings no byte of a layer that somebody else brings, in as many sessions as it may open.
#[tokio::test(flavor = "multi_thread")]
async fn who_only_waits_holds_up_no_honest_send() {
    let [host, honest, other]: [Host; 3] = fleet(&["a", "honest", "rogue"]).await.try_into().unwrap_or_else(|_| unreachable!());
    let sample = Arc::new(Recipe::new(70, &[3_000_000, 3_000_000]).build("demo:1"));
    let file = tests::sample::archive_file(honest.path(), &sample);
    load(&honest, &file).await;
    let rogue = Rogue::replace(other).await;
    let connection = rogue.connect(host.address()).await.unwrap();
    let (asked, mut waiting) = tokio::sync::mpsc::unbounded_channel();
    let serving = tokio::spawn({
        let (connection, sample) = (connection.clone(), sample.clone());
        async move {
            loop {
                let (connection, sample, asked) = (connection.clone(), sample.clone(), asked.clone());
                let mut stream = Channel::accept(&connection).await;
                tokio::spawn(async move {
                    let Ok(Request::Get(get)) = stream.hear().await else { return };
                    if sample.image.documents().iter().any(|document| document.digest == get.digest) {
                        let bytes = &sample.blobs[&get.digest];
                        let header = BlockHeader {
                            encoding: Encoding::Raw,
                            encoded_bytes: bytes.len() as u64,
                            before: RangeHash::START,
                            after: hashes(bytes),
                        };
                        let _ = stream.say(&Block::Bytes(header)).await;
                        let _ = stream.bytes(bytes).await;
                        let _ = stream.send.finish();
                        return;
                    }
                    let _ = asked.send(());
                    while stream.say(&Block::Waiting).await.is_ok() {
                        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
                    }
                });
            }
        }
    });
    let mut offers = vec![];
    for session in 0..16 {
        let mut image = sample.image.clone();
        image.reference = Some(format!("rogue:{session}").parse().unwrap());
        offers.push(Channel::ask(&connection, &Request::Offer(Offer { image, dry_run: false })).await);
    }
    // It has both layers to itself.
    waiting.recv().await.unwrap();
    waiting.recv().await.unwrap();
    honest.send("demo:1", "a").await;
    assert!(host.images().await.iter().any(|(name, id)| name == "demo:1" && *id == sample.image_id()));
    serving.abort();
}

async fn load(host: &Host, archive: &std::path::Path) {
    let mut client = tests::fleet::Client::connect(&host.socket()).await;
    client.write(&proto::control::Request::Load).await;
    client.data(&std::fs::read(archive).unwrap()).await;
    client.data(&[]).await;
    loop {
        match client.next().await {
            proto::control::Event::End => return,
            proto::control::Event::Failed(failure) => panic!("{failure:?}"),
            _ => {}
        }
    }
}
