//! Where one host was seen: places that it has proved, and places that somebody says.

use std::net::SocketAddr;

/// Addresses of one host that are kept: more than a server has.
pub(super) const ADDRESSES: usize = 16;

/// How long it counts that somebody says that a host is at an address.
const HINT_S: u64 = 3_600;

/// How long a proven address keeps its room when all are proven: a host that moves has had many.
const PROVEN_S: u64 = 24 * 3_600;

/// Where and when a host was seen.
#[derive(Debug, Clone, Default)]
pub struct Sighting {
    /// The proven ones first; of each kind the newest first.
    hints: Vec<Hint>,
    /// Seconds since 1970.
    pub last_seen_unix_s: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Hint {
    address: SocketAddr,
    /// The host was reached there, and proved who it is.
    proven: bool,
    seen_unix_s: u64,
}

impl Sighting {
    /// As it was saved: every address was proven.
    pub(super) fn saved(addresses: Vec<SocketAddr>) -> Self {
        let hint = |address| Hint { address, proven: true, seen_unix_s: 0 };
        Self { hints: addresses.into_iter().take(ADDRESSES).map(hint).collect(), last_seen_unix_s: 0 }
    }

    /// Best first: those that were reached, then those that were announced.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.hints.iter().map(|hint| hint.address)
    }

    /// Those that were reached.
    pub(super) fn proven(&self) -> impl Iterator<Item = SocketAddr> {
        self.hints.iter().filter(|hint| hint.proven).map(|hint| hint.address)
    }

    /// Somebody says that it is there. What nobody has proved makes room for what is newer, and never takes the room of what was proved.
    pub(super) fn announced(&mut self, address: SocketAddr, now_unix_s: u64) {
        self.last_seen_unix_s = now_unix_s;
        self.hints.retain(|hint| hint.proven || now_unix_s.saturating_sub(hint.seen_unix_s) < HINT_S);
        if let Some(known) = self.hints.iter_mut().find(|hint| hint.address == address) {
            known.seen_unix_s = now_unix_s;
            return;
        }
        let may_go = |last: &mut Hint| !last.proven || now_unix_s.saturating_sub(last.seen_unix_s) >= PROVEN_S;
        if self.hints.len() == ADDRESSES && self.hints.pop_if(may_go).is_none() {
            return;
        }
        let behind_proven = self.hints.iter().take_while(|hint| hint.proven).count();
        self.hints.insert(behind_proven, Hint { address, proven: false, seen_unix_s: now_unix_s });
    }

    /// It does not answer there, and does elsewhere: the first to make room for what is newer.
    pub(super) fn failed(&mut self, address: SocketAddr) {
        if let Some(at) = self.hints.iter().position(|hint| hint.address == address) {
            let failed = self.hints.remove(at);
            self.hints.push(Hint { proven: false, ..failed });
        }
    }

    /// It was reached there. True when that is news.
    pub(super) fn reached(&mut self, address: SocketAddr, now_unix_s: u64) -> bool {
        self.last_seen_unix_s = now_unix_s;
        let is_news = self.hints.first().is_none_or(|first| !first.proven || first.address != address || first.seen_unix_s == 0);
        self.hints.retain(|hint| hint.address != address);
        self.hints.truncate(ADDRESSES - 1);
        self.hints.insert(0, Hint { address, proven: true, seen_unix_s: now_unix_s });
        is_news
    }
}
