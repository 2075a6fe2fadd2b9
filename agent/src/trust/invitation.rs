//! Invitations that wait for a host. Only the signer has any.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use proto::host::{MemberList, check_name};
use proto::limits::INVITES;

use super::TrustError;
use super::files::{Files, Name};
use super::token::Secret;

/// What `fleet invite` asks for.
#[derive(Debug, Clone)]
pub struct Invite {
    /// How many hosts may use the token.
    pub uses: u32,
    /// For how long.
    pub valid: Duration,
    /// Only for a host of this name.
    pub for_name: Option<String>,
    /// For a host that takes the place of the member of this name, whose id is then removed.
    pub replace: Option<String>,
    /// `ADDR:PORT` of this host, put into the token.
    pub address: Option<String>,
}

/// What `fleet invite` gives out.
#[derive(Clone, PartialEq, Eq)]
pub struct Invitation {
    /// `imgj1-…`: a secret.
    pub token: String,
    /// When it ends, in seconds since 1970.
    pub expires_unix_s: u64,
    /// How many hosts may use it.
    pub uses: u32,
}

impl fmt::Debug for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { token: _, expires_unix_s, uses } = self;
        f.debug_struct("Invitation").field("expires_unix_s", expires_unix_s).field("uses", uses).finish_non_exhaustive()
    }
}

/// An invitation as the signer keeps it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pending {
    pub(super) secret: Secret,
    pub(super) expires_unix_s: u64,
    pub(super) uses: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) for_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) replace: Option<String>,
}

impl Pending {
    /// Checks what is asked for against the list, and makes the invitation.
    pub(super) fn new(invite: &Invite, list: &MemberList, now_unix_s: u64) -> Result<Self, TrustError> {
        for name in invite.for_name.iter().chain(&invite.replace) {
            check_name(name)?;
        }
        if invite.uses == 0 {
            return Err(TrustError::Invite("a token needs one use at least"));
        }
        if invite.valid.as_secs() == 0 {
            return Err(TrustError::Invite("a token has to be valid for a second at least"));
        }
        if let Some(replaced) = &invite.replace {
            if list.by_name(replaced).is_none() {
                return Err(TrustError::UnknownMember(replaced.clone()));
            }
            if invite.uses != 1 {
                return Err(TrustError::Invite("a token that replaces a host has one use"));
            }
            if invite.for_name.as_ref().is_some_and(|name| name != replaced) {
                return Err(TrustError::Invite("the name that is replaced and the name that is invited differ"));
            }
        }
        Ok(Self {
            secret: Secret::generate()?,
            expires_unix_s: now_unix_s.saturating_add(invite.valid.as_secs()),
            uses: invite.uses,
            for_name: invite.for_name.clone(),
            replace: invite.replace.clone(),
        })
    }

    /// The one name that it is for.
    pub(super) fn only_name(&self) -> Option<&String> {
        self.replace.as_ref().or(self.for_name.as_ref())
    }

    fn is_live(&self, now_unix_s: u64) -> bool {
        self.uses > 0 && now_unix_s < self.expires_unix_s
    }
}

/// All invitations. Every change is on disk before it is in here.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Invitations {
    #[serde(default, rename = "invitation")]
    all: Vec<Pending>,
}

impl Invitations {
    /// Reads them.
    pub(super) fn load(files: &Files) -> Result<Self, TrustError> {
        let Some(bytes) = files.read(Name::Invitations)? else { return Ok(Self::default()) };
        // Only the message: the whole text of the error quotes the line, which may be a secret.
        let parsed = std::str::from_utf8(&bytes).ok().and_then(|text| toml::from_str(text).ok());
        parsed.ok_or_else(|| files.corrupt(Name::Invitations, "it is not a list of invitations"))
    }

    /// Adds one.
    pub(super) fn add(&mut self, pending: Pending, files: &Files, now_unix_s: u64) -> Result<(), TrustError> {
        let mut next = self.live(now_unix_s);
        if next.all.len() >= INVITES {
            return Err(TrustError::Invite("too many invitations wait already: let some be used or run out"));
        }
        next.all.push(pending);
        self.replace(next, files)
    }

    /// Adds those of a backup that are not here, as far as there is room.
    pub(super) fn add_all(&mut self, others: Self, files: &Files, now_unix_s: u64) -> Result<(), TrustError> {
        let mut next = self.live(now_unix_s);
        for pending in others.live(now_unix_s).all {
            let known = next.all.iter().any(|own| own.secret.is_same(&pending.secret));
            if !known && next.all.len() < INVITES {
                next.all.push(pending);
            }
        }
        self.replace(next, files)
    }

    /// The invitation whose secret made `proof` over `message`. Every live one is tried, whichever fits.
    pub(super) fn find(&self, message: &[u8], proof: &[u8; 32], now_unix_s: u64) -> Option<usize> {
        let mut found = None;
        for (index, pending) in self.all.iter().enumerate().filter(|(_, pending)| pending.is_live(now_unix_s)) {
            if pending.secret.is_proven(message, proof) {
                found = Some(index);
            }
        }
        found
    }

    /// The invitation at a place that [`Self::find`] gave.
    pub(super) fn get(&self, index: usize) -> Option<&Pending> {
        self.all.get(index)
    }

    /// Takes one use away, durably.
    pub(super) fn use_up(&mut self, index: usize, files: &Files, now_unix_s: u64) -> Result<(), TrustError> {
        let mut next = self.clone();
        if let Some(pending) = next.all.get_mut(index) {
            pending.uses = pending.uses.saturating_sub(1);
        }
        self.replace(next.live(now_unix_s), files)
    }

    /// Those that can still be used.
    pub(super) fn live(&self, now_unix_s: u64) -> Self {
        Self { all: self.all.iter().filter(|pending| pending.is_live(now_unix_s)).cloned().collect() }
    }

    /// How many there are, used up and expired ones included.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    fn replace(&mut self, next: Self, files: &Files) -> Result<(), TrustError> {
        let text = toml::to_string(&next).map_err(|_| TrustError::Invite("the invitations cannot be written down"))?;
        files.write(Name::Invitations, Zeroizing::new(text).as_bytes())?;
        *self = next;
        Ok(())
    }
}
