//! TLS for both ends: 1.3 only, Ed25519 only, no tickets, no resumption, no early data.

use std::sync::Arc;

use proto::HostId;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SignatureScheme};

use super::fleet::Fleet;
use super::verify::{ClientVerifier, JoinVerifier, PeerVerifier};
use super::{Trust, TrustError};

/// No other signature is ever checked, so that a stranger cannot have an RSA key of 8192 bits checked.
const ALGORITHMS: WebPkiSupportedAlgorithms =
    WebPkiSupportedAlgorithms { all: &[webpki::ring::ED25519], mapping: &[(SignatureScheme::ED25519, &[webpki::ring::ED25519])] };

impl Trust {
    /// For the listening side, made of the certificate of this moment: ask again after [`Trust::changes`]. Removed hosts are
    /// refused by the list of the moment of the handshake.
    ///
    /// A client without a certificate gets through the handshake, because one that joins has none:
    /// who accepts a connection for `imgd/1` without [`super::peer_id`] closes it before reading from it.
    pub fn tls_server(&self) -> Result<Arc<ServerConfig>, TrustError> {
        let fleet = self.in_fleet()?;
        let webpki = WebPkiClientVerifier::builder_with_provider(roots(&fleet)?, provider())
            .allow_unauthenticated()
            .clear_root_hint_subjects()
            .build()
            .map_err(|error| TrustError::certificate("the CA", error))?;
        let verifier = ClientVerifier { webpki, current: self.current.clone(), fleet: fleet.id };
        let mut config = ServerConfig::builder_with_details(provider(), Arc::new(self.clock.clone()))
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(self.shown(&fleet)?);
        config.alpn_protocols = vec![proto::peer::ALPN.to_vec(), proto::join::ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// For dialling a member: this one, or, at an address of which the host is not known, any. The name with which the connection
    /// is opened does
    /// not matter (and is not sent): the certificate must be for the name that follows from its key.
    pub fn tls_client(&self, expected: Option<HostId>) -> Result<Arc<ClientConfig>, TrustError> {
        let fleet = self.in_fleet()?;
        let webpki = WebPkiServerVerifier::builder_with_provider(roots(&fleet)?, provider())
            .build()
            .map_err(|error| TrustError::certificate("the CA", error))?;
        let verifier = PeerVerifier { webpki, current: self.current.clone(), fleet: fleet.id, expected };
        let config = ClientConfig::builder_with_details(provider(), Arc::new(self.clock.clone()))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(self.shown(&fleet)?);
        Ok(sealed(config, proto::peer::ALPN))
    }

    /// For joining this fleet or renewing in it: pins the CA's key, shows no certificate. Works without a fleet.
    pub fn tls_join(&self, fleet: &HostId) -> Result<Arc<ClientConfig>, TrustError> {
        let verifier = JoinVerifier { fleet: *fleet, algorithms: ALGORITHMS };
        let config = ClientConfig::builder_with_details(provider(), Arc::new(self.clock.clone()))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Ok(sealed(config, proto::join::ALPN))
    }

    /// Our certificate with that of the CA, which a host that joins has yet to see.
    fn shown(&self, fleet: &Fleet) -> Result<Arc<SingleCertAndKey>, TrustError> {
        let key = ring::sign::any_eddsa_type(&self.key.for_tls())?;
        let certified = CertifiedKey::new(vec![fleet.certificate.clone(), fleet.authority.clone()], key);
        Ok(Arc::new(SingleCertAndKey::from(certified)))
    }
}

fn sealed(mut config: ClientConfig, protocol: &[u8]) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![protocol.to_vec()];
    config.resumption = Resumption::disabled();
    // Who is dialled is nobody else's business.
    config.enable_sni = false;
    Arc::new(config)
}

fn roots(fleet: &Fleet) -> Result<Arc<RootCertStore>, TrustError> {
    let mut roots = RootCertStore::empty();
    roots.add(fleet.authority.clone())?;
    Ok(Arc::new(roots))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider { signature_verification_algorithms: ALGORITHMS, ..ring::default_provider() })
}
