//! The machines that decide what may follow what in a transfer, one for each side.
//!
//! They do no I/O, read no clock and never wait: whoever drives one tells it what happened (`handle`) and does what it asks for (`poll`).
//! The receiver pulls: it knows what it lacks, so it decides what is fetched, in which order, how much at once, and when
//! the image is complete. The sender answers, and follows what it is told.

pub mod chain;
pub mod links;
pub mod receive;
pub mod send;

pub use chain::Chain;
pub use links::Links;
pub use receive::Receive;
pub use send::Send;

/// Something came that cannot come now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is out of turn")]
pub struct OutOfTurn(pub &'static str);
