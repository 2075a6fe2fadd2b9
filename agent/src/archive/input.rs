//! The bytes of an archive as they come from a channel, decompressed. Everything here blocks.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Buf, Bytes};
use flate2::bufread::GzDecoder;
use tokio::sync::mpsc;
use zstd::stream::read::Decoder as ZstdDecoder;

use super::foreign::{FIRST_BYTES, Foreign};
use super::{ArchiveError, tape};
use crate::packing::Packing;

/// The archive that comes through a channel.
pub(super) struct Input {
    state: State,
    packing: Packing,
    has_tail: Arc<AtomicBool>,
}

/// Says, once an archive was read, whether something else follows it.
#[derive(Debug, Clone)]
pub(super) struct Tail(Arc<AtomicBool>);

impl Tail {
    /// Bytes that are neither padding nor a part of what is packed.
    pub(super) fn is_there(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

type Packed = BufReader<Channel>;

/// A packed archive is one frame or several, one after the other.
enum State {
    Plain(Packed),
    Gzip(Box<GzDecoder<Packed>>),
    Zstd(Box<ZstdDecoder<'static, Packed>>),
    Between(Packed),
    End,
}

/// Opens it: its first bytes tell how it is packed.
pub(super) fn open(blocks: mpsc::Receiver<io::Result<Bytes>>) -> Result<(Input, Tail), ArchiveError> {
    let channel = Channel { blocks, current: Bytes::new() }.peeked().map_err(tape::failed)?;
    if let Some(foreign) = Foreign::of(&channel.current) {
        return Err(ArchiveError::Packed(foreign));
    }
    let packing = Packing::of(&channel.current);
    let packed = BufReader::with_capacity(128 * 1024, channel);
    let tail = Tail(Arc::default());
    let state = if packing == Packing::Plain { State::Plain(packed) } else { State::Between(packed) };
    Ok((Input { state, packing, has_tail: tail.0.clone() }, tail))
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let length = match &mut self.state {
                State::Plain(packed) => return packed.read(buffer),
                State::Gzip(frame) => frame.read(buffer)?,
                State::Zstd(frame) => frame.read(buffer)?,
                State::Between(_) => 0,
                State::End => return Ok(0),
            };
            if length > 0 || buffer.is_empty() {
                return Ok(length);
            }
            self.state = match std::mem::replace(&mut self.state, State::End) {
                State::Gzip(frame) => State::Between(frame.into_inner()),
                State::Zstd(frame) => State::Between(frame.finish()),
                State::Between(packed) => self.next_frame(packed)?,
                state => state,
            };
        }
    }
}

impl Input {
    fn next_frame(&self, mut packed: Packed) -> io::Result<State> {
        let first = packed.fill_buf()?.first().copied();
        Ok(match (self.packing, first) {
            (_, None) => State::End,
            (Packing::Gzip, Some(0x1f)) => State::Gzip(Box::new(GzDecoder::new(packed))),
            // A frame, or one to be skipped (RFC 8878, 3.1.2).
            (Packing::Zstd, Some(0x28 | 0x50..=0x5f)) => State::Zstd(Box::new(ZstdDecoder::with_buffer(packed)?.single_frame())),
            // Tapes and block devices fill their last block with zeros.
            (_, Some(other)) => {
                self.has_tail.store(other != 0, Ordering::Relaxed);
                State::End
            }
        })
    }
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
        while first.len() < FIRST_BYTES {
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
