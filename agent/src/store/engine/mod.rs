//! Engines that keep layers unpacked: Docker Engine with its classic store, and Podman, both through the API that Docker made.
//!
//! Images are loaded as thin archives (`thin.rs`), from the lowest layer upward while bytes arrive (`import.rs`). A layer is read where it lies,
//! put together from the engine's notes (`tar_split.rs`), which takes a tenth of the time of the engine's own save; where those may not be read,
//! the engine has to save the whole image (`export.rs`).

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use proto::hash::RangeHash;
use proto::image::Selection;
use proto::peer::ImageRow;
use proto::{Descriptor, Digest, Image};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::hashes::Hashes;
use super::turns::Turns;
use super::{Finding, Form, Held, Identity, Meter, Properties, Query, Reader, Removed, Room, Scrubbed, Store, StoreError};
use api::Client;
use info::Info;
use pin::Pins;
use present::Presented;
use read::Splits;
use records::Records;

mod api;
mod blocks;
mod config_types;
mod examine;
mod export;
mod find;
mod import;
mod info;
mod ingest;
mod inventory;
mod layers;
mod load;
mod pin;
mod plan;
mod present;
mod read;
mod records;
mod remove;
mod save;
mod spool;
mod tag;
mod tar_split;
mod thin;
mod whole;

pub use import::EngineImport;
pub use info::{EngineStoreKind, Info as EngineInfo, ask};
pub use ingest::EngineIngest;
pub use whole::{WholeImport, WholeStore};

/// Which engine is behind the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Docker Engine with its classic store.
    Docker,
    /// Podman's service.
    Podman,
}

/// What an engine's store needs to know.
#[derive(Debug, Clone)]
pub struct Settings<'a> {
    /// Which engine.
    pub engine: Engine,
    /// Its socket.
    pub socket: PathBuf,
    /// A directory of ours, for what the engine does not remember and for what passes through.
    pub state_dir: &'a Path,
    /// How long an engine may think.
    pub deadlines: Deadlines,
}

/// How long an engine may think before it counts as hung.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// For an answer to a question.
    pub call_ms: u64,
    /// While it loads: between two pings, and for each.
    pub ping_ms: u64,
    /// While it loads: without an answer to a ping.
    pub silence_ms: u64,
}

/// Images in an engine. Clones share it.
#[derive(Debug, Clone)]
pub struct EngineStore {
    shared: Arc<Shared>,
    /// Takes pins away as they are released.
    release: Arc<Mutex<Option<AbortOnDropHandle<()>>>>,
}

/// What the operations of one store share. All maps are bounded by what the engine has, or by what is going on.
#[derive(Debug)]
struct Shared {
    client: Client,
    directory: PathBuf,
    /// Which of several agents at one engine this is.
    agent: String,
    info: Mutex<Option<(Instant, Arc<Info>)>>,
    details: Mutex<HashMap<Digest, Arc<inventory::Details>>>,
    records: Records,
    hashes: Arc<Hashes>,
    splits: Arc<Splits>,
    /// Images that somebody holds, by their IDs.
    held: Mutex<HashMap<Digest, Weak<Presented>>>,
    /// Manifests that were made here, to the IDs of their images.
    roots: Mutex<HashMap<Digest, Digest>>,
    exports: Mutex<HashMap<Digest, Weak<export::Export>>>,
    pins: Arc<Pins>,
    /// Held while names change, tags of our own included. Not while layers are uploaded: a load brings an image in without a name.
    names: tokio::sync::Mutex<()>,
    turns: Arc<Turns>,
    /// By image ID: imports of one image come one after the other.
    imports: Arc<Turns>,
    /// Images of which the engine said that a layer is missing which it had listed: next time all of their layers are sent.
    distrusted: Mutex<HashSet<Digest>>,
    /// Parts of images that an import builds on now, by count.
    in_use: Mutex<HashMap<Digest, usize>>,
    swept: tokio::sync::OnceCell<()>,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { call_ms: 15_000, ping_ms: 10_000, silence_ms: 60_000 }
    }
}

impl Engine {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Docker => "Docker Engine",
            Self::Podman => "Podman",
        }
    }

    /// The kind of its store.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }
}

impl EngineStore {
    /// Connects when it is used: an engine that is down is no error here. Nothing is left of what passed through in an earlier life.
    pub fn open(settings: Settings<'_>) -> Result<Self, StoreError> {
        let directory = settings.state_dir.join(settings.engine.kind());
        let spool = directory.join("spool");
        match std::fs::remove_dir_all(&spool) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(StoreError::io("clear", &spool)(error)),
            _ => std::fs::create_dir_all(&spool).map_err(StoreError::io("create", &spool))?,
        }
        let shared = Shared {
            client: Client::new(settings.engine, settings.socket, settings.deadlines),
            agent: records::agent_id(&directory)?,
            info: Mutex::default(),
            details: Mutex::default(),
            records: Records::open(&directory)?,
            hashes: Arc::new(Hashes::open(&directory.join("hashes"))?),
            splits: Arc::default(),
            held: Mutex::default(),
            roots: Mutex::default(),
            exports: Mutex::default(),
            pins: Arc::default(),
            names: tokio::sync::Mutex::default(),
            turns: Arc::default(),
            imports: Arc::default(),
            distrusted: Mutex::default(),
            in_use: Mutex::default(),
            swept: tokio::sync::OnceCell::new(),
            directory,
        };
        Ok(Self { shared: Arc::new(shared), release: Arc::default() })
    }

    /// Which engine it is, whichever store it uses.
    pub async fn examine_engine(&self) -> Finding {
        self.shared.examine_engine().await
    }

    /// Takes away the tags that are still to go, at the end of the program: later ones would stay until it runs again.
    pub async fn close(&self) {
        if let Err(error) = self.shared.flush_pins().await {
            tracing::debug!(%error, "tags of our own stay in the engine");
        }
    }

    /// The shared part, with its background task running and what an earlier life left behind taken away.
    async fn ready(&self) -> Result<&Arc<Shared>, StoreError> {
        {
            let mut release = self.release.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if release.is_none() {
                let task = pin::release(Arc::downgrade(&self.shared), self.shared.pins.clone());
                *release = Some(AbortOnDropHandle::new(tokio::spawn(task)));
            }
        }
        let sweep = || async {
            match self.shared.sweep().await {
                Err(error @ (StoreError::Unreachable { .. } | StoreError::Silent { .. })) => Err(error),
                Err(error) => {
                    tracing::warn!(%error, "what an earlier agent left in the engine stays");
                    Ok(())
                }
                Ok(()) => Ok(()),
            }
        };
        self.shared.swept.get_or_try_init(sweep).await?;
        Ok(&self.shared)
    }
}

impl Shared {
    /// A directory for files that are in use now.
    fn spool(&self) -> PathBuf {
        self.directory.join("spool")
    }
}

impl Store for EngineStore {
    type Import = EngineImport;

    fn properties(&self) -> Properties {
        Properties {
            kind: self.shared.client.engine().kind(),
            form: Form::Unpacked,
            identity: Identity::Config,
            resumable_ingests: false,
            adopts_files: false,
            // Small layers wait in memory for the others of their group.
            durable_ingests: false,
        }
    }

    async fn examine(&self) -> Vec<Finding> {
        self.shared.examine().await
    }

    async fn list(&self) -> Result<Vec<ImageRow>, StoreError> {
        self.ready().await?.list().await
    }

    async fn resolve(&self, query: &Query, selection: Selection) -> Result<Held, StoreError> {
        self.ready().await?.resolve(query, selection).await
    }

    async fn hashes(&self, blob: &Descriptor, meter: &Meter) -> Result<Arc<[RangeHash]>, StoreError> {
        self.ready().await?.hashes(blob, meter).await
    }

    async fn read(&self, blob: &Descriptor, range: Range<u64>) -> Result<Reader, StoreError> {
        self.ready().await?.read(blob, range).await
    }

    async fn import(&self, image: Image) -> Result<EngineImport, StoreError> {
        let shared = self.ready().await?;
        shared.release_pins().await;
        EngineImport::new(shared.clone(), image)
    }

    async fn remove(&self, query: &Query) -> Result<Removed, StoreError> {
        self.ready().await?.remove(query).await
    }

    async fn room(&self) -> Result<Vec<Room>, StoreError> {
        self.shared.room().await
    }

    async fn maintain(&self) -> Result<u64, StoreError> {
        self.ready().await?.maintain().await
    }

    async fn reclaim(&self) -> Result<u64, StoreError> {
        self.ready().await?.reclaim().await
    }

    async fn scrub(&self, blob: Option<Digest>, report: mpsc::Sender<Scrubbed>) -> Result<(), StoreError> {
        self.ready().await?.scrub(blob, report).await
    }
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Enough that no two of one engine are equal.
fn random_hex() -> String {
    let mut bytes = [0; 8];
    if SystemRandom::new().fill(&mut bytes).is_err() {
        // Without random numbers no connection would be possible either; the time is enough here.
        bytes = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_le_bytes()[..8].try_into().unwrap_or(bytes);
    }
    data_encoding::HEXLOWER.encode(&bytes)
}
