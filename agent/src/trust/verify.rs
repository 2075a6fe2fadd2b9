//! What a handshake is checked for beyond what WebPKI checks: names that follow from keys, and removed hosts.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proto::HostId;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme};
use webpki::KeyUsage;

use super::certificate::{check_name, peer_id, public_key, server_name, verify_chain};
use super::fleet::Current;
use super::skew::Skew;

/// Checks whom we have dialled: WebPKI under our CA, for the name that follows from the certificate's own key. That
/// key is the expected one, where one is expected. What name the connection was opened with does not matter.
#[derive(Debug)]
pub(super) struct PeerVerifier {
    pub(super) webpki: Arc<WebPkiServerVerifier>,
    pub(super) current: Current,
    pub(super) fleet: HostId,
    pub(super) expected: Option<HostId>,
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let id = id_of(end_entity)?;
        if self.expected.is_some_and(|expected| expected != id) {
            return Err(CertificateError::NotValidForName.into());
        }
        let name = ServerName::try_from(server_name(&id, &self.fleet)).map_err(|_| CertificateError::NotValidForName)?;
        let verified = self.webpki.verify_server_cert(end_entity, intermediates, &name, ocsp_response, now).map_err(worded)?;
        refuse_removed(&self.current, &id)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// Checks who has dialled us: WebPKI under our CA, and not removed. A client without a certificate passes: it wants to join.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    pub(super) webpki: Arc<dyn ClientCertVerifier>,
    pub(super) current: Current,
    pub(super) fleet: HostId,
}

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        self.webpki.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.webpki.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.webpki.verify_client_cert(end_entity, intermediates, now).map_err(worded)?;
        let id = id_of(end_entity)?;
        check_name(end_entity, &id, &self.fleet).map_err(|_| CertificateError::NotValidForName)?;
        refuse_removed(&self.current, &id)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// Checks the signer before we know its CA certificate: it shows one whose key is the one in the token, and a host certificate under that.
#[derive(Debug)]
pub(super) struct JoinVerifier {
    pub(super) fleet: HostId,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for JoinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let is_pinned = |certificate: &&CertificateDer<'_>| public_key(certificate).is_some_and(|key| key.id() == self.fleet);
        let authority = intermediates.iter().find(is_pinned).ok_or(CertificateError::UnknownIssuer)?;
        verify_chain(end_entity, authority, now, KeyUsage::server_auth()).map_err(tls_error).map_err(worded)?;
        let id = id_of(end_entity)?;
        check_name(end_entity, &id, &self.fleet).map_err(|_| CertificateError::NotValidForName)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn id_of(certificate: &CertificateDer<'_>) -> Result<HostId, Error> {
    peer_id(std::slice::from_ref(certificate)).ok_or_else(|| CertificateError::BadEncoding.into())
}

/// Reads the list of this moment, not that of the time when TLS was configured.
fn refuse_removed(current: &Current, id: &HostId) -> Result<(), Error> {
    if current.is_removed(id) { Err(CertificateError::Revoked.into()) } else { Ok(()) }
}

fn no_tls12() -> Error {
    PeerIncompatible::Tls13RequiredForQuic.into()
}

/// Where a certificate is good at another time than it is here, that is what is said.
fn worded(error: Error) -> Error {
    let at = |time: UnixTime| SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs());
    match error {
        Error::InvalidCertificate(CertificateError::NotValidYetContext { time, not_before }) => {
            Error::General(Skew::behind(at(time), at(not_before)).to_text())
        }
        Error::InvalidCertificate(CertificateError::ExpiredContext { time, not_after }) => {
            Error::General(Skew::ahead(at(time), at(not_after)).to_text())
        }
        error => error,
    }
}

/// The reasons that people can do something about keep their name; the others are one.
fn tls_error(error: webpki::Error) -> Error {
    match error {
        webpki::Error::CertExpired { time, not_after } => CertificateError::ExpiredContext { time, not_after },
        webpki::Error::CertNotValidYet { time, not_before } => CertificateError::NotValidYetContext { time, not_before },
        _ => CertificateError::UnknownIssuer,
    }
    .into()
}
