//! Who falls behind, and how far back it goes.

use super::*;

/// A chain of hosts that have received so much in the first second.
fn after_a_second(size_bytes: u64, missing_bytes: u64, received: &[u64]) -> Chain {
    let mut chain = Chain::new(id(99), size_bytes, Links::default());
    (0..received.len()).for_each(|number| chain.join(id(number), missing_bytes, 0));
    chain.start(0);
    chain.changes(0);
    for (number, bytes) in received.iter().enumerate() {
        chain.progress(&id(number), *bytes, 1_000);
    }
    chain
}

fn host(chain: &mut Chain, number: usize) -> &mut Host {
    chain.hosts.get_mut(&id(number)).expect("a host that has joined")
}

/// Whether the second of two hosts that have received so much in a second is slow.
fn is_slow(size_bytes: u64, received: [u64; 2]) -> bool {
    let mut chain = after_a_second(size_bytes, size_bytes, &received);
    chain.demote_the_slow(1_000);
    host(&mut chain, 1).pace != Pace::Fit
}

#[test]
fn slow_is_less_than_half_of_the_pace_of_the_source() {
    let slow = [4_999_999, 5_000_000, 7_500_000].map(|received| is_slow(SIZE, [LINK, received]));
    assert_eq!(slow, [true, false, false]);
}

#[test]
fn slow_is_behind_by_a_hundredth_of_the_image_and_by_half_a_mebibyte() {
    let large = [499_999, 500_000, 700_000].map(|received| is_slow(SIZE, [1_500_000, received]));
    assert_eq!(large, [true, false, false]);
    let small = [475_711, 475_712].map(|received| is_slow(SIZE / 10, [1_000_000, received]));
    assert_eq!(small, [true, false]);
}

#[test]
fn who_fell_behind_before_does_so_again_after_half_a_second() {
    let mut chain = after_a_second(SIZE, SIZE, &[LINK, LINK / 10]);
    host(&mut chain, 1).pace = Pace::Doubtful(None);
    let slow = [1_000, 1_499, 1_500].map(|now_ms| {
        chain.demote_the_slow(now_ms);
        host(&mut chain, 1).pace
    });
    assert_eq!(slow, [Pace::Doubtful(None), Pace::Doubtful(None), Pace::Slow(LINK / 10)]);
}

#[test]
fn who_received_much_at_half_of_the_best_pace_has_kept_up() {
    // Four hundredths of the image, beside what they had.
    let mut chain = after_a_second(SIZE, SIZE - 3_000_000, &[4_000_000, 4_000_001]);
    chain.demote_the_slow(1_000);
    assert_eq!([0, 1].map(|number| host(&mut chain, number).has_kept_up), [false, true]);
    let mut chain = after_a_second(SIZE, SIZE, &[LINK, LINK / 2, 4_500_000, 4_500_000]);
    chain.demote_the_slow(1_000);
    assert_eq!([0, 1, 2, 3].map(|number| host(&mut chain, number).has_kept_up), [true, true, false, false]);
}

#[test]
fn hosts_that_fall_behind_together_keep_their_order() {
    // Hosts are gone through in any order.
    for _ in 0..16 {
        let mut chain = after_a_second(SIZE, SIZE, &[LINK, LINK / 10]);
        // The third one has come later, with so much that it is ahead of the second one.
        for (number, missing_bytes, received) in [(2, SIZE / 2, LINK), (3, SIZE, LINK / 10)] {
            chain.join(id(number), missing_bytes, 0);
            chain.changes(0);
            chain.progress(&id(number), received, 1_000);
        }
        chain.demote_the_slow(1_000);
        assert_eq!(chain.order, [0, 2, 1, 3].map(id));
    }
}

/// Whether a host that falls behind at this pace goes behind another one. Of both: what is known of them, and whether they have kept up before.
fn goes_behind(mine: (Pace, bool), bytes_per_s: u64, other: (Pace, bool)) -> bool {
    let mut chain = started(2);
    for (number, (pace, has_kept_up)) in [mine, other].into_iter().enumerate() {
        let host = host(&mut chain, number);
        (host.pace, host.has_kept_up) = (pace, has_kept_up);
    }
    chain.move_to_end(&id(0), Some(bytes_per_s));
    chain.order == [1, 0].map(id)
}

#[test]
fn who_falls_behind_goes_behind_all_that_are_not_much_slower() {
    let doubtful = |bytes_per_s: u64| (Pace::Doubtful(Some(bytes_per_s)), false);
    assert_eq!([500, 499].map(|other| goes_behind((Pace::Fit, false), 1_000, doubtful(other))), [true, false]);
    let slow = |bytes_per_s: u64| (Pace::Slow(bytes_per_s), false);
    assert_eq!([1_000, 999].map(|other| goes_behind(slow(1), 1_000, slow(other))), [true, false]);
}

#[test]
fn who_has_kept_up_before_does_not_go_behind_who_never_has() {
    let cases = [(true, false), (true, true), (false, false), (false, true)];
    let behind = cases.map(|(mine, other)| goes_behind((Pace::Fit, mine), 1_000, (Pace::Doubtful(Some(1_000)), other)));
    assert_eq!(behind, [false, true, true, true]);
}
