//! Both ends of `imgd-join/1`, without the connection: `exporter` is what TLS derives from it for
//! [`proto::join::EXPORTER_LABEL`], so that a proof made on one connection is worth nothing on another.

use proto::HostId;
use proto::frame::Bounded;
use proto::host::{Member, MemberList};
use proto::join::{JoinAnswer, JoinPurpose, JoinRefusal, JoinRequest};
use proto::peer::MAJOR;
use rustls::pki_types::CertificateDer;

use super::fleet::Fleet;
use super::invitation::Pending;
use super::key::PublicKey;
use super::token::Token;
use super::{Trust, TrustError, issue};

/// What a possession signature covers begins with this.
const POSSESSION: &[u8] = b"imgd join possession\0";

/// What a token proof covers begins with this.
const PROOF: &[u8] = b"imgd join token\0";

impl Trust {
    /// Asks to become a member under `name`. The token's secret is used, not sent.
    pub fn join_request(&self, token: &Token, name: &str, exporter: &[u8; 32]) -> JoinRequest {
        let proof = token.secret.prove(&proof_bytes(self.key.public(), name, exporter));
        self.request(JoinPurpose::Join { name: name.to_owned(), proof }, exporter)
    }

    /// Asks for a new certificate for our key.
    pub fn renew_request(&self, exporter: &[u8; 32]) -> JoinRequest {
        self.request(JoinPurpose::Renew, exporter)
    }

    /// The signer's answer. When it is yes, it is on disk, and a use of the invitation is gone. Fails only when that could not be
    /// written: then there is no answer.
    pub fn answer_join(&self, request: &JoinRequest, exporter: &[u8; 32]) -> Result<JoinAnswer, TrustError> {
        let answer = self.decide(request, exporter)?;
        if let JoinAnswer::Refused(refusal) = &answer {
            let name = match &request.purpose {
                JoinPurpose::Join { name, .. } => name,
                JoinPurpose::Renew => "",
            };
            self.audit.join_refused(&HostId::of_public_key(&request.public_key), name, refusal);
        }
        Ok(answer)
    }

    /// Takes over the answer of the signer of `fleet`, to a join or a renewal, after checking all of it. It is on disk when this returns.
    pub fn joined(&self, fleet: &HostId, answer: JoinAnswer) -> Result<(), TrustError> {
        let (certificate, authority, signed) = match answer {
            JoinAnswer::Accepted { certificate, ca_certificate, members } => (certificate, ca_certificate, members),
            JoinAnswer::Refused(refusal) => return Err(TrustError::Refused(refusal)),
        };
        let _writer = self.lock();
        let known = self.current.get();
        if let Some(known) = known.as_ref().filter(|known| known.id != *fleet) {
            return Err(TrustError::OtherFleet { ours: known.id, theirs: *fleet });
        }
        let signer = known.as_ref().and_then(|known| known.signer.clone());
        let mut next = Fleet::new(CertificateDer::from(authority), CertificateDer::from(certificate), signed, signer, &self.id())?;
        if next.id != *fleet {
            return Err(TrustError::OtherFleet { ours: *fleet, theirs: next.id });
        }
        if !next.validity.contains(self.clock.now()) {
            return Err(TrustError::Clock(next.validity.skew(self.clock.now())));
        }
        match known {
            Some(known) => keep_newest(&mut next, &known)?,
            None if next.list.by_id(&self.id()).is_none() => {
                return Err(TrustError::Refused(JoinRefusal::NotMember(self.id())));
            }
            None => {}
        }
        self.adopt(next)
    }

    /// A new certificate for a signer, which has nobody to ask.
    pub fn renew_here(&self) -> Result<(), TrustError> {
        let _writer = self.lock();
        let fleet = self.in_fleet()?;
        let certificate = issue::host(fleet.signer(&self.id())?, self.key.public(), self.clock.now())?;
        let Fleet { authority, signed, signer, .. } = (*fleet).clone();
        self.adopt(Fleet::new(authority, certificate, signed, signer, &self.id())?.with_list_of(&fleet))
    }

    pub(super) fn request(&self, purpose: JoinPurpose, exporter: &[u8; 32]) -> JoinRequest {
        let possession = self.key.sign(&possession_bytes(self.key.public(), &purpose, exporter));
        JoinRequest { major: MAJOR, purpose, public_key: self.key.public().spki(), possession }
    }

    fn decide(&self, request: &JoinRequest, exporter: &[u8; 32]) -> Result<JoinAnswer, TrustError> {
        let refused = |refusal| Ok(JoinAnswer::Refused(refusal));
        if request.major != MAJOR {
            return refused(JoinRefusal::Version { ours: MAJOR });
        }
        if !self.is_signer() {
            return refused(JoinRefusal::NotSigner);
        }
        let Some(key) = PublicKey::from_spki(&request.public_key).filter(|_| request.within_limits()) else {
            return refused(JoinRefusal::Invalid);
        };
        if !key.has_signed(&possession_bytes(&key, &request.purpose, exporter), &request.possession) {
            return refused(JoinRefusal::Invalid);
        }
        match &request.purpose {
            JoinPurpose::Renew => {
                let _writer = self.lock();
                self.renew(&key)
            }
            JoinPurpose::Join { name, proof } => self.let_in(&key, name, proof, exporter),
        }
    }

    /// The caller holds the lock.
    fn renew(&self, key: &PublicKey) -> Result<JoinAnswer, TrustError> {
        let fleet = self.in_fleet()?;
        let id = key.id();
        if fleet.list.removed.contains(&id) {
            return Ok(JoinAnswer::Refused(JoinRefusal::Removed(id)));
        }
        let Some(member) = fleet.list.by_id(&id) else {
            return Ok(JoinAnswer::Refused(JoinRefusal::NotMember(id)));
        };
        let answer = self.accepted(&fleet, key)?;
        self.audit.renewed(&member.name, &id);
        Ok(answer)
    }

    fn let_in(&self, key: &PublicKey, name: &str, proof: &[u8; 32], exporter: &[u8; 32]) -> Result<JoinAnswer, TrustError> {
        let mut invitations = self.lock();
        let now_unix_s = self.clock.unix_s();
        let found = invitations.find(&proof_bytes(key, name, exporter), proof, now_unix_s);
        let Some((index, pending)) = found.and_then(|index| Some((index, invitations.get(index)?))) else {
            // A member that asks again, because the answer was lost, may have used up the token itself: what it needs is its certificate.
            let is_member = self.in_fleet()?.list.by_id(&key.id()).is_some();
            return if is_member { self.renew(key) } else { Ok(JoinAnswer::Refused(JoinRefusal::Token)) };
        };
        let fleet = self.in_fleet()?;
        let mut list = (*fleet.list).clone();
        let replaced = match admit(&mut list, &self.id(), pending, key.id(), name) {
            Ok(replaced) => replaced,
            Err(refusal) => return Ok(JoinAnswer::Refused(refusal)),
        };
        let next = match self.signed_if_changed(&fleet, list) {
            Err(TrustError::Full) => return Ok(JoinAnswer::Refused(JoinRefusal::Full)),
            next => next?,
        };
        let answer = self.accepted(next.as_ref().unwrap_or(&fleet), key)?;
        // A host that asks again, because the answer was lost, is let in already: that is one use.
        if let Some(next) = next {
            // First the invitation, then the list: a power cut between the two costs a use, and never gives one away.
            invitations.use_up(index, &self.files, now_unix_s)?;
            self.adopt_list(next)?;
        }
        self.audit.joined(name, &key.id(), replaced.as_ref());
        Ok(answer)
    }

    fn signed_if_changed(&self, fleet: &Fleet, mut list: MemberList) -> Result<Option<Fleet>, TrustError> {
        if list == *fleet.list {
            return Ok(None);
        }
        list.epoch = super::list::next_epoch(list.epoch)?;
        fleet.with_list(list, &self.id()).map(Some)
    }

    fn accepted(&self, fleet: &Fleet, key: &PublicKey) -> Result<JoinAnswer, TrustError> {
        let certificate = issue::host(fleet.signer(&self.id())?, key, self.clock.now())?;
        Ok(JoinAnswer::Accepted {
            certificate: certificate.to_vec(),
            ca_certificate: fleet.authority.to_vec(),
            members: fleet.signed.clone(),
        })
    }
}

/// Puts a host with a good token on the list; gives the id that it replaces, if any.
fn admit(list: &mut MemberList, signer: &HostId, pending: &Pending, id: HostId, name: &str) -> Result<Option<HostId>, JoinRefusal> {
    if list.removed.contains(&id) {
        return Err(JoinRefusal::Removed(id));
    }
    if let Some(only) = pending.only_name().filter(|only| *only != name) {
        return Err(JoinRefusal::OtherName { name: only.clone() });
    }
    let holder = list.by_name(name).filter(|holder| holder.id != id).cloned();
    if let Some(holder) = &holder {
        if pending.replace.is_none() || holder.id == *signer {
            return Err(JoinRefusal::NameTaken { name: name.to_owned(), holder: holder.id, asker: id });
        }
        list.members.retain(|member| member.id != holder.id);
        list.removed.push(holder.id);
    }
    if let Some(member) = list.members.iter_mut().find(|member| member.id == id) {
        name.clone_into(&mut member.name);
    } else {
        // A reinstalled host stays in its groups; the key of the CA it no longer has.
        let groups = holder.as_ref().map_or_else(Vec::new, |holder| holder.groups.clone());
        list.members.push(Member { id, name: name.to_owned(), roles: Vec::new(), groups });
    }
    list.members.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(holder.map(|holder| holder.id))
}

/// A renewal brings a newer certificate, never an older one or another CA certificate; the list only when it is newer.
fn keep_newest(next: &mut Fleet, known: &Fleet) -> Result<(), TrustError> {
    if next.authority != known.authority {
        return Err(TrustError::certificate("the CA", "it is not the one we know"));
    }
    if next.validity.not_after < known.validity.not_after {
        return Err(TrustError::certificate("this host", "it ends before the one we have"));
    }
    let listed = if next.list.epoch > known.list.epoch {
        known.with_signed(next.signed.clone(), &known.signed)?
    } else {
        known.with_signed(known.signed.clone(), &next.signed)?
    };
    *next = next.clone().with_list_of(&listed);
    Ok(())
}

fn possession_bytes(key: &PublicKey, purpose: &JoinPurpose, exporter: &[u8; 32]) -> Vec<u8> {
    [POSSESSION, exporter, &key.spki(), &purpose.signed_bytes()].concat()
}

fn proof_bytes(key: &PublicKey, name: &str, exporter: &[u8; 32]) -> Vec<u8> {
    [PROOF, exporter, &key.spki(), name.as_bytes()].concat()
}
