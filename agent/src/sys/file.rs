//! Small things about files and file systems.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

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
