//! Messages that are none, in every state of a connection.

use std::time::Duration;

use proto::limits::{FRAME, FRAME_BEFORE_WELCOME};
use proto::peer::{Greeting, Hello, Request};
use quinn::Connection;
use tests::fleet::{Host, PATIENCE, fleet};
use tests::rogue::{Channel, Rogue};
use tests::sample::noise;
use tokio::task::JoinSet;

use super::{MIB, address, rogue, with_rogue};

/// A frame with any length in front of any body.
fn framed(length: u32, body: &[u8]) -> Vec<u8> {
    [&length.to_le_bytes()[..], body].concat()
}

/// The same message with bytes behind it that do not belong to it.
fn trailing<T: serde::Serialize>(message: &T) -> Vec<u8> {
    let body = [proto::frame::encode_body(message), vec![0]].concat();
    framed(body.len() as u32, &body)
}

async fn ends(connection: &Connection) -> bool {
    tokio::time::timeout(PATIENCE, connection.closed()).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_wrong_is_welcomed() {
    let (host, other) = with_rogue();
    let (address, rogue) = (address(&host), rogue(&other));
    let garbage = noise(70, FRAME_BEFORE_WELCOME);
    let hello = rogue.hello();
    let long = Hello { software: "x".repeat(300), ..hello.clone() };
    for (what, bytes) in [
        ("a length beyond the limit", framed(FRAME_BEFORE_WELCOME as u32 + 1, &garbage)),
        ("the longest length", framed(u32::MAX, &garbage)),
        ("garbage", framed(1000, &garbage[..1000])),
        ("an empty body", framed(0, &[])),
        ("trailing bytes", trailing(&hello)),
        ("a text that is too long", proto::frame::encode(&long, FRAME).unwrap()),
    ] {
        let connection = rogue.dial(address).await.unwrap();
        let mut stream = Channel::open(&connection).await;
        let _ = stream.bytes(&bytes).await;
        assert!(ends(&connection).await, "{what}");
    }
    let connection = rogue.dial(address).await.unwrap();
    let mut stream = Channel::ask(&connection, &hello).await;
    let _: Hello = stream.hear().await.unwrap();
    stream.bytes(&trailing(&Greeting::Welcome)).await.unwrap();
    assert!(ends(&connection).await, "trailing bytes behind the verdict");
    rogue.connect(address).await.expect("whoever behaves is welcome");
    assert!(host.peak_resident_bytes() <= 64 * MIB, "{}", host.peak_resident_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_version_is_told_both() {
    let hosts = fleet(&["a", "rogue"]).await;
    let [host, other]: [Host; 2] = hosts.try_into().unwrap_or_else(|_| unreachable!());
    let rogue = Rogue::replace(other).await;
    let connection = rogue.dial(host.address()).await.unwrap();
    let mut stream = Channel::ask(&connection, &Hello { major: 77, ..rogue.hello() }).await;
    let _: Hello = stream.hear().await.unwrap();
    let refused = stream.hear::<Greeting>().await.unwrap();
    assert_eq!(refused, Greeting::Refused(proto::peer::GreetingRefusal::Version { ours: 1, theirs: 77 }));
    assert!(ends(&connection).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_message_ends_its_stream_and_no_other() {
    let (host, other) = with_rogue();
    let (address, rogue) = (address(&host), rogue(&other));
    let connection = rogue.connect(address).await.unwrap();
    let garbage = noise(71, 100_000);
    for (what, bytes) in [
        ("a length beyond the limit", framed(FRAME as u32 + 1, &garbage)),
        ("garbage", framed(garbage.len() as u32, &garbage)),
        ("an empty body", framed(0, &[])),
        ("trailing bytes", trailing(&Request::List)),
        // 73 bytes that make a decoder without a limit reserve the memory of the world.
        ("a vector without an end", framed(73, &[&[5, 0xfd][..], &[0xff; 71]].concat())),
        ("an offer of nothing", framed(3, &[0, 0, 0])),
    ] {
        let mut stream = Channel::open(&connection).await;
        let _ = stream.bytes(&bytes).await;
        assert!(stream.ends().await, "{what}");
    }
    let mut stream = Channel::ask(&connection, &Request::List).await;
    stream.hear::<proto::peer::Answer>().await.expect("the connection serves");
    assert!(host.peak_resident_bytes() <= 64 * MIB, "{}", host.peak_resident_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_parsed_for_a_client_without_a_certificate() {
    let (host, other) = with_rogue();
    let (address, rogue) = (address(&host), rogue(&other));
    let connection = rogue.dial_nameless(address, proto::peer::ALPN).await.unwrap();
    // The agent closes by itself: nothing was sent that it could have parsed, and it waits for nothing.
    assert!(ends(&connection).await);
    assert!(rogue.dial_nameless(address, b"h3").await.is_err(), "another protocol");
    let connection = rogue.dial_nameless(address, proto::join::ALPN).await.unwrap();
    let mut stream = Channel::open(&connection).await;
    let _ = stream.bytes(&framed(FRAME_BEFORE_WELCOME as u32 + 1, &[0; 100])).await;
    assert!(ends(&connection).await, "a join that is too long");
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_stall_keep_nobody_out() {
    let (host, other) = with_rogue();
    let (address, rogue) = (address(&host), rogue(&other));
    // Each of them holds its place until its time is up: it never opens its stream.
    let mut stalling = vec![];
    for _ in 0..proto::limits::HANDSHAKES_PER_ADDRESS * 2 {
        let Ok(Ok(connection)) = tokio::time::timeout(Duration::from_secs(2), rogue.dial(address)).await else { continue };
        stalling.push(connection);
    }
    let mut honest = JoinSet::new();
    for last in 30..40 {
        let socket = rogue.further([127, 0, 0, last].into());
        honest.spawn(async move { socket.connect(address).await.map(|_connection| ()) });
    }
    let mut welcomed = 0;
    while let Some(joined) = honest.join_next().await {
        let joined = joined.unwrap();
        let full = joined.as_ref().is_err_and(|error| error.contains("TooManyConnections"));
        welcomed += usize::from(joined.is_ok());
        assert!(joined.is_ok() || full, "{joined:?}");
    }
    assert!(welcomed > 0);
    for connection in stalling {
        assert!(ends(&connection).await, "it was never cut");
    }
}
