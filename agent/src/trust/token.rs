//! The join token: `imgj1-<CA key hash>-<secret>[-<address>]`.

use std::fmt;

use proto::HostId;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::TrustError;

/// Version of the token's form.
const PREFIX: &str = "imgj1";

/// 160 bits, 32 characters: nobody who saw a proof finds it by trying.
const SECRET_BYTES: usize = 20;

/// An address is a host name of 253 characters at the most, and a port.
const ADDRESS_BYTES: usize = 260;

/// What `fleet invite` prints and `fleet join` reads.
#[derive(Debug, Clone)]
pub struct Token {
    /// The fleet, which is the hash of the CA's key: pinned in the join handshake.
    pub fleet: HostId,
    /// Proves to the signer that we were invited. It never travels.
    pub secret: Secret,
    /// Where the signer listens, `ADDR:PORT`.
    pub address: Option<String>,
}

impl Token {
    /// Reads a token; white space around it is ignored. The error says what is wrong, but nothing of what was read.
    pub fn parse(text: &str) -> Result<Self, TrustError> {
        let mut parts = text.trim().splitn(4, '-');
        if parts.next() != Some(PREFIX) {
            return Err(TrustError::Token("it does not start with imgj1-"));
        }
        let fleet = parts.next().and_then(|hash| hash.parse().ok()).ok_or(TrustError::Token("its fleet is not valid"))?;
        let secret = parts.next().and_then(Secret::parse).ok_or(TrustError::Token("its secret is not valid"))?;
        let address = parts.next().map(|address| {
            if is_address(address) { Ok(address.to_owned()) } else { Err(TrustError::Token("its address is not ADDR:PORT")) }
        });
        Ok(Self { fleet, secret, address: address.transpose()? })
    }

    /// The token as text: a secret.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(96 + ADDRESS_BYTES));
        for part in [PREFIX, "-", &self.fleet.to_string(), "-", &self.secret.to_text()] {
            text.push_str(part);
        }
        if let Some(address) = &self.address {
            text.push('-');
            text.push_str(address);
        }
        text
    }
}

/// What an invited host knows. Shown by nothing, gone from memory when it is dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; SECRET_BYTES]);

impl Secret {
    /// A new one.
    pub(super) fn generate() -> Result<Self, TrustError> {
        let mut secret = Self([0; SECRET_BYTES]);
        SystemRandom::new().fill(&mut secret.0).map_err(|_| TrustError::Random)?;
        Ok(secret)
    }

    /// HMAC-SHA-256 of `message`.
    pub(super) fn prove(&self, message: &[u8]) -> [u8; 32] {
        let mut proof = [0; 32];
        proof.copy_from_slice(hmac::sign(&self.key(), message).as_ref());
        proof
    }

    /// Whether `proof` was made with this secret. Takes the same time for every wrong one.
    pub(super) fn is_proven(&self, message: &[u8], proof: &[u8; 32]) -> bool {
        hmac::verify(&self.key(), message, proof).is_ok()
    }

    /// Whether the two are one.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        bool::from(self.0.ct_eq(&other.0))
    }

    fn key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.0)
    }

    fn parse(text: &str) -> Option<Self> {
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return None;
        }
        let upper = Zeroizing::new(text.to_ascii_uppercase());
        let bytes = Zeroizing::new(data_encoding::BASE32_NOPAD.decode(upper.as_bytes()).ok()?);
        Some(Self(bytes.as_slice().try_into().ok()?))
    }

    fn to_text(&self) -> Zeroizing<String> {
        let mut text = data_encoding::BASE32_NOPAD.encode(&self.0);
        text.make_ascii_lowercase();
        Zeroizing::new(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_text())
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("not a secret"))
    }
}

/// `ADDR:PORT`, where an IPv6 address is in brackets. Verbatim at the end of a token: it may have dashes in it.
pub(super) fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bracketed = host.starts_with('[') && host.ends_with(']') && host.len() > 2;
    text.len() <= ADDRESS_BYTES
        && port.parse::<u16>().is_ok_and(|port| port != 0)
        && !host.is_empty()
        && (bracketed || !host.contains(':'))
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:%[]".contains(&b))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn token(address: Option<&str>) -> Token {
        Token { fleet: HostId::of_public_key(b"ca"), secret: Secret::generate().unwrap(), address: address.map(str::to_owned) }
    }

    #[test]
    fn round_trips_with_any_address() {
        for address in [None, Some("192.168.1.5:7117"), Some("[fe80::1]:7117"), Some("[fe80::1%br-lan]:7117"), Some("web-01.my-lan:1")] {
            let token = token(address);
            let text = token.to_text();
            let read = Token::parse(&format!(" {}\n", *text)).unwrap();
            assert_eq!((read.fleet, read.address.as_deref()), (token.fleet, address));
            assert_eq!(read.secret.0, token.secret.0);
        }
    }

    #[test]
    fn refuses_without_repeating_it() {
        let good = token(None).to_text();
        let (head, secret) = good.rsplit_once('-').unwrap();
        let bad = [
            "".to_owned(),
            format!("imgj2{}", &good[5..]),
            format!("{head}-{}", &secret[..31]),
            format!("{head}-{secret}a"),
            format!("{head}-{}", secret.to_uppercase()),
            format!("imgj1-short-{secret}"),
            format!("{}-nonsense", *good),
            format!("{}-1.2.3.4:0", *good),
            format!("{}-a b:1", *good),
            format!("{}-fe80::1:7117", *good),
        ];
        for text in bad {
            let error = Token::parse(&text).unwrap_err();
            assert!(matches!(error, TrustError::Token(_)));
            assert!(!format!("{error} {error:?}").contains(&secret[..31]));
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let token = token(None);
        assert!(!format!("{token:?}").contains(token.secret.to_text().as_str()));
        assert!(format!("{token:?}").contains("secret: Secret"));
    }

    #[test]
    fn a_proof_is_for_one_message_and_one_secret() {
        let secret = Secret::generate().unwrap();
        let proof = secret.prove(b"one");
        assert!(secret.is_proven(b"one", &proof));
        assert!(!secret.is_proven(b"two", &proof));
        assert!(!Secret::generate().unwrap().is_proven(b"one", &proof));
    }
}
