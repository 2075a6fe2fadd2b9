//! What the benchmarks share: how often something is done, and how it is shown.

use std::time::Instant;

/// How often each thing is done.
pub const ROUNDS: usize = 3;

/// Median seconds of [`ROUNDS`].
pub fn rounds(mut work: impl FnMut()) -> f64 {
    median((0..ROUNDS).map(|_| seconds(&mut work)).collect())
}

/// How long it takes.
pub fn seconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

/// The middle one.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// An argument's value: `--mib 256`.
pub fn argument(name: &str) -> Option<String> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.next().and_then(|_| arguments.next())
}
