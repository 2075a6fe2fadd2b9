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

/// What `tc` means by `100mbit`.
pub fn bits_per_s(rate: &str) -> f64 {
    let (digits, unit) = split_rate(rate);
    let times = match unit.chars().next() {
        Some('g') => 1e9,
        Some('m') => 1e6,
        _ => 1e3,
    };
    digits as f64 * times
}

/// `100mbit` is 100 and `mbit`.
pub fn split_rate(rate: &str) -> (u64, &str) {
    let (digits, unit) = rate.split_at(rate.find(|c: char| !c.is_ascii_digit()).unwrap());
    (digits.parse().unwrap(), unit)
}
