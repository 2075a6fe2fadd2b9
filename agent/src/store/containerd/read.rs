//! Reading ranges of blobs: from the engine's directory where we may, else through the engine.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proto::Digest;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use tokio::sync::mpsc;
use tonic::{Code, Status};

use super::Shared;
use super::api::content::ReadContentRequest;
use crate::store::{Reader, StoreError};
use crate::sys::blocking;

type Sender = mpsc::Sender<Result<Bytes, StoreError>>;

impl Shared {
    /// Starts to read a blob that is here, `size_bytes` long. Stops when the reader is dropped.
    pub(super) async fn read(self: &Arc<Self>, digest: Digest, size_bytes: u64, range: Range<u64>) -> Result<Reader, StoreError> {
        if let Some(file) = self.open(digest, size_bytes).await? {
            return Ok(crate::store::file::read(file, digest, range));
        }
        let (sender, reader) = Reader::channel();
        let shared = self.clone();
        self.spawn(async move { shared.read_engine(digest, range, sender).await });
        Ok(reader)
    }

    /// The engine's file, for one who may open it. What a namespace may see was asked before.
    pub(super) async fn open(&self, digest: Digest, size_bytes: u64) -> Result<Option<File>, StoreError> {
        let facts = self.facts().await?;
        let Some(root) = facts.content_root.clone() else { return Ok(None) };
        Ok(blocking(move || open_beneath(&root, &digest, size_bytes)).await.ok())
    }

    async fn read_engine(&self, digest: Digest, range: Range<u64>, sender: Sender) {
        let mut offset = range.start;
        if range.is_empty() {
            return;
        }
        let message = ReadContentRequest { digest: digest.to_string(), offset: offset as i64, size: (range.end - offset) as i64 };
        let request = self.connection.request(message);
        let result = async {
            let mut blocks = self.connection.ask(self.connection.content().read(request)).await?;
            while let Some(block) = self.connection.watched(blocks.message()).await? {
                offset += block.data.len() as u64;
                if sender.send(Ok(block.data)).await.is_err() {
                    break;
                }
            }
            Ok::<(), Status>(())
        };
        let error = match result.await {
            Ok(()) if offset >= range.end || sender.is_closed() => return,
            Ok(()) => StoreError::Corrupt(digest),
            Err(status) if matches!(status.code(), Code::OutOfRange) => StoreError::Corrupt(digest),
            Err(status) => self.connection.failed_blob("read", &digest, &status),
        };
        let _ = sender.send(Err(error)).await;
    }
}

/// Opens a blob's file without following any link, when it is a regular file of the right size.
fn open_beneath(root: &Path, digest: &Digest, size_bytes: u64) -> io::Result<File> {
    let directory = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let path = format!("blobs/sha256/{}", digest.hex());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let file = File::from(rustix::fs::openat2(&directory, &path, flags, Mode::empty(), resolve)?);
    let metadata = file.metadata()?;
    if metadata.is_file() && metadata.len() == size_bytes { Ok(file) } else { Err(io::ErrorKind::InvalidData.into()) }
}
