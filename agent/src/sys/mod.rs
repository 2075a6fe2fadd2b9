//! Every oddity of the operating system, in a small function.

pub mod durable;
pub mod file;
pub mod interface;
pub mod memory;
pub mod service;
pub mod socket;

/// Runs blocking work off the async threads. A panic in it goes on in the caller.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that shuts down cancels blocking work that has not begun; nobody waits for the answer then.
            Err(_) => std::future::pending().await,
        },
    }
}

/// The output of `future`, or `None` when it takes longer than `timeout_ms`.
pub async fn deadline<F: Future>(timeout_ms: u64, future: F) -> Option<F::Output> {
    tokio::time::timeout(std::time::Duration::from_millis(timeout_ms), future).await.ok()
}
