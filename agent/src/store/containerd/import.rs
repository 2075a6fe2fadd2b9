//! An image on its way in.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use proto::{Descriptor, Digest, Image};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::content::has;
use super::ingest::ContainerdIngest;
use super::labels::unreached;
use super::lease::{EngineLease, Purpose};
use super::{Shared, unpack};
use crate::store::{Import, Imported, StoreError};

/// An import into a [`super::ContainerdStore`]: a lease, and a task that unpacks what has come.
#[derive(Debug)]
pub struct ContainerdImport {
    pub(super) shared: Arc<Shared>,
    pub(super) image: Image,
    pub(super) lease: Arc<EngineLease>,
    pub(super) ready: Ready,
    /// Blobs that were here when it was asked what is missing.
    pub(super) were_here: HashSet<Digest>,
    /// Plain layers that are made here, and what of.
    pub(super) forms: HashMap<Digest, Descriptor>,
    /// Ends with the chain ID of all layers, where the image would run here.
    pub(super) unpacking: Option<AbortOnDropHandle<Result<Option<Digest>, StoreError>>>,
}

/// The blobs of an import that can be unpacked.
#[derive(Debug, Clone)]
pub(super) struct Ready(Arc<watch::Sender<HashSet<Digest>>>);

impl Ready {
    /// None yet.
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(HashSet::new())))
    }

    pub(super) fn add(&self, digest: Digest) {
        self.0.send_modify(|ready| {
            ready.insert(digest);
        });
    }

    /// Waits for a blob.
    pub(super) async fn wait_for(&self, digest: Digest) {
        // The sender lives as long as this does.
        let _ = self.0.subscribe().wait_for(|ready| ready.contains(&digest)).await;
    }
}

impl ContainerdImport {
    /// Takes the lease.
    pub(super) async fn begin(shared: &Arc<Shared>, image: Image) -> Result<Self, StoreError> {
        let lease = Arc::new(EngineLease::take(shared, Purpose::Import(image.root.digest)).await?);
        Ok(Self {
            shared: shared.clone(),
            image,
            lease,
            ready: Ready::new(),
            were_here: HashSet::new(),
            forms: HashMap::new(),
            unpacking: None,
        })
    }

    /// Starts to unpack, in the background, what would run here.
    pub(super) fn unpack(&mut self) {
        if self.unpacking.is_some() {
            return;
        }
        let Some(manifest) = unpack::unpackable(&self.image) else { return };
        let work = unpack::Unpack {
            shared: self.shared.clone(),
            lease: self.lease.clone(),
            manifest: manifest.clone(),
            ready: self.ready.clone(),
            forms: self.forms.clone(),
        };
        self.unpacking = Some(AbortOnDropHandle::new(tokio::spawn(work.run())));
    }

    /// Keeps what is here, and says which blobs that are.
    async fn keep_present(&self) -> Result<HashSet<Digest>, StoreError> {
        let blobs = self.image.blobs();
        let before = self.shared.infos(blobs.iter().copied()).await?;
        let present: Vec<&Descriptor> = blobs.iter().copied().filter(|blob| has(&before, blob)).collect();
        let root = &self.image.root;
        let mut kept = present.clone();
        if has(&before, root) {
            // Its labels keep the rest.
            self.lease.add_blob(&root.digest).await?;
            kept = unreached(&root.digest, &present, &before);
        }
        for blob in kept {
            self.lease.add_blob(&blob.digest).await?;
        }
        // Only what is still here now is sure to stay.
        let after = self.shared.infos(present.iter().copied()).await?;
        Ok(present.iter().filter(|blob| has(&after, blob)).map(|blob| blob.digest).collect())
    }
}

impl Import for ContainerdImport {
    type Ingest = ContainerdIngest;

    async fn missing(&mut self) -> Result<Vec<Descriptor>, StoreError> {
        let namespaces = self.shared.namespaces().await?;
        if namespaces.first().is_none_or(|first| first.name != self.shared.namespace) {
            self.shared.make_namespace().await?;
        }
        let here = self.keep_present().await?;
        let mut missing: Vec<Descriptor> = self.image.blobs().into_iter().filter(|blob| !here.contains(&blob.digest)).cloned().collect();
        self.forms = self.shared.forms(&self.image, &missing, &self.lease).await?;
        missing.retain(|blob| !self.forms.contains_key(&blob.digest));
        here.iter().for_each(|digest| self.ready.add(*digest));
        self.were_here = here;
        self.unpack();
        Ok(missing)
    }

    async fn ingest(&self, blob: &Descriptor) -> Result<Option<ContainerdIngest>, StoreError> {
        ContainerdIngest::begin(&self.shared, &self.lease, blob, &self.ready).await
    }

    async fn commit(self) -> Result<Imported, StoreError> {
        self.commit_image().await
    }
}
