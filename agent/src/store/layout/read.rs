//! Reading ranges of blobs.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use bytes::{Bytes, BytesMut};
use proto::limits::BLOCK_BYTES;
use proto::{Descriptor, Digest};
use tokio::sync::mpsc;

use super::Layout;
use super::blobs::wrongly_described;
use crate::store::{Reader, StoreError};

impl Layout {
    /// Opens the blob now, so that it can be read to the end whatever becomes of its name, and reads on a thread of its own.
    pub(super) fn open(&self, blob: &Descriptor) -> Result<File, StoreError> {
        let path = self.blobs.path(&blob.digest);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StoreError::BlobMissing(blob.digest)),
            opened => opened.map_err(StoreError::io("open", &path))?,
        };
        if file.metadata().map_err(StoreError::io("read", &path))?.len() != blob.size_bytes {
            self.blobs.hash(&blob.digest)?;
            return Err(wrongly_described(blob.digest));
        }
        Ok(file)
    }
}

/// Starts to read. Stops when the reader is dropped.
pub(super) fn start(file: File, digest: Digest, range: Range<u64>) -> Reader {
    let (sender, reader) = Reader::channel();
    tokio::task::spawn_blocking(move || read(&file, digest, range, &sender));
    reader
}

fn read(file: &File, digest: Digest, range: Range<u64>, sender: &mpsc::Sender<Result<Bytes, StoreError>>) {
    let mut offset = range.start;
    while offset < range.end {
        let mut block = BytesMut::zeroed((range.end - offset).min(BLOCK_BYTES) as usize);
        let result = match file.read_exact_at(&mut block, offset) {
            Ok(()) => Ok(block.freeze()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(StoreError::Corrupt(digest)),
            Err(error) => Err(StoreError::io("read", digest.to_string())(error)),
        };
        offset += BLOCK_BYTES;
        let failed = result.is_err();
        if sender.blocking_send(result).is_err() || failed {
            return;
        }
    }
}
