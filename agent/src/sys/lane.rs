//! Threads for blocking work, in lanes: work of one kind cannot take the threads of another.
//!
//! A thread of a lane does one bounded piece of work (reads a block, hashes a few megabytes, renames a file) and is free again. It never
//! waits for a peer, a client or an engine: whoever waits does so in a task. A reader that has to wait in the middle of its work, because its
//! library reads and cannot be fed, has a thread of its own ([`thread`]), which nobody else counts on.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, LazyLock};

use tokio::sync::{Semaphore, oneshot};

/// What a piece of blocking work is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Questions of people and peers: names, lists, metadata, small documents.
    Control,
    /// Blocks of blobs that others read.
    Read,
    /// Blocks of blobs that arrive, and their syncs.
    Write,
    /// Hashing what is here. As many as cores that servers spare for it.
    Hash,
    /// Unpacking what arrives compressed.
    Unpack,
}

/// Threads of all lanes together: the size of the pool that they share.
pub const THREADS: usize = 16 + 8 + 16 + 2 + 4;

static LANES: LazyLock<[Arc<Semaphore>; 5]> = LazyLock::new(|| [16, 8, 16, 2, 4].map(|threads| Arc::new(Semaphore::new(threads))));

/// Runs a bounded piece of blocking work in a lane, once the lane has a thread for it: first come, first served. A panic in it goes on in the
/// caller. When the caller gives up, work that has begun still ends.
pub async fn blocking_in<T: Send + 'static>(lane: Lane, work: impl FnOnce() -> T + Send + 'static) -> T {
    // The semaphores are never closed.
    let permit = LANES[lane as usize].clone().acquire_owned().await.ok();
    let work = move || {
        let _permit = permit;
        work()
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that shuts down cancels blocking work that has not begun; nobody waits for the answer then.
            Err(_) => std::future::pending().await,
        },
    }
}

/// [`blocking_in`] the lane for control.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    blocking_in(Lane::Control, work).await
}

/// Runs work that may wait for others in a thread of its own. An error when the system has no thread left.
pub async fn thread<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> std::io::Result<T> {
    let (sender, result) = oneshot::channel();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let _ = sender.send(std::panic::catch_unwind(AssertUnwindSafe(work)));
    })?;
    match result.await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        // The thread sends whatever happens.
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_full_lane_holds_up_no_other() {
        let (release, hold) = mpsc::channel::<()>();
        let hold = Arc::new(std::sync::Mutex::new(hold));
        // More pieces of work than the lane has threads, none of which ends.
        let stuck: Vec<_> = (0..10)
            .map(|_| {
                let hold = hold.clone();
                tokio::spawn(blocking_in(Lane::Unpack, move || hold.lock().unwrap().recv().is_err()))
            })
            .collect();
        for lane in [Lane::Control, Lane::Read, Lane::Write, Lane::Hash] {
            assert_eq!(blocking_in(lane, || 7).await, 7);
        }
        assert_eq!(thread("own", || 8).await.unwrap(), 8);
        drop(release);
        for stuck in stuck {
            assert!(stuck.await.unwrap());
        }
    }
}
