//! An engine's own archive of an image, as it comes out.

use std::io::{self, Read};

use proto::Digest;
use tokio::sync::mpsc;

use super::Shared;
use super::blocks::Blocks;
use crate::store::StoreError;
use crate::sys::thread;

/// Files in an archive: layers, and a handful of documents for each. What is not wanted is not kept, but it has to be read.
const MEMBERS: usize = 16 * 1024;
/// Blocks on their way from the engine to the disk.
const QUEUE: usize = 4;

impl Shared {
    /// Has the engine save an image, and gives the archive to `unpack` while it comes, in a thread that may wait.
    pub(super) async fn save<T: Send + 'static>(
        &self,
        id: &Digest,
        unpack: impl FnOnce(Blocks) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let mut incoming = self.client.export(&id.to_string(), "save an image").await?.ok_or(StoreError::BlobMissing(*id))?;
        let (sender, blocks) = mpsc::channel(QUEUE);
        let unpacking = thread("engine-save", move || unpack(Blocks::new(blocks)));
        let feeding = async {
            while let Some(block) = incoming.next().await? {
                if sender.send(block).await.is_err() {
                    break;
                }
            }
            drop(sender);
            Ok::<_, StoreError>(())
        };
        let (unpacked, fed) = tokio::join!(unpacking, feeding);
        fed?;
        unpacked.map_err(broken)?
    }
}

/// Gives every file of an archive to `take`, with its name, in order. Blocking.
pub(super) fn files<R: Read>(archive: R, mut take: impl FnMut(&[u8], &mut dyn Read) -> Result<(), StoreError>) -> Result<(), StoreError> {
    let mut archive = tar::Archive::new(archive);
    for (count, entry) in archive.entries().map_err(broken)?.enumerate() {
        let mut entry = entry.map_err(broken)?;
        if count >= MEMBERS {
            return Err(broken(io::Error::new(io::ErrorKind::InvalidData, "too many files in an archive")));
        }
        if entry.header().entry_type().is_file() {
            let name = entry.path_bytes().into_owned();
            take(&name, &mut entry)?;
        }
    }
    Ok(())
}

/// What goes wrong while an archive is read.
pub(super) fn broken(error: io::Error) -> StoreError {
    StoreError::io("read", "the engine's archive")(error)
}
