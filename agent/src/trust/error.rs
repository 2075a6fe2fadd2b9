//! Why trust says no.

use std::path::PathBuf;

use proto::HostId;
use proto::host::InvalidHostName;
use proto::join::JoinRefusal;
use proto::text::escape_short;

use super::skew::Skew;
use crate::store::StoreError;

/// Why something about trust was not done. No variant holds a secret or a part of a token.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The name of a host or group is not one.
    #[error(transparent)]
    Name(#[from] InvalidHostName),
    /// A file could not be read or written. Boxed, because it is several times as large as the others.
    #[error(transparent)]
    Store(Box<StoreError>),
    /// A file of the trust directory is not what it should be.
    #[error("{path:?} is not valid: {reason}; {remedy}")]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// This host is in no fleet.
    #[error("this host is in no fleet")]
    NoFleet,
    /// This host is in a fleet already.
    #[error("this host is in fleet {} already", .0.short())]
    InFleet(HostId),
    /// This host is in another fleet.
    #[error("this host is in fleet {}, not in fleet {}", .ours.short(), .theirs.short())]
    OtherFleet {
        /// Where it is.
        ours: HostId,
        /// What was asked for.
        theirs: HostId,
    },
    /// The signing key is on another host.
    #[error("this host does not hold the fleet's signing key{}", match .0 { Some(name) => format!(": {name} does"), None => String::new() })]
    NotSigner(Option<String>),
    /// What was given is not a join token. Says what is wrong with its form, never what it was.
    #[error("this is not a join token: {0}")]
    Token(&'static str),
    /// An invitation that makes no sense.
    #[error("cannot invite: {0}")]
    Invite(&'static str),
    /// No host of this name or id is a member.
    #[error("no member \"{}\"", escape_short(.0, 80))]
    UnknownMember(String),
    /// A host cannot remove itself.
    #[error("{0} is this host: it cannot remove itself")]
    Oneself(String),
    /// This host was removed from the fleet.
    #[error("this host ({0}) was removed from its fleet")]
    Removed(HostId),
    /// Two hosts cannot have one name.
    #[error("the name {name} belongs to host {holder}")]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        holder: HostId,
    },
    /// No more fit on the member list.
    #[error("the fleet has as many members, removed hosts or groups as it can have")]
    Full,
    /// The signer refused.
    #[error("the signer refused: {0}")]
    Refused(JoinRefusal),
    /// A member list without the signature of our fleet's CA.
    #[error("a member list that fleet {} has not signed", .0.short())]
    ForgedList(HostId),
    /// A member list that is older than ours.
    #[error("a member list of epoch {theirs}; epoch {ours} is known already")]
    StaleList {
        /// Ours.
        ours: u64,
        /// The refused one.
        theirs: u64,
    },
    /// Two signers have made different lists at once.
    #[error("another member list of epoch {0} with the fleet's signature: two hosts sign; the next list of a signer settles it")]
    ConflictingList(u64),
    /// A certificate that cannot be used.
    #[error("the certificate of {of} is not good: {reason}")]
    Certificate {
        /// Whose.
        of: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A certificate that is good at another time.
    #[error("{0}")]
    Clock(Skew),
    /// What was given is not a backup of a fleet.
    #[error("this is not a fleet backup: {0}")]
    Backup(String),
    /// A policy file that the configuration names.
    #[error("the policy file {0:?} is not there: put it back, or take `policy` out of the configuration")]
    NoPolicy(PathBuf),
    /// The key came here with a copy of the disk.
    #[error(
        "the key of this host is that of another machine (its id in /etc/machine-id differs). On a copy of a host: remove {} and join the fleet again. \
         Where the machine has only got a new id: remove {}",
        .machine.parent().unwrap_or(.machine).display(),
        .machine.display()
    )]
    OtherMachine {
        /// The file that says so.
        machine: PathBuf,
    },
    /// A secret that others can read.
    #[error("{path:?} can be read or written by others (mode {mode:04o}): `chmod 600 {}`, and if others were here, join again with a new key", .path.display())]
    OpenKey {
        /// Which file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The policy file is not valid.
    #[error("{path:?} line {line}: {reason}")]
    Policy {
        /// Which file.
        path: PathBuf,
        /// Where in it.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
    /// The system gave no random bytes.
    #[error("the system gives no random bytes")]
    Random,
    /// A certificate could not be made.
    #[error("cannot make a certificate")]
    Issue(#[from] rcgen::Error),
    /// A TLS configuration could not be made.
    #[error("cannot configure TLS")]
    Tls(#[from] rustls::Error),
}

impl TrustError {
    /// Wraps what is wrong with a certificate.
    pub(super) fn certificate(of: impl ToString, reason: impl ToString) -> Self {
        Self::Certificate { of: of.to_string(), reason: reason.to_string() }
    }
}

impl From<StoreError> for TrustError {
    fn from(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}
