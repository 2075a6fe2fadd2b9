//! The date of the member list: a signer says every day that the list is the newest one. A host that has not heard so for days knows that it may not know
//! who was removed. The list itself stays as it is, so that a new date is no new epoch.

use std::sync::PoisonError;
use std::time::Duration;

use proto::Digest;
use proto::frame;
use proto::host::{ListDate, Role};

use super::files::{Files, Name};
use super::fleet::Fleet;
use super::issue::BACKDATED;
use super::key::PublicKey;
use super::{Trust, TrustError};

/// What is signed is never anything but this.
const CONTEXT: &[u8] = b"imgd member list date\0";

/// A date that is older is replaced.
const LIFETIME_S: u64 = 24 * 3_600;

/// How much later than the signer before it on the list a signer does so.
const RANK_S: u64 = 3_600;

impl Trust {
    /// How long ago a signer has said that the list of this host is the newest; `None` when none has, or when it is yet to come by the clock here.
    pub fn members_age(&self) -> Option<Duration> {
        self.clock.unix_s().checked_sub(self.list_date()?.unix_s).map(Duration::from_secs)
    }

    /// What a signer has said last of the list of this host.
    pub fn list_date(&self) -> Option<ListDate> {
        let fleet = self.current.get()?;
        let date = self.date.lock().unwrap_or_else(PoisonError::into_inner).clone();
        date.filter(|date| date.list == Digest::of(&fleet.signed.list))
    }

    /// Takes a date over, if it is of the list of this host, and a later one. True when it was.
    pub fn accept_date(&self, date: &ListDate) -> Result<bool, TrustError> {
        let _writer = self.lock();
        let fleet = self.in_fleet()?;
        // One from the future was made while a clock was wrong, and would be the newest for as long as that was wrong.
        let latest_unix_s = self.clock.unix_s() + BACKDATED.as_secs();
        let is_known = |known: ListDate| known.unix_s >= date.unix_s && known.unix_s <= latest_unix_s;
        if date.list != Digest::of(&fleet.signed.list) || date.unix_s > latest_unix_s || self.list_date().is_some_and(is_known) {
            return Ok(false);
        }
        verify(date, &fleet.authority_key)?;
        self.keep_date(date.clone())?;
        Ok(true)
    }

    /// On a signer: dates the list when it has no date, or one of yesterday. Of several signers the first on the list does so, and the next ones an hour
    /// later each. True when it did.
    pub fn date_list(&self) -> Result<bool, TrustError> {
        let _writer = self.lock();
        let fleet = self.in_fleet()?;
        let Ok(signer) = fleet.signer(&self.id()) else { return Ok(false) };
        let signers = fleet.list.members.iter().filter(|member| member.roles.contains(&Role::Signer));
        let rank = signers.enumerate().find(|(_, member)| member.id == self.id()).map_or(0, |(rank, _)| rank as u64);
        let (unix_s, list) = (self.clock.unix_s(), Digest::of(&fleet.signed.list));
        // One from the future was made while a clock was wrong.
        let is_good = |known: ListDate| known.unix_s.abs_diff(unix_s) < LIFETIME_S + rank * RANK_S;
        if self.list_date().is_some_and(is_good) {
            return Ok(false);
        }
        let signature = signer.sign(&signed_bytes(&list, unix_s));
        self.keep_date(ListDate { list, unix_s, signature })?;
        Ok(true)
    }

    fn keep_date(&self, date: ListDate) -> Result<(), TrustError> {
        self.files.write(Name::Date, &frame::encode_body(&date))?;
        *self.date.lock().unwrap_or_else(PoisonError::into_inner) = Some(date);
        Ok(())
    }
}

/// Reads what was kept. It is worth nothing where it is damaged: the next one comes.
pub(super) fn load(files: &Files, fleet: Option<&Fleet>) -> Result<Option<ListDate>, TrustError> {
    let (Some(bytes), Some(fleet)) = (files.read(Name::Date)?, fleet) else { return Ok(None) };
    let date = frame::decode::<ListDate>(&bytes).ok();
    Ok(date.filter(|date| verify(date, &fleet.authority_key).is_ok()))
}

fn verify(date: &ListDate, authority: &PublicKey) -> Result<(), TrustError> {
    let is_signed = authority.has_signed(&signed_bytes(&date.list, date.unix_s), &date.signature);
    if is_signed { Ok(()) } else { Err(TrustError::ForgedList(authority.id())) }
}

fn signed_bytes(list: &Digest, unix_s: u64) -> Vec<u8> {
    [CONTEXT, list.as_bytes(), &unix_s.to_le_bytes()].concat()
}
