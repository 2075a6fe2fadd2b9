//! What the tests of several crates share: sample images, the promises that every store keeps, and fleets of agents.
#![allow(clippy::unwrap_used)]

pub mod bare;
pub mod bench;
pub mod conformance;
pub mod engine;
pub mod fleet;
pub mod namespace;
pub mod path;
pub mod process;
pub mod rogue;
pub mod sample;
pub mod slow;
pub mod sys;
pub mod trace;

/// Says why a test does not run here. Where everything must run (`IMGD_TEST_ALL` is set, as in CI), that is a failure.
pub fn skipped(reason: &str) {
    assert!(std::env::var_os("IMGD_TEST_ALL").is_none(), "skipped where nothing may be skipped: {reason}");
    // The one line that a test prints: why it did nothing.
    #[allow(clippy::print_stdout)]
    {
        println!("skipped: {reason}");
    }
}
