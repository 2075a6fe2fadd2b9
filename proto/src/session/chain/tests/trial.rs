//! The search for a first host that is not slow.

use super::*;

const PACE: u64 = LINK / 10;

/// Who is first, and from when, when all receive at the pace of the first one, and the head could send twice as much.
fn firsts(chain: &mut Chain, paces: &[u64], until_ms: u64) -> Vec<(u64, usize)> {
    let (mut firsts, mut have_bytes) = (vec![], 0);
    for now_ms in (0..=until_ms).step_by(PLAN_MS as usize) {
        if let Some((_, first)) = firsts.last() {
            have_bytes += paces[*first] * PLAN_MS / 1000;
        }
        (0..paces.len()).for_each(|number| chain.progress(&id(number), have_bytes, now_ms));
        chain.from_head(&id(0), 2 * have_bytes);
        for (host, sources) in chain.changes(now_ms) {
            if sources[0] == id(99) {
                firsts.extend((0..paces.len()).find(|number| id(*number) == host).map(|number| (now_ms, number)));
            }
        }
    }
    firsts
}

#[test]
fn after_each_trial_in_vain_the_next_one_is_due_in_twice_the_time() {
    let firsts = firsts(&mut started(2), &[PACE / 2; 2], 80_000);
    assert_eq!(firsts, [(0, 0), (700, 1), (11_400, 0), (32_100, 1), (72_800, 0)]);
}

#[test]
fn another_host_is_tried_when_the_last_one_was_faster_by_more_than_a_quarter() {
    for (second, is_tried) in [(PACE * 6 / 5, false), (PACE * 5 / 4, false), (PACE * 13 / 10, true)] {
        let firsts = firsts(&mut started(4), &[PACE, second, PACE, PACE], 1_400);
        assert_eq!(firsts.last(), Some(if is_tried { &(1_400, 2) } else { &(700, 1) }), "{second}");
    }
}

#[test]
fn who_held_up_a_host_that_is_more_than_twice_as_fast_goes_to_the_end() {
    for (second, order) in [(PACE * 3 / 2, [2, 1, 0, 3]), (PACE * 2, [2, 1, 0, 3]), (PACE * 5 / 2, [2, 1, 3, 0])] {
        let mut chain = started(4);
        firsts(&mut chain, &[PACE, second, PACE, PACE], 1_400);
        assert_eq!(chain.order, order.map(id), "{second}");
    }
}

#[test]
fn who_is_slower_than_the_first_one_was_goes_back_and_at_a_quarter_of_its_pace_to_the_end() {
    let back = [(PACE / 2, [1, 0, 2, 3]), (PACE / 3, [0, 1, 2, 3]), (PACE / 4, [0, 1, 2, 3]), (PACE / 5, [0, 2, 3, 1])];
    for (second, order) in back {
        let mut chain = started(4);
        firsts(&mut chain, &[PACE, second, PACE, PACE], 1_400);
        assert_eq!(chain.order, order.map(id), "{second}");
    }
    let firsts = firsts(&mut started(2), &[PACE, PACE / 3], 12_000);
    assert_eq!(firsts, [(0, 0), (700, 1), (1_400, 0), (11_400, 1)], "and is tried again later");
}

#[test]
fn where_the_head_is_known_a_first_look_comes_early_and_the_first_trial_in_time() {
    let known = || {
        let mut links = Links::default();
        links.learn(&[(id(50), PACE * 3)], true);
        let mut chain = Chain::new(id(99), SIZE, links);
        (0..4).for_each(|number| chain.join(id(number), SIZE, 0));
        chain.start(0);
        chain
    };
    assert_eq!(firsts(&mut known(), &[PACE; 4], 1_350), [(0, 0), (700, 1)]);
    let poor = [PACE / 2, PACE, PACE, PACE];
    assert_eq!(firsts(&mut known(), &poor, 2_300), [(0, 0), (250, 1), (1_650, 2)], "what is poor is seen at the first look");
    let mut good = known();
    assert_eq!(firsts(&mut good, &[PACE * 2; 4], 700), [(0, 0)], "what is good is left alone for a minute");
    assert_eq!(good.trial.due_ms, 700 + 60_000);
}

#[test]
fn what_the_head_sends_to_both_is_measured_for_a_while() {
    // On average, from the first to the fourth tenth of a second of a trial, this is more than what one receives by more than a quarter.
    let soon = third_first_ms(PACE * 142 / 100, 200..400).unwrap_or(u64::MAX);
    assert!(soon <= 13_000, "{soon} ms");
}
