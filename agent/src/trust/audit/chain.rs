//! The lines of the audit log, and the check that they are the ones that were written.

use std::fmt;
use std::path::PathBuf;

use proto::Digest;
use serde::{Deserialize, Serialize};

/// Event of the line that follows one that was not written to its end: `old` is the SHA-256 of what there is of that one.
pub(super) const TORN: &str = "torn line";

/// `previous` of the very first line.
pub(super) const NOTHING: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// One line, as it lies in the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Line {
    pub(super) sequence: u64,
    pub(super) time: String,
    pub(super) event: String,
    pub(super) who: String,
    pub(super) what: String,
    pub(super) old: String,
    pub(super) new: String,
    pub(super) rule: String,
    /// SHA-256 of the line before, without its line break.
    pub(super) previous: String,
}

impl Line {
    /// `None`: that is no line of ours.
    pub(super) fn read(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }
}

/// SHA-256 of a line, or of what there is of one.
pub(super) fn hash(text: &[u8]) -> String {
    Digest::of(text.strip_suffix(b"\n").unwrap_or(text)).hex()
}

/// What the check of a chain has found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Lines that fit.
    pub lines: u64,
    /// Time of the first one.
    pub from: Option<String>,
    /// Time of the last one.
    pub to: Option<String>,
    /// Bytes behind the last line break: a line that is being written, or was when the agent was killed.
    pub unfinished_bytes: usize,
    /// The first line that does not fit.
    pub broken: Option<Broken>,
}

/// A line that does not follow from the one before.
#[derive(Debug, PartialEq, Eq)]
pub struct Broken {
    /// File in which it is.
    pub file: PathBuf,
    /// Number of the line in that file, from 1.
    pub line: usize,
    /// What is wrong with it, or with the line before it.
    pub reason: &'static str,
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} lines fit", self.lines)?;
        if let (Some(from), Some(to)) = (&self.from, &self.to) {
            write!(f, ", from {from} to {to}")?;
        }
        match self.unfinished_bytes {
            0 => Ok(()),
            bytes => write!(f, "; the last line is not finished, {bytes} bytes"),
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: line {} does not fit: {}", self.file.display(), self.line, self.reason)
    }
}

/// Checks the chain of these files, of which each continues the one before: oldest first. The line before the first one may be gone.
pub(super) fn verify(files: &[(PathBuf, Vec<u8>)]) -> Verified {
    let mut verified = Verified::default();
    // Sequence number and hash of the line before.
    let mut last: Option<(u64, String)> = None;
    for (file, bytes) in files {
        // Where a part begins that is no line, which the next line has to explain.
        let mut torn: Option<(usize, usize)> = None;
        let (mut start, mut number) = (0, 0);
        let mut broken = |line, reason| verified.broken = Some(Broken { file: file.clone(), line, reason });
        for text in bytes.split_inclusive(|byte| *byte == b'\n') {
            number += 1;
            let begin = start;
            start += text.len();
            if !text.ends_with(b"\n") {
                break;
            }
            let Some(line) = Line::read(text) else {
                torn.get_or_insert((begin, number));
                continue;
            };
            let explains = line.event == TORN;
            match torn.take() {
                Some((from, at)) if !explains || line.old != hash(&bytes[from..begin]) => {
                    broken(at, "it is no line of the audit log");
                    return verified;
                }
                None if explains => {
                    broken(number, "the torn line before it is gone");
                    return verified;
                }
                _ => {}
            }
            let fits = match &last {
                Some((sequence, hash)) => line.sequence == sequence + 1 && line.previous == *hash,
                None => line.sequence > 1 || line.previous == NOTHING,
            };
            if !fits {
                broken(number, "the line before it was changed or removed, or lines were put in");
                return verified;
            }
            last = Some((line.sequence, hash(text)));
            verified.lines += 1;
            verified.from.get_or_insert_with(|| line.time.clone());
            verified.to = Some(line.time);
        }
        let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        verified.unfinished_bytes = bytes.len() - end;
        if let Some((_, at)) = torn {
            verified.broken = Some(Broken { file: file.clone(), line: at, reason: "it is no line of the audit log" });
            return verified;
        }
    }
    verified
}
