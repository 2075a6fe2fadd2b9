//! A layer's tar archive, put together again from what the engine noted of it (`tar-split.json.gz`) and the unpacked files.
//!
//! The notes are lines of JSON: type 2 is bytes of the archive (headers, padding), type 1 a file whose content comes next. They are read once and
//! written in a short binary form to a file without a name, so that an archive of a million files costs no memory:
//! ```text
//! kind u8 | length u64 | bytes u32 | bytes      kind 0: these are the bytes; kind 1: `length` bytes of the file that is named so
//! ```
//! Every position in the layer that is a multiple of [`STRIDE_BYTES`] or so is remembered, to start reading there.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use data_encoding::BASE64;
use flate2::bufread::GzDecoder;
use proto::limits::BLOB_BYTES;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde::Deserialize;

/// One line: a header with the longest extended attributes is far smaller; older engines write what follows the end of an archive in one.
const LINE_BYTES: u64 = 32 << 20;
/// Bytes of headers and padding, and of names: a million files need one gigabyte.
const NOTES_BYTES: u64 = 4 << 30;
/// A name in a tar archive; the kernel takes no longer path.
const NAME_BYTES: usize = 4096;
/// Distance of the remembered positions: in the layer, or in the notes where files are many and small.
const STRIDE_BYTES: u64 = 1 << 20;
const STRIDE_NOTES_BYTES: u64 = 64 << 10;
/// What is read of the notes at once.
const NOTES_BUFFER_BYTES: usize = 64 << 10;

const INLINE: u8 = 0;
const FILE: u8 = 1;
const RECORD_BYTES: usize = 13;

/// How to read one layer as the archive that it was.
#[derive(Debug)]
pub(super) struct TarSplit {
    directory: OwnedFd,
    notes: File,
    notes_bytes: u64,
    size_bytes: u64,
    positions: Vec<Position>,
}

/// A record of the notes starts at `note`, with the byte `start` of the layer.
#[derive(Debug, Clone, Copy)]
struct Position {
    start: u64,
    note: u64,
}

/// Reads a layer from some byte on.
pub(super) struct Cursor {
    split: Arc<TarSplit>,
    notes: BufReader<Notes>,
    segment: Segment,
    left_bytes: u64,
}

enum Segment {
    Inline,
    File { file: File, offset: u64 },
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: u64,
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    name_raw: Option<Cow<'a, str>>,
    #[serde(default)]
    size: Option<u64>,
    #[serde(borrow, default)]
    payload: Option<Cow<'a, str>>,
}

impl TarSplit {
    /// Reads the notes at `tar_split` on the files in `diff`; `scratch` is a directory for the short form. Opens no file of the layer.
    pub(super) fn open(tar_split: &Path, diff: &Path, scratch: &Path) -> io::Result<Self> {
        let directory = rustix::fs::open(diff, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
        let packed = BufReader::with_capacity(NOTES_BUFFER_BYTES, File::open(tar_split)?);
        Self::read(GzDecoder::new(packed), directory, nameless(scratch)?)
    }

    fn read(lines: impl Read, directory: OwnedFd, notes: File) -> io::Result<Self> {
        let mut lines = BufReader::with_capacity(NOTES_BUFFER_BYTES, lines);
        let mut output = BufWriter::with_capacity(NOTES_BUFFER_BYTES, notes);
        let (mut size_bytes, mut notes_bytes) = (0, 0);
        let mut positions: Vec<Position> = vec![];
        let (mut line, mut decoded) = (vec![], vec![]);
        loop {
            line.clear();
            if lines.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line)? == 0 {
                break;
            }
            if line.last() != Some(&b'\n') && line.len() as u64 == LINE_BYTES {
                return Err(invalid("a line is too long"));
            }
            let entry: Line<'_> = serde_json::from_slice(&line)?;
            let (kind, length, bytes): (u8, u64, &[u8]) = match entry.kind {
                2 => {
                    let payload = entry.payload.as_deref().unwrap_or_default().as_bytes();
                    decode(payload, &mut decoded)?;
                    (INLINE, decoded.len() as u64, &decoded)
                }
                1 => match (entry.size.unwrap_or_default(), &entry.name, &entry.name_raw) {
                    (0, _, _) => continue,
                    (size, Some(name), None) => (FILE, size, name.as_bytes()),
                    (size, _, Some(raw)) => {
                        decode(raw.as_bytes(), &mut decoded)?;
                        (FILE, size, &decoded)
                    }
                    (_, None, None) => return Err(invalid("a file without a name")),
                },
                _ => return Err(invalid("a line of an unknown type")),
            };
            if length == 0 {
                continue;
            }
            if kind == FILE && bytes.len() > NAME_BYTES {
                return Err(invalid("a name is too long"));
            }
            if positions.last().is_none_or(|last| size_bytes - last.start >= STRIDE_BYTES || notes_bytes - last.note >= STRIDE_NOTES_BYTES)
            {
                positions.push(Position { start: size_bytes, note: notes_bytes });
            }
            output.write_all(&[kind])?;
            output.write_all(&length.to_le_bytes())?;
            output.write_all(&(bytes.len() as u32).to_le_bytes())?;
            output.write_all(bytes)?;
            notes_bytes += (RECORD_BYTES + bytes.len()) as u64;
            size_bytes = size_bytes.saturating_add(length);
            if size_bytes > BLOB_BYTES || notes_bytes > NOTES_BYTES {
                return Err(invalid("it describes more than a layer may hold"));
            }
        }
        let notes = output.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(Self { directory, notes, notes_bytes, size_bytes, positions })
    }

    /// Length of the archive.
    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Starts to read at `offset`.
    pub(super) fn cursor(self: &Arc<Self>, offset: u64) -> io::Result<Cursor> {
        let after = self.positions.partition_point(|position| position.start <= offset);
        let Position { start, note } = after.checked_sub(1).map_or(Position { start: 0, note: 0 }, |before| self.positions[before]);
        let notes = BufReader::with_capacity(NOTES_BUFFER_BYTES, Notes { split: self.clone(), offset: note });
        let mut cursor = Cursor { split: self.clone(), notes, segment: Segment::Inline, left_bytes: 0 };
        cursor.skip(offset.saturating_sub(start))?;
        Ok(cursor)
    }

    /// A file of the layer, never one outside of it, whatever its name says and whoever changes the directory meanwhile.
    fn open_file(&self, name: &[u8]) -> io::Result<File> {
        let path = clean(name).ok_or_else(|| invalid("a name leads out of the layer"))?;
        // Looked at before it is opened: to open a device, or a pipe, does something.
        let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let found = File::from(rustix::fs::openat2(self.directory.as_fd(), &path, flags, Mode::empty(), resolve)?);
        if !found.metadata()?.is_file() {
            return Err(invalid("a name is not that of a regular file"));
        }
        // The same file, whatever has that name by now.
        File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))
    }
}

impl Cursor {
    /// Fills `buffer`, or as much of it as the layer has left.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            if self.left_bytes == 0 && !self.next_segment()? {
                break;
            }
            let most = (buffer.len() - filled).min(usize::try_from(self.left_bytes).unwrap_or(usize::MAX));
            let target = &mut buffer[filled..filled + most];
            let read = match &mut self.segment {
                Segment::Inline => self.notes.read(target)?,
                Segment::File { file, offset } => {
                    let read = file.read_at(target, *offset)?;
                    *offset += read as u64;
                    read
                }
            };
            if read == 0 {
                return Err(invalid("a file is shorter than it was"));
            }
            filled += read;
            self.left_bytes -= read as u64;
        }
        Ok(filled)
    }

    fn skip(&mut self, mut bytes: u64) -> io::Result<()> {
        while bytes > 0 {
            if self.left_bytes == 0 && !self.next_segment()? {
                return Ok(());
            }
            let now = bytes.min(self.left_bytes);
            match &mut self.segment {
                Segment::Inline => self.notes.seek_relative(now.cast_signed())?,
                Segment::File { offset, .. } => *offset += now,
            }
            self.left_bytes -= now;
            bytes -= now;
        }
        Ok(())
    }

    /// False at the end of the layer.
    fn next_segment(&mut self) -> io::Result<bool> {
        if self.notes.fill_buf()?.is_empty() {
            return Ok(false);
        }
        let mut record = [0; RECORD_BYTES];
        self.notes.read_exact(&mut record)?;
        let [kind, a, b, c, d, e, f, g, h, i, j, k, l] = record;
        self.left_bytes = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let length = u32::from_le_bytes([i, j, k, l]) as usize;
        self.segment = if kind == INLINE {
            Segment::Inline
        } else {
            let mut name = vec![0; length.min(NAME_BYTES)];
            self.notes.read_exact(&mut name)?;
            Segment::File { file: self.split.open_file(&name)?, offset: 0 }
        };
        Ok(true)
    }
}

/// The notes from some byte on. Several cursors read them at once, so that the position is not the file's.
#[derive(Debug)]
struct Notes {
    split: Arc<TarSplit>,
    offset: u64,
}

impl Read for Notes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.split.notes_bytes - self.offset).unwrap_or(usize::MAX));
        let read = self.split.notes.read_at(&mut buffer[..most], self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

impl io::Seek for Notes {
    fn seek(&mut self, position: io::SeekFrom) -> io::Result<u64> {
        let target = match position {
            io::SeekFrom::Start(offset) => Some(offset),
            io::SeekFrom::Current(distance) => self.offset.checked_add_signed(distance),
            io::SeekFrom::End(distance) => self.split.notes_bytes.checked_add_signed(distance),
        };
        self.offset = target.filter(|&offset| offset <= self.split.notes_bytes).ok_or_else(|| invalid("beyond the notes"))?;
        Ok(self.offset)
    }
}

/// A file that is gone when it is closed.
pub(super) fn nameless(directory: &Path) -> io::Result<File> {
    let (flags, mode) = (OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR);
    match rustix::fs::open(directory, flags | OFlags::TMPFILE, mode) {
        // Not every file system has files without names.
        Err(Errno::OPNOTSUPP | Errno::ISDIR) => {
            let path = directory.join(super::random_hex());
            let file = rustix::fs::open(&path, flags | OFlags::CREATE | OFlags::EXCL, mode)?;
            std::fs::remove_file(&path)?;
            Ok(File::from(file))
        }
        opened => Ok(File::from(opened?)),
    }
}

/// A name as a path beneath the layer's directory: engines join the two and strike out `.` and `..` before they open a file.
fn clean(name: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<&[u8]> = vec![];
    for part in name.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join(&b'/'))
}

fn decode(text: &[u8], into: &mut Vec<u8>) -> io::Result<()> {
    let length = BASE64.decode_len(text.len()).map_err(|error| invalid(&error.to_string()))?;
    into.resize(length, 0);
    let length = BASE64.decode_mut(text, into).map_err(|partial| invalid(&partial.error.to_string()))?;
    into.truncate(length);
    Ok(())
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    struct Layer {
        directory: tempfile::TempDir,
        lines: String,
        expected: Vec<u8>,
    }

    impl Layer {
        fn new() -> Self {
            Self { directory: tempfile::tempdir().unwrap(), lines: String::new(), expected: vec![] }
        }

        fn inline(&mut self, bytes: &[u8]) -> &mut Self {
            self.lines += &format!("{{\"type\":2,\"payload\":\"{}\",\"position\":0}}\n", BASE64.encode(bytes));
            self.expected.extend_from_slice(bytes);
            self
        }

        fn file(&mut self, name: &str, content: &[u8]) -> &mut Self {
            let path = self.directory.path().join(name.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
            self.claim(name, content.len());
            self.expected.extend_from_slice(content);
            self
        }

        fn claim(&mut self, name: &str, size: usize) -> &mut Self {
            self.lines += &format!("{{\"type\":1,\"name\":{},\"size\":{size},\"payload\":\"AAAA\"}}\n", serde_json::json!(name));
            self
        }

        fn open(&self) -> io::Result<TarSplit> {
            let directory = rustix::fs::open(self.directory.path(), OFlags::DIRECTORY, Mode::empty())?;
            TarSplit::read(self.lines.as_bytes(), directory, nameless(self.directory.path())?)
        }

        fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
            let split = Arc::new(self.open()?);
            let mut bytes = vec![0; length];
            let filled = split.cursor(offset)?.fill(&mut bytes)?;
            bytes.truncate(filled);
            Ok(bytes)
        }
    }

    #[test]
    fn any_range_of_a_layer() {
        let mut layer = Layer::new();
        for i in 0..300u32 {
            layer.inline(&[i as u8; 700]).file(&format!("/a/./f{i}"), &vec![(i * 3) as u8; (i * 97) as usize + 1]);
        }
        layer.inline(&[0; 1024]);
        let size = layer.expected.len();
        assert_eq!(layer.open().unwrap().size_bytes(), size as u64);
        assert!(layer.open().unwrap().positions.len() > 3);
        for (offset, length) in [(0, size), (0, 0), (1, 5000), (699, 2), (size / 2, 1_000_000), (size - 1, 10), (size, 1), (size + 9, 1)] {
            let expected = &layer.expected[offset.min(size)..(offset + length).min(size)];
            assert_eq!(layer.read(offset as u64, length).unwrap(), expected, "{offset}+{length}");
        }
    }

    #[test]
    fn names_that_are_no_text() {
        use std::os::unix::ffi::OsStrExt;
        let mut layer = Layer::new();
        std::fs::write(layer.directory.path().join(std::ffi::OsStr::from_bytes(b"f\xff")), b"odd").unwrap();
        layer.lines = format!("{{\"type\":1,\"name_raw\":\"{}\",\"size\":3,\"payload\":\"AAAA\"}}\n", BASE64.encode(b"f\xff"));
        assert_eq!(layer.read(0, 3).unwrap(), b"odd");
    }

    #[test]
    fn nothing_outside_of_the_layer_is_read() {
        let secret = tempfile::tempdir().unwrap();
        std::fs::write(secret.path().join("f"), b"secret").unwrap();
        for name in ["../f", "a/../../f", "link", "linked/f", "/"] {
            let mut layer = Layer::new();
            let at = |name: &str| layer.directory.path().join(name);
            std::os::unix::fs::symlink(secret.path().join("f"), at("link")).unwrap();
            std::os::unix::fs::symlink(secret.path(), at("linked")).unwrap();
            layer.claim(name, 6);
            assert!(layer.read(0, 6).is_err(), "{name}");
        }
    }

    #[test]
    fn what_no_engine_writes_is_refused() {
        let mut huge = Layer::new();
        huge.claim("f", usize::MAX);
        let mut short = Layer::new();
        short.file("f", b"abc").claim("f", 4);
        let mut endless = Layer::new();
        endless.lines = "x".repeat(LINE_BYTES as usize + 1);
        let mut unknown = Layer::new();
        unknown.lines = "{\"type\":3}\n".to_owned();
        let mut negative = Layer::new();
        negative.lines = "{\"type\":1,\"name\":\"f\",\"size\":-1}\n".to_owned();
        for layer in [huge, short, endless, unknown, negative] {
            assert!(layer.read(0, 10).is_err(), "{:.100}", layer.lines);
        }
    }
}
