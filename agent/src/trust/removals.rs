//! Removals that the newest member list does not have: a host that was removed once is never let in again, whatever a later list says.
//!
//! A signer that was restored from an old backup signs lists that know nothing of what happened since. Whoever knows of a removal keeps the signed list
//! that says so, until a newer list has it too, and brings it to the signers.

use std::collections::BTreeSet;

use proto::HostId;
use proto::frame::{self, Bounded};
use proto::host::{MemberList, SignedMemberList};
use serde::{Deserialize, Serialize};

use super::TrustError;
use super::files::{Files, Name};
use super::key::PublicKey;
use super::list;

/// Lists that are kept. Each has a removal that no other one has, so that only signers who know nothing of each other make many.
const WITNESSES: usize = 16;

/// Signed lists, each with a removal that the newest list lacks, and what they say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Removals {
    witnesses: Vec<SignedMemberList>,
    ids: BTreeSet<HostId>,
}

/// `<state>/trust/removals`.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Written(Vec<SignedMemberList>);

impl Bounded for Written {
    fn within_limits(&self) -> bool {
        // One more while the newest list is written.
        self.0.len() <= WITNESSES + 1 && self.0.iter().all(Bounded::within_limits)
    }
}

impl Removals {
    /// Reads them; every list is checked again.
    pub(super) fn load(files: &Files, authority: &PublicKey) -> Result<Self, TrustError> {
        let Some(bytes) = files.read(Name::Removals)? else { return Ok(Self::default()) };
        let Written(witnesses) = frame::decode(&bytes).map_err(|error| files.corrupt(Name::Removals, error))?;
        let mut removals = Self::default();
        for witness in witnesses {
            let list = list::verify(&witness, authority).map_err(|error| files.corrupt(Name::Removals, error))?;
            removals.ids.extend(list.removed);
            removals.witnesses.push(witness);
        }
        Ok(removals)
    }

    /// Writes them.
    pub(super) fn store(&self, files: &Files) -> Result<(), TrustError> {
        if self.witnesses.is_empty() {
            return files.remove(Name::Removals);
        }
        files.write(Name::Removals, &frame::encode_body(&Written(self.witnesses.clone())))
    }

    /// What is kept beside `newest`, of all that was known before: these, and the list that it replaces or contradicts.
    pub(super) fn beside(&self, newest: &MemberList, other: &SignedMemberList, authority: &PublicKey) -> Result<Self, TrustError> {
        let mut covered: BTreeSet<HostId> = newest.removed.iter().copied().collect();
        let mut kept = Self::default();
        // The one that comes last knows most.
        for witness in std::iter::once(other).chain(self.witnesses.iter().rev()) {
            let removed = list::verify(witness, authority)?.removed;
            if removed.iter().all(|id| covered.contains(id)) {
                continue;
            }
            if kept.witnesses.len() == WITNESSES {
                return Err(TrustError::Full);
            }
            covered.extend(removed.iter().copied());
            kept.ids.extend(removed);
            kept.witnesses.push(witness.clone());
        }
        kept.witnesses.reverse();
        Ok(kept)
    }

    /// A list as it counts here: without those of whom it does not know that they were removed.
    pub(super) fn apply(&self, mut list: MemberList) -> MemberList {
        list.members.retain(|member| !self.ids.contains(&member.id));
        let known: BTreeSet<HostId> = list.removed.iter().copied().collect();
        list.removed.extend(self.ids.difference(&known));
        list
    }

    /// Nothing is kept beside the newest list.
    pub(super) fn is_empty(&self) -> bool {
        self.witnesses.is_empty()
    }

    /// The same with the newest list as one more witness, until it is on disk.
    pub(super) fn and(&self, signed: &SignedMemberList, list: &MemberList) -> Self {
        let mut all = self.clone();
        all.witnesses.push(signed.clone());
        all.ids.extend(&list.removed);
        all
    }

    /// Lists that a signer should see.
    pub(super) fn witnesses(&self) -> &[SignedMemberList] {
        &self.witnesses
    }
}
