//! Unix sockets: who is on the other end, and how ours comes to be.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tokio::net::{UnixListener, UnixStream};

use super::durable;
use crate::store::StoreError;

/// Who is on the other end of a socket, as the kernel knows it.
#[derive(Debug, Clone, Copy)]
pub struct PeerUser {
    /// User.
    pub uid: u32,
    /// Process, in our own namespace; 0 where it has none.
    pub pid: i32,
}

impl std::fmt::Display for PeerUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "uid {}, pid {}", self.uid, self.pid)
    }
}

/// Who is on the other end.
pub fn peer_user(socket: &UnixStream) -> PeerUser {
    match socket.peer_cred() {
        Ok(credentials) => PeerUser { uid: credentials.uid(), pid: credentials.pid().unwrap_or(0) },
        Err(_) => PeerUser { uid: u32::MAX, pid: 0 },
    }
}

/// Listens at `path`, for the user and the group of the agent only. A socket that nobody listens on any more is replaced.
pub fn listen(path: &Path) -> Result<UnixListener, StoreError> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        durable::create_dir(parent, 0o755)?;
    }
    if super::file::exists(path)? {
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(StoreError::InUse(path.to_owned())),
            // Only a refusal says that nobody listens: a busy agent, or a lack of file descriptors, is no reason to take its socket away.
            Err(error) if error.kind() != std::io::ErrorKind::ConnectionRefused => return Err(StoreError::io("connect to", path)(error)),
            Err(_) => std::fs::remove_file(path).map_err(StoreError::io("remove", path))?,
        }
    }
    let listener = UnixListener::bind(path).map_err(StoreError::io("listen on", path))?;
    // 0660: the group of the agent (imgd, where systemd made it) may use it, and that is as much as being root.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(StoreError::io("set the mode of", path))?;
    Ok(listener)
}
