//! Whether a layer unpacks to what the config says. Blocking.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use proto::Digest;
use proto::hash::BlobHasher;
use proto::limits::BLOCK_BYTES;

use super::ArchiveError;
use crate::packing::{Packing, unpacked};
use crate::store::StoreError;

/// The digest of what is in a layer, packed or not; an error when that is more than so many bytes. The content says how it is packed, as it does to the engines.
pub fn of(path: &Path, layer: Digest, limit_bytes: u64) -> Result<Digest, ArchiveError> {
    let mut first = Vec::new();
    let mut file = File::open(path).map_err(StoreError::io("open", path))?;
    (&mut file).take(Packing::MAGIC_BYTES as u64).read_to_end(&mut first).map_err(StoreError::io("read", path))?;
    let packing = Packing::of(&first);
    if packing == Packing::Plain {
        return Ok(layer);
    }
    let wrong = |reason: String| ArchiveError::Layer { layer, reason };
    let file = File::open(path).map_err(StoreError::io("open", path))?;
    let mut content = unpacked(BufReader::with_capacity(128 * 1024, file), packing).map_err(|error| wrong(error.to_string()))?;
    let mut hasher = BlobHasher::default();
    let mut buffer = vec![0; BLOCK_BYTES as usize];
    loop {
        match content.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(length) => hasher.update(&buffer[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(wrong(error.to_string())),
        }
        if hasher.length_bytes() > limit_bytes {
            return Err(wrong(format!("it unpacks to more than {limit_bytes} bytes")));
        }
    }
}
