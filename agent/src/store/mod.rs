//! Where images are: the three traits that every backend implements, and what they promise.
//!
//! A store is asked for whole images and for ranges of blobs; what it is made of shows only in [`Properties`]. Nothing above this
//! module knows a backend's name. Every backend passes one conformance suite (`tests/it/store_conformance.rs`).

use std::any::Any;
use std::future::Future;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use proto::control::Verdict;
use proto::hash::RangeHash;
use proto::image::{ImageError, Selection};
use proto::peer::ImageRow;
use proto::{Descriptor, Digest, Image};
use tokio::sync::mpsc;

use crate::staging::StagedFile;
use crate::sys::{Lane, blocking_in};

pub mod any;
pub mod auto;
pub mod containerd;
pub mod engine;
mod file;
pub(crate) mod hashes;
pub mod kind;
pub mod layout;
mod leases;
pub mod memory;
mod names;
mod query;
mod turns;
pub(crate) mod walk;

pub use query::Query;
pub use turns::{Turn, Turns};

/// Room that is left on every disk whatever arrives: other transfers, and the engine, go on.
pub(crate) const SPARE_BYTES: u64 = 16 * 1024 * 1024;

/// A place that keeps images: content by digest, and names that point to it.
pub trait Store: Send + Sync + 'static {
    /// See [`Import`].
    type Import: Import;

    /// What this backend can do.
    fn properties(&self) -> Properties;

    /// What it is made of, what it may do here and what it may not: for `imgctl doctor`. Never fails: an engine that is down is a finding.
    fn examine(&self) -> impl Future<Output = Vec<Finding>> + Send;

    /// All images, sorted by name; those without a name last.
    fn list(&self) -> impl Future<Output = Result<Vec<ImageRow>, StoreError>> + Send;

    /// The image behind a name or an ID, with the manifests that `selection` asks for. Every blob of it is here, but for
    /// [`Held::unpacked_only`], and stays here while the lease lives, whatever happens to the name.
    fn resolve(&self, query: &Query, selection: Selection) -> impl Future<Output = Result<Held, StoreError>> + Send;

    /// The hash of every range of a blob (see [`proto::hash`]); the last one is its digest. The blob is read for it only
    /// when that was never done here; `meter` follows the reading. A blob whose content is not what its digest says is put aside:
    /// [`StoreError::Corrupt`].
    fn hashes(&self, blob: &Descriptor, meter: &Meter) -> impl Future<Output = Result<Arc<[RangeHash]>, StoreError>> + Send;

    /// The bytes of a range of a blob, in order. They are not checked here: who needs them checked has the hashes.
    fn read(&self, blob: &Descriptor, range: Range<u64>) -> impl Future<Output = Result<Reader, StoreError>> + Send;

    /// Starts to bring in an image. Nothing of it is visible before [`Import::commit`]; what it refers to is kept meanwhile.
    fn import(&self, image: Image) -> impl Future<Output = Result<Self::Import, StoreError>> + Send;

    /// Takes a name away, or, by ID, an image with its only name. What nothing refers to any more is collected,
    /// but never what a lease holds.
    fn remove(&self, query: &Query) -> impl Future<Output = Result<Removed, StoreError>> + Send;

    /// Room for more, now: one for each file system that an import writes to beside staging; none where that cannot be known.
    fn room(&self) -> impl Future<Output = Result<Vec<Room>, StoreError>> + Send;

    /// Housekeeping, once an hour: removes what nothing refers to any more and nobody is about to continue. Returns the bytes that were freed.
    fn maintain(&self) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Gives up what imports that were given up have left to be continued; the disk is full, or somebody wants the room. Returns the bytes that
    /// were freed, as far as they are known.
    fn reclaim(&self) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Hashes blobs again: this one, or all. What is damaged is put aside (never served, fetched again by the next import) and reported.
    fn scrub(&self, blob: Option<Digest>, report: mpsc::Sender<Scrubbed>) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// An image that is being brought in: an open load, a lease, or a lock. Dropping it gives up; what was ingested may stay for a later try.
pub trait Import: Send + Sync + 'static {
    /// See [`Ingest`].
    type Ingest: Ingest;

    /// The blobs of the image that have to be ingested: not here, or here in a form that does not count. One question for the whole image.
    /// What is not in the answer was committed here or hashed here, or can be made from what is here, and stays until the import ends.
    /// In a store of [`Form::Unpacked`] that is everything above the layers that are here, and documents that it cannot write itself.
    fn missing(&mut self) -> impl Future<Output = Result<Vec<Descriptor>, StoreError>> + Send;

    /// Starts to write one blob. `None` when it has come in otherwise since.
    fn ingest(&self, blob: &Descriptor) -> impl Future<Output = Result<Option<Self::Ingest>, StoreError>> + Send;

    /// Makes the image visible under its name, durably, after reading back that all of it is here. Moves the name last.
    fn commit(self) -> impl Future<Output = Result<Imported, StoreError>> + Send;
}

/// One blob that is being written, first byte to last. Dropping it keeps what a later ingest can continue.
pub trait Ingest: Send + 'static {
    /// Bytes that were here when it began: the first append goes on from this one.
    fn offset(&self) -> u64;

    /// The next bytes. May wait for room in the engine, and in a store of [`Form::Unpacked`] until the layers below are in: whoever has several
    /// ingests of one import open feeds each from a task of its own.
    fn append(&mut self, bytes: Bytes) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// All bytes were appended: checks size and digest, and keeps the blob durably. A blob with other content is dropped.
    fn commit(self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Instead of `append` and `commit`: takes over a file whose digest was proven. Only where [`Properties::adopts_files`]. Ends with
    /// [`StagedFile::stored`] once the blob is kept durably, and not before.
    fn adopt(self, file: StagedFile) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// What a backend can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Properties {
    /// Its kind, for people: `layout`, `docker` …
    pub kind: &'static str,
    /// How it keeps images.
    pub form: Form,
    /// What it shows as the ID of an image.
    pub identity: Identity,
    /// An ingest that was dropped can be continued.
    pub resumable_ingests: bool,
    /// `Ingest::adopt` works, by rename when the file lies on the store's file system.
    pub adopts_files: bool,
    /// A blob whose ingest was committed survives the end of this process. Otherwise that is only so once its import is committed.
    pub durable_ingests: bool,
}

/// How a store keeps images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Blobs as they came: documents and layers byte for byte, for any number of platforms.
    Packed,
    /// Config and unpacked layers, which are known by their diff IDs, for one platform. Layers are read as plain tar, and the manifest is the one
    /// that [`proto::document::make_manifest`] makes of them, whatever it was when the image came.
    Unpacked,
}

/// What a store shows as the ID of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// The digest of the config of the manifest that would run here.
    Config,
    /// The digest of the root: the manifest or the index.
    Root,
}

/// What is to be said of a store or its engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// A warning: it works, but not as well as it could.
    pub verdict: Verdict,
    /// A sentence without a full stop.
    pub text: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

/// An image, and the promise that its blobs stay.
#[derive(Debug, Clone)]
pub struct Held {
    /// The image.
    pub image: Image,
    /// What the store shows as its ID.
    pub image_id: Digest,
    /// Layers of it that cannot be read: an engine has them only unpacked.
    pub unpacked_only: Vec<Digest>,
    /// The same with other blobs in place of those, where there are some, under a root of its own: for a store of [`Form::Unpacked`], to which it is the
    /// same image.
    pub other_form: Option<Image>,
    /// Ends the promise when it is dropped.
    pub lease: Lease,
}

impl Held {
    /// One that can be read to the last layer.
    pub fn whole(image: Image, image_id: Digest, lease: Lease) -> Self {
        Self { image, image_id, unpacked_only: vec![], other_form: None, lease }
    }

    /// For some of its manifests, with which it is the same image.
    pub fn of(&self, image: Image) -> Self {
        let (layers, configs) = (image.layers(), image.configs());
        let is_of = |digest: &&Digest| layers.iter().any(|layer| layer.descriptor.digest == **digest);
        let unpacked_only = self.unpacked_only.iter().filter(is_of).copied().collect();
        let other_form = self.other_form.clone().filter(|other| other.configs().iter().all(|config| configs.contains(config)));
        Self { unpacked_only, other_form, image, image_id: self.image_id, lease: self.lease.clone() }
    }

    /// [`StoreError::UnpackedOnly`] where one of these layers cannot be read.
    pub fn can_read<'a>(&self, layers: impl IntoIterator<Item = &'a Digest>) -> Result<(), StoreError> {
        let absent = layers.into_iter().find(|layer| self.unpacked_only.contains(layer));
        absent.map_or(Ok(()), |layer| Err(StoreError::UnpackedOnly(*layer)))
    }

    /// The other form in place of the image, where there is one.
    pub fn in_other_form(&self) -> Option<Self> {
        let image = self.other_form.clone()?;
        Some(Self::whole(image, self.image_id, self.lease.clone()))
    }
}

/// Keeps content from being collected while it lives.
#[derive(Clone)]
pub struct Lease(#[allow(dead_code)] Arc<dyn Any + Send + Sync>);

impl Lease {
    /// Wraps whatever a backend needs to have dropped.
    pub fn new(guard: impl Any + Send + Sync) -> Self {
        Self(Arc::new(guard))
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lease")
    }
}

/// Bytes that are hashed in one go, before others who hash have their turn.
pub(crate) const HASH_STEP_BYTES: u64 = 32 << 20;

/// How far the hashing of a blob is, for whoever waits for it. Clones show the same.
#[derive(Debug, Clone, Default)]
pub struct Meter(Arc<AtomicU64>);

impl Meter {
    /// Bytes of the blob that are hashed.
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// So many bytes of the blob are hashed now.
    pub(crate) fn reached(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Relaxed);
    }
}

/// Bytes of a blob as they are read. Dropping it stops the reading.
#[derive(Debug)]
pub struct Reader {
    blocks: mpsc::Receiver<Result<Bytes, StoreError>>,
}

impl Reader {
    /// A reader and the end into which a backend puts what it reads: one block waits for the reader while the next one is read.
    pub fn channel() -> (mpsc::Sender<Result<Bytes, StoreError>>, Self) {
        let (sender, blocks) = mpsc::channel(1);
        (sender, Self { blocks })
    }

    /// Reads with `next` in the lane for reading, one block ahead of whoever takes them, until it gives none or an error. Nobody's thread waits
    /// for a slow reader.
    pub(crate) fn ahead(next: impl FnMut() -> Option<Result<Bytes, StoreError>> + Send + 'static) -> Self {
        let (sender, reader) = Self::channel();
        tokio::spawn(async move {
            let mut next = next;
            loop {
                let step = move || {
                    let block = next();
                    (next, block)
                };
                let block;
                (next, block) = blocking_in(Lane::Read, step).await;
                let Some(block) = block else { return };
                let failed = block.is_err();
                if sender.send(block).await.is_err() || failed {
                    return;
                }
            }
        });
        reader
    }

    /// The next bytes, of any number; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        self.blocks.recv().await.transpose()
    }

    /// All of it, for a document.
    pub async fn all(mut self) -> Result<Bytes, StoreError> {
        let mut all = Vec::new();
        while let Some(bytes) = self.next().await? {
            all.extend_from_slice(&bytes);
        }
        Ok(all.into())
    }
}

/// An image that was brought in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// What the store shows, read back from it.
    pub image_id: Digest,
    /// What the name showed before, when that was something else.
    pub replaced: Option<Digest>,
}

/// What `remove` did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// The name, or the ID where there was none.
    pub name: String,
    /// What the store has shown as the ID of the image.
    pub image_id: Digest,
    /// Bytes that were freed.
    pub freed_bytes: u64,
}

/// Room for more on one file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Number of its device, by which the same one is known again.
    pub device: u64,
    /// Bytes that can be written.
    pub free_bytes: u64,
    /// Bytes that the store writes there for each byte that arrives, in percent, those that it needs for a while only included. What a rename
    /// brings in needs none.
    pub needed_percent: u64,
}

impl Room {
    /// Adds what is needed there to others: what lies on one device has to fit there together.
    pub fn add_to(self, rooms: &mut Vec<Self>) {
        match rooms.iter_mut().find(|room| room.device == self.device) {
            Some(room) => room.needed_percent += self.needed_percent,
            None => rooms.push(self),
        }
    }
}

/// What a scrub found out about one blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scrubbed {
    /// Which.
    pub digest: Digest,
    /// Bytes that were hashed.
    pub size_bytes: u64,
    /// False: it was damaged and is put aside.
    pub intact: bool,
}

/// Why a store did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing under that name or ID.
    #[error("no image {0}")]
    NotFound(Query),
    /// The beginning of an ID that several images share.
    #[error("several images have an ID that starts with {0}")]
    Ambiguous(Query),
    /// An image is named by several names, and was to be removed by its ID.
    #[error("image {id} has several names, remove them one by one: {}", .names.join(", "))]
    SeveralNames {
        /// Short ID.
        id: String,
        /// All of them.
        names: Vec<String>,
    },
    /// A blob that should be here is not.
    #[error("blob {0} is not in the store")]
    BlobMissing(Digest),
    /// An engine has this layer only unpacked, and not as a blob.
    #[error("its engine has layer {0} only unpacked, and cannot give it back")]
    UnpackedOnly(Digest),
    /// A blob does not have the content that its digest names.
    #[error("blob {0} is corrupt")]
    Corrupt(Digest),
    /// The image breaks a rule.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A file of the store is not what it should be.
    #[error("{path:?} is not valid: {reason}")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Another agent has this store open.
    #[error("{0:?} is in use by another agent")]
    InUse(PathBuf),
    /// A directory of the store is not there any more.
    #[error("the directory {0:?} is gone: mount its file system again, or restart imgd to begin anew")]
    Vanished(PathBuf),
    /// The disk is full.
    #[error("no space left on the device of {0:?}")]
    NoSpace(PathBuf),
    /// The engine cannot be reached, or not by us.
    #[error("{engine} cannot be reached at {address}")]
    Unreachable {
        /// `Docker Engine` …
        engine: &'static str,
        /// Its socket.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The engine takes connections, and no answer comes.
    #[error("{engine} at {address} does not answer")]
    Silent {
        /// `Docker Engine` …
        engine: &'static str,
        /// Its socket.
        address: String,
    },
    /// The engine says no.
    #[error("{engine} cannot {action}: {}", proto::text::escape_short(.reason, 500))]
    Engine {
        /// `Docker Engine` …
        engine: &'static str,
        /// `load demo:nautilus` …
        action: String,
        /// Its own words.
        reason: String,
    },
    /// Something that was here when an import began is gone: beginning again finds out what is missing now.
    #[error("layer {0} was removed from the store meanwhile")]
    Gone(Digest),
    /// The name of an image was removed, and then the store could not find out what is not referred to any more.
    #[error("{name} is removed, but its space is not freed yet")]
    NotFreed {
        /// The name.
        name: String,
        /// Why nothing was collected.
        source: Box<StoreError>,
    },
    /// This kind of store cannot do it.
    #[error("{kind} cannot keep {what}")]
    Unsupported {
        /// Kind of the store.
        kind: &'static str,
        /// `an image for several platforms` …
        what: &'static str,
    },
    /// An engine would not live with it.
    #[error("{engine} does not take such an image: {reason}")]
    Unfit {
        /// `Podman` …
        engine: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The operating system says no.
    #[error("cannot {action} {path:?}")]
    Io {
        /// `open`, `write` …
        action: &'static str,
        /// What.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl StoreError {
    /// Wraps what the operating system said about a path; a full disk has a variant of its own.
    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::NoSpace(path),
            _ => Self::Io { action, path, source },
        }
    }
}
