//! Connections to other hosts: who is allowed to speak to us, and how we speak to them.
//!
//! Nothing is parsed for a stranger: an address proves itself by a retry, an identity by the handshake, membership by the
//! greeting. Only then streams are served. All settings of quinn are in `endpoint.rs`.

mod accept;
mod allowance;
mod congestion;
mod connection;
mod endpoint;
mod greeting;
mod guesses;
mod instances;
mod join;
mod moved;
mod pool;
mod search;
mod stream;
mod twins;

use std::net::SocketAddr;

use proto::HostId;
use proto::frame::FrameError;
use proto::join::JoinRefusal;
use proto::peer::{GreetingRefusal, Refusal};
use quinn::VarInt;

pub use allowance::Share;
pub use connection::Peer;
pub use pool::{Net, NetConfig, Refused};
pub use stream::Stream;

use crate::sys::interface::NoNetwork;
use crate::trust::{Skew, TrustError};

/// Why a host was not reached, or not understood.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The socket cannot be opened.
    #[error("cannot listen on UDP {address}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// No address is known for a host.
    #[error("no address is known for it")]
    NoAddress,
    /// Not even this host has one that others could reach.
    #[error("{0}")]
    NoNetwork(NoNetwork),
    /// None of its addresses answers as it.
    #[error("{}", attempts(.0))]
    Unreachable(Vec<(SocketAddr, String)>),
    /// It answers, but does not take us for a member.
    #[error("it refused this host: {0}")]
    Refused(GreetingRefusal),
    /// It does not take this host into the fleet, or does not renew its certificate.
    #[error("refused: {0}")]
    JoinRefused(JoinRefusal),
    /// We do not take it for a member.
    #[error("host {0} is not a member of this fleet")]
    NotMember(HostId),
    /// A certificate is good at another time than it is here.
    #[error("{0}")]
    Clock(Skew),
    /// The other side takes the certificate of this host for one of another time.
    #[error("there the certificate of this host is out of date: a clock is wrong, or it was not renewed in time")]
    OutOfDate,
    /// It was told that this host was removed from the fleet.
    #[error("there this host is one that was removed from the fleet")]
    Revoked,
    /// TLS says that one of the two is not who it should be.
    #[error("the handshake failed: {0}")]
    Handshake(String),
    /// Who answers at an address is a member of the fleet, and another one: the address is not that of the host that is looked for.
    #[error("another host answers there")]
    OtherHost,
    /// One key on two machines: which of the two it is that is looked for, nobody can know.
    #[error("two machines answer with its key, at {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and "))]
    TwoMachines(Vec<SocketAddr>),
    /// The connection is gone.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// It has no room for one more that it does not know yet, and may have some in a moment.
    #[error("it takes no connection now")]
    TurnedAway,
    /// Nothing came for too long.
    #[error("no answer within {0} s")]
    Silent(u64),
    /// It sent what is not of the protocol.
    #[error("it sent {0}")]
    Frame(#[from] FrameError),
    /// It sent something out of turn.
    #[error("{0}")]
    OutOfTurn(#[from] proto::session::OutOfTurn),
    /// It does not want to.
    #[error("{0}")]
    Answer(Refusal),
    /// This host has no fleet, or its trust is damaged.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// The alert `certificate_expired` (RFC 8446, 6) as a code of QUIC (RFC 9001, 4.8).
const CERTIFICATE_EXPIRED: u64 = 0x100 + 45;

/// The alert `certificate_revoked`.
const CERTIFICATE_REVOKED: u64 = 0x100 + 44;

/// What a connection is closed with that is not kept.
const TURNED_AWAY: u32 = 1;

/// `CONNECTION_REFUSED` and `APPLICATION_ERROR` of QUIC (RFC 9000, 20.1): the second one is how a connection is closed before its handshake is over.
const REFUSED: u64 = 0x2;
const CLOSED_EARLY: u64 = 0xc;

/// How rustls words [`rustls::CertificateError::NotValidForName`].
const OTHER_NAME: &str = "NotValidForName";

impl NetError {
    /// True when trying again may help: the host or the way to it is gone, not its good will.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Lost(_) | Self::TurnedAway | Self::Silent(_) | Self::Unreachable(_) | Self::NoAddress | Self::OtherHost)
    }
}

impl From<quinn::ConnectionError> for NetError {
    /// In TLS 1.3 a server refuses a client's certificate after the client believes to be connected: that is a failed handshake, too.
    fn from(error: quinn::ConnectionError) -> Self {
        use quinn::ConnectionError;
        let crypto = |code: quinn::TransportErrorCode| (0x100..0x200).contains(&u64::from(code));
        match &error {
            ConnectionError::ConnectionClosed(close) if u64::from(close.error_code) == CERTIFICATE_EXPIRED => Self::OutOfDate,
            ConnectionError::ConnectionClosed(close) if [REFUSED, CLOSED_EARLY].contains(&u64::from(close.error_code)) => Self::TurnedAway,
            ConnectionError::ApplicationClosed(close) if close.error_code == VarInt::from_u32(TURNED_AWAY) => Self::TurnedAway,
            ConnectionError::ConnectionClosed(close) if u64::from(close.error_code) == CERTIFICATE_REVOKED => Self::Revoked,
            ConnectionError::ConnectionClosed(close) if crypto(close.error_code) => {
                let skew = Skew::from_text(&String::from_utf8_lossy(&close.reason));
                skew.map_or_else(|| Self::Handshake(error.to_string()), |skew| Self::Clock(skew.from_there()))
            }
            // What our verifier says of a certificate of this fleet that is another host's.
            ConnectionError::TransportError(fault) if crypto(fault.code) && fault.reason.contains(OTHER_NAME) => Self::OtherHost,
            ConnectionError::TransportError(fault) if crypto(fault.code) => {
                Skew::from_text(&fault.reason).map_or_else(|| Self::Handshake(error.to_string()), Self::Clock)
            }
            _ => Self::Lost(error.to_string()),
        }
    }
}

fn attempts(attempts: &[(SocketAddr, String)]) -> String {
    let attempts: Vec<String> = attempts.iter().map(|(address, reason)| format!("{address}: {reason}")).collect();
    attempts.join("; ")
}
