//! Reading a blob that is a file.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use bytes::{Bytes, BytesMut};
use proto::Digest;
use proto::limits::BLOCK_BYTES;
use tokio::sync::mpsc;

use super::{Reader, StoreError};

/// Starts to read a range, on a thread of its own. Stops when the reader is dropped.
pub(super) fn read(file: File, digest: Digest, range: Range<u64>) -> Reader {
    let (sender, reader) = Reader::channel();
    tokio::task::spawn_blocking(move || send(&file, digest, range, &sender));
    reader
}

fn send(file: &File, digest: Digest, range: Range<u64>, sender: &mpsc::Sender<Result<Bytes, StoreError>>) {
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
