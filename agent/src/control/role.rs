//! Roles of the users of this host: who may read, who may send, and who may administer the fleet.

use std::io;

use proto::control::{Failure, FailureKind, Fleet, Request};
use tokio::net::UnixListener;

use super::failure::failure;
use crate::sys;
use crate::sys::socket::PeerUser;

/// Group that administers the fleet where the configuration names none and this host has it.
const ADMIN_GROUP: &str = "imgd-admin";

/// What a request takes. Whoever has one role has those before it, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// See images, hosts and transfers.
    Read,
    /// Move images, change those of this host, and read what is in them.
    Send,
    /// Decide who belongs to the fleet, and take its key away.
    Admin,
}

/// The groups that have roles on this host. Without any of them whoever can use the socket may do everything.
#[derive(Debug, Clone, Default)]
pub struct Roles {
    admin: Option<Group>,
    /// Where there is a group of readers the socket is open to everybody, and its group is that of the senders.
    read: Option<Group>,
    /// Group of the socket.
    send: Option<Group>,
    /// User of the agent, who has its keys anyway.
    own: Option<u32>,
}

#[derive(Debug, Clone)]
struct Group {
    name: String,
    id: u32,
}

/// Why the roles of this host are not known.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    /// The configuration names a group that is not there.
    #[error("this host has no group {name:?}, which {key} names: `groupadd --system {name}`, or take {key} out of the configuration")]
    NoGroup {
        /// Key of the configuration.
        key: &'static str,
        /// Name of the group.
        name: String,
    },
    /// The system does not say which groups there are.
    #[error("cannot look up group {name}")]
    Lookup {
        /// Name or number of the group.
        name: String,
        /// What the system says.
        source: io::Error,
    },
    /// The socket does not say whose it is.
    #[error("cannot find out the group of the socket")]
    Socket(#[source] io::Error),
}

impl Roles {
    /// Looks up the groups that the configuration names, and the group of the socket. Blocks.
    pub fn find(admin: Option<&str>, read: Option<&str>, listener: &UnixListener) -> Result<Self, RoleError> {
        let named = |key, name: Option<&str>| match name {
            None => Ok(None),
            Some(name) => group(name)?.map(Some).ok_or_else(|| RoleError::NoGroup { key, name: name.to_owned() }),
        };
        let admin = if admin.is_some() { named("admin_group", admin)? } else { group(ADMIN_GROUP)? };
        let read = named("read_group", read)?;
        if admin.is_none() && read.is_none() {
            return Ok(Self::default());
        }
        let send = match sys::socket::group(listener).map_err(RoleError::Socket)? {
            None => None,
            Some(id) => {
                let name = sys::group::name(id).map_err(|source| RoleError::Lookup { name: id.to_string(), source })?;
                Some(Group { name: name.unwrap_or_else(|| id.to_string()), id })
            }
        };
        Ok(Self { admin, read, send, own: Some(rustix::process::geteuid().as_raw()) })
    }

    /// The role of a client; `None` for one that may do nothing.
    pub(super) fn of(&self, user: &PeerUser) -> Option<Role> {
        let is_in = |group: &Option<Group>| group.as_ref().is_some_and(|group| group.id == user.gid || user.groups.contains(&group.id));
        if user.uid == 0 || self.own == Some(user.uid) || is_in(&self.admin) {
            return Some(Role::Admin);
        }
        // Where only senders can use the socket, whoever is here is one: the mode of the socket and its ACL have decided.
        if self.read.is_none() || is_in(&self.send) {
            return Some(if self.admin.is_some() { Role::Send } else { Role::Admin });
        }
        is_in(&self.read).then_some(Role::Read)
    }

    /// Whether a client may make this request.
    pub(super) fn check(&self, user: &PeerUser, request: &Request) -> Result<(), Failure> {
        let needed = needed(request);
        if self.of(user).is_some_and(|role| role >= needed) {
            return Ok(());
        }
        let group = match needed {
            Role::Read => self.read.as_ref(),
            Role::Send => self.send.as_ref(),
            Role::Admin => self.admin.as_ref().or(self.send.as_ref()),
        };
        let verb = request.verb();
        Err(match group {
            Some(group) => {
                failure(FailureKind::NotPermitted(group.name.clone()), format!("{verb} is for root and the group {}", group.name))
            }
            None => failure(FailureKind::NotTrusted, format!("{verb} is for root")),
        })
    }
}

fn group(name: &str) -> Result<Option<Group>, RoleError> {
    let id = sys::group::id(name).map_err(|source| RoleError::Lookup { name: name.to_owned(), source })?;
    Ok(id.map(|id| Group { name: name.to_owned(), id }))
}

fn needed(request: &Request) -> Role {
    match request {
        Request::List(_)
        | Request::Peers
        | Request::Status(_)
        | Request::Inspect(_)
        | Request::Diff { .. }
        | Request::WhoHas(_)
        | Request::Doctor(_)
        | Request::Fleet(Fleet::List) => Role::Read,
        // `save` writes out what is in an image, secrets that were left in it included.
        Request::Send(_)
        | Request::SendWaiting { .. }
        | Request::Pull(_)
        | Request::Retry(_)
        | Request::Cancel(_)
        | Request::Load
        | Request::Save(_)
        | Request::Tag { .. }
        | Request::Remove(_)
        | Request::Scrub
        | Request::Prune => Role::Send,
        Request::Fleet(
            Fleet::Init
            | Fleet::Invite { .. }
            | Fleet::Join { .. }
            | Fleet::Remove(_)
            | Fleet::Rename { .. }
            | Fleet::Group { .. }
            | Fleet::Backup
            | Fleet::Restore(_),
        ) => Role::Admin,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEND: u32 = 10;
    const ADMIN: u32 = 11;
    const READ: u32 = 12;

    fn roles(admin: bool, read: bool) -> Roles {
        let group = |name: &str, id| Some(Group { name: name.to_owned(), id });
        Roles {
            admin: group("imgd-admin", ADMIN).filter(|_| admin),
            read: group("imgd-read", READ).filter(|_| read),
            send: group("imgd", SEND),
            own: Some(500),
        }
    }

    fn user(uid: u32, groups: &[u32]) -> PeerUser {
        PeerUser { uid, gid: 1000, groups: groups.to_vec(), pid: 1 }
    }

    #[test]
    fn groups_have_roles_where_they_are_there() {
        use Role::{Admin, Read, Send};
        for (admin, read, expected) in [
            // In no group, in imgd, imgd-admin, imgd-read, imgd and imgd-read.
            (false, false, [Some(Admin); 5]),
            (true, false, [Some(Send), Some(Send), Some(Admin), Some(Send), Some(Send)]),
            (false, true, [None, Some(Admin), None, Some(Read), Some(Admin)]),
            (true, true, [None, Some(Send), Some(Admin), Some(Read), Some(Send)]),
        ] {
            let roles = roles(admin, read);
            let found = [&[][..], &[SEND], &[ADMIN], &[READ], &[SEND, READ]].map(|groups| roles.of(&user(1000, groups)));
            assert_eq!(found, expected, "admin {admin}, read {read}");
            assert_eq!([0, 500].map(|uid| roles.of(&user(uid, &[]))), [Some(Admin); 2]);
            let main = PeerUser { gid: ADMIN, ..user(1000, &[]) };
            assert!(!admin || roles.of(&main) == Some(Admin), "the main group counts, too");
        }
    }

    #[test]
    fn a_refusal_names_the_request_and_the_group() {
        let roles = roles(true, true);
        for (groups, request, group) in [
            (&[SEND][..], Request::Fleet(Fleet::Backup), Some("imgd-admin")),
            (&[SEND], Request::Prune, None),
            (&[READ], Request::Load, Some("imgd")),
            (&[READ], Request::Fleet(Fleet::List), None),
            (&[READ], Request::Fleet(Fleet::Init), Some("imgd-admin")),
            (&[], Request::Peers, Some("imgd-read")),
            (&[ADMIN], Request::Fleet(Fleet::Restore(vec![])), None),
        ] {
            let refused = roles.check(&user(1000, groups), &request).err();
            let expected = group.map(|group| Failure {
                kind: FailureKind::NotPermitted(group.to_owned()),
                causes: vec![format!("{} is for root and the group {group}", request.verb())],
            });
            assert_eq!(refused, expected, "{request:?}");
        }
    }
}
