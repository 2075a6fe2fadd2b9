//! A member that opens what it can, and neither reads nor finishes.

use std::time::Duration;

use proto::limits::{CONNECTIONS_PER_HOST, FRAME, RANGE_BYTES};
use proto::peer::{Answer, Get, Pull, Request};
use quinn::Connection;
use tests::fleet::PATIENCE;
use tests::rogue::Channel;
use tests::sample::{Recipe, archive_file};
use tokio::task::JoinSet;

use super::{MIB, address, rogue, with_rogue};

/// Opens streams until there are no more, and writes these bytes to each, as far as the windows let it. All stay open.
async fn open_all(connection: &Connection, bytes: &[u8]) -> (usize, JoinSet<Channel>) {
    let mut writing = JoinSet::new();
    // A peer without a limit would be filled for ever.
    while writing.len() < 1000 {
        let opened = tokio::time::timeout(Duration::from_millis(500), connection.open_bi()).await;
        let Ok(Ok((send, receive))) = opened else { break };
        let (mut channel, bytes) = (Channel { send, receive }, bytes.to_vec());
        writing.spawn(async move {
            let _ = channel.bytes(&bytes).await;
            // Kept until the test is over.
            std::future::pending().await
        });
    }
    let _ = tokio::time::timeout(Duration::from_secs(1), writing.join_next()).await;
    (writing.len(), writing)
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_never_end_cost_little() {
    let (host, other) = with_rogue();
    let (address, rogue) = (address(&host), rogue(&other));
    let before = host.resident_bytes();
    // The longest message that is allowed, but for its last byte.
    let mut bytes = vec![0; FRAME + 3];
    bytes[..4].copy_from_slice(&(FRAME as u32).to_le_bytes());
    let mut held = vec![];
    for _ in 0..CONNECTIONS_PER_HOST {
        let connection = rogue.connect(address).await.unwrap();
        held.push((open_all(&connection, &bytes).await, connection));
    }
    let refused = rogue.connect(address).await;
    assert!(refused.as_ref().is_err_and(|error| error.contains("TooManyConnections")), "{refused:?}");
    let grown = host.peak_resident_bytes().saturating_sub(before);
    let streams: usize = held.iter().map(|((streams, _), _)| streams).sum();
    println!("messages that never end: {streams} streams, the agent grew by {:.1} MiB", grown as f64 / MIB as f64);
    assert!(grown <= 32 * MIB, "{grown} bytes");
    host.must(&["status"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_that_nobody_reads_cost_little() {
    let (host, other) = with_rogue();
    let sample = Recipe::new(60, &[64 * MIB as usize]).build("demo:1");
    let archive = archive_file(host.path(), &sample);
    host.must(&["load", "-i", archive.to_str().unwrap()]);
    let (address, rogue) = (address(&host), rogue(&other));
    let before = host.resident_bytes();
    let mut held = vec![];
    for _ in 0..CONNECTIONS_PER_HOST {
        let connection = rogue.connect(address).await.unwrap();
        let pull = Pull { reference: "demo:1".parse().unwrap(), platform: None, dry_run: false };
        let mut offer = Channel::ask(&connection, &Request::Pull(pull)).await;
        let Ok(Answer::Offer(offered)) = offer.hear().await else { panic!("no offer") };
        let layer = offered.image.layers()[0].descriptor.digest;
        let get = Request::Get(Get { digest: layer, offset: 0, length_bytes: 16 * MIB / RANGE_BYTES * RANGE_BYTES });
        let asked = open_all(&connection, &proto::frame::encode(&get, FRAME).unwrap()).await;
        held.push((connection, offer, asked));
    }
    let grown = host.peak_resident_bytes().saturating_sub(before);
    let streams: usize = held.iter().map(|(_, _, (streams, _))| streams).sum();
    println!("ranges that nobody reads: {streams} streams, the agent grew by {:.1} MiB", grown as f64 / MIB as f64);
    assert!(grown <= 32 * MIB, "{grown} bytes");
    // Who administers is not held up, and throws it out while it does all that.
    for arguments in [&["ls"][..], &["doctor"], &["tag", "demo:1", "demo:2"], &["fleet", "remove", "rogue"]] {
        let output = host.run(arguments);
        assert!(!output.stdout.is_empty(), "{arguments:?}: {output:?}");
    }
    for (connection, ..) in &held {
        connection.closed().await;
    }
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_connections_at_once_are_as_few_as_one_by_one() {
    let (host, other) = with_rogue();
    let (address, rogue) = (address(&host), rogue(&other));
    // From several addresses, or the limit of handshakes per address would be what is tested.
    let mut dials = JoinSet::new();
    for last in 10..22 {
        let socket = rogue.further([127, 0, 0, last].into());
        dials.spawn(async move { (socket.connect(address).await, socket) });
    }
    let dialled = tokio::time::timeout(PATIENCE, dials.join_all()).await.unwrap();
    let connected = dialled.iter().filter(|(connection, _)| connection.is_ok()).count();
    assert!((1..=CONNECTIONS_PER_HOST).contains(&connected), "{connected} connections");
}
