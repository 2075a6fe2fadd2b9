//! Every oddity of the operating system, in a small function.

pub mod durable;
pub mod file;
pub mod interface;
mod lane;
pub mod memory;
pub mod service;
pub mod socket;

pub use lane::{Lane, THREADS, blocking, blocking_in, thread};

/// The output of `future`, or `None` when it takes longer than `timeout_ms`.
pub async fn deadline<F: Future>(timeout_ms: u64, future: F) -> Option<F::Output> {
    tokio::time::timeout(std::time::Duration::from_millis(timeout_ms), future).await.ok()
}
