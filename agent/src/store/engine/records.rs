//! What the engine does not remember, in files of ours: the sizes of layers as archives, and which layers were found damaged.
//!
//! ```text
//! sizes      <64 hex> <bytes>        one line for each layer that was read or written
//! damaged    <64 hex> <key>          a layer that is not what its digest says, and where it lies
//! ```
//! Lines are added at the end; a torn one counts for nothing. A size is a hint: what is read must have the digest in any case.

use std::collections::{HashMap, HashSet};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use proto::Digest;

use crate::store::StoreError;

/// Lines of a file before it is written anew, with those that are still true.
const LINES: usize = 100_000;

#[derive(Debug)]
pub(super) struct Records {
    directory: PathBuf,
    sizes: Mutex<HashMap<Digest, u64>>,
    damaged: Mutex<HashSet<(Digest, String)>>,
}

impl Records {
    pub(super) fn open(directory: &Path) -> Result<Self, StoreError> {
        let sizes = lines(&directory.join("sizes"))?.into_iter().filter_map(|(digest, size)| Some((digest, size.parse().ok()?))).collect();
        let damaged = lines(&directory.join("damaged"))?.into_iter().collect();
        Ok(Self { directory: directory.to_owned(), sizes: Mutex::new(sizes), damaged: Mutex::new(damaged) })
    }

    /// Length of a layer as plain tar.
    pub(super) fn size_bytes(&self, diff_id: &Digest) -> Option<u64> {
        self.sizes.lock().unwrap_or_else(PoisonError::into_inner).get(diff_id).copied()
    }

    /// Remembers it. What cannot be written is found out again.
    pub(super) fn put_size(&self, diff_id: &Digest, size_bytes: u64) {
        let before = self.sizes.lock().unwrap_or_else(PoisonError::into_inner).insert(*diff_id, size_bytes);
        if before != Some(size_bytes) {
            self.add("sizes", &format!("{} {size_bytes}\n", diff_id.hex()));
        }
    }

    /// Whether the layer that lies there was found damaged.
    pub(super) fn is_damaged(&self, diff_id: &Digest, key: &str) -> bool {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner).contains(&(*diff_id, key.to_owned()))
    }

    /// Whether a layer was found damaged, wherever it lies.
    pub(super) fn may_be_damaged(&self, diff_id: &Digest) -> bool {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|(damaged, _)| damaged == diff_id)
    }

    /// Puts a layer aside, as long as it lies there.
    pub(super) fn put_damaged(&self, diff_id: &Digest, key: &str) {
        if self.damaged.lock().unwrap_or_else(PoisonError::into_inner).insert((*diff_id, key.to_owned())) {
            self.add("damaged", &format!("{} {key}\n", diff_id.hex()));
        }
    }

    /// It was read again and is what it should be.
    pub(super) fn put_intact(&self, diff_id: &Digest, key: &str) {
        let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        if damaged.remove(&(*diff_id, key.to_owned())) {
            let text: String = damaged.iter().map(|(digest, key)| format!("{} {key}\n", digest.hex())).collect();
            self.replace("damaged", &text);
        }
    }

    /// Forgets the sizes of layers that are gone, when there are many.
    pub(super) fn retain(&self, kept: &HashSet<Digest>) {
        let mut sizes = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
        if sizes.len() > LINES {
            sizes.retain(|digest, _| kept.contains(digest));
            let text: String = sizes.iter().map(|(digest, size_bytes)| format!("{} {size_bytes}\n", digest.hex())).collect();
            self.replace("sizes", &text);
        }
    }

    fn add(&self, name: &str, line: &str) {
        let file = OpenOptions::new().create(true).append(true).open(self.directory.join(name));
        if let Err(error) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
            tracing::debug!(file = name, %error, "not remembered");
        }
    }

    fn replace(&self, name: &str, text: &str) {
        let (path, next) = (self.directory.join(name), self.directory.join(format!("{name}.next")));
        if let Err(error) = std::fs::write(&next, text).and_then(|()| std::fs::rename(&next, &path)) {
            tracing::debug!(file = name, %error, "not remembered");
        }
    }
}

/// Tells several agents at one engine apart; the same in every life of this one.
pub(super) fn agent_id(directory: &Path) -> Result<String, StoreError> {
    let path = directory.join("agent");
    // A new ID would disown the tags that this agent has left in the engine: only "not found" is no ID.
    let known = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        known => known.map_err(StoreError::io("read", &path))?,
    };
    if known.len() == 16 && known.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(known);
    }
    let fresh = super::random_hex();
    std::fs::write(&path, &fresh).map_err(StoreError::io("write", &path))?;
    Ok(fresh)
}

fn lines(path: &Path) -> Result<Vec<(Digest, String)>, StoreError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(StoreError::io("read", path)(error)),
    };
    let text = String::from_utf8_lossy(&bytes);
    let whole = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    let pair = |line: &str| {
        let (hex, rest) = line.split_once(' ')?;
        Some((Digest::from_hex(hex).ok()?, rest.to_owned()))
    };
    Ok(whole.filter_map(pair).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_there_in_the_next_life() {
        let directory = tempfile::tempdir().unwrap();
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let records = Records::open(directory.path()).unwrap();
        records.put_size(&a, 7);
        records.put_size(&b, 8);
        records.put_damaged(&a, "x");
        records.put_damaged(&b, "y");
        records.put_intact(&b, "y");
        let path = directory.path().join("sizes");
        let mut torn = std::fs::read(&path).unwrap();
        torn.pop();
        std::fs::write(&path, torn).unwrap();
        let records = Records::open(directory.path()).unwrap();
        assert_eq!((records.size_bytes(&a), records.size_bytes(&b)), (Some(7), None));
        assert!(records.is_damaged(&a, "x") && !records.is_damaged(&a, "y") && !records.is_damaged(&b, "y"));
        assert_eq!(agent_id(directory.path()).unwrap(), agent_id(directory.path()).unwrap());
    }
}
