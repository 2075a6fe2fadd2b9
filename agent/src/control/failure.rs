//! From typed errors to what a client is told: the kind, and the causes from the outermost to the innermost.

use std::error::Error;

use proto::control::{Failure, FailureKind};
use proto::image::ImageError;
use proto::peer::Refusal;

use crate::net::NetError;
use crate::store::StoreError;
use crate::transfer::TransferError;
use crate::trust::TrustError;

/// A failure with one cause.
pub(super) fn failure(kind: FailureKind, what: impl Into<String>) -> Failure {
    Failure { kind, causes: vec![what.into()] }
}

/// The agent ends before the request does.
pub(super) fn shutting_down() -> Failure {
    failure(FailureKind::ShuttingDown, "the agent is shutting down")
}

/// What was tried, and the whole chain behind it.
pub(super) fn because(what: String, kind: FailureKind, error: &(dyn Error + 'static)) -> Failure {
    let mut causes = vec![what];
    let mut next = Some(error);
    while let Some(error) = next {
        causes.push(error.to_string());
        next = error.source();
    }
    causes.dedup();
    Failure { kind, causes }
}

/// A failure of this host's store.
pub(super) fn store(what: impl Into<String>, error: &StoreError) -> Failure {
    because(what.into(), store_kind(error), error)
}

/// A failure of a transfer to or from `host`.
pub(super) fn transfer(what: impl Into<String>, host: &str, error: &TransferError) -> Failure {
    let kind = match error {
        TransferError::Net(error) => net_kind(host, error),
        TransferError::Store(error) => store_kind(error),
        TransferError::Source(_) => FailureKind::Store,
        TransferError::Refused(refusal) | TransferError::Here(refusal) => refusal_kind(refusal),
        TransferError::OtherConfig { .. } => FailureKind::InvalidImage,
        TransferError::Cancelled => FailureKind::Cancelled,
    };
    because(what.into(), kind, error)
}

/// A failure to reach `host`.
pub(super) fn net(what: impl Into<String>, host: &str, error: &NetError) -> Failure {
    because(what.into(), net_kind(host, error), error)
}

/// A failure of trust.
pub(super) fn trust(what: impl Into<String>, error: &TrustError) -> Failure {
    because(what.into(), trust_kind(error), error)
}

pub(super) fn refusal_kind(refusal: &Refusal) -> FailureKind {
    match refusal {
        Refusal::NoSpace { .. } => FailureKind::NoSpace,
        Refusal::PlatformAbsent { available, .. } => FailureKind::PlatformAbsent(available.clone()),
        Refusal::Policy(_) | Refusal::BlobNotOffered(_) => FailureKind::Denied,
        Refusal::ImageNotFound(_) => FailureKind::ImageNotFound,
        Refusal::InvalidImage(_) => FailureKind::InvalidImage,
        Refusal::Corrupt(_) => FailureKind::Corrupt,
        Refusal::Unsupported(_) => FailureKind::Unsupported,
        Refusal::Store(_) | Refusal::StoreUnavailable(_) | Refusal::StoreChanged => FailureKind::Store,
        Refusal::Cancelled => FailureKind::Cancelled,
        Refusal::ShuttingDown => FailureKind::ShuttingDown,
        Refusal::UnpackedOnly(_) => FailureKind::UnpackedOnly,
        Refusal::Busy | Refusal::OutOfTurn => FailureKind::Other,
    }
}

fn store_kind(error: &StoreError) -> FailureKind {
    match error {
        StoreError::NotFound(_) | StoreError::Ambiguous(_) => FailureKind::ImageNotFound,
        StoreError::Corrupt(_) | StoreError::BlobMissing(_) => FailureKind::Corrupt,
        StoreError::Image(ImageError::PlatformAbsent { available, .. }) => FailureKind::PlatformAbsent(available.clone()),
        // An engine fetches of an index what it wants.
        StoreError::Image(ImageError::Absent { .. }) => FailureKind::PlatformAbsent(vec![]),
        StoreError::Image(_) => FailureKind::InvalidImage,
        StoreError::UnpackedOnly(_) => FailureKind::UnpackedOnly,
        StoreError::NoSpace(_) => FailureKind::NoSpace,
        StoreError::SeveralNames { .. } => FailureKind::Usage,
        StoreError::Unsupported { .. } | StoreError::Unfit { .. } => FailureKind::Unsupported,
        _ => FailureKind::Store,
    }
}

fn net_kind(host: &str, error: &NetError) -> FailureKind {
    match error {
        NetError::Clock(_) | NetError::OutOfDate => FailureKind::Clock,
        NetError::Refused(_) | NetError::NotMember(_) | NetError::Handshake(_) | NetError::Revoked | NetError::TwoMachines(_) => {
            FailureKind::NotTrusted
        }
        NetError::JoinRefused(refusal) => join_kind(refusal),
        NetError::Trust(error) => trust_kind(error),
        NetError::Answer(refusal) => refusal_kind(refusal),
        NetError::Frame(_) | NetError::OutOfTurn(_) => FailureKind::Other,
        NetError::Bind { .. } => FailureKind::Other,
        NetError::NoNetwork(_)
        | NetError::TurnedAway
        | NetError::NoAddress
        | NetError::OtherHost
        | NetError::Unreachable(_)
        | NetError::Lost(_)
        | NetError::Silent(_) => FailureKind::HostUnreachable(host.to_owned()),
    }
}

fn join_kind(refusal: &proto::join::JoinRefusal) -> FailureKind {
    use proto::join::JoinRefusal;
    match refusal {
        JoinRefusal::NotSigner => FailureKind::NotSigner(None),
        JoinRefusal::Token | JoinRefusal::OtherName { .. } => FailureKind::Token,
        JoinRefusal::NameTaken { name, .. } => FailureKind::NameTaken(name.clone()),
        JoinRefusal::Removed(_) | JoinRefusal::NotMember(_) => FailureKind::NotTrusted,
        JoinRefusal::Version { .. } => FailureKind::Version,
        JoinRefusal::Invalid | JoinRefusal::Full => FailureKind::Other,
    }
}

fn trust_kind(error: &TrustError) -> FailureKind {
    match error {
        TrustError::Clock(_) => FailureKind::Clock,
        TrustError::NoFleet => FailureKind::NoFleet,
        TrustError::InFleet(_) | TrustError::OtherFleet { .. } => FailureKind::InFleet,
        TrustError::NotSigner(name) => FailureKind::NotSigner(name.clone()),
        TrustError::Token(_) => FailureKind::Token,
        TrustError::NameTaken { name, .. } => FailureKind::NameTaken(name.clone()),
        TrustError::UnknownMember(name) => FailureKind::HostNotFound(name.clone()),
        TrustError::Removed(_) | TrustError::Certificate { .. } | TrustError::ForgedList(_) => FailureKind::NotTrusted,
        TrustError::Refused(refusal) => join_kind(refusal),
        TrustError::Name(_) | TrustError::Invite(_) | TrustError::Oneself(_) | TrustError::Backup(_) => FailureKind::Usage,
        _ => FailureKind::Other,
    }
}
