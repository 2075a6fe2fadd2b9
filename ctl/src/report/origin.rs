//! Where the images of a send come from.

use proto::text::escape;

/// The host that had them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// This one.
    Here,
    /// Another one.
    Host(String),
    /// The agent does not say of an earlier send.
    Unknown,
}

impl Origin {
    /// `here`, `on stapp05`.
    pub(super) fn adverb(&self) -> String {
        match self {
            Self::Here => "here".to_owned(),
            Self::Host(host) => format!("on {}", escape(host)),
            Self::Unknown => "at the source".to_owned(),
        }
    }

    /// `this host`, `stapp05`.
    pub(super) fn place(&self) -> String {
        match self {
            Self::Here => "this host".to_owned(),
            Self::Host(host) => escape(host),
            Self::Unknown => "the source".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let words = |source: Origin| (source.adverb(), source.place());
        assert_eq!(words(Origin::Here), ("here".into(), "this host".into()));
        assert_eq!(words(Origin::Host("a\u{1b}".into())), ("on a\\u{1b}".into(), "a\\u{1b}".into()));
        assert_eq!(words(Origin::Unknown), ("at the source".into(), "the source".into()));
    }
}
