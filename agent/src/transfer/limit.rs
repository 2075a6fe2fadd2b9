//! A bandwidth limit that several streams share.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

/// Lets so many bytes a second pass, for all who share it together.
#[derive(Debug)]
pub struct Limit {
    bytes_per_s: u64,
    /// When the bytes that were let pass so far will have passed.
    free_at: Mutex<Instant>,
}

impl Limit {
    /// At least one byte a second.
    pub fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s: bytes_per_s.max(1), free_at: Mutex::new(Instant::now()) }
    }

    /// Waits until `bytes` may pass. Who asks first passes first; nothing is saved up while nobody asks.
    pub async fn take(&self, bytes: u64) {
        let wait_until = {
            let mut free_at = self.free_at.lock().await;
            let start = (*free_at).max(Instant::now());
            *free_at = start + Duration::from_micros(bytes.saturating_mul(1_000_000) / self.bytes_per_s);
            start
        };
        tokio::time::sleep_until(wait_until).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_together_keep_to_the_rate() {
        let limit = Arc::new(Limit::new(1_000_000));
        let start = Instant::now();
        let takers: Vec<_> = (0..4)
            .map(|_| {
                let limit = limit.clone();
                tokio::spawn(async move {
                    for _ in 0..25 {
                        limit.take(100_000).await;
                    }
                })
            })
            .collect();
        for taker in takers {
            assert!(taker.await.is_ok());
        }
        let elapsed = start.elapsed().as_secs_f64();
        assert!((9.8..10.1).contains(&elapsed), "{elapsed}");
    }
}
