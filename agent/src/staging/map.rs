//! Which ranges of a staged blob were verified, and against which hashes.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use proto::Descriptor;
use proto::hash::{RangeHash, range_count};
use proto::limits::RANGE_BYTES;

use crate::store::StoreError;

const RECORD_BYTES: usize = 64;

/// The hashes before and after one range.
pub(super) type Entry = (RangeHash, RangeHash);

/// A file of one record for each range: hash before, hash after; zeros where the range is absent.
#[derive(Debug)]
pub(super) struct Map {
    path: PathBuf,
    file: File,
    entries: Vec<Option<Entry>>,
}

impl Map {
    pub(super) fn open(root: &Path, blob: &Descriptor) -> Result<Self, StoreError> {
        let path = path(root, blob);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(StoreError::io("open", &path))?;
        let count = range_count(blob.size_bytes) as usize;
        let mut records = vec![0; count * RECORD_BYTES];
        let length = file.metadata().map_err(StoreError::io("read", &path))?.len().min(records.len() as u64) as usize;
        file.read_exact_at(&mut records[..length], 0).map_err(StoreError::io("read", &path))?;
        let entries = records.as_chunks::<RECORD_BYTES>().0.iter().map(decode).collect();
        Ok(Self { path, file, entries })
    }

    pub(super) fn entries(&self) -> &[Option<Entry>] {
        &self.entries
    }

    /// Records ranges that lie one behind the other, with one write.
    pub(super) fn record(&mut self, first: usize, entries: &[Entry]) -> Result<(), StoreError> {
        let bytes: Vec<u8> = entries.iter().flat_map(|(before, after)| [*before.as_bytes(), *after.as_bytes()].concat()).collect();
        self.file.write_all_at(&bytes, (first * RECORD_BYTES) as u64).map_err(StoreError::io("write", &self.path))?;
        for (i, entry) in entries.iter().enumerate() {
            self.entries[first + i] = Some(*entry);
        }
        Ok(())
    }

    /// Forgets a range whose bytes are not what the map says.
    pub(super) fn forget(&mut self, index: usize) -> Result<(), StoreError> {
        let zeros = [0; RECORD_BYTES];
        self.file.write_all_at(&zeros, (index * RECORD_BYTES) as u64).map_err(StoreError::io("write", &self.path))?;
        self.entries[index] = None;
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Bytes that the map of a blob claims, without looking at the blob.
pub(super) fn claimed_bytes(root: &Path, blob: &Descriptor) -> Result<u64, StoreError> {
    let path = path(root, blob);
    let records = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        records => records.map_err(StoreError::io("read", path))?,
    };
    let ranges = records.as_chunks::<RECORD_BYTES>().0.iter().take(range_count(blob.size_bytes) as usize);
    let claimed = ranges.enumerate().filter(|(_, record)| decode(record).is_some());
    Ok(claimed.map(|(i, _)| range_length(blob.size_bytes, i)).sum())
}

/// Length of one range: [`RANGE_BYTES`], or less at the end of the blob.
pub(super) fn range_length(size_bytes: u64, index: usize) -> u64 {
    RANGE_BYTES.min(size_bytes - index as u64 * RANGE_BYTES)
}

fn path(root: &Path, blob: &Descriptor) -> PathBuf {
    root.join(format!("{}.map", super::stem(blob)))
}

fn decode(record: &[u8; RECORD_BYTES]) -> Option<Entry> {
    let (halves, _) = record.as_chunks::<32>();
    (record != &[0; RECORD_BYTES]).then(|| (RangeHash::from_bytes(halves[0]), RangeHash::from_bytes(halves[1])))
}
