//! What members are told.

use super::*;

/// What is told when all receive at the same rate from the beginning, at the first look after the first trial.
fn told_after_a_trial(chain: &mut Chain, hosts: usize) -> Vec<(HostId, Vec<HostId>)> {
    chain.changes(0);
    let mut changes = vec![];
    for now_ms in (PLAN_MS..=700).step_by(PLAN_MS as usize) {
        (0..hosts).for_each(|number| chain.progress(&id(number), LINK * now_ms / 1000, now_ms));
        changes = chain.changes(now_ms);
    }
    changes
}

#[test]
fn four_hosts_before_it_and_the_head_are_named() {
    let mut chain = started(6);
    let told = chain.changes(0);
    assert_eq!(told[1], (id(1), vec![id(0), id(99)]));
    assert_eq!(told[5], (id(5), [4, 3, 2, 1, 99].map(id).to_vec()));
}

#[test]
fn a_source_that_was_good_until_now_is_named_behind_all_others() {
    let mut chain = started(3);
    let told = told_after_a_trial(&mut chain, 3);
    assert_eq!(told, [(id(1), [99, 0].map(id).to_vec()), (id(0), [1, 99].map(id).to_vec()), (id(2), [0, 1, 99].map(id).to_vec())]);
}

#[test]
fn hosts_that_have_the_image_are_not_tried_out() {
    let mut chain = Chain::new(id(99), SIZE, Links::default());
    (0..4).for_each(|number| chain.join(id(number), if number == 0 { 0 } else { SIZE }, 0));
    chain.start(0);
    let told = told_after_a_trial(&mut chain, 0);
    assert_eq!(told[0], (id(2), [0, 99, 1].map(id).to_vec()));
}
