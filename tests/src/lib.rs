//! What the tests of several crates share: sample images, and the promises that every store keeps.
#![allow(clippy::unwrap_used)]

pub mod conformance;
pub mod sample;
