//! Why `imgd` did not do what it was asked for.

use serde::{Deserialize, Serialize};

use crate::Platform;
use crate::frame::Bounded;
use crate::limits::{CAUSE_BYTES, IMAGE_MANIFESTS};

/// More causes than any chain of errors has.
const CAUSES: usize = 64;

/// Why something was not done: what kind of thing went wrong, and the chain of causes, outermost first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Decides exit code and hint.
    pub kind: FailureKind,
    /// `cannot send demo:nautilus to stapp03`, `peer refused`, `no space left` …
    pub causes: Vec<String>,
}

/// Kinds of failure that a script or a person would treat differently.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// Anything else.
    Other,
    /// The request makes no sense.
    Usage,
    /// No such image, or more than one, here or there.
    ImageNotFound,
    /// No member or group of that name.
    HostNotFound(String),
    /// A member that does not answer.
    HostUnreachable(String),
    /// The other side does not take us for a member, or we it.
    NotTrusted,
    /// This host is in no fleet.
    NoFleet,
    /// This host is in a fleet already.
    InFleet,
    /// This host does not hold the signing key; this one does.
    NotSigner(Option<String>),
    /// A token that is not, or no longer, good.
    Token,
    /// A policy says no.
    Denied,
    /// No room at the receiver.
    NoSpace,
    /// Not for the receiver's platform; these are available.
    PlatformAbsent(Vec<Platform>),
    /// Two hosts cannot have one name.
    NameTaken(String),
    /// Not an archive of images, or a damaged one.
    InvalidArchive,
    /// An image that breaks the rules of its format.
    InvalidImage,
    /// A blob in a store is damaged.
    Corrupt,
    /// The store failed.
    Store,
    /// Somebody cancelled it.
    Cancelled,
    /// The agent is about to stop.
    ShuttingDown,
    /// Client and agent do not speak the same version.
    Version,
    /// No transfer of this number is running.
    TransferNotFound(u64),
    /// A store that does not keep such images.
    Unsupported,
    /// It was not begun, or stopped, because this other host failed before.
    Skipped(String),
    /// A user of this host without the role that the request takes: this group has it. Only to a client with [`super::ROLES`].
    NotPermitted(String),
    /// The clocks of two hosts are too far apart. Only to a client with [`super::CLOCKS`].
    Clock,
    /// An engine has a layer only unpacked, and cannot give it to others. Only to a client with [`super::UNPACKED`].
    UnpackedOnly,
}

impl Failure {
    /// The same for a client with these capabilities.
    pub fn for_capabilities(mut self, capabilities: u64) -> Self {
        if matches!(self.kind, FailureKind::NotPermitted(_)) && capabilities & super::ROLES == 0 {
            self.kind = FailureKind::NotTrusted;
        }
        if self.kind == FailureKind::Clock && capabilities & super::CLOCKS == 0 {
            self.kind = FailureKind::NotTrusted;
        }
        if self.kind == FailureKind::UnpackedOnly && capabilities & super::UNPACKED == 0 {
            self.kind = FailureKind::Store;
        }
        self
    }
}

impl Bounded for Failure {
    fn within_limits(&self) -> bool {
        let kind = match &self.kind {
            FailureKind::PlatformAbsent(platforms) => platforms.len() <= IMAGE_MANIFESTS && platforms.iter().all(Platform::is_short),
            FailureKind::HostNotFound(text)
            | FailureKind::HostUnreachable(text)
            | FailureKind::NotSigner(Some(text))
            | FailureKind::NameTaken(text)
            | FailureKind::Skipped(text)
            | FailureKind::NotPermitted(text) => text.len() <= CAUSE_BYTES,
            _ => true,
        };
        kind && self.causes.len() <= CAUSES && self.causes.iter().all(|cause| cause.len() <= CAUSE_BYTES)
    }
}
