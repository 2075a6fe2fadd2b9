//! How `imgctl` ends, for scripts.

use std::process::ExitCode;

use proto::control::FailureKind;

/// The exit codes. What a script would treat differently has a number of its own; the numbers never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// All that was asked for is done.
    Done = 0,
    /// It is not, for a reason without a number of its own.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// There is no such image, or the name means several.
    ImageNotFound = 3,
    /// There is no such host, or it does not answer.
    Host = 4,
    /// One side does not trust the other, or the user may not talk to the agent.
    NotTrusted = 5,
    /// Refused before a byte moved: no space, no such platform, a policy, a name that is taken.
    Refused = 6,
    /// Some of several hosts, or of several images of an archive, failed; the output names them.
    SomeFailed = 7,
    /// Ctrl-C, or a signal to end.
    Interrupted = 130,
}

impl Exit {
    /// The number.
    pub(crate) fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl From<&FailureKind> for Exit {
    fn from(kind: &FailureKind) -> Self {
        match kind {
            FailureKind::Usage => Self::Usage,
            FailureKind::ImageNotFound => Self::ImageNotFound,
            FailureKind::HostNotFound(_) | FailureKind::HostUnreachable(_) => Self::Host,
            FailureKind::NotTrusted
            | FailureKind::Clock
            | FailureKind::NoFleet
            | FailureKind::NotSigner(_)
            | FailureKind::Token
            | FailureKind::NotPermitted(_) => Self::NotTrusted,
            FailureKind::Denied
            | FailureKind::NoSpace
            | FailureKind::PlatformAbsent(_)
            | FailureKind::NameTaken(_)
            | FailureKind::Unsupported => Self::Refused,
            FailureKind::Other
            | FailureKind::TransferNotFound(_)
            | FailureKind::InFleet
            | FailureKind::InvalidArchive
            | FailureKind::InvalidImage
            | FailureKind::Corrupt
            | FailureKind::Store
            | FailureKind::UnpackedOnly
            | FailureKind::Cancelled
            | FailureKind::ShuttingDown
            | FailureKind::Skipped(_)
            | FailureKind::Version => Self::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_failure_has_its_code() {
        for (kind, code) in [
            (FailureKind::Other, 1),
            (FailureKind::Usage, 2),
            (FailureKind::ImageNotFound, 3),
            (FailureKind::HostNotFound("a".into()), 4),
            (FailureKind::HostUnreachable("a".into()), 4),
            (FailureKind::TransferNotFound(7), 1),
            (FailureKind::NotTrusted, 5),
            (FailureKind::NoFleet, 5),
            (FailureKind::InFleet, 1),
            (FailureKind::NotSigner(None), 5),
            (FailureKind::Token, 5),
            (FailureKind::Denied, 6),
            (FailureKind::NoSpace, 6),
            (FailureKind::PlatformAbsent(vec![]), 6),
            (FailureKind::NameTaken("a".into()), 6),
            (FailureKind::Unsupported, 6),
            (FailureKind::InvalidArchive, 1),
            (FailureKind::InvalidImage, 1),
            (FailureKind::Corrupt, 1),
            (FailureKind::Store, 1),
            (FailureKind::UnpackedOnly, 1),
            (FailureKind::Cancelled, 1),
            (FailureKind::ShuttingDown, 1),
            (FailureKind::Skipped("a".into()), 1),
            (FailureKind::Version, 1),
            (FailureKind::NotPermitted("a".into()), 5),
        ] {
            assert_eq!(Exit::from(&kind).code(), code, "{kind:?}");
        }
        assert_eq!((Exit::Done.code(), Exit::SomeFailed.code(), Exit::Interrupted.code()), (0, 7, 130));
    }
}
