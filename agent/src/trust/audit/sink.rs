//! The file of the audit log: lines at its end, and older files beside it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tracing::warn;

use super::chain::{Line, NOTHING, TORN, hash};
use crate::sys::durable;

/// Where lines go. An error is a warning in the log, and is said in the next line that can be written: nothing else waits for it.
#[derive(Debug)]
pub(super) struct Sink {
    path: PathBuf,
    /// A file that would be longer becomes an older one.
    limit_bytes: u64,
    file: Option<File>,
    length_bytes: u64,
    /// Of the last line.
    sequence: u64,
    hash: String,
    /// Lines since then that could not be written.
    lost: u64,
}

/// Fields of a line that somebody else fills in.
#[derive(Debug, Clone, Default)]
pub(super) struct Fields {
    pub(super) event: String,
    pub(super) who: String,
    pub(super) what: String,
    pub(super) old: String,
    pub(super) new: String,
    pub(super) rule: String,
}

/// Which line was written.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) sequence: u64,
    pub(super) hash: String,
}

impl Sink {
    /// Opens the file, and continues the chain in it. `time` is that of the line about a torn one, if there is one.
    pub(super) fn open(path: PathBuf, limit_bytes: u64, time: &str) -> Self {
        let mut sink = Self { path, limit_bytes, file: None, length_bytes: 0, sequence: 0, hash: NOTHING.to_owned(), lost: 0 };
        if let Err(error) = sink.resume(time) {
            sink.failed(&error);
        }
        sink
    }

    /// Writes a line; `None`: it could not be written, and is counted.
    pub(super) fn append(&mut self, fields: Fields, time: &str) -> Option<Written> {
        match self.try_append(fields, time) {
            Ok(()) => Some(Written { sequence: self.sequence, hash: self.hash.clone() }),
            Err(error) => {
                self.failed(&error);
                self.lost += 1;
                None
            }
        }
    }

    fn try_append(&mut self, fields: Fields, time: &str) -> io::Result<()> {
        if self.file.is_none() {
            self.resume(time)?;
        }
        if self.lost > 0 {
            let lost = Fields { event: "lines lost".to_owned(), what: format!("{} lines", self.lost), ..Fields::default() };
            self.write(lost, time)?;
            self.lost = 0;
        }
        self.write(fields, time)
    }

    /// Finds the last line of the file, or of the older one.
    fn resume(&mut self, time: &str) -> io::Result<()> {
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
        let bytes = std::fs::read(&self.path)?;
        let (mut last, mut whole_bytes) = last_line(&bytes);
        self.length_bytes = bytes.len() as u64;
        if !bytes.is_empty() && !bytes.ends_with(b"\n") {
            file.write_all(b"\n")?;
            self.length_bytes += 1;
            // Nothing but the line break may be missing.
            let rest = &bytes[bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)..];
            if let Some(line) = Line::read(rest) {
                (last, whole_bytes) = (Some((line.sequence, hash(rest))), bytes.len());
            }
        }
        if last.is_none() {
            let [newest, ..] = older(&self.path);
            last = read_if_there(&newest)?.and_then(|bytes| last_line(&bytes).0);
        }
        (self.sequence, self.hash) = last.unwrap_or((0, NOTHING.to_owned()));
        self.file = Some(file);
        let torn = &bytes[whole_bytes..];
        if !torn.is_empty() {
            let what = format!("{} bytes", torn.len());
            self.write(Fields { event: TORN.to_owned(), what, old: hash(torn), ..Fields::default() }, time)?;
        }
        Ok(())
    }

    fn write(&mut self, fields: Fields, time: &str) -> io::Result<()> {
        let Fields { event, who, what, old, new, rule } = fields;
        let (sequence, previous) = (self.sequence + 1, self.hash.clone());
        let mut text = serde_json::to_vec(&Line { sequence, time: time.to_owned(), event, who, what, old, new, rule, previous })?;
        let hash = hash(&text);
        text.push(b'\n');
        if self.length_bytes > 0 && self.length_bytes + text.len() as u64 > self.limit_bytes {
            self.rotate()?;
        }
        let file = self.file.as_mut().ok_or(io::ErrorKind::NotFound)?;
        if let Err(error) = file.write_all(&text) {
            // Whatever came into the file of it goes again; else it is a torn line, which is found when the file is opened again.
            if file.set_len(self.length_bytes).is_err() {
                self.file = None;
            }
            return Err(error);
        }
        self.length_bytes += text.len() as u64;
        (self.sequence, self.hash) = (sequence, hash);
        Ok(())
    }

    /// The file becomes the newest of the older ones, durably; the oldest goes. That is for a thread of its own: whoever writes a line does not wait for the disk.
    fn rotate(&mut self) -> io::Result<()> {
        let older = older(&self.path);
        let moves = older.iter().skip(1).zip(&older).rev().map(|(to, from)| (from, to));
        for (from, to) in moves.chain([(&self.path, &older[0])]) {
            match std::fs::rename(from, to) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                renamed => renamed?,
            }
        }
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path);
        let full = self.file.take();
        self.file = Some(file?);
        self.length_bytes = 0;
        let path = self.path.clone();
        let sync = move || {
            let synced = full.map_or(Ok(()), |full| full.sync_data());
            if let Err(error) = synced {
                warn!(%error, "audit log not synced");
            }
            let _ = durable::sync_parent(&path);
        };
        std::thread::Builder::new().name("audit".to_owned()).spawn(sync)?;
        Ok(())
    }

    fn failed(&self, error: &io::Error) {
        if self.lost == 0 {
            warn!(%error, path = %self.path.display(), "audit log not written");
        }
    }
}

/// Full files that are kept: what one member can have written in an hour does not push out what was there before.
const OLDER: usize = 4;

/// The files that were full before, the newest one first; whether they are there or not.
pub(super) fn older(path: &Path) -> [PathBuf; OLDER] {
    std::array::from_fn(|number| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}", number + 1));
        name.into()
    })
}

/// What a file holds; `None` when it is not there.
pub(super) fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

/// Sequence number and hash of the last whole line, and where it ends.
fn last_line(bytes: &[u8]) -> (Option<(u64, String)>, usize) {
    let mut end = bytes.len();
    for text in bytes.split_inclusive(|byte| *byte == b'\n').rev() {
        if let Some(line) = Line::read(text).filter(|_| text.ends_with(b"\n")) {
            return (Some((line.sequence, hash(text))), end);
        }
        end -= text.len();
    }
    (None, 0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::chain::{Broken, verify};
    use super::*;

    const TIME: &str = "2026-01-02T03:04:05Z";
    const MIB: u64 = 1024 * 1024;

    fn fields(what: &str) -> Fields {
        Fields { event: "loaded".to_owned(), what: what.to_owned(), ..Fields::default() }
    }

    fn write(path: &Path, limit_bytes: u64, lines: usize) {
        let mut sink = Sink::open(path.to_owned(), limit_bytes, TIME);
        (0..lines).for_each(|i| assert!(sink.append(fields(&format!("demo:{i}")), TIME).is_some()));
    }

    fn verified(path: &Path) -> (u64, Option<Broken>) {
        let files = older(path).into_iter().rev().chain([path.to_owned()]);
        let files: Vec<_> = files.filter_map(|path| Some((path.clone(), read_if_there(&path).unwrap()?))).collect();
        let verified = verify(&files);
        (verified.lines, verified.broken)
    }

    #[test]
    fn the_chain_goes_on_over_restarts_and_for_the_agent_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        (0..3).for_each(|_| write(&path, MIB, 2));
        assert_eq!(verified(&path), (6, None));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_changed_a_removed_and_an_inserted_line_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        write(&path, MIB, 5);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let changed = text.replacen("demo:2", "demo:7", 1);
        let removed = [&lines[..2], &lines[3..]].concat().join("\n") + "\n";
        let inserted = [&lines[..3], &lines[2..]].concat().join("\n") + "\n";
        let forged = text.replacen(lines[2], "joined", 1);
        for (text, line) in [(changed, 4), (removed, 3), (inserted, 4), (forged, 3), (lines[1..].join("\n") + "\n", 0)] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(verified(&path).1.map_or(0, |broken| broken.line), line);
        }
    }

    #[test]
    fn a_torn_line_is_said_and_the_chain_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        write(&path, MIB, 3);
        let whole = std::fs::read(&path).unwrap();
        for cut_bytes in 1..150 {
            std::fs::write(&path, &whole[..whole.len() - cut_bytes]).unwrap();
            assert_eq!(verified(&path), (2, None), "whoever looks before the next start");
            write(&path, MIB, 1);
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!(text.contains("torn line"), cut_bytes > 1, "{text}");
            assert_eq!(verified(&path), (4, None), "{text}");
        }
        // What a power cut leaves, and what was torn is changed afterwards.
        std::fs::write(&path, [&whole[..], &[0; 100], b"\n\0\n\n"].concat()).unwrap();
        write(&path, MIB, 1);
        assert_eq!(verified(&path), (5, None));
        let text = std::fs::read_to_string(&path).unwrap().replacen('\0', "x", 1);
        std::fs::write(&path, text).unwrap();
        assert_eq!(verified(&path).1.map(|broken| broken.line), Some(4));
    }

    #[test]
    fn a_full_file_becomes_the_older_one_and_the_chain_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        write(&path, 2_000, 50);
        write(&path, 2_000, 50);
        let files: Vec<PathBuf> = older(&path).into_iter().chain([path.clone()]).collect();
        let sizes: Vec<u64> = files.iter().map(|path| std::fs::metadata(path).unwrap().len()).collect();
        assert!(sizes.iter().all(|bytes| (100..=2_000).contains(bytes)), "{sizes:?}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1 + OLDER);
        let (lines, broken) = verified(&path);
        assert!((25..=65).contains(&lines) && broken.is_none(), "{lines} {broken:?}");
        let oldest = &files[OLDER - 1];
        let text = std::fs::read_to_string(oldest).unwrap();
        std::fs::write(oldest, text.replacen("demo:", "demo;", 99)).unwrap();
        assert!(verified(&path).1.is_some());
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_stops_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gone/audit.log");
        let mut sink = Sink::open(path.clone(), MIB, TIME);
        assert!(sink.append(fields("demo:1"), TIME).is_none());
        assert!(sink.append(fields("demo:2"), TIME).is_none());
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        assert!(sink.append(fields("demo:3"), TIME).is_some());
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.lines().next().unwrap().contains("\"lines lost\",\"who\":\"\",\"what\":\"2 lines\""), "{text}");
        assert_eq!(verified(&path), (2, None));
    }
}
