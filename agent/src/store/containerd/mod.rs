//! containerd: on its own, under Kubernetes, or as Docker's image store.
//!
//! Content goes in and out byte for byte; an image that would run here is unpacked while it comes in. What garbage collection
//! must leave alone is kept by leases while it moves, and by labels once it is named.

mod api;
mod commit;
mod connection;
mod content;
mod examine;
mod facts;
mod find;
mod forms;
mod hash;
mod import;
mod ingest;
mod labels;
mod lease;
mod quarantine;
mod read;
mod records;
mod remove;
mod unpack;
mod unpacked_only;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use proto::hash::RangeHash;
use proto::image::Selection;
use proto::peer::ImageRow;
use proto::{Descriptor, Digest, Image};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::connection::{Connection, ENGINE};
use self::content::Documents;
use self::facts::Facts;
use self::lease::LeaseIds;
use self::quarantine::Quarantine;
use super::hashes::Hashes;
use super::turns::Turns;
use super::{Finding, Form, Held, Identity, Meter, Properties, Query, Reader, Removed, Room, Scrubbed, Store, StoreError};

pub use import::ContainerdImport;
pub use ingest::ContainerdIngest;

/// Where an engine is, and which of its images are meant.
#[derive(Debug, Clone)]
pub struct Settings<'a> {
    /// Its gRPC socket.
    pub socket: PathBuf,
    /// `default`, `k8s.io`, `moby` …
    pub namespace: String,
    /// Who else uses the namespace.
    pub flavour: Flavour,
    /// Who keeps unpacked layers; `None`: what the namespace says, else the first that works.
    pub snapshotter: Option<String>,
    /// The agent's own directory.
    pub state_dir: &'a Path,
}

/// Who else uses a namespace, and has rules of its own for the names in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// Nobody in particular.
    Plain,
    /// Docker: it keeps images that have lost their names.
    Docker,
    /// Kubernetes: it wants a label on what it is to see, and makes more names.
    Kubernetes,
}

impl Flavour {
    /// By the namespace that each of them uses.
    pub fn of_namespace(namespace: &str) -> Self {
        match namespace {
            "moby" => Self::Docker,
            "k8s.io" => Self::Kubernetes,
            _ => Self::Plain,
        }
    }
}

/// A namespace of a containerd. Clones share it.
#[derive(Debug, Clone)]
pub struct ContainerdStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    connection: Connection,
    namespace: String,
    flavour: Flavour,
    snapshotter: Option<String>,
    /// Tells our leases and snapshots from those of other agents.
    agent: String,
    facts: Mutex<Option<Arc<Facts>>>,
    /// What a former process left was deleted.
    swept: AtomicBool,
    hashes: Hashes,
    quarantine: Quarantine,
    documents: Documents,
    /// Who writes or hashes which blob.
    turns: Arc<Turns>,
    /// Who unpacks which chain ID: the lowest layer's is that of a blob too.
    unpack_turns: Arc<Turns>,
    lease_ids: Mutex<LeaseIds>,
    /// What goes on after whoever began it is gone: readers, last bytes, leases to be deleted.
    tasks: Mutex<JoinSet<()>>,
}

impl ContainerdStore {
    /// Reads our own records; the engine is connected when it is needed first. Within a runtime.
    pub fn open(settings: Settings<'_>) -> Result<Self, StoreError> {
        let connection = Connection::new(&settings.socket, &settings.namespace).ok_or_else(|| StoreError::Engine {
            engine: ENGINE,
            action: format!("use the namespace {:?}", settings.namespace),
            reason: "that is not a name".to_owned(),
        })?;
        let directory = settings.state_dir.join("containerd");
        let state_dir = std::path::absolute(settings.state_dir).map_err(StoreError::io("find", settings.state_dir))?;
        let agent = Digest::of(state_dir.as_os_str().as_encoded_bytes()).short();
        let (hashes, quarantine) = (Hashes::open(&directory.join("hashes"))?, Quarantine::open(&directory.join("quarantine"))?);
        let shared = Arc::new(Shared {
            connection,
            namespace: settings.namespace,
            flavour: settings.flavour,
            snapshotter: settings.snapshotter,
            agent,
            facts: Mutex::default(),
            swept: AtomicBool::new(false),
            hashes,
            quarantine,
            documents: Documents::default(),
            turns: Arc::default(),
            unpack_turns: Arc::default(),
            lease_ids: Mutex::default(),
            tasks: Mutex::default(),
        });
        Ok(Self { shared })
    }

    /// Which of the engine's images are meant.
    pub fn namespace(&self) -> &str {
        &self.shared.namespace
    }
}

impl Shared {
    /// Runs what nobody waits for; it ends with the store.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        // A runtime that is gone has no connection either.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(task, &runtime);
    }

    /// Deletes, once, what a former process of this agent left behind.
    async fn sweep_once(&self) -> Result<(), StoreError> {
        if !self.swept.load(Ordering::Relaxed) {
            self.sweep(lease::Abandoned::Day).await?;
            self.swept.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Store for ContainerdStore {
    type Import = ContainerdImport;

    fn properties(&self) -> Properties {
        let kind = match self.shared.flavour {
            Flavour::Docker => "docker",
            Flavour::Plain | Flavour::Kubernetes => "containerd",
        };
        Properties {
            kind,
            form: Form::Packed,
            identity: Identity::Root,
            resumable_ingests: true,
            adopts_files: false,
            durable_ingests: true,
        }
    }

    async fn examine(&self) -> Vec<Finding> {
        self.shared.examine().await
    }

    async fn list(&self) -> Result<Vec<ImageRow>, StoreError> {
        self.shared.list().await
    }

    async fn resolve(&self, query: &Query, selection: Selection) -> Result<Held, StoreError> {
        self.shared.sweep_once().await?;
        self.shared.resolve(query, selection).await
    }

    async fn hashes(&self, blob: &Descriptor, meter: &Meter) -> Result<Arc<[RangeHash]>, StoreError> {
        self.shared.hashes(blob, meter).await
    }

    async fn read(&self, blob: &Descriptor, range: Range<u64>) -> Result<Reader, StoreError> {
        self.shared.expect(blob).await?;
        self.shared.read(blob.digest, blob.size_bytes, range).await
    }

    async fn import(&self, image: Image) -> Result<ContainerdImport, StoreError> {
        self.shared.sweep_once().await?;
        ContainerdImport::begin(&self.shared, image).await
    }

    async fn remove(&self, query: &Query) -> Result<Removed, StoreError> {
        self.shared.remove(query).await
    }

    async fn room(&self) -> Result<Vec<Room>, StoreError> {
        self.shared.room().await
    }

    async fn maintain(&self) -> Result<u64, StoreError> {
        self.shared.maintain().await
    }

    async fn reclaim(&self) -> Result<u64, StoreError> {
        self.shared.reclaim().await
    }

    async fn scrub(&self, blob: Option<Digest>, report: mpsc::Sender<Scrubbed>) -> Result<(), StoreError> {
        self.shared.scrub(blob, &report).await
    }
}
