//! Whole hosts against each other, in memory, with a clock that is moved by hand.
#![allow(clippy::unwrap_used)]

mod backup;
mod files;
mod join;
mod members;
mod tls;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use proto::join::{JoinAnswer, JoinRefusal};
use tempfile::TempDir;

use super::clock::Clock;
use super::{Invite, Token, Trust, TrustError};

const DAY: Duration = Duration::from_secs(24 * 3600);
const EXPORTER: [u8; 32] = [7; 32];

/// The time of a test, the same for all its hosts.
#[derive(Clone)]
struct Time(Arc<AtomicU64>);

impl Time {
    fn new() -> Self {
        Self(Arc::new(AtomicU64::new(1_800_000_000)))
    }

    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.0.load(Ordering::Relaxed))
    }

    fn pass(&self, duration: Duration) {
        self.0.fetch_add(duration.as_secs(), Ordering::Relaxed);
    }

    fn clock(&self) -> Clock {
        let time = self.clone();
        Clock::new(move || time.now())
    }
}

/// A host with its state directory.
struct Host {
    trust: Arc<Trust>,
    directory: TempDir,
    time: Time,
}

impl std::ops::Deref for Host {
    type Target = Trust;

    fn deref(&self) -> &Trust {
        &self.trust
    }
}

impl Host {
    fn new(name: &str, time: &Time) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let trust = Trust::open_at(directory.path(), name, time.clock()).unwrap();
        Self { trust, directory, time: time.clone() }
    }

    fn signer(name: &str, time: &Time) -> Self {
        let host = Self::new(name, time);
        host.init().unwrap();
        host
    }

    /// The same host after a restart.
    fn reopened(&self, name: &str) -> Arc<Trust> {
        Trust::open_at(self.directory.path(), name, self.time.clock()).unwrap()
    }

    fn token(&self, invite: Invite) -> Token {
        Token::parse(&self.invite(&invite).unwrap().token).unwrap()
    }

    /// The signer's answer to a join under this name.
    fn asked(&self, asker: &Host, token: &Token, name: &str) -> JoinAnswer {
        self.answer_join(&asker.join_request(token, name, &EXPORTER), &EXPORTER).unwrap()
    }

    fn refusal(&self, asker: &Host, token: &Token, name: &str) -> JoinRefusal {
        match self.asked(asker, token, name) {
            JoinAnswer::Refused(refusal) => refusal,
            JoinAnswer::Accepted { .. } => panic!("{name} was let in"),
        }
    }

    /// Joins the fleet of `signer` under its own name.
    fn join(&self, signer: &Host) {
        let answer = signer.asked(self, &signer.token(once()), &self.name());
        self.joined(&signer.fleet().unwrap(), answer).unwrap();
    }

    fn renew(&self, signer: &Host) -> Result<(), TrustError> {
        let answer = signer.answer_join(&self.renew_request(&EXPORTER), &EXPORTER).unwrap();
        self.joined(&signer.fleet().unwrap(), answer)
    }

    /// Takes over the list of another host.
    fn learn(&self, from: &Host) {
        self.accept_members(&from.signed_members().unwrap()).unwrap();
    }
}

/// An invitation for one host of any name.
fn once() -> Invite {
    Invite { uses: 1, valid: DAY, for_name: None, replace: None, address: None }
}

/// A signer and a member that know each other.
fn pair() -> (Time, Host, Host) {
    let time = Time::new();
    let (signer, member) = (Host::signer("stapp01", &time), Host::new("stapp02", &time));
    member.join(&signer);
    (time, signer, member)
}
