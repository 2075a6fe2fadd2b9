//! A member that makes an agent keep things: many large offers, answers without an end.

use proto::descriptor::media_type;
use proto::limits::{CONNECTIONS_PER_HOST, IMAGE_BLOBS, LAYERS};
use proto::peer::{Answer, Offer, Request};
use proto::{Descriptor, Digest};
use tests::rogue::Channel;
use tests::sample::{Recipe, Sample, archive_file};

use super::{MIB, address, rogue, with_rogue};

/// A layer that exists only in what somebody says.
fn layer(number: usize) -> Descriptor {
    let digest = Digest::of(&number.to_le_bytes());
    Descriptor { media_type: media_type::LAYER.to_owned(), digest, size_bytes: 1 }
}

/// As many blobs as an image may have, in as many sessions as a member may open.
#[tokio::test(flavor = "multi_thread")]
async fn offers_of_very_many_blobs_cost_little() {
    let (host, other) = with_rogue();
    let (address, rogue) = (address(&host), rogue(&other));
    let mut image = Sample::small("demo:1", 1).image;
    let manifest = image.manifests[0].clone();
    image.manifests = (0..IMAGE_BLOBS / LAYERS - 1)
        .map(|i| {
            let mut manifest = manifest.clone();
            for (j, own) in [&mut manifest.descriptor, &mut manifest.config].into_iter().enumerate() {
                own.digest = Digest::of(format!("{i} {j}").as_bytes());
            }
            let layers = (0..LAYERS - 2).map(|j| proto::Layer { descriptor: layer(i * LAYERS + j), diff_id: Some(Digest::of(b"x")) });
            manifest.layers = layers.collect();
            manifest
        })
        .collect();
    let connection = rogue.connect(address).await.unwrap();
    let before = host.resident_bytes();
    let mut held = vec![];
    for number in 0..16 {
        image.reference = Some(format!("demo:{number}").parse().unwrap());
        let offer = Request::Offer(Offer { image: image.clone(), dry_run: false });
        let mut stream = Channel::ask(&connection, &offer).await;
        let answer = stream.hear::<Answer>().await;
        held.push((stream, answer));
        // Who is honest is served meanwhile.
        host.must(&["status"]);
    }
    let grown = host.peak_resident_bytes().saturating_sub(before);
    println!("offers of very many blobs: the agent grew by {:.1} MiB", grown as f64 / MIB as f64);
    assert!(grown <= 32 * MIB, "{grown} bytes; {:?}", held.last().map(|(_, answer)| answer));
}

/// A list of images that does not end is given up.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_without_an_end_is_given_up() {
    let (host, other) = with_rogue();
    let rogue = rogue(&other);
    let connection = rogue.connect(address(&host)).await.unwrap();
    let mut greeted = Channel::ask(&connection, &Request::List).await;
    greeted.hear::<Answer>().await.unwrap();
    let before = host.resident_bytes();
    let row = proto::peer::ImageRow {
        reference: Some("demo:1".parse().unwrap()),
        image_id: Digest::of(b"id"),
        root: Digest::of(b"root"),
        platforms: vec![proto::Platform::host(); 8],
        size_bytes: 1,
        complete: true,
        tagged_unix_s: 1,
    };
    let answering = tokio::spawn(async move {
        loop {
            let mut stream = Channel::accept(&connection).await;
            let Ok(Request::List) = stream.hear().await else { continue };
            while stream.say(&Answer::Images(vec![row.clone(); 1024])).await.is_ok() {}
        }
    });
    let listed = tokio::task::spawn_blocking(move || {
        let output = host.run(&["ls", "rogue"]);
        (output, host)
    });
    let (output, host) = listed.await.unwrap();
    answering.abort();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("more images than any host has"), "{said}");
    let grown = host.peak_resident_bytes().saturating_sub(before);
    println!("a list without an end: the agent grew by {:.1} MiB", grown as f64 / MIB as f64);
    assert!(grown <= 48 * MIB, "{grown} bytes");
}

/// What repeats costs as much as what does not.
#[tokio::test(flavor = "multi_thread")]
async fn an_offer_that_names_one_layer_again_and_again_costs_little() {
    let (host, other) = with_rogue();
    let (address, rogue) = (address(&host), rogue(&other));
    let mut image = Sample::small("demo:1", 1).image;
    let manifest = image.manifests[0].clone();
    let mut same = proto::Layer { descriptor: layer(1), diff_id: Some(Digest::of(b"x")) };
    same.descriptor.media_type = "x".repeat(150);
    image.manifests = (0..IMAGE_BLOBS / LAYERS - 1)
        .map(|i| {
            let mut manifest = manifest.clone();
            manifest.descriptor.digest = Digest::of(&i.to_le_bytes());
            manifest.layers = vec![same.clone(); LAYERS - 2];
            manifest
        })
        .collect();
    let connection = rogue.connect(address).await.unwrap();
    let before = host.resident_bytes();
    let mut held = vec![];
    for number in 0..16 {
        image.reference = Some(format!("demo:{number}").parse().unwrap());
        let mut stream = Channel::ask(&connection, &Request::Offer(Offer { image: image.clone(), dry_run: false })).await;
        // The first one is looked at; for the others there is no room, or they wait for their turn.
        if number == 0 {
            let _ = stream.hear::<Answer>().await;
        }
        held.push(stream);
        host.must(&["status"]);
    }
    let grown = host.peak_resident_bytes().saturating_sub(before);
    println!("one layer again and again: the agent grew by {:.1} MiB", grown as f64 / MIB as f64);
    assert!(grown <= 40 * MIB, "{grown} bytes");
}

/// Texts without a bound, in a list.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_long_texts_is_refused() {
    let (host, other) = with_rogue();
    let rogue = rogue(&other);
    let connection = rogue.connect(address(&host)).await.unwrap();
    let mut greeted = Channel::ask(&connection, &Request::List).await;
    greeted.hear::<Answer>().await.unwrap();
    let before = host.resident_bytes();
    let mut platform = proto::Platform::host();
    platform.os = "x".repeat(3 << 20);
    let row = proto::peer::ImageRow {
        reference: None,
        image_id: Digest::of(b"id"),
        root: Digest::of(b"root"),
        platforms: vec![platform],
        size_bytes: 1,
        complete: true,
        tagged_unix_s: 1,
    };
    let answering = tokio::spawn(async move {
        loop {
            let mut stream = Channel::accept(&connection).await;
            let Ok(Request::List) = stream.hear().await else { continue };
            while stream.say(&Answer::Images(vec![row.clone()])).await.is_ok() {}
        }
    });
    let listed = tokio::task::spawn_blocking(move || (host.run(&["ls", "rogue"]), host));
    let (output, host) = listed.await.unwrap();
    answering.abort();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("than the limits allow"), "{said}");
    let grown = host.peak_resident_bytes().saturating_sub(before);
    assert!(grown <= 48 * MIB, "{grown} bytes");
}

/// Descriptions of an image that has as many layers as an image may have, asked for on every stream there is.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_cost_little() {
    let (host, other) = with_rogue();
    let recipes: Vec<Recipe> = (0..12).map(|seed| Recipe::new(seed, &[0; 1000])).collect();
    let sample = Sample::index("demo:large", &recipes);
    host.must(&["load", "-i", archive_file(host.path(), &sample).to_str().unwrap()]);
    let (address, rogue) = (address(&host), rogue(&other).reading_nothing());
    let before = host.resident_bytes();
    let mut held = vec![];
    for _ in 0..CONNECTIONS_PER_HOST {
        let connection = rogue.connect(address).await.unwrap();
        for _ in 0..60 {
            held.push((Channel::ask(&connection, &Request::Describe("demo:large".parse().unwrap())).await, connection.clone()));
        }
    }
    // All of them have been looked at, as far as they will be.
    host.must(&["ls"]);
    host.must(&["fleet", "remove", "rogue"]);
    let grown = host.peak_resident_bytes().saturating_sub(before);
    println!("answers that nobody reads: {} streams, the agent grew by {:.1} MiB", held.len(), grown as f64 / MIB as f64);
    assert!(grown <= 48 * MIB, "{grown} bytes");
}
