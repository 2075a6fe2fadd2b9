//! How layers and archives are packed: plain, gzip or zstd, told by their first bytes as every engine does. Everything here blocks.

use std::io::{self, BufRead, Read, Write};

use proto::limits::{BLOB_BYTES, UNPACKED_RATIO};

/// How something is packed, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Not that we know.
    Plain,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Packing {
    /// Bytes that have to be seen.
    pub const MAGIC_BYTES: usize = 4;

    /// By the first bytes.
    pub fn of(first: &[u8]) -> Self {
        match first {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A frame that is passed over (RFC 8878, 3.1.2): pzstd begins with one.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }
}

/// Bytes to which a packed layer of this size may unpack: more is no layer, but an attack on a disk or a processor.
pub fn unpacked_limit_bytes(packed_bytes: u64) -> u64 {
    packed_bytes.saturating_add(1024).saturating_mul(UNPACKED_RATIO).min(BLOB_BYTES)
}

/// What is in a file or an archive, whichever way it is packed.
pub fn unpacked<'a>(packed: impl BufRead + Send + 'a, packing: Packing) -> io::Result<Box<dyn Read + Send + 'a>> {
    Ok(match packing {
        Packing::Plain => Box::new(packed),
        Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(packed)),
        Packing::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(packed)?),
    })
}

/// Unpacks bytes as they are written to it, whichever way they are packed, and writes what was in them to its output.
pub struct Unpacker<W: Write>(Unpacking<W>);

enum Unpacking<W: Write> {
    /// Too few bytes have come to tell.
    Unknown(Vec<u8>, W),
    Plain(W),
    Gzip(Box<flate2::write::MultiGzDecoder<W>>),
    Zstd(Box<zstd::stream::write::Decoder<'static, W>>),
}

impl<W: Write> Unpacker<W> {
    /// Nothing has come yet.
    pub fn new(output: W) -> Self {
        Self(Unpacking::Unknown(vec![], output))
    }

    /// The next bytes. Gives itself back: after an error there is nothing to go on with.
    pub fn write(self, bytes: &[u8]) -> io::Result<Self> {
        let mut unpacking = match self.0 {
            Unpacking::Unknown(mut first, output) => {
                first.extend_from_slice(bytes);
                if first.len() < Packing::MAGIC_BYTES {
                    return Ok(Self(Unpacking::Unknown(first, output)));
                }
                return Self(Unpacking::of(&first, output)?).write(&first);
            }
            unpacking => unpacking,
        };
        match &mut unpacking {
            Unpacking::Unknown(..) => {}
            Unpacking::Plain(output) => output.write_all(bytes)?,
            Unpacking::Gzip(decoder) => decoder.write_all(bytes)?,
            Unpacking::Zstd(decoder) => decoder.write_all(bytes)?,
        }
        Ok(Self(unpacking))
    }

    /// Those were all bytes: the output, which has everything.
    pub fn finish(self) -> io::Result<W> {
        match self.0 {
            Unpacking::Unknown(first, mut output) if Packing::of(&first) == Packing::Plain => output.write_all(&first).map(|()| output),
            Unpacking::Unknown(..) => Err(io::ErrorKind::UnexpectedEof.into()),
            Unpacking::Plain(output) => Ok(output),
            Unpacking::Gzip(decoder) => decoder.finish(),
            // Unlike a flush, this refuses a frame that is cut off.
            Unpacking::Zstd(decoder) => decoder.finish(),
        }
    }
}

impl<W: Write> Unpacking<W> {
    fn of(first: &[u8], output: W) -> io::Result<Self> {
        Ok(match Packing::of(first) {
            Packing::Plain => Self::Plain(output),
            Packing::Gzip => Self::Gzip(Box::new(flate2::write::MultiGzDecoder::new(output))),
            Packing::Zstd => Self::Zstd(Box::new(zstd::stream::write::Decoder::new(output)?)),
        })
    }
}

impl<W: Write> std::fmt::Debug for Unpacker<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Unpacker")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn fed(packed: &[u8], piece: usize) -> io::Result<Vec<u8>> {
        let fed = packed.chunks(piece).try_fold(Unpacker::new(vec![]), |unpacker, bytes| unpacker.write(bytes));
        fed?.finish()
    }

    #[test]
    fn what_is_fed_comes_out_as_what_is_read() {
        let content: Vec<u8> = (0..200_000u64).map(|i| (i * i % 251) as u8).collect();
        let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
        gzip.write_all(&content).unwrap();
        let gzip = gzip.finish().unwrap();
        let zstd = zstd::bulk::compress(&content, 1).unwrap();
        // Two members, as pigz and stargz write them.
        let twice = [&gzip[..], &gzip[..]].concat();
        let frames = [&zstd[..], &zstd[..]].concat();
        for piece in [1, 3, 777, 1 << 20] {
            assert_eq!(fed(&content, piece).unwrap(), content);
            assert_eq!(fed(&gzip, piece).unwrap(), content);
            assert_eq!(fed(&zstd, piece).unwrap(), content);
            assert_eq!(fed(&twice, piece).unwrap(), content.repeat(2));
            assert_eq!(fed(&frames, piece).unwrap(), content.repeat(2));
            assert_eq!(fed(b"ab", piece).unwrap(), b"ab");
            assert_eq!(fed(b"", piece).unwrap(), b"");
        }
        for cut in [1, 3, 100] {
            assert!(fed(&gzip[..gzip.len() - cut], 1000).is_err(), "gzip, cut off");
            assert!(fed(&zstd[..zstd.len() - cut], 1000).is_err(), "zstd, cut off");
            assert!(fed(&frames[..frames.len() - cut], 1000).is_err(), "the second frame, cut off");
        }
        assert!(fed(&gzip[..3], 1).is_err(), "cut off in its magic number");
        assert!(fed(&gzip[..1000], 1000).map_or(true, |bytes| bytes != content));
    }
}
