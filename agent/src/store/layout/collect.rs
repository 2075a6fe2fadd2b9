//! Garbage collection: removes the blobs that nothing refers to. Everything here blocks.
//!
//! Kept are: everything that `index.json` leads to; what a lease holds; the blobs of an import that was given up, for a day, so that it
//! can be continued; and blobs that another tool may be writing at this moment. A tool that finds an old blob and is about to
//! refer to it cannot be seen: that race belongs to the image layout, and every tool that collects has it.
//!
//! **Marking can fail, and then nothing is removed.** Only "not found" means that a document is absent; any other error of the operating
//! system, and a root that cannot be followed, end the collection before its first removal.

use std::collections::HashSet;
use std::fs::DirEntry;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::Digest;
use proto::descriptor::media_type;
use proto::limits::CONFIG_BYTES;
use serde_json::Value;

use super::blobs::Blobs;
use super::index::Names;
use crate::store::StoreError;
use crate::store::leases::Leases;
use crate::sys::file;

/// What is kept of imports that were given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Abandoned {
    /// What is less than a day old.
    Day,
    /// Nothing: the room is needed.
    Nothing,
}

/// What an import that was given up has brought is kept this long.
const KEEP: Duration = Duration::from_secs(24 * 3600);

/// Damaged blobs are kept this long, for whoever wants to know what happened to them.
const QUARANTINE: Duration = Duration::from_secs(7 * 24 * 3600);

/// A blob that we never hashed and that has come more recently than this belongs to a tool that is not done.
pub(super) const FOREIGN: Duration = Duration::from_secs(3600);

/// What was collected.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Collected {
    /// Bytes of the blobs that were removed.
    pub(super) freed_bytes: u64,
    /// True when a lease kept something: another collection has to follow.
    pub(super) deferred: bool,
}

/// Marks and sweeps. The caller holds the lock of the names, so that no commit comes between. An error while marking leaves every blob in place.
pub(super) fn collect(blobs: &Blobs, names: &Names, leases: &Leases, abandoned: Abandoned) -> Result<Collected, StoreError> {
    let (kept, outdated) = imports(blobs, leases, abandoned)?;
    let Marked { blobs: mut marked, unknown } = mark(blobs, names)?;
    if let Some(unknown) = unknown {
        return Err(unknown);
    }
    marked.extend(kept);
    let candidates = unmarked(blobs, &marked)?;
    let mut collected = Collected::default();
    for digest in candidates {
        match leases.unless_leased(&digest, || blobs.remove(&digest)) {
            Some(removed) => collected.freed_bytes += removed?,
            None => collected.deferred = true,
        }
    }
    for path in outdated {
        remove(&path)?;
    }
    sweep_own(blobs, leases, abandoned)?;
    Ok(collected)
}

/// Blobs of imports that go on, or are kept after they were given up, and the notes of others.
fn imports(blobs: &Blobs, leases: &Leases, abandoned: Abandoned) -> Result<(Vec<Digest>, Vec<PathBuf>), StoreError> {
    let (mut kept, mut outdated) = (vec![], vec![]);
    for entry in own_files(blobs, "imports")? {
        // The root of an import that goes on is leased.
        let goes_on = digest_of(&entry).is_some_and(|root| leases.unless_leased(&root, || ()).is_none());
        match goes_on || (abandoned == Abandoned::Day && age(&entry) < KEEP) {
            true => kept.extend(announced(&entry.path())?),
            false => outdated.push(entry.path()),
        }
    }
    Ok((kept, outdated))
}

/// Blobs that are not marked, and are not being written by another tool.
fn unmarked(blobs: &Blobs, marked: &HashSet<Digest>) -> Result<Vec<Digest>, StoreError> {
    let mut unmarked = vec![];
    for entry in files(&blobs.directory())? {
        // Another name is another tool's temporary file, and what is no file is no blob.
        let Some(digest) = digest_of(&entry).filter(|_| entry.file_type().is_ok_and(|kind| !kind.is_dir())) else { continue };
        if !marked.contains(&digest) && !is_fresh_foreign(blobs, &entry, &digest)? {
            unmarked.push(digest);
        }
    }
    Ok(unmarked)
}

/// What the names lead to.
pub(super) struct Marked {
    /// As far as it can be followed.
    pub(super) blobs: HashSet<Digest>,
    /// What cannot be followed: any blob may belong to it.
    unknown: Option<StoreError>,
}

/// Every blob that the names lead to. A document below a root may be absent, as those of other platforms are. A root may not, nor one that was
/// put aside as damaged: nobody knows which blobs belong to it.
pub(super) fn mark(blobs: &Blobs, names: &Names) -> Result<Marked, StoreError> {
    let (mut marked, mut unknown) = (HashSet::new(), None);
    let mut pending: Vec<Link> = names.roots().map(|entry| Link::of(entry, Place::Root)).collect();
    while let Some(link) = pending.pop() {
        let Some(digest) = link.digest else {
            // Not a manifest, and not a blob of `blobs/sha256`: it leads nowhere.
            if link.is_document {
                unknown.get_or_insert_with(|| link.unknown(blobs, "its digest is not SHA-256"));
            }
            continue;
        };
        if !marked.insert(digest) {
            continue;
        }
        let reason = match read_document(blobs, &digest)? {
            Document::Named(named) => {
                marked.extend(named.contents);
                pending.extend(named.documents);
                continue;
            }
            Document::Nothing => continue,
            _ if !link.is_document => continue,
            Document::TooLarge => "it is too large for a manifest or index",
            Document::Damaged => "it is damaged",
            Document::Absent if link.place == Place::Root => "its blob is absent",
            Document::Absent if file::exists(&blobs.own_directory("quarantine").join(digest.hex()))? => "it was damaged, and is put aside",
            Document::Absent => continue,
        };
        unknown.get_or_insert_with(|| link.unknown(blobs, reason));
    }
    Ok(Marked { blobs: marked, unknown })
}

/// What a blob is, for marking.
enum Document {
    /// A document, and the blobs that it names.
    Named(Named),
    /// What its digest names is not a document.
    Nothing,
    /// It is not what its digest names: nobody knows what that was.
    Damaged,
    /// It is larger than any document that is read here.
    TooLarge,
    /// There is no such file.
    Absent,
}

/// The blobs that a document names.
#[derive(Default)]
struct Named {
    /// Manifests and indexes, which may name further blobs.
    documents: Vec<Link>,
    /// Configs and layers.
    contents: Vec<Digest>,
}

/// A descriptor that leads to a manifest or an index.
struct Link {
    /// The digest as it is written.
    text: String,
    /// `None` for one that is not SHA-256.
    digest: Option<Digest>,
    /// The media type says that it is a manifest or an index.
    is_document: bool,
    place: Place,
}

/// Where a descriptor stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In `index.json`.
    Root,
    /// In a document.
    Below,
}

impl Link {
    fn of(descriptor: &Value, place: Place) -> Self {
        let text = descriptor["digest"].as_str();
        let media_type = descriptor["mediaType"].as_str().unwrap_or(media_type::MANIFEST);
        Self {
            text: text.unwrap_or("an entry without a digest").to_owned(),
            digest: text.and_then(|text| text.parse().ok()),
            is_document: media_type::is_manifest(media_type) || media_type::is_index(media_type),
            place,
        }
    }

    /// It cannot be followed: every blob may belong to it.
    fn unknown(&self, blobs: &Blobs, reason: &str) -> StoreError {
        let name = proto::text::escape_short(&self.text, 100);
        StoreError::Malformed {
            path: blobs.directory(),
            reason: format!(
                "nothing is removed, because {name} cannot be followed: {reason}; load, pull or send its image again, or imgctl rm it"
            ),
        }
    }
}

/// Reads a blob that may be a manifest or an index, by the members that lead to other blobs in either.
fn read_document(blobs: &Blobs, digest: &Digest) -> Result<Document, StoreError> {
    let Some(metadata) = blobs.metadata(digest)? else { return Ok(Document::Absent) };
    if metadata.len() > CONFIG_BYTES {
        return Ok(Document::TooLarge);
    }
    let path = blobs.path(digest);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Document::Absent),
        Err(error) => return Err(StoreError::io("read", path)(error)),
    };
    if Digest::of(&bytes) != *digest {
        return Ok(Document::Damaged);
    }
    let Ok(document) = serde_json::from_slice::<Value>(&bytes) else { return Ok(Document::Nothing) };
    let list = |key: &str| document[key].as_array().into_iter().flatten();
    let mut named = Named::default();
    // A digest of another kind names no blob of `blobs/sha256`.
    let contents = list("layers").chain(list("blobs")).chain([&document["config"]]);
    named.contents.extend(contents.filter_map(|value| value["digest"].as_str()?.parse::<Digest>().ok()));
    let subject = Some(&document["subject"]).filter(|subject| subject.is_object());
    named.documents.extend(list("manifests").chain(subject).map(|value| Link::of(value, Place::Below)));
    Ok(Document::Named(named))
}

/// The blobs that an import was to bring. None when its note has just gone.
fn announced(path: &Path) -> Result<Vec<Digest>, StoreError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(bytes.as_chunks::<32>().0.iter().map(|digest| Digest::from_bytes(*digest)).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(vec![]),
        Err(error) => Err(StoreError::io("read", path)(error)),
    }
}

/// Removes our own files about blobs that are gone, and old ones.
fn sweep_own(blobs: &Blobs, leases: &Leases, abandoned: Abandoned) -> Result<(), StoreError> {
    for entry in own_files(blobs, "hashes")? {
        let is_of_nothing = match digest_of(&entry) {
            Some(digest) => blobs.metadata(&digest)?.is_none(),
            None => true,
        };
        if is_of_nothing {
            remove(&entry.path())?;
        }
    }
    for entry in own_files(blobs, "ingest")? {
        if (abandoned == Abandoned::Nothing || age(&entry) >= KEEP)
            && let Some(digest) = digest_of(&entry)
        {
            leases.unless_leased(&digest, || remove(&entry.path())).transpose()?;
        }
    }
    for entry in own_files(blobs, "quarantine")? {
        if age(&entry) >= QUARANTINE {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// The files of one of our own directories; none where somebody has removed it.
fn own_files(blobs: &Blobs, name: &str) -> Result<Vec<DirEntry>, StoreError> {
    let directory = blobs.own_directory(name);
    if file::exists(&directory)? { files(&directory) } else { Ok(vec![]) }
}

/// The entries of a directory, all of them: an entry that cannot be read is an error.
pub(super) fn files(directory: &Path) -> Result<Vec<DirEntry>, StoreError> {
    let entries = std::fs::read_dir(directory).and_then(Iterator::collect);
    entries.map_err(StoreError::io("list", directory))
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

pub(super) fn digest_of(entry: &DirEntry) -> Option<Digest> {
    Digest::from_hex(entry.file_name().to_str()?).ok()
}

/// Time since the last write. Zero, which keeps the file, where the clock went back or the time cannot be read.
pub(super) fn age(entry: &DirEntry) -> Duration {
    let modified = entry.metadata().and_then(|metadata| metadata.modified());
    modified.ok().and_then(|time| SystemTime::now().duration_since(time).ok()).unwrap_or_default()
}

/// True for a blob that another tool may still be writing, or whose name it has not written yet.
pub(super) fn is_fresh_foreign(blobs: &Blobs, entry: &DirEntry, digest: &Digest) -> Result<bool, StoreError> {
    Ok(time_here(entry) < blobs.foreign_age() && !file::exists(&blobs.record_path(digest))?)
}

/// Time since the file came here: tools that copy keep the time of the last write. Zero as for [`age`].
fn time_here(entry: &DirEntry) -> Duration {
    let Ok(metadata) = entry.metadata() else { return Duration::ZERO };
    let came = UNIX_EPOCH.checked_add(Duration::from_secs(metadata.ctime().max(0).unsigned_abs()));
    came.and_then(|came| SystemTime::now().duration_since(came).ok()).unwrap_or_default()
}
