//! Every oddity of the operating system, in a small function.

pub mod durable;
pub mod file;
pub mod group;
pub mod interface;
mod lane;
mod limit;
pub mod memory;
pub mod netlink;
pub mod service;
pub mod socket;

use tracing::Instrument;

pub use lane::{Lane, THREADS, blocking, blocking_in, thread};
pub use limit::Limit;

/// The output of `work`, which goes on to its end in a task of its own when the caller is gone: for a change and what is to be written of it.
pub async fn to_the_end<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    match tokio::spawn(work.in_current_span()).await {
        Ok(output) => output,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that shuts down cancels it.
            Err(_) => std::future::pending().await,
        },
    }
}

/// The output of `future`, or `None` when it takes longer than `timeout_ms`.
pub async fn deadline<F: Future>(timeout_ms: u64, future: F) -> Option<F::Output> {
    tokio::time::timeout(std::time::Duration::from_millis(timeout_ms), future).await.ok()
}
