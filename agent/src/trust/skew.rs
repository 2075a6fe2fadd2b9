//! How far two clocks are apart, as far as a certificate tells.

use std::fmt;
use std::time::SystemTime;

use super::clock::unix_s;
use super::issue::BACKDATED;

/// How this program says it where only a text comes through: see [`Skew::from_text`].
const TEXT: &str = "clock of this host off by at least ";

/// By how many seconds the clock of this host is at least behind that of whoever made a certificate; below zero: ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Skew(i64);

impl Skew {
    /// A certificate that begins later than it is here: it was made by a clock that showed at least its beginning, and what it is backdated by.
    pub(super) fn behind(now: SystemTime, not_before: SystemTime) -> Self {
        Self::between(unix_s(not_before).saturating_add(BACKDATED.as_secs()), unix_s(now))
    }

    /// A certificate that has ended, as it is here, and is in use.
    pub(super) fn ahead(now: SystemTime, not_after: SystemTime) -> Self {
        Self::between(unix_s(not_after), unix_s(now))
    }

    /// How it goes through an error of TLS.
    pub(super) fn to_text(self) -> String {
        format!("{TEXT}{} s", self.0)
    }

    /// Finds it in an error that came through TLS.
    pub fn from_text(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once(TEXT)?;
        rest.split_once(" s")?.0.parse().ok().map(Self)
    }

    /// As the other side sees it.
    pub fn from_there(self) -> Self {
        Self(self.0.saturating_neg())
    }

    fn between(there_unix_s: u64, here_unix_s: u64) -> Self {
        let signed = |unix_s: u64| i64::try_from(unix_s).unwrap_or(i64::MAX);
        Self(signed(there_unix_s).saturating_sub(signed(here_unix_s)))
    }
}

impl fmt::Display for Skew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.unsigned_abs();
        // Some seconds pass while it is found out.
        let rounded = seconds + seconds / 100;
        let (count, unit) = [(365 * 86_400, "year"), (86_400, "day"), (3_600, "hour"), (60, "minute")]
            .into_iter()
            .map(|(length, unit)| (rounded / length, unit))
            .find(|(count, _)| *count >= 2)
            .unwrap_or((seconds, "second"));
        let way = if self.0 >= 0 { "behind" } else { "ahead of" };
        write!(f, "the clocks differ: that of this host is at least {count} {unit}s {way} the other one")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_is_said_in_words_and_comes_through_a_text() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let later = |seconds: u64| now + Duration::from_secs(seconds);
        for (skew, words) in [
            (Skew::behind(now, later(1_800)), "at least 90 minutes behind"),
            (Skew::behind(now, later(169_199)), "at least 2 days behind"),
            (Skew::behind(now, later(172_800)), "at least 2 days behind"),
            (Skew::behind(SystemTime::UNIX_EPOCH, now), "at least 57 years behind"),
            (Skew::ahead(later(864_001), now), "at least 10 days ahead of"),
        ] {
            assert!(skew.to_string().contains(words), "{skew}");
            assert_eq!(Skew::from_text(&format!("invalid: {}.", skew.to_text())), Some(skew));
        }
        assert_eq!(Skew::from_text("the handshake failed"), None);
    }
}
