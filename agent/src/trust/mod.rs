//! Who we are, whom we trust, and how a host gets in: identity, fleet CA, join, member list, TLS, policy.
//!
//! [`Trust`] is shared. What it knows is a snapshot that readers take without waiting; changes go one after the other, each
//! on disk before it is seen. Methods that change something write to disk: call them where blocking is allowed.

pub mod audit;
mod backup;
mod certificate;
mod clock;
mod date;
mod error;
mod files;
mod fleet;
mod invitation;
mod issue;
mod join;
mod key;
mod list;
mod machine;
mod members;
mod policy;
mod removals;
mod skew;
#[cfg(test)]
mod tests;
mod tls;
mod token;
mod verify;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use proto::HostId;
use proto::host::{ListDate, Member, MemberList, Role, SignedMemberList, check_name};
use tokio::sync::watch;

pub use audit::{Arrival, Audit};
pub use certificate::{peer_id, server_name};
pub use error::TrustError;
pub use invitation::{Invitation, Invite};
pub use members::Accepted;
pub use policy::{Decision, Policy, PolicyFile, TagMove};
pub use skew::Skew;
pub use token::{Secret, Token};

use clock::Clock;
use files::{Files, Name};
use fleet::{Current, Fleet};
use invitation::{Invitations, Pending};
use key::SecretKey;

/// Identity of this host, and its fleet, if it is in one.
pub struct Trust {
    key: SecretKey,
    configured_name: String,
    clock: Clock,
    files: Files,
    audit: Arc<Audit>,
    current: Current,
    date: Mutex<Option<ListDate>>,
    /// Held by whoever changes anything: here or in `current`.
    writer: Mutex<Invitations>,
    changes: watch::Sender<u64>,
}

impl Trust {
    /// Opens `<state_dir>/trust`. At the first start it makes the host's key, which is on disk when this returns.
    pub fn open(state_dir: &Path, name: &str) -> Result<Arc<Self>, TrustError> {
        Self::open_at(state_dir, name, Clock::system())
    }

    fn open_at(state_dir: &Path, name: &str, clock: Clock) -> Result<Arc<Self>, TrustError> {
        check_name(name)?;
        let files = Files::open(state_dir)?;
        let key = match files.read(Name::HostKey)? {
            Some(der) => SecretKey::from_pkcs8(der).ok_or_else(|| files.corrupt(Name::HostKey, "it is not an Ed25519 key"))?,
            // A new key would be a new host: never in a fleet that knows the old one.
            None if files.read(Name::Authority)?.is_some() => return Err(files.corrupt(Name::HostKey, "it is not there")),
            None => {
                let key = SecretKey::generate()?;
                files.write(Name::HostKey, key.pkcs8())?;
                key
            }
        };
        machine::check(&files, std::path::Path::new("/etc/machine-id"))?;
        let current = Current::default();
        if let Some(fleet) = Fleet::load(&files, &key.public().id())? {
            current.set(fleet);
        }
        let writer = Mutex::new(Invitations::load(&files)?);
        let changes = watch::Sender::new(0);
        let audit = Arc::new(Audit::open(state_dir, clock.clone()));
        let date = Mutex::new(date::load(&files, current.get().as_deref())?);
        Ok(Arc::new(Self { key, configured_name: name.to_owned(), clock, files, audit, current, date, writer, changes }))
    }

    /// Identity of this host.
    pub fn id(&self) -> HostId {
        self.key.public().id()
    }

    /// A secret that only this host's key can make, and always makes the same: for the stateless resets of its connections.
    pub fn reset_secret(&self) -> [u8; 32] {
        // Ed25519 signatures are deterministic (RFC 8032), and nobody signs this text for anything else.
        *proto::Digest::of(&self.key.sign(b"imgd stateless reset\0")).as_bytes()
    }

    /// Its name: that on the member list; that in the configuration while it is on none.
    pub fn name(&self) -> String {
        let listed = self.members().and_then(|list| list.by_id(&self.id()).map(|member| member.name.clone()));
        listed.unwrap_or_else(|| self.configured_name.clone())
    }

    /// Its name in the configuration, where that is not the one on the member list.
    pub fn other_name(&self) -> Option<&str> {
        Some(self.configured_name.as_str()).filter(|configured| *configured != self.name())
    }

    /// Where it is written what was done and what was refused here.
    pub fn audit(&self) -> &Arc<Audit> {
        &self.audit
    }

    /// Identity of the fleet.
    pub fn fleet(&self) -> Option<HostId> {
        self.current.get().map(|fleet| fleet.id)
    }

    /// The newest member list.
    pub fn members(&self) -> Option<Arc<MemberList>> {
        self.current.get().map(|fleet| fleet.list.clone())
    }

    /// The same as it travels.
    pub fn signed_members(&self) -> Option<SignedMemberList> {
        self.current.get().map(|fleet| fleet.signed.clone())
    }

    /// Signed lists of removals that the newest list does not have: signers are to see them.
    pub fn lost_removals(&self) -> Vec<SignedMemberList> {
        self.current.get().map(|fleet| fleet.removals.witnesses().to_vec()).unwrap_or_default()
    }

    /// Its epoch; 0 without a fleet.
    pub fn epoch(&self) -> u64 {
        self.current.get().map_or(0, |fleet| fleet.list.epoch)
    }

    /// Whether this host holds the CA's key and was not removed.
    pub fn is_signer(&self) -> bool {
        self.current.get().is_some_and(|fleet| fleet.signer(&self.id()).is_ok())
    }

    /// Whether this host was removed from the fleet.
    pub fn is_removed(&self, id: &HostId) -> bool {
        self.current.is_removed(id)
    }

    /// Counts every change of fleet, list or certificate. After one the TLS configurations may be old, and connections to removed
    /// hosts are to be cut.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// When the certificate is to be renewed: a point in 50–80 % of its life that is the same after a restart.
    pub fn renewal_due(&self) -> Option<SystemTime> {
        self.current.get().map(|fleet| fleet.renewal_due())
    }

    /// Why the certificate of this host is not good by the clock of this host; `None` when it is.
    pub fn certificate_skew(&self) -> Option<Skew> {
        let (fleet, now) = (self.current.get()?, self.clock.now());
        (!fleet.validity.contains(now)).then(|| fleet.validity.skew(now))
    }

    /// Makes a fleet with this host as its signer and only member.
    pub fn init(&self) -> Result<HostId, TrustError> {
        let _writer = self.lock();
        if let Some(fleet) = self.fleet() {
            return Err(TrustError::InFleet(fleet));
        }
        let signer = SecretKey::generate()?;
        let fleet = signer.public().id();
        let authority = issue::authority(&signer, self.clock.now())?;
        let certificate = issue::host(&signer, self.key.public(), self.clock.now())?;
        let this = Member { id: self.id(), name: self.configured_name.clone(), roles: vec![Role::Signer], groups: Vec::new() };
        let mut list = MemberList { fleet, epoch: 1, members: vec![this], removed: Vec::new() };
        let signed = list::sign(&mut list, &signer)?;
        self.adopt(Fleet::new(authority, certificate, signed, Some(Arc::new(signer)), &self.id())?)?;
        self.audit.fleet_made(&self.name(), &fleet);
        Ok(fleet)
    }

    /// Makes a join token. Only on a signer.
    pub fn invite(&self, invite: &Invite) -> Result<Invitation, TrustError> {
        let mut invitations = self.lock();
        let fleet = self.in_fleet()?;
        fleet.signer(&self.id())?;
        if invite.address.as_deref().is_some_and(|address| !token::is_address(address)) {
            return Err(TrustError::Invite("the address is not ADDR:PORT"));
        }
        if invite.replace.as_ref().is_some_and(|name| *name == self.name()) {
            return Err(TrustError::Oneself(self.name()));
        }
        let now_unix_s = self.clock.unix_s();
        let pending = Pending::new(invite, &fleet.list, now_unix_s)?;
        let token = Token { fleet: fleet.id, secret: pending.secret.clone(), address: invite.address.clone() };
        let expires_unix_s = pending.expires_unix_s;
        let for_whom = pending.only_name().cloned();
        invitations.add(pending, &self.files, now_unix_s)?;
        self.audit.invited(&self.name(), for_whom.as_deref().unwrap_or("any host"), invite.uses);
        Ok(Invitation { token: token.to_text().to_string(), expires_unix_s, uses: invite.uses })
    }

    /// The right to change anything.
    fn lock(&self) -> MutexGuard<'_, Invitations> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn in_fleet(&self) -> Result<Arc<Fleet>, TrustError> {
        self.current.get().ok_or(TrustError::NoFleet)
    }

    /// Writes all of a snapshot, then makes it the current one.
    fn adopt(&self, fleet: Fleet) -> Result<(), TrustError> {
        fleet.store(&self.files)?;
        self.publish(fleet);
        Ok(())
    }

    /// Writes the list of a snapshot, then makes it the current one.
    fn adopt_list(&self, fleet: Fleet) -> Result<(), TrustError> {
        fleet.store_list(&self.files)?;
        self.publish(fleet);
        Ok(())
    }

    fn publish(&self, fleet: Fleet) {
        self.current.set(fleet);
        self.changes.send_modify(|count| *count += 1);
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("id", &self.id()).field("name", &self.name()).finish_non_exhaustive()
    }
}
