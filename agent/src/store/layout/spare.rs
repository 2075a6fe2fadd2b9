//! A little room that is kept for the day when the disk is full: a name is removed by writing `index.json` anew. Everything here blocks.

use std::path::{Path, PathBuf};

use crate::store::StoreError;
use crate::sys::file;

/// As large as `index.json` with some hundred names.
const SPARE_BYTES: usize = 128 * 1024;

/// Takes the room, where it is not taken yet. Without it everything else works.
pub(super) fn keep(layout: &Path) {
    let path = path(layout);
    let keeping = || match std::fs::metadata(&path) {
        Ok(metadata) if metadata.len() == SPARE_BYTES as u64 => Ok(()),
        _ => std::fs::write(&path, vec![0; SPARE_BYTES]),
    };
    if let Err(error) = keeping() {
        tracing::debug!(path = %path.display(), %error, "no room is kept for the removal of names");
    }
}

/// Gives it back.
pub(super) fn give(layout: &Path) -> Result<(), StoreError> {
    let path = path(layout);
    match file::exists(&path)? {
        true => std::fs::remove_file(&path).map_err(StoreError::io("remove", &path)),
        false => Ok(()),
    }
}

fn path(layout: &Path) -> PathBuf {
    layout.join(".imgd/spare")
}
