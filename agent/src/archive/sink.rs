//! Where an archive goes: a channel, with or without a compressor before it.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::write::GzEncoder;
use proto::control::Compression;
use proto::limits::DATA_BYTES;
use tokio::sync::mpsc;
use zstd::stream::write::Encoder as ZstdEncoder;

use super::ArchiveError;
use crate::sys::blocking;

/// The writing end. Nothing is sent behind an error, so that the receiver sees an archive without its end.
pub(super) struct Sink {
    output: mpsc::Sender<Bytes>,
    encoder: Option<Encoder>,
}

/// Compressors that write into memory; what is in there is sent after each block.
enum Encoder {
    Gzip(GzEncoder<Vec<u8>>),
    Zstd(ZstdEncoder<'static, Vec<u8>>),
}

impl Sink {
    pub(super) fn new(output: mpsc::Sender<Bytes>, compression: Compression) -> Result<Self, ArchiveError> {
        let encoder = match compression {
            Compression::None => None,
            // The header has no time in it: the same image gives the same file.
            Compression::Gzip => Some(Encoder::Gzip(GzEncoder::new(vec![], flate2::Compression::default()))),
            Compression::Zstd => Some(Encoder::Zstd(ZstdEncoder::new(vec![], 0).map_err(ArchiveError::Compress)?)),
        };
        Ok(Self { output, encoder })
    }

    /// The next bytes of the archive.
    pub(super) async fn write(&mut self, bytes: Bytes) -> Result<(), ArchiveError> {
        let Some(mut encoder) = self.encoder.take() else { return self.send(bytes).await };
        let (encoder, compressed) = blocking(move || {
            encoder.write_all(&bytes)?;
            let compressed = std::mem::take(encoder.buffer());
            Ok((encoder, compressed))
        })
        .await
        .map_err(ArchiveError::Compress)?;
        self.encoder = Some(encoder);
        self.send(compressed.into()).await
    }

    /// That was all.
    pub(super) async fn finish(mut self) -> Result<(), ArchiveError> {
        match self.encoder.take() {
            None => Ok(()),
            Some(encoder) => {
                let rest = blocking(move || encoder.finish()).await.map_err(ArchiveError::Compress)?;
                self.send(rest.into()).await
            }
        }
    }

    async fn send(&self, mut bytes: Bytes) -> Result<(), ArchiveError> {
        while !bytes.is_empty() {
            let block = bytes.split_to(bytes.len().min(DATA_BYTES));
            self.output.send(block).await.map_err(|_| ArchiveError::OutputClosed)?;
        }
        Ok(())
    }
}

impl Encoder {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Gzip(encoder) => encoder.write_all(bytes),
            Self::Zstd(encoder) => encoder.write_all(bytes),
        }
    }

    fn buffer(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Gzip(encoder) => encoder.get_mut(),
            Self::Zstd(encoder) => encoder.get_mut(),
        }
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}
