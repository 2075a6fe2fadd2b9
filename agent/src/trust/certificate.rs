//! Reads and checks certificates. What is checked here holds at any time; whether a certificate is good now, TLS asks its own clock.

use std::time::{Duration, SystemTime};

use proto::HostId;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::TrustError;
use super::key::PublicKey;
use super::skew::Skew;

/// The DNS name in a host's certificate, under which it is dialled: `<host>.h.<fleet>.imgd.internal`, 121 characters.
pub fn server_name(id: &HostId, fleet: &HostId) -> String {
    format!("{id}.h.{}", fleet_domain(fleet))
}

/// The identity of a peer, from the certificates it showed in a handshake that was verified. `None` when it showed none.
pub fn peer_id(certificates: &[CertificateDer<'_>]) -> Option<HostId> {
    key_of(certificates.first()?).map(|spki| HostId::of_public_key(&spki))
}

/// The domain that holds all names of a fleet.
pub(super) fn fleet_domain(fleet: &HostId) -> String {
    format!("{fleet}.imgd.internal")
}

/// The public key in a certificate; any but Ed25519 is refused.
pub(super) fn public_key(certificate: &CertificateDer<'_>) -> Option<PublicKey> {
    key_of(certificate).and_then(|spki| PublicKey::from_spki(&spki))
}

/// From when to when a certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

impl Validity {
    /// Whether it is good at this time.
    pub(super) fn contains(&self, time: SystemTime) -> bool {
        (self.not_before..=self.not_after).contains(&time)
    }

    /// How far the clock is off for which it is not good at this time.
    pub(super) fn skew(&self, time: SystemTime) -> Skew {
        if time < self.not_before { Skew::behind(time, self.not_before) } else { Skew::ahead(time, self.not_after) }
    }
}

/// Checks that `certificate` is one of host `id`, signed by `authority`, for both sides of TLS, and says when it is good.
pub(super) fn check_host(certificate: &CertificateDer<'_>, authority: &CertificateDer<'_>, id: &HostId) -> Result<Validity, TrustError> {
    let wrong = |reason: &str| TrustError::certificate(id, reason);
    let fleet = public_key(authority).ok_or_else(|| wrong("the CA has no Ed25519 key"))?.id();
    if public_key(certificate).ok_or_else(|| wrong("it has no Ed25519 key"))?.id() != *id {
        return Err(wrong("it is for another key"));
    }
    check_name(certificate, id, &fleet).map_err(|error| wrong(&error.to_string()))?;
    let verify = |time: UnixTime, usage| verify_chain(certificate, authority, time, usage);
    // webpki tells the validity only when it refuses a time: ask it for one that is too early and one that is too late.
    let not_before = match verify(UnixTime::since_unix_epoch(Duration::ZERO), KeyUsage::server_auth()) {
        Err(webpki::Error::CertNotValidYet { not_before, .. }) => not_before,
        Err(error) => return Err(wrong(&error.to_string())),
        Ok(()) => UnixTime::since_unix_epoch(Duration::ZERO),
    };
    let end_of_time = UnixTime::since_unix_epoch(Duration::from_secs(u64::from(u32::MAX) * 64));
    let not_after = match verify(end_of_time, KeyUsage::server_auth()) {
        Err(webpki::Error::CertExpired { not_after, .. }) => not_after,
        Err(error) => return Err(wrong(&error.to_string())),
        Ok(()) => return Err(wrong("it never ends")),
    };
    for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
        verify(not_before, usage).map_err(|error| wrong(&error.to_string()))?;
    }
    let time = |unix: UnixTime| SystemTime::UNIX_EPOCH + Duration::from_secs(unix.as_secs());
    Ok(Validity { not_before: time(not_before), not_after: time(not_after) })
}

/// Whether `authority` has signed `certificate` for this usage, and it is good at this time. Does not look at its name.
pub(super) fn verify_chain(
    certificate: &CertificateDer<'_>,
    authority: &CertificateDer<'_>,
    time: UnixTime,
    usage: KeyUsage,
) -> Result<(), webpki::Error> {
    let anchors = [anchor_from_trusted_cert(authority)?];
    let end_entity = EndEntityCert::try_from(certificate)?;
    end_entity.verify_for_usage(&[webpki::ring::ED25519], &anchors, &[], time, usage, None, None).map(drop)
}

/// Whether the certificate has the DNS name of this host.
pub(super) fn check_name(certificate: &CertificateDer<'_>, id: &HostId, fleet: &HostId) -> Result<(), webpki::Error> {
    let name = ServerName::try_from(server_name(id, fleet)).map_err(|_| webpki::Error::MalformedDnsIdentifier)?;
    EndEntityCert::try_from(certificate)?.verify_is_valid_for_subject_name(&name)
}

/// DER of the SubjectPublicKeyInfo.
fn key_of(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    EndEntityCert::try_from(certificate).ok().map(|parsed| parsed.subject_public_key_info().to_vec())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::issue;
    use super::super::key::SecretKey;
    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    #[test]
    fn names_are_legal() {
        let id = HostId::of_public_key(b"key");
        let name = server_name(&id, &id);
        assert_eq!(name.len(), 121);
        assert!(ServerName::try_from(name).is_ok());
    }

    #[test]
    fn a_host_certificate_is_backdated_and_lasts_90_days() {
        let (ca, host) = (SecretKey::generate().unwrap(), SecretKey::generate().unwrap());
        let authority = issue::authority(&ca, now()).unwrap();
        let certificate = issue::host(&ca, host.public(), now()).unwrap();
        let validity = check_host(&certificate, &authority, &host.public().id()).unwrap();
        assert_eq!(validity.not_before, now() - Duration::from_secs(3600));
        assert_eq!(validity.not_after, now() + Duration::from_secs(90 * 86_400));
        assert_eq!(peer_id(&[certificate.clone(), authority]), Some(host.public().id()));
        let parsed = EndEntityCert::try_from(&certificate).unwrap();
        let names: Vec<_> = parsed.valid_dns_names().collect();
        assert_eq!(names, [server_name(&host.public().id(), &ca.public().id())]);
        assert_eq!(parsed.serial().len(), 16);
        let again = issue::host(&ca, host.public(), now()).unwrap();
        assert_ne!(EndEntityCert::try_from(&again).unwrap().serial(), parsed.serial());
    }

    #[test]
    fn a_certificate_for_another_key_ca_or_name_is_refused() {
        let (ca, other_ca) = (SecretKey::generate().unwrap(), SecretKey::generate().unwrap());
        let (host, other_host) = (SecretKey::generate().unwrap(), SecretKey::generate().unwrap());
        let (authority, other) = (issue::authority(&ca, now()).unwrap(), issue::authority(&other_ca, now()).unwrap());
        let certificate = issue::host(&ca, host.public(), now()).unwrap();
        let id = host.public().id();
        assert!(check_host(&certificate, &authority, &other_host.public().id()).is_err());
        assert!(check_host(&certificate, &other, &id).is_err());
        let name = server_name(&other_host.public().id(), &ca.public().id());
        let named = issue::named_host(&ca, host.public(), &name, now()).unwrap();
        assert!(check_host(&named, &authority, &id).is_err());
    }

    #[test]
    fn the_ca_can_sign_only_names_of_its_fleet() {
        let (ca, host) = (SecretKey::generate().unwrap(), SecretKey::generate().unwrap());
        let authority = issue::authority(&ca, now()).unwrap();
        let verify = |name: &str| {
            let certificate = issue::named_host(&ca, host.public(), name, now()).unwrap();
            verify_chain(&certificate, &authority, super::super::clock::unix_time(now()), KeyUsage::server_auth())
        };
        let fleet = ca.public().id();
        assert!(verify(&server_name(&host.public().id(), &fleet)).is_ok());
        let other_fleet = server_name(&host.public().id(), &host.public().id());
        for name in ["example.com", "imgd.internal", &format!("x{fleet}.imgd.internal"), &other_fleet] {
            assert!(matches!(verify(name), Err(webpki::Error::NameConstraintViolation)), "{name}");
        }
    }

    #[test]
    fn the_ca_is_a_ca_with_no_other_ca_below_it() {
        let ca = SecretKey::generate().unwrap();
        let authority = issue::authority(&ca, now()).unwrap();
        // basicConstraints: critical, cA, pathLenConstraint 0.
        let constraints = [0x55, 0x1d, 0x13, 0x01, 0x01, 0xff, 0x04, 0x08, 0x30, 0x06, 0x01, 0x01, 0xff, 0x02, 0x01, 0x00];
        assert!(authority.windows(constraints.len()).any(|window| window == constraints));
        // keyUsage: critical, keyCertSign alone.
        let usage = [0x55, 0x1d, 0x0f, 0x01, 0x01, 0xff, 0x04, 0x04, 0x03, 0x02, 0x02, 0x04];
        assert!(authority.windows(usage.len()).any(|window| window == usage));
        assert_eq!(public_key(&authority), Some(*ca.public()));
    }
}
