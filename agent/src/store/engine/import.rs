//! Bringing in an image: what of it is here, the loads that bring in the rest, and the look at what came of it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use proto::descriptor::media_type;
use proto::{Descriptor, Digest, Image, Platform, Reference};
use tokio::sync::watch;

use super::ingest::EngineIngest;
use super::inventory::{Inventory, Row, chain_ids};
use super::load::{Kept, Load, absent_layer};
use super::pin::{PIN_REPOSITORY, Pin};
use super::plan::{Plan, Present, Unit, longest_prefix};
use super::{Engine, Shared, config_types, thin};
use crate::store::turns::Turn;
use crate::store::walk::verify;
use crate::store::{Import, Imported, StoreError};

/// An image that is being brought into an engine.
#[derive(Debug)]
pub struct EngineImport {
    target: Arc<Target>,
    /// What `missing` found, and keeps.
    found: Option<Found>,
    work: tokio::sync::OnceCell<Arc<Work>>,
}

/// Where an image goes.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) shared: Arc<Shared>,
    pub(super) image: Image,
    pub(super) diff_ids: Vec<Digest>,
}

/// What the engine has of an image, and the promise that it stays.
#[derive(Debug)]
struct Found {
    /// Documents that do not have to come.
    documents: HashMap<Digest, Bytes>,
    /// The image itself is here.
    is_whole: bool,
    plan: Plan,
    /// Both end with the import.
    pin: Option<Pinned>,
    part: Option<InUse>,
}

/// A pin, and on which image. What is pinned once for a question stays so for the work.
type Pinned = (Digest, Arc<Pin>);

/// An import that has its turn.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) is_whole: bool,
    pub(super) plan: Plan,
    pub(super) documents: Mutex<HashMap<Digest, Bytes>>,
    /// For each unit: taken by the one ingest that writes it.
    pub(super) writers: Vec<Arc<tokio::sync::Mutex<()>>>,
    /// Layers that have come in and are not in the engine yet.
    pub(super) kept: Mutex<HashMap<usize, Kept>>,
    pub(super) progress: watch::Sender<Progress>,
    sizes: Mutex<HashMap<Digest, u64>>,
    parts: Mutex<Vec<InUse>>,
    _pin: Option<Pinned>,
    _turn: Turn,
}

/// How far an import is.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
    /// Groups that the engine has.
    pub(super) groups: usize,
    /// Units that have come in, loaded or not.
    pub(super) units: HashSet<usize>,
}

/// A part of an image that is not to be swept now.
#[derive(Debug)]
struct InUse {
    id: Digest,
    shared: Arc<Shared>,
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut counts = self.shared.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.id);
            }
        }
    }
}

impl Shared {
    fn in_use(self: &Arc<Self>, id: &Digest) -> InUse {
        *self.in_use.lock().unwrap_or_else(PoisonError::into_inner).entry(*id).or_default() += 1;
        InUse { id: *id, shared: self.clone() }
    }

    /// An import builds on this part of an image now.
    pub(super) fn is_in_use(&self, id: &Digest) -> bool {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner).contains_key(id)
    }
}

impl EngineImport {
    pub(super) fn new(shared: Arc<Shared>, image: Image) -> Result<Self, StoreError> {
        let kind = shared.client.engine().kind();
        let [manifest] = &image.manifests[..] else {
            return Err(StoreError::Unsupported { kind, what: "an image for several platforms" });
        };
        if image.reference.as_ref().is_some_and(|reference| reference.repository() == PIN_REPOSITORY) {
            return Err(StoreError::Unsupported { kind, what: "an image under a name that marks what is on its way" });
        }
        if image.reference.as_ref().is_some_and(|reference| reference.tag().is_none()) {
            return Err(StoreError::Unsupported { kind, what: "a name without a tag" });
        }
        let diff_ids: Option<Vec<Digest>> = manifest.layers.iter().map(|layer| layer.diff_id).collect();
        let Some(diff_ids) = diff_ids.filter(|_| manifest.is_image()) else {
            return Err(StoreError::Unsupported { kind, what: "what is not the image of a container" });
        };
        let target = Arc::new(Target { shared, image, diff_ids });
        Ok(Self { target, found: None, work: tokio::sync::OnceCell::new() })
    }

    /// Waits for its turn: of several imports of one image one works, and the others find what it has done.
    async fn work(&self) -> Result<&Arc<Work>, StoreError> {
        let begin = async {
            let target = &self.target;
            let turn = target.shared.imports.take(target.config().digest).await;
            let now = target.look(self.found.as_ref().and_then(|before| before.pin.as_ref())).await?;
            if let Some(gone) = self.found.as_ref().and_then(|before| lost(before, &now)) {
                return Err(StoreError::Gone(gone));
            }
            let writers = now.plan.units.iter().map(|_| Arc::default()).collect();
            Ok(Arc::new(Work {
                is_whole: now.is_whole,
                plan: now.plan,
                documents: Mutex::new(now.documents),
                writers,
                kept: Mutex::default(),
                progress: watch::Sender::new(Progress::default()),
                sizes: Mutex::default(),
                parts: Mutex::new(now.part.into_iter().collect()),
                _pin: now.pin,
                _turn: turn,
            }))
        };
        self.work.get_or_try_init(|| begin).await
    }
}

/// What was here, and has to come now.
fn lost(before: &Found, now: &Found) -> Option<Digest> {
    let had: HashSet<Digest> = before.plan.units.iter().map(|unit| unit.diff_id).collect();
    let layer = now.plan.units.iter().map(|unit| unit.diff_id).find(|diff_id| !had.contains(diff_id));
    layer.or_else(|| before.documents.keys().find(|document| !now.documents.contains_key(document)).copied())
}

impl Target {
    pub(super) fn config(&self) -> &Descriptor {
        &self.image.manifests[0].config
    }

    fn name(&self) -> String {
        self.image.reference.as_ref().map_or_else(|| self.config().digest.short(), Reference::familiar)
    }

    /// The name that the engine can keep: a digest is none.
    fn tag(&self) -> Option<Reference> {
        self.image.reference.as_ref().map(Reference::without_digest).filter(|reference| reference.tag().is_some())
    }

    /// What is here now, pinned.
    async fn look(&self, known: Option<&Pinned>) -> Result<Found, StoreError> {
        let (shared, config) = (&self.shared, self.config().digest);
        let inventory = shared.inventory().await?;
        if let Some(row) = inventory.image(&config) {
            let pin = self.pin(row, known).await?;
            // Gone since: then as if it had never been.
            if pin.is_some() {
                let presented = shared.present(row).await?;
                let named = self.image.documents().into_iter().map(|document| document.digest);
                let documents = named.filter_map(|digest| Some((digest, presented.document(&digest)?))).collect();
                return Ok(Found { documents, is_whole: true, plan: Plan { units: vec![], groups: vec![] }, pin, part: None });
            }
        }
        let layers = &self.image.manifests[0].layers;
        if shared.distrusted.lock().unwrap_or_else(PoisonError::into_inner).contains(&config) {
            let plan = Plan::new(layers, &Present::Lowest(0));
            return Ok(Found { documents: HashMap::new(), is_whole: false, plan, pin: None, part: None });
        }
        let (present, base) = self.present(&inventory);
        let mut found = Found { documents: HashMap::new(), is_whole: false, plan: Plan::new(layers, &present), pin: None, part: None };
        match base {
            Some(row) if row.partial_of.is_some() && row.names.is_empty() => found.part = Some(shared.in_use(&row.id)),
            Some(row) => {
                found.pin = self.pin(row, known).await?;
                if found.pin.is_none() {
                    found.plan = Plan::new(layers, &Present::Lowest(0));
                }
            }
            None => {}
        }
        Ok(found)
    }

    async fn pin(&self, row: &Row, known: Option<&Pinned>) -> Result<Option<Pinned>, StoreError> {
        if let Some(known) = known.filter(|(id, _)| *id == row.id) {
            return Ok(Some(known.clone()));
        }
        let pin = self.shared.pin(&row.id).await?;
        Ok(pin.map(|pin| (row.id, Arc::new(pin))))
    }

    /// The layers that the engine has, and the image that has most of them. Podman finds a layer by its diff ID, Docker only on top of the same layers.
    fn present<'a>(&self, inventory: &'a Inventory) -> (Present, Option<&'a Row>) {
        let chain_ids = chain_ids(&self.diff_ids);
        let depth = |row: &Row| longest_prefix(&chain_ids, |chain_id| row.details.chain_ids.contains(chain_id));
        // What has a name is kept by it; a part of an image may be swept by the engine's own housekeeping.
        let best = inventory.rows.iter().max_by_key(|row| (depth(row), row.partial_of.is_none(), !row.names.is_empty()));
        let (count, base) = best.map_or((0, None), |row| (depth(row), Some(row).filter(|row| depth(row) > 0)));
        match self.shared.client.engine() {
            Engine::Docker => (Present::Lowest(count), base),
            Engine::Podman => {
                let here: HashSet<Digest> = inventory.rows.iter().flat_map(|row| row.details.diff_ids.iter().copied()).collect();
                (Present::DiffIds(here.intersection(&self.diff_ids.iter().copied().collect()).copied().collect()), base)
            }
        }
    }

    /// Refuses an image that is not what its documents say, as soon as those are here. `None`: this one is not.
    pub(super) fn verified(&self, documents: &HashMap<Digest, Bytes>) -> Result<Option<Digest>, StoreError> {
        let absent = self.image.documents().into_iter().map(|document| document.digest).find(|digest| !documents.contains_key(digest));
        if absent.is_none() {
            verify(&self.image, |document| Ok(documents.get(&document.digest).map(|bytes| bytes.to_vec())))?;
            let engine = self.shared.client.engine();
            if let (Engine::Podman, Some(config)) = (engine, documents.get(&self.config().digest)) {
                config_types::check(config).map_err(|reason| StoreError::Unfit { engine: engine.name(), reason })?;
            }
        }
        Ok(absent)
    }

    /// Opens the load of the lowest `count` layers, or of the image itself, with what was kept of it.
    pub(super) async fn open_load(&self, work: &Work, group: Option<usize>) -> Result<Load, StoreError> {
        let (units, count) = match group {
            Some(group) => (work.plan.groups[group].units.clone(), work.plan.groups[group].layers),
            None => (work.plan.rest(), self.diff_ids.len()),
        };
        let mut layers = Vec::with_capacity(count);
        for diff_id in &self.diff_ids[..count] {
            let size_bytes = self.layer_bytes(work, diff_id).await?;
            layers.push(Descriptor { media_type: media_type::LAYER.to_owned(), digest: *diff_id, size_bytes });
        }
        let mut load;
        if group.is_some() {
            let platform = self.image.manifests[0].platform.clone().unwrap_or_else(Platform::host);
            let config = thin::partial_config(&self.shared.agent, &platform, &self.diff_ids[..count]);
            load = Load::start(&self.shared.client, &format!("load layers of {}", self.name()));
            work.parts.lock().unwrap_or_else(PoisonError::into_inner).push(self.shared.in_use(&Digest::of(&config)));
            load.write(thin::head(&config, &layers)).await?;
        } else {
            let config = work.documents.lock().unwrap_or_else(PoisonError::into_inner).get(&self.config().digest).cloned();
            let config = config.ok_or(StoreError::BlobMissing(self.config().digest))?;
            load = Load::start(&self.shared.client, &format!("load {}", self.name()));
            // Without its name: that moves when the image was looked at, and in turn with all other changes of names.
            load.write(thin::head(&config, &layers)).await?;
        }
        for unit in units {
            let kept = work.kept.lock().unwrap_or_else(PoisonError::into_inner).get(&unit).cloned();
            if let Some(kept) = kept {
                load.layer(&work.plan.units[unit].diff_id, &kept).await?;
            }
        }
        Ok(load)
    }

    /// Ends the load of a group; from now on the engine has its layers.
    pub(super) async fn finish_group(&self, work: &Work, group: usize, load: Load) -> Result<(), StoreError> {
        load.finish().await.map_err(|error| self.explained(error))?;
        let units = work.plan.groups[group].units.clone();
        work.kept.lock().unwrap_or_else(PoisonError::into_inner).retain(|unit, _| !units.contains(unit));
        work.progress.send_modify(|progress| {
            progress.groups = group + 1;
            progress.units.extend(units);
        });
        Ok(())
    }

    /// When the engine misses a layer that it had listed, the next import sends all of them.
    pub(super) fn explained(&self, error: StoreError) -> StoreError {
        let layers: Vec<Descriptor> =
            self.diff_ids.iter().map(|digest| Descriptor { media_type: String::new(), digest: *digest, size_bytes: 0 }).collect();
        match absent_layer(&error, &layers) {
            Some(digest) => {
                tracing::warn!(layer = %digest, %error, "the engine does not have a layer that it had");
                self.shared.distrusted.lock().unwrap_or_else(PoisonError::into_inner).insert(self.config().digest);
                StoreError::Gone(digest)
            }
            None => error,
        }
    }

    /// Remembers the length of a layer as it came.
    pub(super) fn sized(&self, work: &Work, diff_id: &Digest, size_bytes: u64) {
        work.sizes.lock().unwrap_or_else(PoisonError::into_inner).insert(*diff_id, size_bytes);
    }

    async fn layer_bytes(&self, work: &Work, diff_id: &Digest) -> Result<u64, StoreError> {
        let came = work.sizes.lock().unwrap_or_else(PoisonError::into_inner).get(diff_id).copied();
        let layers = &self.image.manifests[0].layers;
        let plain = || layers.iter().find(|layer| layer.descriptor.digest == *diff_id).map(|layer| layer.descriptor.size_bytes);
        if let Some(size_bytes) = came.or_else(plain).or_else(|| self.shared.records.size_bytes(diff_id)) {
            return Ok(size_bytes);
        }
        match self.shared.client.engine() {
            // It reads `manifest.json`, where no sizes are.
            Engine::Docker => Ok(0),
            Engine::Podman => self.shared.any_layer_bytes(diff_id).await,
        }
    }

    async fn load(&self, work: &Work) -> Result<(), StoreError> {
        let loaded = async { self.open_load(work, None).await?.finish().await };
        loaded.await.map_err(|error| self.explained(error))
    }

    /// Looks at what the engine has now, whatever it answered.
    async fn read_back(&self) -> Result<(), StoreError> {
        let (shared, id) = (&self.shared, self.config().digest);
        let action = format!("load {}", self.name());
        let Some(image) = shared.inspect(&id.to_string()).await? else {
            return Err(shared.client.refusal(action, "the image is not there after it was loaded"));
        };
        if image.id() != Some(id) || image.diff_ids().as_ref() != Some(&self.diff_ids) {
            return Err(shared.client.refusal(action, format!("it has {} instead of {id}", image.id)));
        }
        Ok(())
    }

    /// Gives the image its name; returns the image that had it before.
    async fn name_it(&self) -> Result<Option<Digest>, StoreError> {
        let id = self.config().digest;
        match self.tag() {
            Some(tag) => self.shared.name(&id, &tag).await,
            None => {
                self.shared.pins.keep(&id);
                Ok(None)
            }
        }
    }

    /// Removes the parts of this image that were loaded on the way, now and in earlier tries.
    async fn remove_parts(&self) -> Result<(), StoreError> {
        for row in self.shared.inventory().await?.rows {
            let is_own = row.is_part_of(&self.shared.agent);
            let is_below = !row.details.diff_ids.is_empty() && self.diff_ids.starts_with(&row.details.diff_ids);
            if is_own && is_below && row.names.is_empty() && !self.shared.is_in_use(&row.id) {
                self.shared.remove_partial(&row.id).await;
            }
        }
        Ok(())
    }
}

impl Import for EngineImport {
    type Ingest = EngineIngest;

    async fn missing(&mut self) -> Result<Vec<Descriptor>, StoreError> {
        let found = self.target.look(None).await?;
        let blobs: HashSet<Digest> = found.plan.units.iter().map(|unit| unit.blob.digest).collect();
        let documents = self.target.image.documents().into_iter().filter(|document| !found.documents.contains_key(&document.digest));
        let layers = self.target.image.layers().into_iter().map(|layer| &layer.descriptor).filter(|blob| blobs.contains(&blob.digest));
        let mut seen = HashSet::new();
        let missing = documents.chain(layers).filter(|blob| seen.insert(blob.digest)).cloned().collect();
        self.found = Some(found);
        Ok(missing)
    }

    async fn ingest(&self, blob: &Descriptor) -> Result<Option<EngineIngest>, StoreError> {
        let work = self.work().await?;
        if self.target.image.documents().into_iter().any(|document| document.digest == blob.digest) {
            let is_here = work.documents.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&blob.digest);
            return Ok((!is_here).then(|| EngineIngest::document(work.clone(), blob.clone())));
        }
        let is_wanted = |unit: &Unit| unit.blob.digest == blob.digest;
        let Some(unit) = work.plan.units.iter().position(is_wanted) else { return Ok(None) };
        {
            let documents = work.documents.lock().unwrap_or_else(PoisonError::into_inner);
            self.target.verified(&documents)?;
        }
        let writer = work.writers[unit].clone().lock_owned().await;
        if work.progress.borrow().units.contains(&unit) {
            return Ok(None);
        }
        EngineIngest::layer(self.target.clone(), work.clone(), unit, writer).map(Some)
    }

    async fn commit(self) -> Result<Imported, StoreError> {
        let work = self.work().await?.clone();
        let target = self.target.clone();
        let shared = &target.shared;
        let documents = work.documents.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(absent) = target.verified(&documents)? {
            return Err(StoreError::BlobMissing(absent));
        }
        let came = work.progress.borrow().units.clone();
        if let Some(absent) = (0..work.plan.units.len()).find(|unit| !came.contains(unit)) {
            return Err(StoreError::BlobMissing(work.plan.units[absent].blob.digest));
        }
        let id = target.config().digest;
        if !work.is_whole {
            target.load(&work).await?;
        }
        if let Err(error) = target.read_back().await {
            // Whatever is the matter with it, nobody shall meet it.
            if !work.is_whole {
                shared.remove_by_force(&id).await;
            }
            return Err(error);
        }
        let replaced = target.name_it().await?;
        shared.distrusted.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        for (diff_id, size_bytes) in std::mem::take(&mut *work.sizes.lock().unwrap_or_else(PoisonError::into_inner)) {
            shared.records.put_size(&diff_id, size_bytes);
        }
        let had_parts = !std::mem::take(&mut *work.parts.lock().unwrap_or_else(PoisonError::into_inner)).is_empty();
        // Pins and turns end here, so that what follows finds the engine as people see it.
        drop((self, work));
        if had_parts && let Err(error) = target.remove_parts().await {
            tracing::debug!(%error, "parts of an image that is in stay until they are swept");
        }
        shared.release_pins().await;
        Ok(Imported { image_id: id, replaced })
    }
}
