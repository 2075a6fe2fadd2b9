//! The bytes of an archive as they come from a channel, decompressed. Everything here blocks.

use std::io::{self, BufReader, Read};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

use crate::packing::{Packing, unpacked};

/// The archive that comes through a channel.
pub(super) fn open(blocks: mpsc::Receiver<io::Result<Bytes>>) -> io::Result<Box<dyn Read + Send>> {
    let channel = Channel { blocks, current: Bytes::new() }.peeked()?;
    let packing = Packing::of(&channel.current);
    unpacked(BufReader::with_capacity(128 * 1024, channel), packing)
}

/// Reads from the channel; its end is the end of the archive.
struct Channel {
    blocks: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

/// What the sender of the archive says went wrong, told from what a decompressor says.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) struct SenderFailed(pub(super) io::Error);

impl Channel {
    fn receive(&mut self) -> io::Result<Option<Bytes>> {
        self.blocks.blocking_recv().transpose().map_err(|error| io::Error::new(io::ErrorKind::BrokenPipe, SenderFailed(error)))
    }

    /// With the first bytes in `current`, as many as tell how it is packed.
    fn peeked(mut self) -> io::Result<Self> {
        let mut first = Vec::new();
        while first.len() < Packing::MAGIC_BYTES {
            match self.receive()? {
                Some(block) => first.extend_from_slice(&block),
                None => break,
            }
        }
        self.current = first.into();
        Ok(self)
    }
}

impl Read for Channel {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receive()? {
                Some(block) => self.current = block,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}
