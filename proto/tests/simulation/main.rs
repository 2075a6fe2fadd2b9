//! Sessions and fan-outs in virtual time: the machines of `proto::session`, driven as an agent drives them, through faults of every kind.
//!
//! A seed stands for a scenario (hosts, links, images, sends, faults) and always gives the same run. `IMGD_SIMULATION_SEED=N` runs one seed and
//! prints its events; `IMGD_SIMULATION_SEEDS=N` sets the number of seeds.

#![allow(clippy::unwrap_used)]

mod arriving;
mod checks;
mod content;
mod disk;
mod faults;
mod hashes;
mod head;
mod network;
mod node;
mod plan;
mod random;
mod retry;
mod scenario;
mod serve;
mod session;
mod sources;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::world::{Counts, World};

/// Seeds of an ordinary test run.
const SEEDS: u64 = 1_000;

/// A test run with so many seeds that fail goes no further.
const MOST_FAILED: u64 = 10;

/// Threads that run them.
const THREADS: usize = 2;

#[test]
#[allow(clippy::print_stdout)]
fn whatever_goes_wrong_every_session_ends_and_nothing_wrong_is_stored() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    if let Some(seed) = number("IMGD_SIMULATION_SEED") {
        let mut world = World::new(seed, true);
        world.run();
        return println!("seed {seed}: {} events, {:?}", world.events, world.counts);
    }
    let seeds = number("IMGD_SIMULATION_SEEDS").unwrap_or(SEEDS);
    let (next, fails, began) = (AtomicU64::new(0), AtomicU64::new(0), Instant::now());
    let run = || {
        let (mut counts, mut failed) = (Counts::default(), vec![]);
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds || fails.load(Ordering::Relaxed) >= MOST_FAILED {
                return (counts, failed);
            }
            let mut world = World::new(seed, false);
            match catch_unwind(AssertUnwindSafe(|| world.run())) {
                Ok(()) => counts.add(&world.counts),
                Err(_) => {
                    println!("seed {seed} fails; again: IMGD_SIMULATION_SEED={seed} cargo test -p proto --test simulation");
                    fails.fetch_add(1, Ordering::Relaxed);
                    failed.push(seed);
                }
            }
        }
    };
    let ended: Vec<(Counts, Vec<u64>)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut counts = Counts::default();
    ended.iter().for_each(|(of_thread, _)| counts.add(of_thread));
    let mut failed: Vec<u64> = ended.into_iter().flat_map(|(_, failed)| failed).collect();
    failed.sort_unstable();
    println!("{seeds} seeds in {:?}: {counts:?}", began.elapsed());
    assert!(failed.is_empty(), "{} of {} seeds fail: {failed:?}", failed.len(), next.into_inner().min(seeds));
    assert!(seeds < SEEDS || counts.are_telling(), "too little has gone wrong: {counts:?}");
}

#[test]
fn a_seed_always_gives_the_same_run() {
    for seed in 0..10 {
        let runs = [0; 2].map(|_| {
            let mut world = World::new(seed, false);
            world.run();
            (world.trace, world.events, world.counts)
        });
        assert_eq!(runs[0], runs[1], "seed {seed}");
    }
}
