//! Reading a blob that is a file.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use bytes::BytesMut;
use proto::Digest;
use proto::limits::BLOCK_BYTES;

use super::{Reader, StoreError};

/// Starts to read a range. Stops when the reader is dropped.
pub(super) fn read(file: File, digest: Digest, range: Range<u64>) -> Reader {
    let mut offset = range.start;
    Reader::ahead(move || {
        if offset >= range.end {
            return None;
        }
        let mut block = BytesMut::zeroed((range.end - offset).min(BLOCK_BYTES) as usize);
        let read = file.read_exact_at(&mut block, offset);
        offset += BLOCK_BYTES;
        Some(match read {
            Ok(()) => Ok(block.freeze()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(StoreError::Corrupt(digest)),
            Err(error) => Err(StoreError::io("read", digest.to_string())(error)),
        })
    })
}
