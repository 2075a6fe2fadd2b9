//! `fleet backup` and `fleet restore`: moves the signer's role to another host, or doubles it.

use proto::HostId;
use proto::host::{MemberList, Role, SignedMemberList};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::fleet::Fleet;
use super::invitation::Invitations;
use super::key::SecretKey;
use super::members::enrol;
use super::{Trust, TrustError, certificate, issue, list};

/// Version of the form.
const VERSION: u32 = 1;

/// A backup as it is written: TOML, binary fields in base64.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
struct Written {
    imgd_fleet_backup: u32,
    fleet: String,
    ca_key: String,
    ca_certificate: String,
    members: String,
    members_signature: String,
    #[zeroize(skip)]
    invitations: Invitations,
}

/// A backup that was checked.
struct Backup {
    signer: SecretKey,
    authority: CertificateDer<'static>,
    signed: SignedMemberList,
    list: MemberList,
    invitations: Invitations,
}

impl Trust {
    /// All that a signer has: a secret. Only on a signer.
    pub fn backup(&self) -> Result<Zeroizing<Vec<u8>>, TrustError> {
        let invitations = self.lock();
        let fleet = self.in_fleet()?;
        let base64 = |bytes: &[u8]| data_encoding::BASE64.encode(bytes);
        let written = Written {
            imgd_fleet_backup: VERSION,
            fleet: fleet.id.to_string(),
            ca_key: base64(fleet.signer(&self.id())?.pkcs8()),
            ca_certificate: base64(&fleet.authority),
            members: base64(&fleet.signed.list),
            members_signature: base64(&fleet.signed.signature),
            invitations: invitations.live(self.clock.unix_s()),
        };
        let mut text =
            Zeroizing::new("# Whoever has this can let any host into the fleet: keep it as you keep a root password.\n".to_owned());
        let body = toml::to_string(&written).map_err(|_| TrustError::Backup("it cannot be written down".to_owned()))?;
        text.push_str(&Zeroizing::new(body));
        self.audit.backed_up(&self.name(), &fleet.id);
        Ok(Zeroizing::new(text.as_bytes().to_vec()))
    }

    /// Makes this host a signer of the backup's fleet. One that is in no fleet becomes a member, under its own name; the name of
    /// a lost signer passes
    /// to it, and the lost one's id is removed. A member list that is newer than the backup's is kept.
    pub fn restore(&self, backup: &[u8]) -> Result<(), TrustError> {
        let backup = Backup::read(backup)?;
        let mut invitations = self.lock();
        let known = self.current.get();
        let id = backup.signer.public().id();
        if let Some(known) = known.as_ref().filter(|known| known.id != id) {
            return Err(TrustError::OtherFleet { ours: known.id, theirs: id });
        }
        let (mut list, mut signed) = (backup.list, backup.signed);
        let (mut authority, mut certificate) = (backup.authority, None);
        let mut before = list.clone();
        if let Some(known) = known {
            if known.list.epoch >= list.epoch {
                (list, signed) = ((*known.list).clone(), known.signed.clone());
                before = list::verify(&signed, &known.authority_key)?;
            } else {
                list::keep_removed(&mut list, &known.list);
            }
            (authority, certificate) = (known.authority.clone(), Some(known.certificate.clone()));
        }
        if list.removed.contains(&self.id()) {
            return Err(TrustError::Removed(self.id()));
        }
        take_over_name(&mut list, &self.id(), &self.configured_name);
        enrol(&mut list, &self.id(), &self.configured_name)?;
        if list != before {
            list.epoch = list::next_epoch(list.epoch)?;
            signed = list::sign(&mut list, &backup.signer)?;
        }
        let certificate = match certificate {
            Some(certificate) => certificate,
            None => issue::host(&backup.signer, self.key.public(), self.clock.now())?,
        };
        self.adopt(Fleet::new(authority, certificate, signed, Some(Arc::new(backup.signer)), &self.id())?)?;
        invitations.add_all(backup.invitations, &self.files, self.clock.unix_s())?;
        self.audit.restored(&self.name(), &id);
        Ok(())
    }
}

impl Backup {
    fn read(bytes: &[u8]) -> Result<Self, TrustError> {
        let wrong = |reason: &str| TrustError::Backup(reason.to_owned());
        let text = std::str::from_utf8(bytes).map_err(|_| wrong("it is not text"))?;
        // Nothing of the text goes into the error: it is full of secrets.
        let written: Written = toml::from_str(text).map_err(|_| wrong("it is damaged, or of another version of imgd"))?;
        if written.imgd_fleet_backup != VERSION {
            return Err(TrustError::Backup(format!("it has version {}, this imgd reads {VERSION}", written.imgd_fleet_backup)));
        }
        let decode = |field: &str| data_encoding::BASE64.decode(field.as_bytes()).map_err(|_| wrong("it is damaged"));
        let signer = SecretKey::from_pkcs8(Zeroizing::new(decode(&written.ca_key)?)).ok_or_else(|| wrong("its key is damaged"))?;
        let authority = CertificateDer::from(decode(&written.ca_certificate)?);
        let matches = certificate::public_key(&authority) == Some(*signer.public());
        if !matches || written.fleet != signer.public().id().to_string() {
            return Err(wrong("its key, its certificate and its fleet do not belong together"));
        }
        let signed = SignedMemberList { list: decode(&written.members)?, signature: decode(&written.members_signature)? };
        let list = list::verify(&signed, signer.public())?;
        let invitations = written.invitations.clone();
        Ok(Self { signer, authority, signed, list, invitations })
    }
}

/// A signer that was reinstalled comes back with a new id and finds its name taken by its old one, which has lost its key.
fn take_over_name(list: &mut MemberList, id: &HostId, name: &str) {
    if list.by_id(id).is_some() {
        return;
    }
    let lost = list.members.iter().position(|member| member.name == name && member.roles.contains(&Role::Signer));
    if let Some(lost) = lost {
        let lost = list.members.remove(lost);
        list.removed.push(lost.id);
    }
}
