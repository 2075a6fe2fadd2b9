//! What is known of one host.

use super::*;
use crate::limits::SOURCE_SILENCE_MS;

#[test]
fn a_host_has_its_time_to_get_up_to_speed_after_a_change_of_its_source() {
    let silent_again_ms = SOURCE_SILENCE_MS + 500;
    // How often its source has changed, what it had received by the last change and what by now, and how long it may take.
    let cases = [(1, 0, 1, 150), (2, 0, 1, 150), (1, 5, 6, 1_000), (1, 0, 0, 1_500), (1, 5, 5, 1_500), (2, 0, 0, silent_again_ms)];
    for case @ (moves, before_bytes, now_bytes, least_ms) in cases {
        let mut host = Host::new(0, false, Pace::Fit, 0);
        host.progress(before_bytes, 5_000);
        (0..moves).for_each(|_| host.moved(10_000));
        host.progress(now_bytes, 10_001);
        assert_eq!([least_ms - 1, least_ms].map(|ms| host.is_settled(10_000 + ms)), [false, true], "{case:?}");
    }
}

#[test]
fn a_host_that_says_nothing_slows_down_to_a_stand() {
    let mut host = Host::new(0, false, Pace::Fit, 0);
    host.moved(0);
    host.progress(LINK / 10, 100);
    // Its last word is in force for half a second.
    assert_eq!([500, 1_000, 10_000].map(|now_ms| host.pace_now(now_ms)), [Some(LINK), Some(LINK / 10), Some(LINK / 100)]);
}

#[test]
fn who_has_kept_up_may_be_behind_for_longer_and_who_has_to_catch_up_for_a_moment() {
    let host = |moves: u32, pace: Pace, has_kept_up: bool, before_bytes: u64| {
        let mut host = Host::new(0, false, pace, 0);
        host.has_kept_up = has_kept_up;
        host.progress(before_bytes, 50);
        (0..moves).for_each(|_| host.moved(100));
        host
    };
    let (source, mut moved_later) = (host(1, Pace::Fit, false, 0), host(1, Pace::Fit, false, 0));
    moved_later.moved(101);
    let first = host(1, Pace::Fit, false, 0);
    assert_eq!(first.patience_ms(&source), 0, "nothing excuses it");
    assert_eq!(first.patience_ms(&moved_later), 500, "its source has to catch up");
    assert_eq!(host(2, Pace::Fit, false, 0).patience_ms(&source), 500, "it had another source");
    assert_eq!(host(1, Pace::Doubtful(None), false, 0).patience_ms(&source), 500, "it fell behind before");
    assert_eq!(host(1, Pace::Fit, true, 0).patience_ms(&source), 1_500, "it has kept up before");
    assert_eq!(host(1, Pace::Fit, false, 1).patience_ms(&source), 1_500, "it has received from another source");
}
