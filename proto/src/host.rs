//! Who is who: the identity of a host, and the signed list of the members of a fleet.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::frame::Bounded;
use crate::limits::{GROUPS, HOST_NAME_BYTES, MEMBERS};

/// SHA-256 of the host's SubjectPublicKeyInfo, in lower-case base32 without padding (52 characters, so that it fits a DNS label).
/// It stays the same when a certificate is renewed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HostId([u8; 32]);

/// Why a text is not a host ID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a host ID: \"{}\"", crate::text::escape_short(.0, 80))]
pub struct InvalidHostId(pub String);

impl HostId {
    /// The identity that belongs to a DER-encoded SubjectPublicKeyInfo.
    pub fn of_public_key(subject_public_key_info: &[u8]) -> Self {
        Self(*crate::Digest::of(subject_public_key_info).as_bytes())
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 12 characters, for people.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
    }
}

impl fmt::Debug for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl FromStr for HostId {
    type Err = InvalidHostId;

    fn from_str(text: &str) -> Result<Self, InvalidHostId> {
        let lower_case = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        data_encoding::BASE32_NOPAD
            .decode(text.to_ascii_uppercase().as_bytes())
            .ok()
            .filter(|_| lower_case)
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or_else(|| InvalidHostId(text.to_owned()))
    }
}

/// Why a text cannot be the name of a host or a group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a host name: \"{}\": 1 to 63 of a-z, 0-9 and -, no - at either end", crate::text::escape_short(.0, 80))]
pub struct InvalidHostName(pub String);

/// Checks a host or group name: a DNS label in lower case.
pub fn check_name(name: &str) -> Result<(), InvalidHostName> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if name.is_empty() || name.len() > HOST_NAME_BYTES || !name.bytes().all(allowed) || name.starts_with('-') || name.ends_with('-') {
        return Err(InvalidHostName(name.to_owned()));
    }
    Ok(())
}

/// A name that a host can have, made of what it is called elsewhere: `stapp-01` of `Stapp_01.example.com`. Empty where nothing is left.
pub fn usable_name(host: &str) -> String {
    let label = host.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let usable: String = label.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(HOST_NAME_BYTES).collect();
    usable.trim_matches('-').to_owned()
}

/// What a member may do beyond sending and receiving.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Holds the key of the fleet CA: signs certificates and this list.
    Signer,
}

/// One host of a fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its identity.
    pub id: HostId,
    /// Its name, unique in the fleet.
    pub name: String,
    /// Usually none.
    pub roles: Vec<Role>,
    /// Groups that it is in, sorted.
    pub groups: Vec<String>,
}

/// Who belongs to a fleet. Signed as a whole; a list with a lower epoch than a known one is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberList {
    /// Identity of the fleet: SHA-256 of the CA's SubjectPublicKeyInfo.
    pub fleet: HostId,
    /// Grows by one with every change.
    pub epoch: u64,
    /// Sorted by name.
    pub members: Vec<Member>,
    /// Ids that are never let in again.
    pub removed: Vec<HostId>,
}

impl MemberList {
    /// The member with this identity.
    pub fn by_id(&self, id: &HostId) -> Option<&Member> {
        self.members.iter().find(|member| member.id == *id)
    }

    /// The member with this name.
    pub fn by_name(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }
}

impl Bounded for MemberList {
    fn within_limits(&self) -> bool {
        let member = |member: &Member| {
            check_name(&member.name).is_ok()
                && member.roles.len() <= GROUPS
                && member.groups.len() <= GROUPS
                && member.groups.iter().all(|group| check_name(group).is_ok())
        };
        self.members.len() <= MEMBERS && self.removed.len() <= MEMBERS && self.members.iter().all(member)
    }
}

/// A [`MemberList`] in its encoded form, with the CA's signature over exactly these bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedMemberList {
    /// [`crate::frame::encode_body`] of a [`MemberList`].
    pub list: Vec<u8>,
    /// Ed25519 over `"imgd member list\0"` and `list`.
    pub signature: Vec<u8>,
}

impl Bounded for SignedMemberList {
    fn within_limits(&self) -> bool {
        self.list.len() <= crate::limits::FRAME_MEMBERS && self.signature.len() == 64
    }
}

/// A signer says that a list was the newest one at some time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListDate {
    /// SHA-256 of [`SignedMemberList::list`].
    pub list: crate::Digest,
    /// Seconds since 1970, by the clock of the signer.
    pub unix_s: u64,
    /// Ed25519 over `"imgd member list date\0"`, the 32 bytes of `list`, and `unix_s` in little-endian.
    pub signature: Vec<u8>,
}

impl Bounded for ListDate {
    fn within_limits(&self) -> bool {
        self.signature.len() == 64
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_a_dns_label_and_round_trip() {
        let id = HostId::of_public_key(b"key");
        assert_eq!(id.to_string().len(), 52);
        assert_eq!(id.to_string().parse::<HostId>().unwrap(), id);
        assert!(id.to_string().to_uppercase().parse::<HostId>().is_err());
        assert!("short".parse::<HostId>().is_err());
    }

    #[test]
    fn names_are_dns_labels() {
        for name in ["stapp03", "a", "web-01", &"x".repeat(63)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "-a", "a-", "A", "a.b", "a b", "ü", "@web", &"x".repeat(64)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
