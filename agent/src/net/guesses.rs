//! Wrong tokens: so many a minute from one network, and then nothing that comes from there is looked at until the minute is over.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::accept::network;

/// Wrong tokens of one network in a minute.
const MOST: u32 = 10;
const MINUTE: Duration = Duration::from_secs(60);

/// Networks that are remembered. Who guesses from more of them than this starts anew with the one that was forgotten.
const NETWORKS: usize = 4096;

/// Who has guessed.
#[derive(Debug, Default)]
pub(super) struct Guesses(Mutex<HashMap<IpAddr, Guessed>>);

#[derive(Debug, Clone, Copy)]
struct Guessed {
    wrong: u32,
    since: Instant,
}

impl Guesses {
    /// Whether a token from there is looked at.
    pub(super) fn may(&self, address: IpAddr, now: Instant) -> bool {
        let guesses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        guesses.get(&network(address)).is_none_or(|guessed| guessed.wrong < MOST || guessed.is_over(now))
    }

    /// A token from there was wrong.
    pub(super) fn wrong(&self, address: IpAddr, now: Instant) {
        let mut guesses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if guesses.len() >= NETWORKS {
            guesses.retain(|_, guessed| !guessed.is_over(now));
        }
        if guesses.len() >= NETWORKS {
            let oldest = guesses.iter().min_by_key(|(_, guessed)| guessed.since).map(|(network, _)| *network);
            oldest.map(|oldest| guesses.remove(&oldest));
        }
        let guessed = guesses.entry(network(address)).or_insert(Guessed { wrong: 0, since: now });
        if guessed.is_over(now) {
            *guessed = Guessed { wrong: 0, since: now };
        }
        guessed.wrong += 1;
    }
}

impl Guessed {
    fn is_over(&self, now: Instant) -> bool {
        now.duration_since(self.since) >= MINUTE
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ten_a_minute_of_one_network() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        let (one, other): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        for _ in 0..10 {
            assert!(guesses.may(one, now));
            guesses.wrong(one, now);
        }
        assert!(!guesses.may(one, now + Duration::from_secs(59)) && guesses.may(other, now));
        let later = now + MINUTE;
        assert!(guesses.may(one, later));
        guesses.wrong(one, later);
        assert!(guesses.may(one, later));
        // All addresses of a /64 are one.
        (0..10).for_each(|last| guesses.wrong(format!("2001:db8::{last}").parse().unwrap(), now));
        assert!(!guesses.may("2001:db8::ffff".parse().unwrap(), now) && guesses.may("2001:db8:0:1::1".parse().unwrap(), now));
    }

    #[test]
    fn no_more_is_kept_than_so_many() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        (0..NETWORKS as u32 + 100).for_each(|address| guesses.wrong(IpAddr::from(address.to_be_bytes()), now));
        assert_eq!(guesses.0.lock().unwrap().len(), NETWORKS);
    }
}
