//! Reading ranges of blobs.

use std::fs::File;
use std::io;

use proto::Descriptor;

use super::Layout;
use super::blobs::wrongly_described;
use crate::store::StoreError;

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
