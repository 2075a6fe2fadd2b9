//! What the tests of several crates share: sample images, the promises that every store keeps, and fleets of agents.
#![allow(clippy::unwrap_used)]

pub mod bare;
pub mod conformance;
pub mod engine;
pub mod fleet;
pub mod namespace;
pub mod process;
pub mod rogue;
pub mod sample;
