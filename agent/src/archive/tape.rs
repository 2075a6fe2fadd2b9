//! Walking over a tar archive, with bounded memory.
//!
//! Headers are decoded by the `tar` crate; the walk is ours, because that crate reads long names and extended headers whole,
//! as long as the archive says they are.

use std::io::{self, Read};

use tar::{EntryType, Header, PaxExtensions};

use super::ArchiveError;
use super::input::SenderFailed;

/// Of a long name or an extended header. Go, whose archives these are, has the same limit.
const EXTENSION_BYTES: u64 = 1024 * 1024;

const BLOCK_BYTES: u64 = 512;

/// A tar archive, read once.
pub(super) struct Tape<R> {
    input: R,
    /// Bytes of the current member that were not read.
    data_bytes: u64,
    /// Bytes behind it that fill its last block.
    padding_bytes: u64,
    last: String,
    began: bool,
    /// It ended without the mark that ends an archive.
    is_unmarked: bool,
}

/// The header of one member.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// As it is written.
    pub(super) name: String,
    pub(super) kind: Kind,
}

/// What a member is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Its bytes follow.
    File {
        /// Number of bytes.
        size_bytes: u64,
    },
    /// Relative to its directory.
    Symlink(String),
    /// The name of another member.
    Hardlink(String),
    /// A directory, a device: nothing that matters here.
    Other,
}

/// What extension headers say about the next member.
#[derive(Default)]
struct Extensions {
    name: Option<String>,
    link: Option<String>,
    size_bytes: Option<u64>,
    sparse: bool,
}

impl<R: Read> Tape<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, data_bytes: 0, padding_bytes: 0, last: "the beginning".to_owned(), began: false, is_unmarked: false }
    }

    /// The next member; `None` at the mark that ends an archive. One that ends behind a member without the mark, or without what fills the last block, was
    /// written by a program that was not closed, or was cut off there: what it has is whole.
    pub(super) fn next(&mut self) -> Result<Option<Member>, ArchiveError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip()?;
            let Some(block) = self.block()? else {
                self.is_unmarked = true;
                return Ok(None);
            };
            if block.iter().all(|&byte| byte == 0) {
                return Ok(None);
            }
            let header = Header::from_byte_slice(&block);
            self.check(header, &block)?;
            let size_bytes = header.entry_size().map_err(|error| self.invalid(&error))?;
            match header.entry_type() {
                EntryType::GNULongName => extensions.name = Some(text(&self.extension(size_bytes)?)),
                EntryType::GNULongLink => extensions.link = Some(text(&self.extension(size_bytes)?)),
                EntryType::XHeader => {
                    let bytes = self.extension(size_bytes)?;
                    extensions.read(&bytes).map_err(|error| self.invalid(&error))?;
                }
                EntryType::XGlobalHeader => drop(self.extension(size_bytes)?),
                _ => return self.member(header, size_bytes, extensions).map(Some),
            }
        }
    }

    /// Whether it ended without the mark that ends an archive.
    pub(super) fn is_unmarked(&self) -> bool {
        self.is_unmarked
    }

    /// Bytes of the current member; none at its end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        let wanted = (buffer.len() as u64).min(self.data_bytes) as usize;
        if wanted == 0 {
            return Ok(0);
        }
        match read_some(&mut self.input, &mut buffer[..wanted])? {
            0 => Err(ArchiveError::Truncated),
            length => {
                self.data_bytes -= length as u64;
                Ok(length)
            }
        }
    }

    /// Reads on to the end, so that the checksum of a compressed archive is checked too; gives up on an endless tail.
    pub(super) fn drain(mut self) -> Result<(), ArchiveError> {
        const TAIL_BYTES: u64 = 16 * 1024 * 1024;
        let mut buffer = vec![0; 64 * 1024];
        let mut drained_bytes = 0;
        while drained_bytes < TAIL_BYTES {
            match read_some(&mut self.input, &mut buffer)? {
                0 => break,
                length => drained_bytes += length as u64,
            }
        }
        Ok(())
    }

    fn member(&mut self, header: &Header, header_size_bytes: u64, extensions: Extensions) -> Result<Member, ArchiveError> {
        let name = extensions.name.unwrap_or_else(|| text(&header.path_bytes()));
        let link = extensions.link.or_else(|| header.link_name_bytes().map(|link| text(&link))).unwrap_or_default();
        let size_bytes = extensions.size_bytes.unwrap_or(header_size_bytes);
        self.last.clone_from(&name);
        let kind = match header.entry_type() {
            EntryType::GNUSparse => return Err(ArchiveError::Unsupported { member: name, kind: "sparse file" }),
            _ if extensions.sparse => return Err(ArchiveError::Unsupported { member: name, kind: "sparse file" }),
            // Before there was a type for directories.
            EntryType::Regular if name.ends_with('/') => Kind::Other,
            EntryType::Regular | EntryType::Continuous => Kind::File { size_bytes },
            EntryType::Symlink => Kind::Symlink(link),
            EntryType::Link => Kind::Hardlink(link),
            _ => Kind::Other,
        };
        // Links, directories and devices have no content, whatever their size says.
        let has_data = !matches!(
            header.entry_type(),
            EntryType::Link | EntryType::Symlink | EntryType::Char | EntryType::Block | EntryType::Directory | EntryType::Fifo
        );
        self.expect(if has_data { size_bytes } else { 0 })?;
        Ok(Member { name, kind })
    }

    fn check(&mut self, header: &Header, block: &[u8; BLOCK_BYTES as usize]) -> Result<(), ArchiveError> {
        let sum = block[..148].iter().chain(&block[156..]).fold(8 * 32, |sum: u32, &byte| sum + u32::from(byte));
        let is_valid = header.cksum().is_ok_and(|expected| expected == sum);
        match (is_valid, self.began) {
            (true, _) => {
                self.began = true;
                Ok(())
            }
            (false, false) => Err(ArchiveError::NotAnArchive),
            (false, true) => Err(ArchiveError::Header { after: self.last.clone(), reason: "its checksum is wrong".to_owned() }),
        }
    }

    fn extension(&mut self, size_bytes: u64) -> Result<Vec<u8>, ArchiveError> {
        if size_bytes > EXTENSION_BYTES {
            let reason = format!("a long name or extended header of {size_bytes} bytes, the limit is {EXTENSION_BYTES}");
            return Err(ArchiveError::Header { after: self.last.clone(), reason });
        }
        self.expect(size_bytes)?;
        let mut bytes = vec![0; size_bytes as usize];
        read_exact(&mut self.input, &mut bytes)?;
        self.data_bytes = 0;
        Ok(bytes)
    }

    fn expect(&mut self, size_bytes: u64) -> Result<(), ArchiveError> {
        self.data_bytes = size_bytes;
        self.padding_bytes = (BLOCK_BYTES - size_bytes % BLOCK_BYTES) % BLOCK_BYTES;
        match size_bytes.checked_add(BLOCK_BYTES) {
            Some(_) => Ok(()),
            None => Err(ArchiveError::Header { after: self.last.clone(), reason: "its size is absurd".to_owned() }),
        }
    }

    /// The next block; `None` where the archive ends behind a member.
    fn block(&mut self) -> Result<Option<[u8; BLOCK_BYTES as usize]>, ArchiveError> {
        let mut block = [0; BLOCK_BYTES as usize];
        match read_some(&mut self.input, &mut block)? {
            0 if self.began => return Ok(None),
            length => read_exact(&mut self.input, &mut block[length..])?,
        }
        Ok(Some(block))
    }

    /// Goes to the next header, where there is one.
    fn skip(&mut self) -> Result<(), ArchiveError> {
        let mut buffer = [0; 8 * 1024];
        while self.data_bytes > 0 {
            self.read(&mut buffer)?;
        }
        while self.padding_bytes > 0 {
            let wanted = self.padding_bytes.min(buffer.len() as u64) as usize;
            match read_some(&mut self.input, &mut buffer[..wanted])? {
                0 => break,
                length => self.padding_bytes -= length as u64,
            }
        }
        self.padding_bytes = 0;
        Ok(())
    }

    fn invalid(&self, error: &io::Error) -> ArchiveError {
        ArchiveError::Header { after: self.last.clone(), reason: error.to_string() }
    }
}

impl Extensions {
    fn read(&mut self, bytes: &[u8]) -> io::Result<()> {
        for extension in PaxExtensions::new(bytes) {
            let extension = extension?;
            let value = || text(extension.value_bytes());
            match extension.key_bytes() {
                b"path" => self.name = Some(value()),
                b"linkpath" => self.link = Some(value()),
                b"size" => self.size_bytes = Some(value().parse().map_err(|_| io::Error::other("its size is not a number"))?),
                key if key.starts_with(b"GNU.sparse.") => self.sparse = true,
                _ => {}
            }
        }
        Ok(())
    }
}

/// Text up to the first zero byte: long names end with one.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn read_some(input: &mut impl Read, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
    loop {
        match input.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map_err(failed),
        }
    }
}

fn read_exact(input: &mut impl Read, mut buffer: &mut [u8]) -> Result<(), ArchiveError> {
    while !buffer.is_empty() {
        match read_some(input, buffer)? {
            0 => return Err(ArchiveError::Truncated),
            length => buffer = &mut buffer[length..],
        }
    }
    Ok(())
}

/// What a reader that may be a decompressor says.
pub(super) fn failed(error: io::Error) -> ArchiveError {
    if error.get_ref().is_some_and(|inner| inner.is::<SenderFailed>()) {
        return ArchiveError::Input(error);
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof => ArchiveError::Truncated,
        // The words of the library.
        _ if error.to_string().contains("requires too much memory") => ArchiveError::Window,
        _ => ArchiveError::Decompress(error.to_string()),
    }
}
