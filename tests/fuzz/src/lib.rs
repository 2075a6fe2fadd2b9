//! Shared parts of the fuzz targets: choices read from the input, documents built from choices, and scratch directories.

pub mod pool;

use std::path::Path;

use tempfile::TempDir;

/// Reads choices from the input, byte by byte. After the end of the input every byte is zero.
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    /// Starts at the first byte of the input.
    pub fn new(input: &'a [u8]) -> Self {
        Self(input)
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// A number below `limit`. `limit` is at least 1.
    pub fn below(&mut self, limit: usize) -> usize {
        let choice = match limit {
            ..=256 => usize::from(self.byte()),
            _ => usize::from(self.byte()) << 8 | usize::from(self.byte()),
        };
        choice % limit
    }

    /// True for one byte value in `times`, for rare cases. False after the end of the input.
    pub fn one_in(&mut self, times: u8) -> bool {
        self.byte() % times == 1
    }

    /// Any 64 bits.
    pub fn number(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// True after the last byte of the input.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The rest of the input.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

/// A new temporary directory, in memory where `/dev/shm` exists: a target that writes durably would otherwise wait for the disk.
pub fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a directory")
}
