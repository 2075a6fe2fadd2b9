//! The chain in virtual time: hosts with links of their own, of which some die, some are slow and one lies.

mod complaints;
mod demotion;
mod host;
mod trial;
mod words;

use std::ops::Range;

use super::*;

/// Bytes an ordinary link carries in a second, and the size of the image: ten seconds' worth.
const LINK: u64 = 10_000_000;
const SIZE: u64 = 100_000_000;
const STEP_MS: u64 = 10;
/// How often hosts report, and plans are made.
const PLAN_MS: u64 = 50;
/// What is verified at once, and served on.
const RANGE: u64 = 64 * 1024;

struct Simulated {
    id: HostId,
    had_bytes: u64,
    have_bytes: u64,
    from_head_bytes: u64,
    link: u64,
    /// Places in the list of hosts; `None` is the head.
    sources: Vec<Option<usize>>,
    dies_ms: Option<u64>,
    lies: bool,
    distrusts: HashSet<usize>,
    done_ms: Option<u64>,
}

fn id(number: usize) -> HostId {
    HostId::of_public_key(&number.to_le_bytes())
}

/// Runs until every living host has the image; returns the hosts and what the head has sent.
fn run(hosts: Vec<Simulated>, most_ms: u64) -> (Vec<Simulated>, u64) {
    run_again(hosts, most_ms, &mut Links::default())
}

/// The same after others, from which `links` are known.
fn run_again(mut hosts: Vec<Simulated>, most_ms: u64, links: &mut Links) -> (Vec<Simulated>, u64) {
    let head = id(usize::MAX);
    let mut chain = Chain::new(head, SIZE, links.clone());
    let mut egress_bytes = 0;
    for host in &hosts {
        chain.join(host.id, SIZE - host.have_bytes, 0);
    }
    chain.start(0);
    let positions: HashMap<HostId, usize> = hosts.iter().enumerate().map(|(i, host)| (host.id, i)).collect();
    for now_ms in (0..most_ms).step_by(STEP_MS as usize) {
        if now_ms % PLAN_MS == 0 {
            for (host, sources) in chain.changes(now_ms) {
                hosts[positions[&host]].sources = sources.iter().map(|source| positions.get(source).copied()).collect();
            }
        }
        // What each source had when the step began, and what its link still carries in it.
        let had: Vec<u64> =
            hosts.iter().map(|host| host.have_bytes / RANGE * RANGE + if host.have_bytes == SIZE { SIZE % RANGE } else { 0 }).collect();
        let mut left: Vec<u64> = hosts.iter().map(|host| host.link * STEP_MS / 1000).collect();
        let mut head_left = LINK * STEP_MS / 1000;
        let alive = |host: &Simulated| host.dies_ms.is_none_or(|dies_ms| now_ms < dies_ms);
        for i in 0..hosts.len() {
            if !alive(&hosts[i]) || hosts[i].done_ms.is_some() {
                continue;
            }
            let want = (hosts[i].link * STEP_MS / 1000).min(SIZE - hosts[i].have_bytes);
            for place in 0..hosts[i].sources.len() {
                let Some(from) = hosts[i].sources[place] else {
                    let bytes = want.min(head_left);
                    (head_left, egress_bytes) = (head_left - bytes, egress_bytes + bytes);
                    hosts[i].from_head_bytes += bytes;
                    hosts[i].have_bytes += bytes;
                    break;
                };
                if hosts[i].distrusts.contains(&from) {
                    continue;
                }
                let fault = match &hosts[from] {
                    source if !alive(source) => Some(Fault::Lost),
                    source if source.lies && had[from] > hosts[i].have_bytes => Some(Fault::Lied(crate::Digest::of(b"x"))),
                    _ => None,
                };
                if let Some(fault) = fault {
                    hosts[i].distrusts.insert(from);
                    chain.trouble(&hosts[i].id, &Trouble { source: hosts[from].id, fault }, now_ms);
                    continue;
                }
                // A source that lives is waited for, even when it has nothing yet.
                let bytes = want.min(had[from].saturating_sub(hosts[i].have_bytes)).min(left[from]);
                left[from] -= bytes;
                hosts[i].have_bytes += bytes;
                break;
            }
            if hosts[i].have_bytes == SIZE {
                hosts[i].done_ms = Some(now_ms);
                chain.done(&hosts[i].id, now_ms);
            } else if now_ms % PLAN_MS == 0 {
                chain.progress(&hosts[i].id, hosts[i].have_bytes - hosts[i].had_bytes, now_ms);
                chain.from_head(&hosts[i].id, hosts[i].from_head_bytes);
            }
        }
        for host in hosts.iter().filter(|host| host.dies_ms == Some(now_ms)) {
            chain.gone(&host.id);
        }
        if hosts.iter().all(|host| host.done_ms.is_some() || !alive(host)) {
            chain.teach(links, now_ms);
            break;
        }
    }
    (hosts, egress_bytes)
}

fn ordinary(number: usize) -> Simulated {
    Simulated {
        id: id(number),
        had_bytes: 0,
        have_bytes: 0,
        from_head_bytes: 0,
        link: LINK,
        sources: vec![],
        dies_ms: None,
        lies: false,
        distrusts: HashSet::new(),
        done_ms: None,
    }
}

fn slowest_ms<'a>(hosts: impl Iterator<Item = &'a Simulated>) -> u64 {
    hosts.map(|host| host.done_ms.unwrap_or(u64::MAX)).max().unwrap_or(0)
}

#[test]
fn many_hosts_take_as_long_as_one_and_cost_one_image() {
    let (one, _) = run(vec![ordinary(0)], 60_000);
    let (many, egress_bytes) = run((0..32).map(ordinary).collect(), 60_000);
    // Of this, most is what a step of the simulation adds for each host: three times what a range takes on its way.
    assert!(slowest_ms(many.iter()) <= slowest_ms(one.iter()) * 108 / 100, "{} ms", slowest_ms(many.iter()));
    assert!(egress_bytes <= SIZE * 102 / 100, "{egress_bytes}");
}

#[test]
fn one_slow_host_delays_nobody_wherever_it_stands() {
    for position in [0, 1, 5, 15] {
        let mut hosts: Vec<Simulated> = (0..16).map(ordinary).collect();
        hosts[position].link = LINK / 10;
        let (hosts, _) = run(hosts, 200_000);
        let others = slowest_ms(hosts.iter().filter(|host| host.link == LINK));
        // Until it is known to be slow everybody waits for it: at the head of all that takes a trial.
        let known_ms = if position == 0 { 1_600 } else { 600 };
        assert!(others <= 10_000 + 16 * STEP_MS + known_ms, "slow at {position}: {others} ms");
        assert!(slowest_ms(hosts.iter()) <= 110_000);
    }
}

#[test]
fn what_one_fan_out_has_shown_the_next_one_need_not_find_out() {
    let hosts = |position: usize| {
        let mut hosts: Vec<Simulated> = (0..16).map(ordinary).collect();
        hosts[position].link = LINK / 10;
        hosts
    };
    for position in [0, 1, 5, 15] {
        let mut links = Links::default();
        run_again(hosts(position), 200_000, &mut links);
        let (again, egress_bytes) = run_again(hosts(position), 200_000, &mut links);
        let others = slowest_ms(again.iter().filter(|host| host.link == LINK));
        assert!(others <= 10_000 + 16 * STEP_MS + 2 * PLAN_MS, "slow at {position}: {others} ms");
        assert!(egress_bytes <= SIZE * 1005 / 1000, "{egress_bytes}");
        // It is slow no more.
        run_again((0..16).map(ordinary).collect(), 200_000, &mut links);
        assert_eq!(links.slow_bytes_per_s(&id(position)), None);
    }
}

#[test]
fn who_lacks_little_or_nothing_is_not_slow() {
    let mut hosts: Vec<Simulated> = (0..4).map(ordinary).collect();
    (hosts[0].had_bytes, hosts[0].have_bytes) = (SIZE, SIZE);
    hosts[0].done_ms = Some(0);
    (hosts[1].had_bytes, hosts[1].have_bytes) = (SIZE / 10 * 9, SIZE / 10 * 9);
    let mut links = Links::default();
    run_again(hosts, 60_000, &mut links);
    assert!((0..4).all(|number| links.slow_bytes_per_s(&id(number)).is_none()), "{links:?}");
    assert!(links.is_good(LINK));
}

#[test]
fn what_some_have_comes_from_them() {
    let mut hosts: Vec<Simulated> = (0..5).map(ordinary).collect();
    for host in hosts.iter_mut().skip(2) {
        (host.had_bytes, host.have_bytes) = (SIZE - 1_000_000, SIZE - 1_000_000);
    }
    let (hosts, egress_bytes) = run(hosts, 60_000);
    assert!(hosts.iter().all(|host| host.done_ms.is_some()));
    assert!(egress_bytes <= 1_200_000, "{egress_bytes}");
}

#[test]
fn five_hundred_hosts_of_which_some_die_some_are_slow_and_one_lies() {
    let mut hosts: Vec<Simulated> = (0..500).map(ordinary).collect();
    for (i, host) in hosts.iter_mut().enumerate() {
        match i % 10 {
            3 => host.dies_ms = Some(STEP_MS * (1 + (i as u64 * 7) % 800)),
            5 | 8 => host.link = LINK / 10,
            _ => {}
        }
    }
    hosts[42].lies = true;
    let (hosts, egress_bytes) = run(hosts, 600_000);
    let living = || hosts.iter().filter(|host| host.dies_ms.is_none());
    assert!(living().all(|host| host.done_ms.is_some()), "every living host has it");
    // Behind a slow host all are slow: each of the hundred is found when those before it have gone, in about half a second.
    let fast_ms = slowest_ms(living().filter(|host| host.link == LINK));
    assert!(fast_ms <= 10_000 + 100 * 600, "the fast ones: {fast_ms} ms");
    assert!(egress_bytes <= SIZE * 6, "{egress_bytes}");
}

#[test]
fn a_late_host_comes_last_and_a_gone_one_is_nobodys_source() {
    let mut chain = Chain::new(id(99), SIZE, Links::default());
    for number in 0..3 {
        chain.join(id(number), SIZE, 0);
    }
    assert_eq!(chain.changes(0), vec![], "nothing before the start");
    chain.start(0);
    assert_eq!(chain.changes(0).len(), 3);
    assert_eq!(chain.changes(10), vec![], "nobody is told twice");
    chain.join(id(7), SIZE, 20);
    assert_eq!(chain.changes(20), vec![(id(7), vec![id(2), id(1), id(0), id(99)])]);
    chain.gone(&id(1));
    assert_eq!(chain.changes(30), vec![(id(2), vec![id(0), id(99)]), (id(7), vec![id(2), id(0), id(99)])]);
}

/// A chain of so many hosts that lack everything; 99 is the head.
fn started(hosts: usize) -> Chain {
    let mut chain = Chain::new(id(99), SIZE, Links::default());
    for number in 0..hosts {
        chain.join(id(number), SIZE, 0);
    }
    chain.start(0);
    chain
}

/// When a third host is first, if all receive at the same pace, and the head has sent so many bytes a second while it served two of them: in this
/// time of the trial of the second one.
fn third_first_ms(both: u64, served_ms: Range<u64>) -> Option<u64> {
    const PACE: u64 = LINK / 10;
    let mut chain = started(4);
    let mut firsts: Vec<(u64, usize)> = vec![];
    let mut from_head = [0; 4];
    for now_ms in (0..100_000).step_by(PLAN_MS as usize) {
        for (host, sources) in chain.changes(now_ms) {
            if sources[0] == id(99) {
                firsts.extend((0..4).find(|number| id(*number) == host).map(|number| (now_ms, number)));
            }
        }
        if firsts.len() == 3 {
            return Some(now_ms);
        }
        let [.., (since_ms, first)] = firsts[..] else { panic!("nobody reads from the head") };
        from_head[first] += PACE * PLAN_MS / 1000;
        if let [.., (_, before), _] = firsts[..]
            && served_ms.contains(&(now_ms - since_ms))
        {
            from_head[before] += (both - PACE) * PLAN_MS / 1000;
        }
        for (number, bytes) in from_head.iter().enumerate() {
            chain.progress(&id(number), PACE * now_ms / 1000, now_ms);
            chain.from_head(&id(number), *bytes);
        }
    }
    None
}

#[test]
fn where_the_head_could_send_more_another_host_is_tried_soon() {
    let soon = third_first_ms(LINK / 5, 0..400).unwrap_or(u64::MAX);
    assert!(soon <= 13_000, "{soon} ms: both of the first two may be slow");
    let late = third_first_ms(LINK / 10, 0..400).unwrap_or(u64::MAX);
    assert!(late >= 60_000, "{late} ms: the link of the head is the limit");
}

#[test]
fn a_host_that_is_slow_when_it_is_tried_does_not_stay_first() {
    let mut chain = started(3);
    let (mut first, mut firsts, mut have_bytes) = (id(99), vec![], 0);
    for now_ms in (0..3_000).step_by(PLAN_MS as usize) {
        for (host, sources) in chain.changes(now_ms) {
            if sources[0] == id(99) {
                first = host;
                firsts.push(host);
            }
        }
        // Whatever its reasons: from now on it is slow, and all behind it with it.
        let pace = if first == id(1) { LINK / 10 } else { LINK };
        have_bytes += pace * PLAN_MS / 1000;
        (0..3).for_each(|number| chain.progress(&id(number), have_bytes, now_ms));
    }
    assert_eq!(firsts, [id(0), id(1), id(0)]);
    assert_eq!(chain.order.last(), Some(&id(1)));
}

#[test]
fn where_the_head_is_known_a_slow_first_host_is_seen_at_once_and_the_next_one_stays() {
    let mut links = Links::default();
    links.learn(&[(id(7), LINK)], true);
    let mut hosts: Vec<Simulated> = (0..8).map(ordinary).collect();
    hosts[0].link = LINK / 10;
    let (hosts, egress_bytes) = run_again(hosts, 200_000, &mut links);
    let fast_ms = slowest_ms(hosts[1..].iter());
    assert!(fast_ms <= 10_500, "{fast_ms} ms");
    assert!(egress_bytes <= SIZE * 105 / 100, "{egress_bytes}");
}

/// Order of four hosts after three seconds, when the second one is slow, and the last one takes so long until it catches up with that before it.
fn order_after_catching_up(until_ms: u64) -> Vec<usize> {
    let mut links = Links::default();
    links.learn(&[(id(0), LINK)], true);
    let mut chain = Chain::new(id(99), SIZE, links);
    (0..4).for_each(|number| chain.join(id(number), SIZE, 0));
    chain.start(0);
    let (mut have_bytes, mut found_ms) = ([0; 4], None);
    for now_ms in (0..3_000).step_by(PLAN_MS as usize) {
        for (host, sources) in chain.changes(now_ms) {
            let is_cause = host == id(3) && sources[0] == id(1);
            assert!(found_ms.is_none() || !is_cause, "{now_ms} ms: behind the slow one");
            if host == id(2) && sources[0] == id(0) {
                found_ms = Some(now_ms);
            }
        }
        for (number, have_bytes) in have_bytes.iter_mut().enumerate() {
            let pace = match (number, found_ms) {
                (1, _) | (2 | 3, None) => LINK / 10,
                (3, _) if now_ms < until_ms => LINK * 2 / 5,
                _ => LINK,
            };
            *have_bytes += pace * PLAN_MS / 1000;
            chain.progress(&id(number), *have_bytes, now_ms);
        }
    }
    chain.order.iter().map(|host| (0..4).find(|number| id(*number) == *host).unwrap_or(99)).collect()
}

#[test]
fn who_has_to_catch_up_does_not_change_places_with_who_was_the_cause() {
    assert_eq!(order_after_catching_up(1_000), [0, 2, 3, 1]);
    assert_eq!(order_after_catching_up(2_900), [0, 2, 3, 1], "however long it takes");
}

#[test]
fn rates_of_the_largest_image_do_not_overflow() {
    // As many blobs as an image may have, each as large as a blob may be, and as much of it from the head as each host may claim.
    let size_bytes = crate::limits::IMAGE_BLOBS as u64 * crate::limits::BLOB_BYTES;
    let mut chain = Chain::new(id(9_999), size_bytes, Links::default());
    let hosts = 64;
    (0..hosts).for_each(|number| chain.join(id(number), size_bytes, 0));
    chain.start(0);
    for now_ms in (0..2_000).step_by(100) {
        chain.changes(now_ms);
        (0..hosts).filter(|_| now_ms > 800).for_each(|number| chain.from_head(&id(number), u64::MAX));
    }
    // In builds that check for overflow, this test would have panicked before.
    assert!((0..hosts).all(|number| chain.told.contains_key(&id(number))));
}
