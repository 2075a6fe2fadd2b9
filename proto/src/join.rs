//! Joining a fleet and renewing a certificate: ALPN `imgd-join/1`, one stream, one request, one answer.
//!
//! The joining host pins the CA key that its token names. It proves that it has the token's secret by an HMAC over the TLS exporter
//! and its new public key, and that it has the private key by a signature over the same: the secret never travels, and
//! neither proof is of use in another connection.

use serde::{Deserialize, Serialize};

use crate::frame::Bounded;
use crate::host::{HostId, SignedMemberList, check_name};
use crate::limits::TEXT_BYTES;

/// ALPN of this protocol.
pub const ALPN: &[u8] = b"imgd-join/1";

/// Label of the TLS exporter that both proofs cover.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-imgd-join";

/// The first and only message of the host that asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// Protocol version of the asker; the answer to another one is [`JoinRefusal::Version`].
    pub major: u16,
    /// What is asked for.
    pub purpose: JoinPurpose,
    /// DER of the asker's Ed25519 SubjectPublicKeyInfo: all that is taken over into the certificate.
    pub public_key: Vec<u8>,
    /// Ed25519 signature of that key over exporter, purpose and name.
    pub possession: Vec<u8>,
}

/// What a [`JoinRequest`] is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinPurpose {
    /// Become a member under this name.
    Join {
        /// Wanted host name.
        name: String,
        /// HMAC-SHA-256 with the token's secret over exporter, public key and name.
        proof: [u8; 32],
    },
    /// A new certificate for a member's key; the old one may have run out.
    Renew,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinAnswer {
    /// Welcome to the fleet.
    Accepted {
        /// DER of the host certificate.
        certificate: Vec<u8>,
        /// DER of the CA certificate.
        ca_certificate: Vec<u8>,
        /// The list with the new member on it.
        members: SignedMemberList,
    },
    /// No.
    Refused(JoinRefusal),
}

/// Why a join or a renewal is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum JoinRefusal {
    /// This host does not hold the CA key.
    #[error("this host does not hold the fleet's signing key")]
    NotSigner,
    /// Unknown, used up or out of date: these are not told apart to a stranger.
    #[error("the token is wrong, used up or has expired")]
    Token,
    /// The name belongs to somebody else.
    #[error("the name {name} belongs to host {holder}; this host is {asker}")]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        holder: HostId,
        /// Who asked for it.
        asker: HostId,
    },
    /// The token was made for another name.
    #[error("the token is for the host name {name}")]
    OtherName {
        /// The name in the invitation.
        name: String,
    },
    /// This key was removed from the fleet.
    #[error("host {0} was removed from this fleet")]
    Removed(HostId),
    /// A renewal for a key that is not a member's.
    #[error("host {0} is not a member of this fleet")]
    NotMember(HostId),
    /// The request is not what it should be.
    #[error("the request is not valid")]
    Invalid,
    /// The versions do not fit.
    #[error("this host speaks protocol version {ours}")]
    Version {
        /// Ours.
        ours: u16,
    },
    /// The fleet is full.
    #[error("the fleet has as many members as it can have")]
    Full,
}

impl JoinPurpose {
    /// The bytes that the signature covers beside the exporter.
    pub fn signed_bytes(&self) -> Vec<u8> {
        crate::frame::encode_body(self)
    }
}

impl Bounded for JoinRequest {
    fn within_limits(&self) -> bool {
        let name = match &self.purpose {
            JoinPurpose::Join { name, .. } => check_name(name).is_ok(),
            JoinPurpose::Renew => true,
        };
        name && self.public_key.len() <= 256 && self.possession.len() <= 256
    }
}

impl Bounded for JoinAnswer {
    fn within_limits(&self) -> bool {
        match self {
            Self::Accepted { certificate, ca_certificate, members } => {
                certificate.len() <= TEXT_BYTES && ca_certificate.len() <= TEXT_BYTES && members.within_limits()
            }
            Self::Refused(JoinRefusal::NameTaken { name, .. } | JoinRefusal::OtherName { name }) => check_name(name).is_ok(),
            Self::Refused(_) => true,
        }
    }
}
