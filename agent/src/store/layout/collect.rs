//! Removing what nothing refers to. Everything here blocks.
//!
//! Kept are: what `index.json` leads to, all of it; what a lease holds; what an import that was given up has brought, for a day, so that it
//! can be continued; and what another tool may be writing at this moment. A tool that finds an old blob and is about to
//! refer to it cannot be seen: that race is the image layout's own, and every tool that collects has it.

use std::collections::HashSet;
use std::fs::DirEntry;
use std::path::Path;
use std::time::{Duration, SystemTime};

use proto::Digest;
use proto::limits::CONFIG_BYTES;
use serde_json::Value;

use super::blobs::Blobs;
use super::index::Names;
use crate::store::StoreError;
use crate::store::leases::Leases;

/// What an import that was given up has brought is kept this long.
const KEEP: Duration = Duration::from_secs(24 * 3600);

/// Damaged blobs are kept this long, for whoever wants to know what happened to them.
const QUARANTINE: Duration = Duration::from_secs(7 * 24 * 3600);

/// A blob that we never hashed and that was written more recently than this belongs to a tool that is not done.
const FOREIGN: Duration = Duration::from_secs(3600);

/// What was collected.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Collected {
    /// Bytes of the blobs that were removed.
    pub(super) freed_bytes: u64,
    /// True when a lease kept something: another collection has to follow.
    pub(super) deferred: bool,
}

/// Marks and sweeps. The caller holds the lock of the names, so that no commit comes between.
pub(super) fn collect(blobs: &Blobs, names: &Names, leases: &Leases) -> Result<Collected, StoreError> {
    let mut marked = mark(blobs, names);
    for entry in files(&blobs.own_directory("imports"))? {
        if age(&entry) < KEEP {
            marked.extend(abandoned(&entry.path()));
        } else {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    let mut collected = Collected::default();
    for entry in files(&blobs.directory())? {
        // Another name is another tool's temporary file.
        let Some(digest) = digest_of(&entry) else { continue };
        if marked.contains(&digest) || is_fresh_foreign(blobs, &entry, &digest) {
            continue;
        }
        match leases.unless_leased(&digest, || blobs.remove(&digest)) {
            Some(removed) => collected.freed_bytes += removed?,
            None => collected.deferred = true,
        }
    }
    sweep_own(blobs, leases)?;
    Ok(collected)
}

/// Everything that the names lead to. A document that is absent or is none leads nowhere.
fn mark(blobs: &Blobs, names: &Names) -> HashSet<Digest> {
    let mut pending = names.roots();
    let mut marked = HashSet::new();
    while let Some(digest) = pending.pop() {
        if marked.insert(digest) {
            pending.extend(documents_of(blobs, &digest, &mut marked));
        }
    }
    marked
}

/// The children of a manifest or index that may have children of their own; those that have none are marked at once.
fn documents_of(blobs: &Blobs, digest: &Digest, marked: &mut HashSet<Digest>) -> Vec<Digest> {
    let small = blobs.metadata(digest).ok().flatten().is_some_and(|metadata| metadata.len() <= CONFIG_BYTES);
    let document = if small { std::fs::read(blobs.path(digest)).ok() } else { None };
    let Some(document) = document.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok()) else { return vec![] };
    let named = |value: &Value| value["digest"].as_str().and_then(|text| text.parse::<Digest>().ok());
    let list = |key: &str| document[key].as_array().map(Vec::as_slice).unwrap_or_default().iter().filter_map(named).collect::<Vec<_>>();
    marked.extend(named(&document["config"]));
    marked.extend(list("layers"));
    marked.extend(list("blobs"));
    let mut children = list("manifests");
    children.extend(named(&document["subject"]));
    children
}

/// The blobs that an import was to bring.
fn abandoned(path: &Path) -> Vec<Digest> {
    let bytes = std::fs::read(path).unwrap_or_default();
    bytes.as_chunks::<32>().0.iter().map(|digest| Digest::from_bytes(*digest)).collect()
}

/// Our own files about blobs that are gone, and old ones.
fn sweep_own(blobs: &Blobs, leases: &Leases) -> Result<(), StoreError> {
    for entry in files(&blobs.own_directory("hashes"))? {
        if digest_of(&entry).is_none_or(|digest| blobs.metadata(&digest).is_ok_and(|found| found.is_none())) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    for entry in files(&blobs.own_directory("ingest"))? {
        let remove = || std::fs::remove_file(entry.path());
        if age(&entry) >= KEEP {
            let _ = digest_of(&entry).and_then(|digest| leases.unless_leased(&digest, remove));
        }
    }
    for entry in files(&blobs.own_directory("quarantine"))? {
        if age(&entry) >= QUARANTINE {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    Ok(())
}

pub(super) fn files(directory: &Path) -> Result<impl Iterator<Item = DirEntry>, StoreError> {
    let entries = std::fs::read_dir(directory).map_err(StoreError::io("list", directory))?;
    Ok(entries.filter_map(Result::ok))
}

pub(super) fn digest_of(entry: &DirEntry) -> Option<Digest> {
    Digest::from_hex(entry.file_name().to_str()?).ok()
}

/// Time since the last write; none where the clock went back.
pub(super) fn age(entry: &DirEntry) -> Duration {
    let modified = entry.metadata().and_then(|metadata| metadata.modified());
    modified.ok().and_then(|time| SystemTime::now().duration_since(time).ok()).unwrap_or_default()
}

/// True for a blob that another tool may still be writing.
pub(super) fn is_fresh_foreign(blobs: &Blobs, entry: &DirEntry, digest: &Digest) -> bool {
    age(entry) < FOREIGN && !blobs.record_path(digest).exists()
}
