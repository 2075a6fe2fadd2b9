//! Docker Engine with containerd's store, where that containerd may not be reached: images go in and out whole, through the engine's own save
//! and load, with an image layout of ours between.
//!
//! The layout is what can be resumed, read in ranges and checked blob by blob, which an engine's archive cannot. It keeps what passed through for
//! a day, so that of an image which comes or goes again only what changed has to travel.

use proto::control::Verdict;
use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proto::hash::RangeHash;
use proto::image::Selection;
use proto::peer::ImageRow;
use proto::{Descriptor, Digest, Reference};
use tokio::sync::mpsc;

use super::find::Entry;
use super::inventory::{Inventory, Row};
use super::{Engine, EngineStore, Settings, Shared, unix_s};
use crate::staging::Staging;
use crate::store::layout::LayoutStore;
use crate::store::{Finding, Form, Held, Identity, Meter, Properties, Query, Reader, Removed, Room, Scrubbed, Store, StoreError};

mod import;
mod save;

pub use import::WholeImport;

/// For how long the layout keeps what passed through it.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// Images of a Docker Engine, by whole archives. Clones share it.
#[derive(Debug, Clone)]
pub struct WholeStore {
    engine: EngineStore,
    passage: Arc<Passage>,
}

/// What lies between us and the engine.
#[derive(Debug)]
struct Passage {
    layout: LayoutStore,
    staging: Arc<Staging>,
    /// Why images go this way.
    obstacle: String,
}

impl WholeStore {
    /// For the engine behind `socket`, whose containerd cannot be used because of `obstacle`. Blocking.
    pub fn open(settings: Settings<'_>, obstacle: String) -> Result<Self, StoreError> {
        let directory: PathBuf = settings.state_dir.join("docker-whole");
        std::fs::create_dir_all(&directory).map_err(StoreError::io("create", &directory))?;
        let layout = LayoutStore::open(&directory.join("layout"))?;
        let staging = Staging::open(&directory.join("staging"))?;
        let engine = EngineStore::open(Settings { engine: Engine::Docker, state_dir: &directory, ..settings })?;
        Ok(Self { engine, passage: Arc::new(Passage { layout, staging, obstacle }) })
    }

    /// Takes away what the engine holds for us, before the agent ends.
    pub async fn close(&self) {
        self.engine.close().await;
    }

    async fn shared(&self) -> Result<&Arc<Shared>, StoreError> {
        self.engine.ready().await
    }

    /// The engine knows images by names and roots. By the ID of a config, those are found that passed through.
    async fn find<'a>(&self, inventory: &'a Inventory, query: &Query) -> Result<Vec<Entry<'a>>, StoreError> {
        let shared = self.shared().await?;
        match shared.find(inventory, query).await {
            Err(StoreError::NotFound(_)) if query.id_prefix().is_some() => {
                let root = self.passage.layout.resolve(query, Selection::Present).await?.image.root.digest;
                let not_found = || StoreError::NotFound(query.clone());
                let known = Query::parse(&root.to_string()).map_err(|_| not_found())?;
                shared.find(inventory, &known).await.map_err(|error| if let StoreError::NotFound(_) = error { not_found() } else { error })
            }
            found => found,
        }
    }

    /// The image as it lies in the layout; the engine saves it where it does not.
    async fn held(&self, row: &Row, selection: Selection) -> Result<Held, StoreError> {
        let asked = whole(&row.id)?;
        match self.passage.layout.resolve(&asked, selection.clone()).await {
            Err(StoreError::NotFound(_) | StoreError::BlobMissing(_) | StoreError::Corrupt(_)) => {}
            held => return held,
        }
        let shared = self.shared().await?;
        let _turn = shared.turns.take(row.id).await;
        // Somebody else may have had it saved meanwhile.
        if let Ok(held) = self.passage.layout.resolve(&asked, selection.clone()).await {
            return Ok(held);
        }
        self.passage.save(shared, &row.id).await?;
        self.passage.layout.resolve(&asked, selection).await
    }
}

impl Store for WholeStore {
    type Import = WholeImport;

    fn properties(&self) -> Properties {
        Properties {
            kind: "docker",
            form: Form::Packed,
            identity: Identity::Root,
            resumable_ingests: true,
            adopts_files: true,
            durable_ingests: true,
        }
    }

    async fn examine(&self) -> Vec<Finding> {
        let obstacle = &self.passage.obstacle;
        let text = format!("{obstacle}: images go through docker save and docker load, whole and much slower");
        let remedy = "run imgd as root, or name the socket: store = \"docker:unix:///run/docker.sock?containerd=PATH\"";
        vec![self.engine.examine_engine().await, Finding { verdict: Verdict::Warning, text, remedy: Some(remedy.to_owned()) }]
    }

    /// Of what passed through, it is known what it is as blobs; of the rest, what the engine says.
    async fn list(&self) -> Result<Vec<ImageRow>, StoreError> {
        let mut rows = self.engine.list().await?;
        let passed: HashMap<Digest, ImageRow> = self.passage.layout.list().await?.into_iter().map(|row| (row.root, row)).collect();
        for row in &mut rows {
            if let Some(passed) = passed.get(&row.root).filter(|passed| passed.complete) {
                (row.size_bytes, row.platforms) = (passed.size_bytes, passed.platforms.clone());
            }
        }
        Ok(rows)
    }

    async fn resolve(&self, query: &Query, selection: Selection) -> Result<Held, StoreError> {
        let shared = self.shared().await?;
        let inventory = shared.inventory().await?;
        let entries = self.find(&inventory, query).await?;
        let entry = entries.last().ok_or_else(|| StoreError::NotFound(query.clone()))?;
        let named = entry.reference.zip(query.reference()).filter(|(name, asked)| name.repository() == asked.repository());
        let mut held = self.held(entry.row, selection).await?;
        held.image.reference = named.map(|(_, asked)| asked.without_digest());
        held.image_id = entry.row.id;
        Ok(held)
    }

    async fn hashes(&self, blob: &Descriptor, meter: &Meter) -> Result<Arc<[RangeHash]>, StoreError> {
        self.passage.layout.hashes(blob, meter).await
    }

    async fn read(&self, blob: &Descriptor, range: Range<u64>) -> Result<Reader, StoreError> {
        self.passage.layout.read(blob, range).await
    }

    async fn import(&self, image: proto::Image) -> Result<WholeImport, StoreError> {
        let shared = self.shared().await?.clone();
        WholeImport::new(shared, self.passage.clone(), image).await
    }

    async fn remove(&self, query: &Query) -> Result<Removed, StoreError> {
        let shared = self.shared().await?;
        shared.flush_pins().await?;
        let before = shared.inventory().await?;
        let found = self.find(&before, query).await?;
        let id = found.first().map(|entry| entry.row.id).ok_or_else(|| StoreError::NotFound(query.clone()))?;
        let name = shared.take_away(&id, &found, query).await?;
        let after = shared.inventory().await?;
        let mut freed_bytes = 0;
        if after.image(&id).is_none() {
            // What it takes is known only of what passed through.
            freed_bytes = match self.passage.layout.remove(&whole(&id)?).await {
                Ok(removed) => removed.freed_bytes,
                Err(_) => before.image(&id).map_or(0, |row| row.size_bytes),
            };
        }
        Ok(Removed { name, image_id: id, freed_bytes })
    }

    async fn room(&self) -> Result<Vec<Room>, StoreError> {
        self.engine.room().await
    }

    async fn maintain(&self) -> Result<u64, StoreError> {
        let shared = self.shared().await?;
        shared.flush_pins().await?;
        let inventory = shared.inventory().await?;
        for row in self.passage.layout.list().await? {
            let is_old = row.tagged_unix_s + KEPT.as_secs() <= unix_s();
            if is_old || inventory.image(&row.root).is_none() {
                self.passage.layout.remove(&whole(&row.root)?).await?;
            }
        }
        self.passage.staging.sweep_old()?;
        self.passage.layout.maintain().await
    }

    async fn reclaim(&self) -> Result<u64, StoreError> {
        self.passage.layout.reclaim().await
    }

    async fn scrub(&self, blob: Option<Digest>, report: mpsc::Sender<Scrubbed>) -> Result<(), StoreError> {
        self.passage.layout.scrub(blob, report).await
    }
}

/// What an image is called in the layout: found by its root alone, whatever names it has and whatever other images refer to it.
fn name(root: &Digest) -> Option<Reference> {
    format!("imgctl.local/whole:{}", root.hex()).parse().ok()
}

fn whole(root: &Digest) -> Result<Query, StoreError> {
    name(root).map(Query::from).ok_or(StoreError::BlobMissing(*root))
}
