//! Why a command failed: what a person is told, and the exit code.

use std::fmt;
use std::path::Path;

use proto::control::{Failure, FailureKind};
use proto::text::escape;

use crate::exit::Exit;
use crate::hint::{Asked, hint, other_hint};

/// A failure: the chain of causes from the outermost on, safe to show, and what helps.
#[derive(Debug)]
pub(crate) struct Error {
    /// How the program ends because of it.
    pub(crate) exit: Exit,
    /// The command that helps.
    pub(crate) hint: Option<String>,
    /// Outermost first.
    pub(crate) causes: Vec<String>,
    /// What kind of failure the agent says it is.
    pub(crate) kind: Option<FailureKind>,
}

impl Error {
    /// A failure with one cause and no hint.
    pub(crate) fn new(exit: Exit, what: impl AsRef<str>) -> Self {
        Self { exit, hint: None, causes: vec![escape(what.as_ref())], kind: None }
    }

    /// Something on this host failed: `what` was tried with `path`.
    pub(crate) fn file(what: &str, path: &Path, cause: &std::io::Error) -> Self {
        let hint = format!("ls -ld {} shows whether it is there, and what you may do with it", escape(&path.display().to_string()));
        Self::new(Exit::Failed, format!("{what} {}", path.display())).because(cause).hint(hint)
    }

    /// A wrong command line that the parser cannot see.
    pub(crate) fn usage(what: impl AsRef<str>) -> Self {
        Self::new(Exit::Usage, what)
    }

    /// A signal ended the command.
    pub(crate) fn interrupted() -> Self {
        Self::new(Exit::Interrupted, "interrupted")
    }

    /// With one more cause.
    pub(crate) fn because(mut self, cause: impl fmt::Display) -> Self {
        self.causes.push(escape(&cause.to_string()));
        self
    }

    /// The same failure, as the cause of `what`.
    pub(crate) fn under(mut self, what: impl AsRef<str>) -> Self {
        self.causes.insert(0, escape(what.as_ref()));
        self
    }

    /// As a failure of a command other than a transfer: what helps there may be something else.
    pub(crate) fn of(mut self, asked: Asked) -> Self {
        if let Some(other) = self.kind.as_ref().and_then(|kind| other_hint(kind, asked)) {
            self.hint = Some(other.to_owned());
        }
        self
    }

    /// With what helps.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<&Failure> for Error {
    fn from(failure: &Failure) -> Self {
        let mut causes: Vec<String> = failure.causes.iter().map(|cause| escape(cause)).collect();
        if causes.is_empty() {
            causes.push("the agent does not say why".to_owned());
        }
        Self { exit: Exit::from(&failure.kind), hint: Some(hint(&failure.kind)), causes, kind: Some(failure.kind.clone()) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.causes.join(": "))
    }
}

#[cfg(test)]
mod tests {
    use proto::control::FailureKind;

    use super::*;

    #[test]
    fn causes_are_one_escaped_line() {
        let causes = vec!["cannot send demo to b".to_owned(), "no\u{1b}[2J\nspace".to_owned()];
        let error = Error::from(&Failure { kind: FailureKind::NoSpace, causes });
        assert_eq!(error.to_string(), "cannot send demo to b: no\\u{1b}[2J\\u{a}space");
        assert_eq!(error.exit, Exit::Refused);
    }
}
