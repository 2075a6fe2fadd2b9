//! What a host knows of its fleet: a snapshot that is only ever replaced as a whole.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use proto::HostId;
use proto::frame;
use proto::host::{MemberList, Role, SignedMemberList};
use rustls::pki_types::CertificateDer;

use super::TrustError;
use super::certificate::{self, Validity};
use super::files::{Files, Name};
use super::key::{PublicKey, SecretKey};
use super::list;
use super::removals::Removals;

/// A fleet, as a member sees it. All of it was checked against the CA's key.
#[derive(Clone)]
pub(super) struct Fleet {
    pub(super) id: HostId,
    pub(super) authority: CertificateDer<'static>,
    pub(super) authority_key: PublicKey,
    pub(super) certificate: CertificateDer<'static>,
    pub(super) validity: Validity,
    /// The newest list, as it travels.
    pub(super) signed: SignedMemberList,
    /// The same as it counts here: without members who were removed.
    pub(super) list: Arc<MemberList>,
    /// Removals that the newest list does not have.
    pub(super) removals: Arc<Removals>,
    /// The CA's secret key, where we are a signer.
    pub(super) signer: Option<Arc<SecretKey>>,
}

impl Fleet {
    /// Checks everything that does not depend on the time of day: that CA, certificate and list belong to each other and to host `id`.
    pub(super) fn new(
        authority: CertificateDer<'static>,
        certificate: CertificateDer<'static>,
        signed: SignedMemberList,
        signer: Option<Arc<SecretKey>>,
        id: &HostId,
    ) -> Result<Self, TrustError> {
        let authority_key =
            certificate::public_key(&authority).ok_or_else(|| TrustError::certificate("the CA", "it has no Ed25519 key"))?;
        if signer.as_ref().is_some_and(|key| *key.public() != authority_key) {
            return Err(TrustError::certificate("the CA", "the signing key is another one"));
        }
        let validity = certificate::check_host(&certificate, &authority, id)?;
        let list = Arc::new(list::verify(&signed, &authority_key)?);
        Ok(Self { id: authority_key.id(), authority, authority_key, certificate, validity, signed, list, removals: Arc::default(), signer })
    }

    /// The same with this list as the newest one, and with every removal that was known beside it.
    pub(super) fn with_signed(&self, signed: SignedMemberList, other: &SignedMemberList) -> Result<Self, TrustError> {
        let list = list::verify(&signed, &self.authority_key)?;
        let removals = self.removals.beside(&list, other, &self.authority_key)?;
        Ok(Self { signed, list: Arc::new(removals.apply(list)), removals: Arc::new(removals), ..self.clone() })
    }

    /// The same with the member list of another snapshot of this fleet.
    pub(super) fn with_list_of(self, other: &Self) -> Self {
        Self { signed: other.signed.clone(), list: other.list.clone(), removals: other.removals.clone(), ..self }
    }

    /// Reads it; `None` on a host that is in no fleet.
    pub(super) fn load(files: &Files, id: &HostId) -> Result<Option<Self>, TrustError> {
        let Some(authority) = files.read(Name::Authority)? else { return Ok(None) };
        let authority = CertificateDer::from(authority.to_vec());
        let needed = |name| files.read(name)?.ok_or_else(|| files.corrupt(name, "it is not there"));
        let certificate = CertificateDer::from(needed(Name::HostCertificate)?.to_vec());
        let authority_key =
            certificate::public_key(&authority).ok_or_else(|| files.corrupt(Name::Authority, "it is not the certificate of a CA"))?;
        certificate::check_host(&certificate, &authority, id).map_err(|error| files.corrupt(Name::HostCertificate, error))?;
        let members = needed(Name::Members)?;
        let signed: SignedMemberList = frame::decode(&members).map_err(|error| files.corrupt(Name::Members, error))?;
        list::verify(&signed, &authority_key).map_err(|error| files.corrupt(Name::Members, error))?;
        let signer = match files.read(Name::AuthorityKey)? {
            None => None,
            Some(der) => {
                let key = SecretKey::from_pkcs8(der).filter(|key| *key.public() == authority_key);
                Some(Arc::new(key.ok_or_else(|| files.corrupt(Name::AuthorityKey, "it is not the key of the CA"))?))
            }
        };
        let mut fleet = Self::new(authority, certificate, signed, signer, id)?;
        let removals = Removals::load(files, &authority_key)?;
        fleet.list = Arc::new(removals.apply((*fleet.list).clone()));
        fleet.removals = Arc::new(removals);
        Ok(Some(fleet))
    }

    /// Writes all of it; the CA's certificate, which makes it count, last.
    pub(super) fn store(&self, files: &Files) -> Result<(), TrustError> {
        match &self.signer {
            Some(key) => files.write(Name::AuthorityKey, key.pkcs8())?,
            // One that an `init` which did not come to its end has left.
            None => files.remove(Name::AuthorityKey)?,
        }
        self.store_list(files)?;
        files.write(Name::HostCertificate, &self.certificate)?;
        files.write(Name::Authority, &self.authority)
    }

    /// Writes the list alone. What it lacks is written before it: a removal is not forgotten in between.
    pub(super) fn store_list(&self, files: &Files) -> Result<(), TrustError> {
        let beside = !self.removals.is_empty() || files.read(Name::Removals)?.is_some();
        if beside {
            self.removals.and(&self.signed, &self.list).store(files)?;
        }
        files.write(Name::Members, &frame::encode_body(&self.signed))?;
        if beside { self.removals.store(files) } else { Ok(()) }
    }

    /// The CA's key, when host `id` may use it.
    pub(super) fn signer(&self, id: &HostId) -> Result<&SecretKey, TrustError> {
        let Some(key) = &self.signer else {
            let signer = self.list.members.iter().find(|member| member.roles.contains(&Role::Signer) && member.id != *id);
            return Err(TrustError::NotSigner(signer.map(|member| member.name.clone())));
        };
        if self.list.removed.contains(id) { Err(TrustError::Removed(*id)) } else { Ok(key) }
    }

    /// The same with a newer list, which we sign.
    pub(super) fn with_list(&self, mut list: MemberList, id: &HostId) -> Result<Self, TrustError> {
        let signed = list::sign(&mut list, self.signer(id)?)?;
        Ok(Self { signed, list: Arc::new(list), removals: Arc::default(), ..self.clone() })
    }

    /// When the certificate is to be renewed: between 50 and 80 % of its life, at a point that follows from its bytes,
    /// so that it is the same after a restart and differs between hosts.
    pub(super) fn renewal_due(&self) -> SystemTime {
        let digest = proto::Digest::of(&self.certificate);
        let share = digest.as_bytes().iter().take(8).fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        let life = self.validity.not_after.duration_since(self.validity.not_before).unwrap_or(Duration::ZERO);
        self.validity.not_before + life * 5 / 10 + life.mul_f64(0.3 * (share as f64 / u64::MAX as f64))
    }
}

/// The place of the newest snapshot. Readers never wait for a disk.
#[derive(Clone, Default)]
pub(super) struct Current(Arc<RwLock<Option<Arc<Fleet>>>>);

impl Current {
    /// The newest snapshot; `None` on a host that is in no fleet.
    pub(super) fn get(&self) -> Option<Arc<Fleet>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces it.
    pub(super) fn set(&self, fleet: Fleet) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(fleet));
    }

    /// Whether the id was removed from the fleet.
    pub(super) fn is_removed(&self, id: &HostId) -> bool {
        self.get().is_some_and(|fleet| fleet.list.removed.contains(id))
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Current")
    }
}
