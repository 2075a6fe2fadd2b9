//! Changes of the member list: those that come from elsewhere, and those that a signer makes.

use proto::HostId;
use proto::host::{Member, MemberList, Role, SignedMemberList, check_name};

use super::fleet::Fleet;
use super::{Trust, TrustError, list};

/// What became of a member list that was not refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// Ours is another one now: the newer one, or, on a signer, one made of both.
    Changed,
    /// It is the one that we have.
    Unchanged,
}

impl Trust {
    /// Takes over a member list that is newer than ours. It is on disk before it has an effect. Whatever a list says, who was removed on one that
    /// was ever seen here stays removed.
    ///
    /// A signer settles what two signers have done without each other: it signs one list of both, with all that either of them has let in or
    /// removed.
    pub fn accept_members(&self, signed: &SignedMemberList) -> Result<Accepted, TrustError> {
        let _writer = self.lock();
        let fleet = self.in_fleet()?;
        if fleet.signed == *signed {
            return Ok(Accepted::Unchanged);
        }
        let theirs = list::verify(signed, &fleet.authority_key)?;
        let ours = &fleet.list;
        if theirs.epoch == ours.epoch && fleet.signed.list == signed.list {
            return Ok(Accepted::Unchanged);
        }
        let next = if theirs.epoch > ours.epoch {
            fleet.with_signed(signed.clone(), &fleet.signed)?
        } else {
            fleet.with_signed(fleet.signed.clone(), signed)?
        };
        if let Some(merged) = self.merged(&fleet, &theirs, &next)? {
            let (epoch, is_merged) = (merged.epoch, theirs.epoch <= ours.epoch);
            self.adopt_list(next.with_list(merged, &self.id())?)?;
            if is_merged {
                self.audit.list_merged(&self.name(), ours.epoch, epoch);
            }
            return Ok(Accepted::Changed);
        }
        if theirs.epoch > ours.epoch {
            self.adopt_list(next)?;
            return Ok(Accepted::Changed);
        }
        let conflicts = theirs.epoch == ours.epoch;
        let (ours, theirs) = (ours.epoch, theirs.epoch);
        if next.list != fleet.list {
            // The removals count from now on, though the list does not.
            self.adopt_list(next)?;
        }
        if conflicts { Err(TrustError::ConflictingList(ours)) } else { Err(TrustError::StaleList { ours, theirs }) }
    }

    /// On a signer: the list that has to be signed, when `theirs` and ours are not one after the other.
    fn merged(&self, fleet: &Fleet, theirs: &MemberList, next: &Fleet) -> Result<Option<MemberList>, TrustError> {
        let signs = next.signer(&self.id()).is_ok();
        if !signs || (theirs.epoch < fleet.list.epoch && next.list == fleet.list) {
            return Ok(None);
        }
        if theirs.epoch == fleet.list.epoch {
            return list::merge(&fleet.list, theirs).map(Some);
        }
        let mut list = (*next.list).clone();
        if theirs.epoch > fleet.list.epoch {
            list::keep_members(&mut list, &fleet.list);
        }
        if !is_signer_on(&list, &self.id()) {
            // The name may be taken on that list; whoever has it keeps it.
            let _ = enrol(&mut list, &self.id(), &self.name());
        }
        if list == list::verify(&next.signed, &next.authority_key)? {
            return Ok(None);
        }
        list.epoch = list::next_epoch(list.epoch.max(theirs.epoch))?;
        Ok(Some(list))
    }

    /// Removes members for good, by name or id: all of them or, when one is not known, none. Only on a signer.
    pub fn remove(&self, names_or_ids: &[String]) -> Result<Vec<Member>, TrustError> {
        let _writer = self.lock();
        let fleet = self.in_fleet()?;
        let mut removed: Vec<Member> = Vec::new();
        for text in names_or_ids {
            let member = member(&fleet.list, text)?;
            if member.id == self.id() {
                return Err(TrustError::Oneself(member.name.clone()));
            }
            if !removed.contains(member) {
                removed.push(member.clone());
            }
        }
        self.change_list(&fleet, |list| {
            list.members.retain(|member| !removed.contains(member));
            list.removed.extend(removed.iter().map(|member| member.id));
            Ok(())
        })?;
        for member in &removed {
            self.audit.removed(&self.name(), &member.name, &member.id);
        }
        Ok(removed)
    }

    /// Gives a member another name; its identity stays. Only on a signer.
    pub fn rename(&self, name_or_id: &str, name: &str) -> Result<(), TrustError> {
        check_name(name)?;
        let _writer = self.lock();
        let fleet = self.in_fleet()?;
        let member = member(&fleet.list, name_or_id)?.clone();
        self.change_list(&fleet, |list| {
            if let Some(holder) = list.by_name(name).filter(|holder| holder.id != member.id) {
                return Err(TrustError::NameTaken { name: name.to_owned(), holder: holder.id });
            }
            list.members.iter_mut().filter(|known| known.id == member.id).for_each(|known| name.clone_into(&mut known.name));
            Ok(())
        })?;
        self.audit.renamed(&self.name(), &member.id, &member.name, name);
        Ok(())
    }

    /// Puts hosts into a group, or takes them out of it. Only on a signer.
    pub fn group(&self, group: &str, hosts: &[String], add: bool) -> Result<(), TrustError> {
        check_name(group)?;
        let _writer = self.lock();
        let fleet = self.in_fleet()?;
        self.change_list(&fleet, |list| {
            for host in hosts {
                let member = list.members.iter_mut().find(|member| member.name == *host);
                let member = member.ok_or_else(|| TrustError::UnknownMember(host.clone()))?;
                member.groups.retain(|known| known != group);
                if add {
                    member.groups.push(group.to_owned());
                    member.groups.sort();
                }
            }
            Ok(())
        })?;
        self.audit.group_changed(&self.name(), group, hosts, add);
        Ok(())
    }

    /// Signs a changed list with the next epoch; a change that changes nothing makes no epoch. The caller holds the lock.
    pub(super) fn change_list(
        &self,
        fleet: &Fleet,
        change: impl FnOnce(&mut MemberList) -> Result<(), TrustError>,
    ) -> Result<(), TrustError> {
        fleet.signer(&self.id())?;
        let mut list = (*fleet.list).clone();
        change(&mut list)?;
        if list == *fleet.list {
            return Ok(());
        }
        list.epoch = list::next_epoch(list.epoch)?;
        self.adopt_list(fleet.with_list(list, &self.id())?)
    }
}

fn member<'a>(list: &'a MemberList, name_or_id: &str) -> Result<&'a Member, TrustError> {
    let by_id = || name_or_id.parse().ok().and_then(|id: HostId| list.by_id(&id));
    list.by_name(name_or_id).or_else(by_id).ok_or_else(|| TrustError::UnknownMember(name_or_id.to_owned()))
}

/// Whether the list has this host as a signer.
pub(super) fn is_signer_on(list: &MemberList, id: &HostId) -> bool {
    list.by_id(id).is_some_and(|member| member.roles.contains(&Role::Signer))
}

/// Puts a host on the list as a signer, under this name unless it has one there. Refuses a name that belongs to another host.
pub(super) fn enrol(list: &mut MemberList, id: &HostId, name: &str) -> Result<(), TrustError> {
    if let Some(member) = list.members.iter_mut().find(|member| member.id == *id) {
        if !member.roles.contains(&Role::Signer) {
            member.roles.push(Role::Signer);
        }
        return Ok(());
    }
    if let Some(holder) = list.by_name(name) {
        return Err(TrustError::NameTaken { name: name.to_owned(), holder: holder.id });
    }
    list.members.push(Member { id: *id, name: name.to_owned(), roles: vec![Role::Signer], groups: Vec::new() });
    Ok(())
}
