//! Ed25519 keys: the host's and the CA's. The only form of key that a fleet knows.

use std::fmt;

use proto::HostId;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use rustls::pki_types::PrivatePkcs8KeyDer;
use zeroize::Zeroizing;

use super::TrustError;

/// DER of a SubjectPublicKeyInfo up to the 32 bytes of an Ed25519 key (RFC 8410).
const PUBLIC_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// DER of a PKCS#8 PrivateKeyInfo up to the 32 bytes of an Ed25519 seed (RFC 8410).
const SECRET_PREFIX: [u8; 16] = [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// The public half. Its SubjectPublicKeyInfo has exactly one form, so that one key has exactly one [`HostId`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PublicKey([u8; 32]);

impl PublicKey {
    /// `None` for anything but the 44 bytes of an Ed25519 SubjectPublicKeyInfo.
    pub(super) fn from_spki(der: &[u8]) -> Option<Self> {
        der.strip_prefix(&PUBLIC_PREFIX).and_then(|key| key.try_into().ok()).map(Self)
    }

    /// The SubjectPublicKeyInfo.
    pub(super) fn spki(&self) -> Vec<u8> {
        [&PUBLIC_PREFIX[..], &self.0].concat()
    }

    /// The identity that belongs to it.
    pub(super) fn id(&self) -> HostId {
        HostId::of_public_key(&self.spki())
    }

    /// Whether the holder of the secret half has signed `message`.
    pub(super) fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, signature).is_ok()
    }
}

impl rcgen::PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

/// The secret half. Shown by nothing.
pub(super) struct SecretKey {
    pkcs8: Zeroizing<Vec<u8>>,
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl SecretKey {
    /// A new one.
    pub(super) fn generate() -> Result<Self, TrustError> {
        let mut seed = Zeroizing::new([0; 32]);
        SystemRandom::new().fill(&mut *seed).map_err(|_| TrustError::Random)?;
        let mut pkcs8 = Zeroizing::new(Vec::with_capacity(SECRET_PREFIX.len() + seed.len()));
        pkcs8.extend_from_slice(&SECRET_PREFIX);
        pkcs8.extend_from_slice(&*seed);
        Self::from_pkcs8(pkcs8).ok_or(TrustError::Random)
    }

    /// From its PKCS#8 form; `None` when that is not an Ed25519 key.
    pub(super) fn from_pkcs8(der: Zeroizing<Vec<u8>>) -> Option<Self> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).ok()?;
        let public = PublicKey(pair.public_key().as_ref().try_into().ok()?);
        Some(Self { pkcs8: der, pair, public })
    }

    /// Its PKCS#8 form.
    pub(super) fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The same, as rustls takes it.
    pub(super) fn for_tls(&self) -> PrivatePkcs8KeyDer<'_> {
        PrivatePkcs8KeyDer::from(self.pkcs8())
    }

    /// The public half.
    pub(super) fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs.
    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey of {:?}", self.public.id())
    }
}

impl rcgen::PublicKeyData for SecretKey {
    fn der_bytes(&self) -> &[u8] {
        self.public.der_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.public.algorithm()
    }
}

impl rcgen::SigningKey for SecretKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.sign(message))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rcgen::PublicKeyData;

    use super::*;

    #[test]
    fn a_public_key_has_one_form() {
        let key = SecretKey::generate().unwrap();
        let spki = key.public().spki();
        assert_eq!(spki.len(), 44);
        assert_eq!(spki, key.subject_public_key_info());
        assert_eq!(PublicKey::from_spki(&spki), Some(*key.public()));
        assert_eq!(PublicKey::from_spki(&spki[..43]), None);
        assert_eq!(PublicKey::from_spki(&[&spki[..], &[0]].concat()), None);
        let mut other_curve = spki;
        other_curve[8] = 0x71;
        assert_eq!(PublicKey::from_spki(&other_curve), None);
    }

    #[test]
    fn what_one_key_signs_no_other_has_signed() {
        let (one, other) = (SecretKey::generate().unwrap(), SecretKey::generate().unwrap());
        let signature = one.sign(b"text");
        assert!(one.public().has_signed(b"text", &signature));
        assert!(!one.public().has_signed(b"texts", &signature));
        assert!(!other.public().has_signed(b"text", &signature));
        assert!(!one.public().has_signed(b"text", &[]));
    }

    #[test]
    fn debug_shows_no_secret() {
        let key = SecretKey::generate().unwrap();
        assert_eq!(format!("{key:?}"), format!("SecretKey of {}", key.public().id().short()));
    }
}
