//! Blobs whose content was found damaged: the engine takes them for good, we do not.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use proto::Digest;

use crate::store::StoreError;

/// An empty file for each, so that it is known after a restart too.
#[derive(Debug)]
pub(super) struct Quarantine {
    directory: PathBuf,
    digests: Mutex<HashSet<Digest>>,
}

impl Quarantine {
    /// Creates the directory where it is absent. Blocking.
    pub(super) fn open(directory: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(directory).map_err(StoreError::io("create", directory))?;
        let mut digests = HashSet::new();
        for entry in std::fs::read_dir(directory).map_err(StoreError::io("list", directory))? {
            let name = entry.map_err(StoreError::io("list", directory))?.file_name();
            digests.extend(Digest::from_hex(&name.to_string_lossy()));
        }
        Ok(Self { directory: directory.to_owned(), digests: Mutex::new(digests) })
    }

    pub(super) fn holds(&self, digest: &Digest) -> bool {
        self.digests().contains(digest)
    }

    pub(super) fn add(&self, digest: &Digest) {
        let path = self.directory.join(digest.hex());
        if let Err(error) = std::fs::write(&path, b"") {
            tracing::warn!(%digest, %error, "a damaged blob is known as such until the agent ends only");
        }
        self.digests().insert(*digest);
    }

    /// It was replaced.
    pub(super) fn forget(&self, digest: &Digest) {
        if self.digests().remove(digest) {
            let _ = std::fs::remove_file(self.directory.join(digest.hex()));
        }
    }

    /// Forgets all but these: what is gone cannot be damaged.
    pub(super) fn retain(&self, kept: &HashSet<Digest>) {
        let gone: Vec<Digest> = self.digests().difference(kept).copied().collect();
        gone.iter().for_each(|digest| self.forget(digest));
    }

    fn digests(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.digests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_was_damaged_is_known_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let quarantine = Quarantine::open(directory.path()).unwrap();
        quarantine.add(&one);
        quarantine.add(&two);
        quarantine.forget(&one);
        let quarantine = Quarantine::open(directory.path()).unwrap();
        assert_eq!((quarantine.holds(&one), quarantine.holds(&two)), (false, true));
        quarantine.retain(&HashSet::new());
        assert!(!Quarantine::open(directory.path()).unwrap().holds(&two));
    }
}
