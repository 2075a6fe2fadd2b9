//! Transfers: the machines of `proto::session`, driven. Each session has one task that owns it; it polls, does, and handles.

mod arriving;
mod commit;
mod documents;
mod fan_out;
mod finish;
mod get;
mod hashing;
mod interest;
mod job;
mod last_word;
mod offering;
mod offers;
mod pinned;
mod possession;
mod provide;
mod pull;
mod receive;
mod registry;
mod reservation;
mod retry;
mod rights;
mod send;
mod senders;
mod serve;
mod sessions;
mod share;
mod sharing;

use std::sync::{Arc, Mutex};

use proto::peer::Refusal;
use proto::session::Links;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::discovery::Peers;
use crate::net::{Net, NetError, Peer, Stream};
use crate::staging::Staging;
use crate::store::{StoreError, Turns};
use crate::trust::{Policy, Trust};

pub use crate::sys::Limit;
pub use commit::{Line, commit};
pub use fan_out::Fan;
pub use hashing::Hashings;
pub use job::Jobs;
pub use offers::Offers;
pub use pinned::Pinned;
pub use possession::Possessions;
pub use pull::pull;
pub use registry::{Transfer, Transfers};
pub use reservation::Reservations;
pub use retry::Retry;
pub use rights::may_get;
pub use send::{SendJob, Sent, send};
pub use senders::Senders;
pub use serve::serve;
pub use sessions::Sessions;

/// How often a receiver may say that it has lost what it had when the session began, before that is an error.
const STORE_CHANGES: u32 = 3;

/// What the tasks of an agent share.
#[derive(Debug)]
pub struct Context<S> {
    /// The images of this host.
    pub store: Arc<S>,
    /// What has arrived and is not in the store yet.
    pub staging: Arc<Staging>,
    /// Who we are, and whom we let in.
    pub trust: Arc<Trust>,
    /// Connections.
    pub net: Arc<Net>,
    /// Where others are.
    pub peers: Arc<Peers>,
    /// Interfaces for multicast DNS: all but container interfaces, when empty; `None` without multicast DNS.
    pub mdns_interfaces: Option<Vec<String>>,
    /// Who may do what here.
    pub policy: Policy,
    /// Which members brought the tags of this host.
    pub senders: Arc<Senders>,
    /// Who has proved to have what.
    pub possessions: Possessions,
    /// One session at a time gives a name away.
    pub names: Arc<Turns>,
    /// Room that sessions have reserved here.
    pub reservations: Reservations,
    /// Sessions that bring images.
    pub sessions: Sessions,
    /// What is being hashed before it is served.
    pub hashings: Hashings,
    /// What peers may read here now.
    pub offers: Offers,
    /// Fan-outs that this host takes part in.
    pub jobs: Jobs,
    /// What fan-outs have shown of the links to other hosts.
    pub links: Arc<Mutex<Links>>,
    /// Running and recent transfers.
    pub transfers: Transfers,
    /// Takes what peers ask this host to send.
    pub relays: mpsc::Sender<Relay>,
    /// Cancelled when the agent is about to stop.
    pub shutdown: CancellationToken,
}

/// A peer asks this host to send what it has to others.
#[derive(Debug)]
pub struct Relay {
    /// Who asks.
    pub peer: Peer,
    /// Where it hears how it goes.
    pub stream: Stream,
    /// What it asks for.
    pub request: proto::control::Send,
}

/// Why an image was not brought from one host to another.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The host was not reached, or was lost.
    #[error(transparent)]
    Net(#[from] NetError),
    /// Our own store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Our own store, which a receiver has asked for a blob.
    #[error("the store of this host failed: {0}")]
    Source(String),
    /// The receiver says no.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// We say no, as the receiver.
    #[error("refused by this host: {0}")]
    Here(Refusal),
    /// It says that it has the image, but with another config.
    #[error("the image there has config {theirs}, here it has {ours}")]
    OtherConfig {
        /// Config digest here.
        ours: proto::Digest,
        /// Config digest there.
        theirs: proto::Digest,
    },
    /// Somebody cancelled it.
    #[error("cancelled")]
    Cancelled,
}

impl From<proto::session::OutOfTurn> for TransferError {
    fn from(error: proto::session::OutOfTurn) -> Self {
        Self::Net(error.into())
    }
}

/// What the other side is told of an error of our store: what it can act on, and no paths.
fn refusal(error: &StoreError) -> Refusal {
    match error {
        StoreError::Corrupt(digest) => Refusal::Corrupt(*digest),
        StoreError::Image(error) => match error {
            proto::image::ImageError::PlatformAbsent { wanted, available } => {
                Refusal::PlatformAbsent { wanted: wanted.clone(), available: available.clone() }
            }
            other => Refusal::InvalidImage(other.to_string()),
        },
        StoreError::UnpackedOnly(digest) => Refusal::UnpackedOnly(*digest),
        StoreError::Gone(_) => Refusal::StoreChanged,
        StoreError::Unsupported { .. } | StoreError::Unfit { .. } => Refusal::Unsupported(error.to_string()),
        StoreError::NoSpace(_) => Refusal::Store("no space left on its device".to_owned()),
        StoreError::Io { action, source, .. } => Refusal::Store(format!("cannot {action} a file: {source}")),
        StoreError::Unreachable { engine, source, .. } => Refusal::StoreUnavailable(format!("{engine} cannot be reached: {source}")),
        StoreError::Silent { engine, .. } => Refusal::StoreUnavailable(format!("{engine} does not answer")),
        other => Refusal::Store(other.to_string()),
    }
}
