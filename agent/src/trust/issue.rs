//! Makes certificates: the CA's own, and those of hosts. Nothing else here asks rcgen for anything.

use std::time::{Duration, SystemTime};

use proto::HostId;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer,
    KeyUsagePurpose, NameConstraints, SanType, SerialNumber,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::CertificateDer;

use super::TrustError;
use super::certificate::{fleet_domain, server_name};
use super::key::{PublicKey, SecretKey};

/// How far certificates are backdated, for hosts whose clocks are slow.
pub(super) const BACKDATED: Duration = Duration::from_secs(3600);

/// How long a host certificate is good for.
pub(super) const HOST_LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);

/// How long the CA certificate is good for: 20 years.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(20 * 365 * 24 * 3600 + 5 * 24 * 3600);

/// The self-signed certificate of a fleet's CA. It can sign hosts of this fleet and nothing else.
pub(super) fn authority(key: &SecretKey, now: SystemTime) -> Result<CertificateDer<'static>, TrustError> {
    let fleet = key.public().id();
    let mut params = params(authority_name(&fleet), now, AUTHORITY_LIFETIME)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(fleet_domain(&fleet))],
        // A constraint on DNS names alone leaves every IP address open.
        excluded_subtrees: vec![
            GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])),
            GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])),
        ],
    });
    Ok(params.self_signed(key)?.der().clone())
}

/// A host's certificate. Nothing but the public key comes from the host.
pub(super) fn host(authority: &SecretKey, subject: &PublicKey, now: SystemTime) -> Result<CertificateDer<'static>, TrustError> {
    named_host(authority, subject, &server_name(&subject.id(), &authority.public().id()), now)
}

/// The same with any DNS name, so that tests can make what the CA never makes.
pub(super) fn named_host(
    authority: &SecretKey,
    subject: &PublicKey,
    dns_name: &str,
    now: SystemTime,
) -> Result<CertificateDer<'static>, TrustError> {
    let mut params = params(distinguished_name(&subject.id().to_string()), now, HOST_LIFETIME)?;
    params.subject_alt_names = vec![SanType::DnsName(Ia5String::try_from(dns_name)?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let mut issuer = CertificateParams::default();
    issuer.distinguished_name = authority_name(&authority.public().id());
    issuer.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(params.signed_by(subject, &Issuer::from_params(&issuer, authority))?.der().clone())
}

/// What every certificate has. The defaults of the library (1975 to 4096, one common name) are all replaced.
fn params(name: DistinguishedName, now: SystemTime, lifetime: Duration) -> Result<CertificateParams, TrustError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + lifetime).into();
    params.serial_number = Some(serial()?);
    Ok(params)
}

/// Follows from the fleet alone: the issuer of a certificate is named without reading the CA certificate.
fn authority_name(fleet: &HostId) -> DistinguishedName {
    distinguished_name(&format!("fleet {fleet}"))
}

/// A common name has 64 characters at the most.
fn distinguished_name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "imgd");
    name.push(DnType::CommonName, common_name);
    name
}

fn serial() -> Result<SerialNumber, TrustError> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| TrustError::Random)?;
    // Positive, and without leading zeros: one DER form, 16 bytes long.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}
