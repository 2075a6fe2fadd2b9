//! One at a time: the writer of a blob, or whoever gives a name away.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use proto::Digest;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// Who may do something with which digest: that of a blob, or of a name.
#[derive(Debug, Default)]
pub struct Turns(Mutex<HashMap<Digest, Arc<AsyncMutex<()>>>>);

/// The right to do it, given back on drop.
#[derive(Debug)]
pub struct Turn {
    guard: Option<OwnedMutexGuard<()>>,
    digest: Digest,
    turns: Arc<Turns>,
}

impl Turns {
    /// Waits until nobody else does.
    pub async fn take(self: &Arc<Self>, digest: Digest) -> Turn {
        let turn = self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(digest).or_default().clone();
        Turn { guard: Some(turn.lock_owned().await), digest, turns: self.clone() }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.guard = None;
        let mut turns = self.turns.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever waits holds the entry too; the last one out removes it.
        if turns.get(&self.digest).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            turns.remove(&self.digest);
        }
    }
}
