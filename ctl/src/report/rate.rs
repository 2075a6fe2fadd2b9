//! How fast bytes come, as a person would say it now.

use std::collections::VecDeque;

/// What is longer ago does not tell how fast it goes now.
const WINDOW_MS: u64 = 5_000;

/// Samples are that far apart, and the first moments say nothing: what came before anybody looked is told in them, too.
const STEP_MS: u64 = 250;

/// Remembers how much there was in the last seconds.
#[derive(Debug, Default)]
pub(super) struct Rate {
    /// Times and bytes, oldest first, the last one the present.
    samples: VecDeque<(u64, u64)>,
    begun_ms: u64,
}

impl Rate {
    /// There are `bytes` at `now_ms`.
    pub(super) fn add(&mut self, now_ms: u64, bytes: u64) {
        if self.samples.is_empty() {
            self.begun_ms = now_ms;
        }
        if now_ms.saturating_sub(self.begun_ms) < STEP_MS {
            self.samples.clear();
        }
        // The last sample moves on until it is far enough from the one before.
        if let [.., before, last] = self.samples.make_contiguous()
            && last.0.saturating_sub(before.0) < STEP_MS
        {
            self.samples.pop_back();
        }
        self.samples.push_back((now_ms, bytes));
        while self.samples.len() > 2 && self.samples.get(1).is_some_and(|next| now_ms.saturating_sub(next.0) >= WINDOW_MS) {
            self.samples.pop_front();
        }
    }

    /// Bytes a second; nothing while that cannot be known. What stands still becomes slower, and then 0.
    pub(super) fn bytes_per_s(&self, now_ms: u64) -> Option<u64> {
        let (first, last) = (self.samples.front()?, self.samples.back()?);
        if now_ms.saturating_sub(last.0) >= WINDOW_MS {
            return Some(0);
        }
        let elapsed_ms = now_ms.saturating_sub(first.0);
        let new_bytes = u128::from(last.1.saturating_sub(first.1));
        let known = elapsed_ms >= STEP_MS && self.samples.len() > 1;
        known.then(|| (new_bytes * 1000 / u128::from(elapsed_ms)) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_that_of_the_last_seconds() {
        let mut rate = Rate::default();
        assert_eq!(rate.bytes_per_s(0), None);
        for step in 0..100 {
            rate.add(step * 100, step * 1_000);
        }
        assert_eq!(rate.bytes_per_s(9_900), Some(10_000));
        for step in 100..200 {
            rate.add(step * 100, 100_000 + (step - 100) * 5_000);
        }
        assert_eq!(rate.bytes_per_s(19_900), Some(50_000));
        assert!(rate.samples.len() <= 2 + (WINDOW_MS / STEP_MS) as usize, "{}", rate.samples.len());
    }

    #[test]
    fn what_was_there_before_does_not_count() {
        let mut rate = Rate::default();
        rate.add(0, 1_000);
        rate.add(10, 40_000_000);
        assert_eq!(rate.bytes_per_s(100), None);
        rate.add(1_010, 41_000_000);
        assert_eq!(rate.bytes_per_s(1_010), Some(1_000_000));
    }

    #[test]
    fn what_stands_still_becomes_slower_and_then_0() {
        let mut rate = Rate::default();
        rate.add(0, 0);
        rate.add(1_000, 1_000);
        assert_eq!(rate.bytes_per_s(1_000), Some(1_000));
        assert_eq!(rate.bytes_per_s(4_000), Some(250));
        assert_eq!(rate.bytes_per_s(6_000), Some(0));
    }
}
