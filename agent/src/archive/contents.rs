//! What is in an archive: every member staged, by name and by digest. Everything here blocks.

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::limits::{BLOB_BYTES, BLOCK_BYTES, IMAGE_BLOBS};
use proto::{Descriptor, Digest};

use super::ArchiveError;
use super::name::{directory, member, normal};
use super::tape::{Kind, Member, Tape};
use crate::staging::{StagedFile, Staging};
use crate::store::StoreError;

/// Members of one archive. The old format has four for each layer.
pub(super) const MEMBERS: usize = 8 * IMAGE_BLOBS;

/// Links on the way from a name to a file.
const LINKS: usize = 16;

/// The members of an archive.
#[derive(Debug)]
pub(super) struct Contents {
    nodes: HashMap<String, Node>,
    files: Mutex<HashMap<Digest, StagedFile>>,
    is_unmarked: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    File(Stored),
    /// `None`: it leads out of the archive.
    Link(Option<String>),
}

/// Content that was staged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) digest: Digest,
    pub(super) size_bytes: u64,
}

impl Contents {
    /// Reads a whole archive into the staging area.
    pub(super) fn read(staging: &Arc<Staging>, input: impl Read) -> Result<Self, ArchiveError> {
        let mut contents = Self { nodes: HashMap::new(), files: Mutex::default(), is_unmarked: false };
        let mut tape = Tape::new(input);
        let mut buffer = vec![0; BLOCK_BYTES as usize];
        let mut members = 0;
        while let Some(entry) = tape.next()? {
            members += 1;
            if members > MEMBERS {
                return Err(ArchiveError::TooManyMembers { limit: MEMBERS });
            }
            contents.take(staging, &mut tape, entry, &mut buffer)?;
        }
        contents.is_unmarked = tape.is_unmarked();
        tape.drain()?;
        Ok(contents)
    }

    /// The file behind a name, through its links.
    pub(super) fn file(&self, name: &str) -> Result<Stored, ArchiveError> {
        let missing = || ArchiveError::MemberMissing(name.to_owned());
        let mut current = member(name).ok_or_else(|| ArchiveError::NameOutside(name.to_owned()))?;
        for _ in 0..LINKS {
            match self.nodes.get(&current).ok_or_else(missing)? {
                Node::File(stored) => return Ok(*stored),
                Node::Link(Some(target)) => current.clone_from(target),
                Node::Link(None) => return Err(ArchiveError::LinkOutside(current)),
            }
        }
        Err(ArchiveError::LinkCircle(name.to_owned()))
    }

    /// It ended without the mark that ends an archive: it may have been cut off.
    pub(super) fn is_unmarked(&self) -> bool {
        self.is_unmarked
    }

    /// Whether it looks like the files of a container.
    pub(super) fn is_file_system(&self) -> bool {
        [".dockerenv", "etc/passwd", "etc/os-release", "etc/hosts", "bin/sh", "usr/bin/env"].iter().any(|name| self.has(name))
    }

    /// True when there is a member of that name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.nodes.contains_key(name)
    }

    /// The bytes of a document, by name.
    pub(super) fn document(&self, name: &str, limit_bytes: u64) -> Result<Vec<u8>, ArchiveError> {
        let stored = self.file(name)?;
        if stored.size_bytes > limit_bytes {
            return Err(ArchiveError::TooLarge { member: name.to_owned(), size_bytes: stored.size_bytes, limit_bytes });
        }
        let bytes = self.start_of(&stored.digest, limit_bytes)?;
        bytes.ok_or_else(|| ArchiveError::MemberMissing(name.to_owned()))
    }

    /// The first bytes of a blob, or all of it when it is short; `None` when it is not in the archive.
    pub(super) fn start_of(&self, digest: &Digest, limit_bytes: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(path) = self.files().get(digest).map(|file| file.path().to_owned()) else { return Ok(None) };
        let file = std::fs::File::open(&path).map_err(StoreError::io("open", &path))?;
        let mut bytes = Vec::new();
        file.take(limit_bytes).read_to_end(&mut bytes).map_err(StoreError::io("read", &path))?;
        Ok(Some(bytes))
    }

    /// The staged files by digest. Whoever gives one to a store takes it out.
    pub(super) fn files(&self) -> MutexGuard<'_, HashMap<Digest, StagedFile>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stages a document that is not in the archive, and names it.
    pub(super) fn add(&self, staging: &Arc<Staging>, media_type: &str, bytes: &[u8]) -> Result<Descriptor, ArchiveError> {
        let mut writer = staging.writer()?;
        writer.write(bytes)?;
        let file = writer.finish();
        let descriptor = Descriptor { media_type: media_type.to_owned(), digest: file.digest(), size_bytes: file.size_bytes() };
        self.files().entry(file.digest()).or_insert(file);
        Ok(descriptor)
    }

    fn take<R: Read>(&mut self, staging: &Arc<Staging>, tape: &mut Tape<R>, entry: Member, buffer: &mut [u8]) -> Result<(), ArchiveError> {
        if entry.kind == Kind::Other {
            return Ok(());
        }
        let name = member(&entry.name).ok_or_else(|| ArchiveError::NameOutside(entry.name.clone()))?;
        let node = match entry.kind {
            Kind::File { .. } if is_superfluous(&name) => return Ok(()),
            Kind::File { size_bytes } => {
                if size_bytes > BLOB_BYTES {
                    return Err(ArchiveError::TooLarge { member: name, size_bytes, limit_bytes: BLOB_BYTES });
                }
                Node::File(self.stage(staging, tape, &name, buffer)?)
            }
            Kind::Symlink(target) => Node::Link(normal(directory(&name), &target)),
            Kind::Hardlink(target) => Node::Link(member(&target)),
            Kind::Other => return Ok(()),
        };
        match self.nodes.insert(name.clone(), node.clone()) {
            Some(before) if before != node => Err(ArchiveError::Duplicate(name)),
            _ => Ok(()),
        }
    }

    fn stage<R: Read>(
        &mut self,
        staging: &Arc<Staging>,
        tape: &mut Tape<R>,
        name: &str,
        buffer: &mut [u8],
    ) -> Result<Stored, ArchiveError> {
        let mut writer = staging.writer()?;
        loop {
            match tape.read(buffer)? {
                0 => break,
                length => writer.write(&buffer[..length])?,
            }
        }
        let file = writer.finish();
        let stored = Stored { digest: file.digest(), size_bytes: file.size_bytes() };
        let named = name.strip_prefix("blobs/sha256/").and_then(|hex| Digest::from_hex(hex).ok());
        if named.is_some_and(|digest| digest != stored.digest) {
            return Err(ArchiveError::DigestMismatch { member: name.to_owned(), found: stored.digest });
        }
        self.files().entry(stored.digest).or_insert(file);
        Ok(stored)
    }
}

/// What Docker before 1.10 read: not staged, because nobody asks for it.
fn is_superfluous(name: &str) -> bool {
    let old = |directory: &str| directory.len() == 64 && Digest::from_hex(directory).is_ok();
    name == "repositories" || name.split_once('/').is_some_and(|(directory, file)| old(directory) && matches!(file, "VERSION" | "json"))
}
