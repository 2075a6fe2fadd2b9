//! imgd: the agent of one host. Start with `ARCHITECTURE.md` beside this crate: it says what lives where, and what is absent on purpose.

pub mod agent;
pub mod archive;
pub mod config;
pub mod control;
pub mod discovery;
mod log;
pub mod membership;
pub mod net;
pub mod packing;
mod run;
pub mod staging;
pub mod store;
pub mod sys;
pub mod transfer;
pub mod trust;

pub use agent::{Agent, StartError};
pub use config::{AuditCommand, Command, Config, ConfigError, Flags};
pub use run::{RunError, run};
