//! Which ranges of a staged blob were verified, and against which hashes.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use proto::hash::{RangeHash, range_count};
use proto::limits::RANGE_BYTES;

use rustix::fs::SeekFrom;

use crate::store::StoreError;

const RECORD_BYTES: usize = 64;

/// The hashes before and after one range.
pub(super) type Entry = (RangeHash, RangeHash);

/// Records that are read at once.
const RECORDS_AT_ONCE: usize = 1024;

/// A file of one record for each range: hash before, hash after; zeros where the range is absent. Takes memory for what was verified, whatever the
/// size that somebody claims.
#[derive(Debug)]
pub(super) struct Map {
    path: PathBuf,
    file: File,
    /// Ranges of the blob.
    count: usize,
    entries: BTreeMap<usize, Entry>,
}

impl Map {
    pub(super) fn open(path: PathBuf, size_bytes: u64) -> Result<Self, StoreError> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(StoreError::io("open", &path))?;
        let mut entries = BTreeMap::new();
        let count = range_count(size_bytes) as usize;
        let insert = |index, entry| {
            entries.insert(index, entry);
        };
        each_record(&file, count, insert).map_err(StoreError::io("read", &path))?;
        Ok(Self { path, file, count, entries })
    }

    /// Ranges of the blob, verified or not.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// What is known of a range.
    pub(super) fn get(&self, index: usize) -> Option<&Entry> {
        self.entries.get(&index)
    }

    /// True for a range of the blob that was not verified.
    pub(super) fn lacks(&self, index: usize) -> bool {
        index < self.count && !self.entries.contains_key(&index)
    }

    /// What was verified, lowest first.
    pub(super) fn entries(&self) -> impl Iterator<Item = (usize, &Entry)> {
        self.entries.iter().map(|(index, entry)| (*index, entry))
    }

    /// How many ranges from this one on are verified without a gap, looking at `most` of them.
    pub(super) fn run(&self, first: usize, most: usize) -> usize {
        let known = self.entries.range(first..first.saturating_add(most));
        known.enumerate().take_while(|(i, (index, _))| **index == first + i).count()
    }

    /// What was not verified, joined where it touches, lowest first.
    pub(super) fn gaps(&self) -> Vec<Range<usize>> {
        let (mut gaps, mut at) = (vec![], 0);
        for index in self.entries.keys().copied().chain(std::iter::once(self.count)) {
            if index > at {
                gaps.push(at..index);
            }
            at = index + 1;
        }
        gaps
    }

    /// Records ranges that lie one behind the other, with one write.
    pub(super) fn record(&mut self, first: usize, entries: &[Entry]) -> Result<(), StoreError> {
        let bytes: Vec<u8> = entries.iter().flat_map(|(before, after)| [*before.as_bytes(), *after.as_bytes()].concat()).collect();
        self.file.write_all_at(&bytes, (first * RECORD_BYTES) as u64).map_err(StoreError::io("write", &self.path))?;
        self.entries.extend(entries.iter().enumerate().map(|(i, entry)| (first + i, *entry)));
        Ok(())
    }

    /// Forgets a range whose bytes are not what the map says.
    pub(super) fn forget(&mut self, index: usize) -> Result<(), StoreError> {
        let zeros = [0; RECORD_BYTES];
        self.file.write_all_at(&zeros, (index * RECORD_BYTES) as u64).map_err(StoreError::io("write", &self.path))?;
        self.entries.remove(&index);
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Bytes that the map at `path` claims of a blob of this size, without looking at the blob.
pub(super) fn claimed_bytes(path: &Path, size_bytes: u64) -> Result<u64, StoreError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        file => file.map_err(StoreError::io("read", path))?,
    };
    let mut bytes = 0;
    let count = range_count(size_bytes) as usize;
    each_record(&file, count, |index, _| bytes += range_length(size_bytes, index)).map_err(StoreError::io("read", path))?;
    Ok(bytes)
}

/// Length of one range: [`RANGE_BYTES`], or less at the end of the blob.
pub(super) fn range_length(size_bytes: u64, index: usize) -> u64 {
    RANGE_BYTES.min(size_bytes - index as u64 * RANGE_BYTES)
}

/// Reads the records of the first `count` ranges, where the file has any: most of a map of little is a hole.
fn each_record(file: &File, count: usize, mut take: impl FnMut(usize, Entry)) -> io::Result<()> {
    let mut records = vec![0; RECORDS_AT_ONCE.min(count) * RECORD_BYTES];
    let end = file.metadata()?.len().min((count * RECORD_BYTES) as u64);
    let mut at = 0;
    while at < end {
        match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => at = data / RECORD_BYTES as u64 * RECORD_BYTES as u64,
            Err(rustix::io::Errno::NXIO) => return Ok(()),
            // A file system that knows no holes.
            Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
        let length = records.len().min(end.saturating_sub(at) as usize);
        // The last one may be cut.
        file.read_exact_at(&mut records[..length], at)?;
        let first = (at / RECORD_BYTES as u64) as usize;
        for (i, record) in records[..length].as_chunks::<RECORD_BYTES>().0.iter().enumerate() {
            if let Some(entry) = decode(record) {
                take(first + i, entry);
            }
        }
        at += length as u64;
    }
    Ok(())
}

fn decode(record: &[u8; RECORD_BYTES]) -> Option<Entry> {
    let (halves, _) = record.as_chunks::<32>();
    (record != &[0; RECORD_BYTES]).then(|| (RangeHash::from_bytes(halves[0]), RangeHash::from_bytes(halves[1])))
}
