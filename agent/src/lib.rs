//! imgd: the agent of one host. Start with [`ARCHITECTURE.md`](https://docs.rs/agent) beside this crate.

pub mod archive;
pub mod staging;
pub mod store;
pub mod sys;
