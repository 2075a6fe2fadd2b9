//! The trust directory: which file holds what, all of them for this user alone, each replaced durably.

use std::fs::{File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::TrustError;
use crate::store::StoreError;
use crate::sys::durable;

/// One of our files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    /// The host's key, PKCS#8.
    HostKey,
    /// Which machine the key is of: a hash of its id.
    Machine,
    /// The host's certificate, DER.
    HostCertificate,
    /// The CA's certificate, DER. A host is in a fleet when this file is there: it is written last.
    Authority,
    /// The CA's key, PKCS#8; only where hosts are signed.
    AuthorityKey,
    /// The signed member list, as it travels.
    Members,
    /// Signed lists of removals that `Members` does not have.
    Removals,
    /// When a signer said last that `Members` is the newest list.
    Date,
    /// What `fleet invite` has promised, TOML.
    Invitations,
}

impl Name {
    fn file(self) -> &'static str {
        match self {
            Self::HostKey => "host.key",
            Self::Machine => "machine",
            Self::HostCertificate => "host.crt",
            Self::Authority => "ca.crt",
            Self::AuthorityKey => "ca.key",
            Self::Members => "members",
            Self::Removals => "removals",
            Self::Date => "date",
            Self::Invitations => "invitations.toml",
        }
    }

    fn is_secret(self) -> bool {
        matches!(self, Self::HostKey | Self::AuthorityKey | Self::Invitations)
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::Invitations => "delete it, and invite again who has not joined yet",
            Self::AuthorityKey => "delete it, and `imgctl fleet restore` from a backup",
            _ => "put it back from a backup, or stop imgd, delete the whole directory and join the fleet again",
        }
    }
}

/// The directory.
#[derive(Debug)]
pub(super) struct Files(PathBuf);

impl Files {
    /// Creates the directory when it is not there, and closes it to others.
    pub(super) fn open(state_dir: &Path) -> Result<Self, TrustError> {
        let directory = state_dir.join("trust");
        durable::create_dir(&directory, 0o700)?;
        std::fs::set_permissions(&directory, Permissions::from_mode(0o700)).map_err(StoreError::io("close", &directory))?;
        Ok(Self(directory))
    }

    /// The content of a file; `None` when there is none. A key that others can read or write is refused.
    pub(super) fn read(&self, name: Name) -> Result<Option<Zeroizing<Vec<u8>>>, TrustError> {
        let path = self.path(name);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("read", path)(error).into()),
        };
        let mode = file.metadata().map_err(StoreError::io("read", &path))?.permissions().mode() & 0o7777;
        if name.is_secret() && mode & 0o077 != 0 {
            return Err(TrustError::OpenKey { path, mode });
        }
        let mut bytes = Zeroizing::new(Vec::new());
        file.read_to_end(&mut bytes).map_err(StoreError::io("read", &path))?;
        Ok(Some(bytes))
    }

    /// Replaces a file.
    pub(super) fn write(&self, name: Name, bytes: &[u8]) -> Result<(), TrustError> {
        Ok(durable::write(&self.path(name), bytes, 0o600)?)
    }

    /// Where a file is, for errors.
    pub(super) fn path_of(&self, name: Name) -> PathBuf {
        self.path(name)
    }

    /// Removes a file, if it is there.
    pub(super) fn remove(&self, name: Name) -> Result<(), TrustError> {
        Ok(durable::remove(&self.path(name))?)
    }

    /// The error for a file that is wrong.
    pub(super) fn corrupt(&self, name: Name, reason: impl ToString) -> TrustError {
        TrustError::Corrupt { path: self.path(name), reason: reason.to_string(), remedy: name.remedy() }
    }

    fn path(&self, name: Name) -> PathBuf {
        self.0.join(name.file())
    }
}
