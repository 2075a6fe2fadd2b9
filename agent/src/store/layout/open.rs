//! Opening and creating an image layout. Blocking.

use std::fs::File;
use std::path::Path;

use serde_json::Value;

use super::index::Index;
use crate::store::StoreError;
use crate::sys::{durable, file};

const MARKER: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// What a layout that was left half created may have in it, besides temporary files.
const OWN: [&str; 4] = [".imgd", "blobs", "index.json", "oci-layout"];

/// Checks that `path` is an image layout, or makes it one, and takes its lock. Creates the marker file last: a directory that has it is complete.
pub(super) fn open(path: &Path) -> Result<File, StoreError> {
    let marker = path.join("oci-layout");
    let is_layout = match std::fs::read(&marker) {
        Ok(bytes) => check_marker(&marker, &bytes).map(|()| true)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            refuse_other_directory(path)?;
            false
        }
        Err(error) => return Err(StoreError::io("read", &marker)(error)),
    };
    // What is in images is not for everybody on the host. Whoever wants to share a layout has made its directory.
    durable::create_dir(path, 0o700)?;
    for directory in [".imgd/hashes", ".imgd/ingest", ".imgd/imports", ".imgd/quarantine", "blobs/sha256"] {
        durable::create_dir(&path.join(directory), 0o755)?;
    }
    let lock_path = path.join(".imgd/lock");
    let lock = file::lock(&lock_path).map_err(StoreError::io("lock", &lock_path))?;
    let lock = lock.ok_or_else(|| StoreError::InUse(path.to_owned()))?;
    let index = path.join("index.json");
    // An index that cannot be looked at is not an absent one, which would be replaced by an empty one.
    if !file::exists(&index)? {
        // One that is lost is not an empty one: nothing would be named any more, and the next collection would take all of it.
        if !super::collect::files(&path.join("blobs/sha256"))?.is_empty() {
            return Err(malformed(&index, "it is not there, but blobs are: put it back, or remove the blobs to begin anew".to_owned()));
        }
        durable::write(&index, &Index::empty(), 0o644)?;
    }
    if !is_layout {
        durable::write(&marker, MARKER.as_bytes(), 0o644)?;
    }
    Ok(lock)
}

fn check_marker(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let version = serde_json::from_slice::<Value>(bytes).ok();
    match version.as_ref().and_then(|value| value["imageLayoutVersion"].as_str()) {
        Some(version) if version.starts_with("1.") => Ok(()),
        Some(version) => Err(malformed(path, format!("image layout version {} is not known", proto::text::escape_short(version, 20)))),
        None => Err(malformed(path, "it names no image layout version".to_owned())),
    }
}

/// A directory with other things in it is somebody's, and is not made a layout.
fn refuse_other_directory(path: &Path) -> Result<(), StoreError> {
    if !file::exists(path)? {
        return Ok(());
    }
    for entry in super::collect::files(path)? {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !OWN.contains(&name.trim_end_matches(".new")) {
            return Err(malformed(path, format!("it is no image layout, and has \"{}\" in it", proto::text::escape_short(&name, 80))));
        }
    }
    Ok(())
}

fn malformed(path: &Path, reason: String) -> StoreError {
    StoreError::Malformed { path: path.to_owned(), reason }
}
