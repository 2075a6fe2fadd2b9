//! When a lost host is tried again.

use std::time::{Duration, Instant};

/// A host that was lost is tried again for this long: a cable that was pulled by mistake, a switch or an agent that restarts.
const RETRY_FOR: Duration = Duration::from_secs(90);
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MOST: Duration = Duration::from_secs(4);

/// Pauses between attempts: short at first, then longer, for as long as verified bytes have come within 90 s.
#[derive(Debug, Default)]
pub struct Retry {
    since: Option<Instant>,
    pause: Duration,
    verified_bytes: u64,
    /// When the attempt began that ends now.
    attempted: Option<Instant>,
}

impl Retry {
    /// The pause before the next attempt; `None`: it has gone on for too long without a verified byte. Bytes that only left do not count: a path
    /// that carries nothing but repetitions would be tried for ever. An attempt that took longer than that was alive: without any sign of life it
    /// ends sooner. It has waited for a source that hashes, or for an engine that unpacks.
    pub fn next(&mut self, verified_bytes: u64) -> Option<Duration> {
        let was_alive = self.attempted.is_some_and(|attempted| attempted.elapsed() > RETRY_FOR);
        if verified_bytes > self.verified_bytes || was_alive || self.since.is_none() {
            (self.since, self.pause, self.verified_bytes) = (Some(Instant::now()), RETRY_FIRST, verified_bytes);
        }
        if self.since.is_some_and(|since| since.elapsed() > RETRY_FOR) {
            return None;
        }
        Some(self.pause())
    }

    /// The pause before the next look at a host that answers, but has no place for us: it is waited for, however long it takes.
    pub(super) fn queued(&mut self) -> Duration {
        self.since = None;
        if self.pause.is_zero() {
            self.pause = RETRY_FIRST;
        }
        self.pause().min(RETRY_MOST / 4)
    }

    fn pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(RETRY_MOST);
        self.attempted = Some(Instant::now() + pause);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_begin_anew_with_verified_bytes() {
        let mut retry = Retry::default();
        let pauses: Vec<_> = (0..6).map(|_| retry.next(0)).collect();
        assert_eq!(pauses[..3], [250, 500, 1000].map(|ms| Some(Duration::from_millis(ms))));
        assert_eq!(pauses[5], Some(RETRY_MOST));
        assert_eq!(retry.next(1), Some(RETRY_FIRST), "a verified byte is progress");
        retry.since = Instant::now().checked_sub(RETRY_FOR + Duration::from_secs(1));
        assert_eq!(retry.next(1), None);
        assert!(retry.queued() <= RETRY_MOST / 4, "a queue has no end");
        assert!(retry.next(1).is_some());
    }

    #[test]
    fn an_attempt_that_was_alive_for_long_is_no_loss() {
        let mut retry = Retry::default();
        let long_ago = Instant::now().checked_sub(RETRY_FOR + Duration::from_secs(1));
        assert!(retry.next(1).is_some());
        (retry.since, retry.attempted) = (long_ago, long_ago);
        assert_eq!(retry.next(1), Some(RETRY_FIRST), "it hashed for minutes between two losses");
        retry.since = long_ago;
        assert_eq!(retry.next(1), None);
    }
}
