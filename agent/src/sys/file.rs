//! Small things about files and file systems.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use crate::store::StoreError;

/// What is left of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Number of its device.
    pub device: u64,
    /// Bytes that an unprivileged writer can still write to it.
    pub free_bytes: u64,
}

/// What is left of the file system of `path`.
pub fn space(path: &Path) -> io::Result<Space> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(Space { device: rustix::fs::stat(path)?.st_dev, free_bytes: stat.f_bavail * stat.f_frsize })
}

/// Takes the lock file at `path` for as long as the result lives. `None` when somebody else has it.
pub fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether there is something at `path`. Only "not found" is taken for "no": whoever creates or replaces on this answer must be able to fail.
pub fn exists(path: &Path) -> Result<bool, StoreError> {
    path.try_exists().map_err(StoreError::io("look for", path))
}

/// Creates a directory of ours that somebody has removed, but not those above it: where they are gone too, so is the file system.
pub fn ensure_directory(path: &Path, mode: u32) -> Result<(), StoreError> {
    use std::os::unix::fs::DirBuilderExt;
    match std::fs::DirBuilder::new().mode(mode).create(path) {
        Ok(()) => super::durable::sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StoreError::Vanished(path.parent().unwrap_or(path).to_owned())),
        Err(error) => Err(StoreError::io("create", path)(error)),
    }
}
