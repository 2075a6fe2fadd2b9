//! A rate that several share: bytes a second of several streams, or work a second of one host.

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

    /// Waits until `bytes` may pass. Who asks first passes first; nothing is saved up while nobody asks, and who gives up has taken nothing.
    pub async fn take(&self, bytes: u64) {
        // Held while it sleeps: the lock is the queue.
        let mut free_at = self.free_at.lock().await;
        tokio::time::sleep_until(*free_at).await;
        *free_at = (*free_at).max(Instant::now()) + Duration::from_micros(bytes.saturating_mul(1_000_000) / self.bytes_per_s);
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

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_has_taken_nothing() {
        let limit = Limit::new(1_000);
        limit.take(1_000).await;
        for _ in 0..100 {
            assert!(tokio::time::timeout(Duration::from_millis(1), limit.take(1_000_000)).await.is_err());
        }
        let start = Instant::now();
        limit.take(1_000).await;
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }
}
