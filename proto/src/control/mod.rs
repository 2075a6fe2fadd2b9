//! Messages between `imgctl` and the `imgd` of the same host, on its Unix socket.
//!
//! The client says [`Hello`], the agent answers with its own; then one [`Request`], then [`Event`]s until [`Event::End`] or
//! [`Event::Failed`]. Archives travel as data frames (u32 length, bytes; length 0 ends them): after a `Load` from the client, and after
//! [`Event::Data`] to it. Closing the connection cancels what it asked for, unless it was detached.

mod event;
mod failure;
mod request;

use serde::{Deserialize, Serialize};

use crate::frame::Bounded;

pub use event::{
    Check, Difference, Done, Drawn, Event, Hashing, MemberRow, Moved, PeerRow, PeerState, Planned, PlannedLayer, Progress, Resolved,
    Source, Summary, TransferRow, TransferState, Verdict,
};
pub use failure::{Failure, FailureKind};
pub use request::{ArchiveFormat, Compression, Fleet, Hosts, Platforms, Pull, Request, Retry, Save, Send, Status};

/// Version of everything in this file.
pub const MAJOR: u16 = 1;

/// Capability of a client: it understands [`Event::Hashing`], [`Event::Resolved`] and [`Event::Moved`].
pub const JOB_NEWS: u64 = 1;

/// Capability of a client: it understands [`Event::Told`].
pub const MEMBER_NEWS: u64 = 1 << 1;

/// Capability of a client: it understands [`FailureKind::NotPermitted`].
pub const ROLES: u64 = 1 << 2;

/// Capability of a client: it understands [`PeerState::TwoMachines`].
pub const TWO_MACHINES: u64 = 1 << 3;

/// Capability of a client: it understands [`Event::NotLoaded`].
pub const LOAD_NEWS: u64 = 1 << 4;

/// Capability of a client: it understands [`FailureKind::Clock`].
pub const CLOCKS: u64 = 1 << 5;

/// Capability of a client: it understands [`FailureKind::UnpackedOnly`].
pub const UNPACKED: u64 = 1 << 6;

/// The first message in both directions. Frozen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Version of the protocol.
    pub major: u16,
    /// Bits of what the sender can do beyond it.
    pub capabilities: u64,
    /// `imgctl 0.1.0`.
    pub software: String,
}

impl Bounded for Hello {
    fn within_limits(&self) -> bool {
        self.software.len() <= 255
    }
}
