//! Unix sockets: who is on the other end, and how ours comes to be.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use tokio::net::{UnixListener, UnixStream};

use super::durable;
use crate::store::StoreError;

/// Groups of a client that are asked for at first. The kernel says how many there are when they are more.
const GROUPS: usize = 64;

/// Who is on the other end of a socket, as the kernel knows it: at the moment when it connected, whatever became of the process since.
#[derive(Debug, Clone)]
pub struct PeerUser {
    /// User.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its other groups.
    pub groups: Vec<u32>,
    /// Process, in our own namespace; 0 where it has none.
    pub pid: i32,
}

impl std::fmt::Display for PeerUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "uid {}, pid {}", self.uid, self.pid)
    }
}

/// Who is on the other end. What the kernel does not say counts as nobody, in no group.
pub fn peer_user(socket: &UnixStream) -> PeerUser {
    match socket.peer_cred() {
        Ok(credentials) => PeerUser {
            uid: credentials.uid(),
            gid: credentials.gid(),
            groups: peer_groups(socket).unwrap_or_default(),
            pid: credentials.pid().unwrap_or(0),
        },
        Err(_) => PeerUser { uid: u32::MAX, gid: u32::MAX, groups: vec![], pid: 0 },
    }
}

/// Supplementary groups of the other end: SO_PEERGROUPS, since Linux 4.13. Unlike `/proc/<pid>` it cannot be those of another process.
fn peer_groups(socket: &UnixStream) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; GROUPS];
    loop {
        let mut length = size_of_val(groups.as_slice()) as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes to `groups`, which has as many, and the number of bytes to `length`.
        #[allow(unsafe_code)]
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                std::ptr::from_mut(&mut length),
            )
        };
        let count = length as usize / size_of::<u32>();
        let error = io::Error::last_os_error();
        match result {
            0 => {
                groups.truncate(count);
                return Ok(groups);
            }
            // There are more: `length` says how many.
            _ if error.raw_os_error() == Some(libc::ERANGE) && count > groups.len() => groups.resize(count, 0),
            _ => return Err(error),
        }
    }
}

/// Group that a socket belongs to; `None` for one without a path.
pub fn group(listener: &UnixListener) -> io::Result<Option<u32>> {
    match listener.local_addr()?.as_pathname() {
        Some(path) => Ok(Some(std::fs::metadata(path)?.gid())),
        None => Ok(None),
    }
}

/// Listens at `path`, for the user and the group of the agent only, or for everybody, where the agent itself says who may do what. A socket that
/// nobody listens on any more is replaced.
pub fn listen(path: &Path, for_everybody: bool) -> Result<UnixListener, StoreError> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        durable::create_dir(parent, 0o755)?;
    }
    if super::file::exists(path)? {
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(StoreError::InUse(path.to_owned())),
            // Only a refusal says that nobody listens: a busy agent, or a lack of file descriptors, is no reason to take its socket away.
            Err(error) if error.kind() != io::ErrorKind::ConnectionRefused => return Err(StoreError::io("connect to", path)(error)),
            Err(_) => std::fs::remove_file(path).map_err(StoreError::io("remove", path))?,
        }
    }
    let listener = UnixListener::bind(path).map_err(StoreError::io("listen on", path))?;
    // 0660: the group of the agent (imgd, where systemd made it) may use it, and that is as much as being root.
    let mode = if for_everybody { 0o666 } else { 0o660 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(StoreError::io("set the mode of", path))?;
    Ok(listener)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_other_end_is_known_with_its_groups() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let user = peer_user(&ours);
        let mut expected: Vec<u32> = rustix::process::getgroups().unwrap().into_iter().map(rustix::process::Gid::as_raw).collect();
        let mut groups = user.groups;
        groups.sort_unstable();
        expected.sort_unstable();
        assert_eq!(groups, expected);
        assert_eq!((user.uid, user.gid), (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()));
    }
}
