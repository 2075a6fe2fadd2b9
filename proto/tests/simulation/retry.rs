//! When a host that was lost is tried again.

use crate::scenario::{MS, SECOND};

/// A host that was lost is tried again for this long without a byte, at first soon and then less often.
const RETRY_FOR_US: u64 = 90 * SECOND;
const RETRY_FIRST_US: u64 = 250 * MS;
pub(crate) const RETRY_MOST_US: u64 = 4 * SECOND;

/// The attempts so far.
#[derive(Debug, Default)]
pub(crate) struct Retry {
    since_us: Option<u64>,
    pause_us: u64,
    bytes: u64,
}

impl Retry {
    /// The pause before the next attempt; `None`: it has gone on for too long without a byte.
    pub(crate) fn next(&mut self, bytes: u64, now_us: u64) -> Option<u64> {
        if bytes > self.bytes || self.since_us.is_none() {
            (self.since_us, self.pause_us, self.bytes) = (Some(now_us), RETRY_FIRST_US, bytes);
        }
        if self.since_us.is_some_and(|since_us| now_us > since_us + RETRY_FOR_US) {
            return None;
        }
        let pause_us = self.pause_us;
        self.pause_us = (pause_us * 2).min(RETRY_MOST_US);
        Some(pause_us)
    }
}
