//! What comes out of a packed layer, until the engine takes it: a file without a name, which ends before it fills the disk.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use proto::hash::RangeHasher;

use super::tar_split::nameless;
use crate::packing::unpacked_limit_bytes;
use crate::store::{SPARE_BYTES, StoreError};
use crate::sys::file::space;

/// The layer is not known to be what it should be before its end. Nobody fills a disk with what is thrown away then.
#[derive(Debug)]
pub(super) struct Spool {
    directory: PathBuf,
    file: File,
    hasher: RangeHasher,
    /// It may become this long.
    limit_bytes: u64,
    /// It is looked for free space when it has become this long.
    look_at_bytes: u64,
}

impl Spool {
    /// For a packed layer of this size.
    pub(super) fn create(directory: PathBuf, packed_bytes: u64) -> Result<Self, StoreError> {
        let file = nameless(&directory).map_err(StoreError::io("create", &directory))?;
        let limit_bytes = unpacked_limit_bytes(packed_bytes);
        Ok(Self { directory, file, hasher: RangeHasher::default(), limit_bytes, look_at_bytes: 0 })
    }

    /// All of it has come.
    pub(super) fn finish(self) -> (File, RangeHasher) {
        (self.file, self.hasher)
    }
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length_bytes = self.hasher.length_bytes() + bytes.len() as u64;
        if length_bytes > self.limit_bytes {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        if length_bytes > self.look_at_bytes {
            if space(&self.directory)?.free_bytes < SPARE_BYTES + bytes.len() as u64 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.look_at_bytes = length_bytes + SPARE_BYTES / 4;
        }
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::packing::Unpacker;

    #[test]
    fn what_unpacks_to_too_much_is_stopped() {
        let directory = tempfile::tempdir().unwrap();
        // 3 MB of zeros in some hundred bytes: gzip comes to a thousandth, zstd to less.
        let packed = zstd::encode_all(&vec![0; 3 << 20][..], 19).unwrap();
        let spool = Spool::create(directory.path().to_owned(), packed.len() as u64).unwrap();
        let Err(error) = Unpacker::new(spool).write(&packed) else { panic!("{} bytes", packed.len()) };
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::best());
        gzip.write_all(&vec![0; 3 << 20]).unwrap();
        let packed = gzip.finish().unwrap();
        let spool = Spool::create(directory.path().to_owned(), packed.len() as u64).unwrap();
        let (_, hasher) = Unpacker::new(spool).write(&packed).unwrap().finish().unwrap().finish();
        assert_eq!(hasher.length_bytes(), 3 << 20, "whatever gzip can do is a layer");
    }
}
