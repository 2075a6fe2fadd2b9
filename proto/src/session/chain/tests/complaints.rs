//! Complaints of sources, and what a fan-out teaches.

use super::*;
use crate::limits::SOURCE_SILENCE_MS;

/// Complaint of a source that is lost.
fn lost(source: usize) -> Trouble {
    Trouble { source: id(source), fault: Fault::Lost }
}

/// Complaint of a source that lied.
fn lied(source: usize) -> Trouble {
    Trouble { source: id(source), fault: Fault::Lied(crate::Digest::of(b"x")) }
}

#[test]
fn a_source_that_is_lost_goes_to_the_end_at_once_and_a_liar_is_named_no_more() {
    let mut chain = started(3);
    chain.changes(0);
    assert!(chain.trouble(&id(1), &lost(0), 10), "however short it has been there");
    assert!(!chain.trouble(&id(1), &lost(0), 20), "all who read from it say so, and that is one fault");
    assert!(!chain.trouble(&id(0), &lost(2), 20), "it was not told to read there");
    chain.changes(100);
    let told = |chain: &Chain| chain.told.iter().filter(|(_, sources)| sources.contains(&id(1))).count();
    assert!(told(&chain) > 0);
    let reporter = *chain.told.iter().find(|(_, sources)| sources.contains(&id(1))).map_or(&id(2), |(host, _)| host);
    assert!(chain.trouble(&reporter, &lied(1), 6_000));
    chain.changes(6_000);
    assert_eq!(told(&chain), 0, "{:?}", chain.told);
}

#[test]
fn hosts_whose_source_says_nothing_have_the_time_to_find_that_out() {
    let mut chain = started(4);
    let (mut reader, mut since_ms, mut longest_ms) = (None, 0, 0);
    for now_ms in (0..30_000).step_by(PLAN_MS as usize) {
        for (host, sources) in chain.changes(now_ms) {
            if sources[0] == id(0) && reader != Some(host) {
                longest_ms = longest_ms.max(now_ms - since_ms);
                (reader, since_ms) = (Some(host), now_ms);
            }
        }
        // The first host receives all of the image, and serves nobody.
        match LINK * now_ms / 100 {
            bytes if bytes < SIZE => chain.progress(&id(0), bytes, now_ms),
            _ => chain.done(&id(0), now_ms),
        }
    }
    longest_ms = longest_ms.max(30_000 - since_ms);
    assert!(longest_ms > SOURCE_SILENCE_MS, "{longest_ms} ms: nobody reads from it for long enough to say that it is lost");
}

#[test]
fn a_host_may_call_three_others_liars() {
    let mut chain = started(5);
    chain.changes(0);
    let heard = [3, 2, 2, 1, 0].map(|source| chain.trouble(&id(4), &lied(source), 10));
    assert_eq!(heard, [true, true, false, true, false], "each once, and no more than three");
    assert!(chain.trouble(&id(3), &lied(0), 10), "another host may still do so");
}

#[test]
fn a_source_is_lost_once_in_five_seconds() {
    let mut chain = started(3);
    chain.changes(0);
    let heard = [10, 5_009, 5_010, 5_011].map(|now_ms| chain.trouble(&id(2), &lost(0), now_ms));
    assert_eq!(heard, [true, false, true, false]);
}

#[test]
fn what_a_fan_out_teaches_is_the_rate_of_what_was_missing() {
    let mut chain = Chain::new(id(99), SIZE, Links::default());
    for (number, missing_bytes) in [(0, SIZE), (1, SIZE * 3 / 4), (2, SIZE / 2)] {
        chain.join(id(number), missing_bytes, 0);
    }
    chain.start(0);
    for (number, done_ms) in [(0, 10_000), (1, 30_000), (2, 50_000)] {
        chain.done(&id(number), done_ms);
    }
    let mut links = Links::default();
    chain.teach(&mut links, 60_000);
    assert!(links.is_good(LINK / 2) && !links.is_good(LINK / 2 - 1), "{links:?}");
    assert_eq!(links.slow_bytes_per_s(&id(1)), Some(SIZE * 3 / 4 / 30));
    assert_eq!(links.slow_bytes_per_s(&id(2)), None, "it lacked no more than half of what another one lacked");
}
