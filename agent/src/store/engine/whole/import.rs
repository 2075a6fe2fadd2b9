//! Into the engine: an image that is whole in the layout, as one archive.

use std::sync::Arc;

use proto::image::Selection;
use proto::{Descriptor, Digest, Image, Reference};

use super::super::inventory::Row;
use super::super::load::Load;
use super::super::pin::Pin;
use super::super::{Shared, thin};
use super::{Passage, name, whole};
use crate::store::layout::{LayoutImport, LayoutIngest};
use crate::store::{Import, Imported, Store, StoreError};

/// An import into an engine by whole archives.
#[derive(Debug)]
pub struct WholeImport {
    target: Target,
    layout: LayoutImport,
    /// The engine has the image, and keeps it meanwhile.
    here: Option<Pin>,
}

/// Where an image goes.
#[derive(Debug)]
struct Target {
    shared: Arc<Shared>,
    passage: Arc<Passage>,
    image: Image,
}

impl WholeImport {
    pub(super) async fn new(shared: Arc<Shared>, passage: Arc<Passage>, image: Image) -> Result<Self, StoreError> {
        let layout = passage.layout.import(Image { reference: name(&image.root.digest), ..image.clone() }).await?;
        Ok(Self { target: Target { shared, passage, image }, layout, here: None })
    }
}

impl Target {
    /// The engine has this root, with the platforms that are meant.
    fn is_of(&self, row: &Row) -> bool {
        let [manifest] = &self.image.manifests[..] else { return false };
        let is_only = self.image.indexes.is_empty() || (manifest.platform.is_some() && manifest.platform == row.details.platform);
        // The engine would take what has no name for gone together with a tag of ours.
        row.id == self.image.root.digest && is_only && !row.names.is_empty()
    }

    fn action(&self) -> String {
        let name = self.tag().map_or_else(|| self.image.root.digest.to_string(), |tag| tag.familiar());
        format!("load {name}")
    }

    /// The name that the engine can keep: a digest is none.
    fn tag(&self) -> Option<Reference> {
        self.image.reference.as_ref().map(Reference::without_digest).filter(|reference| reference.tag().is_some())
    }

    /// Has the engine load what it does not have, and then name it: nothing gets a name that was not looked at. Returns the image that had the name.
    async fn bring(&self, layout: LayoutImport, here: Option<Pin>) -> Result<Option<Digest>, StoreError> {
        let root = self.image.root.digest;
        let mut pin = here;
        let is_here = pin.is_some();
        if !is_here {
            layout.commit().await?;
            // An image that the engine had before stays, whatever becomes of the load.
            pin = self.shared.pin(&root).await?.or_else(|| self.tag().map(|_| self.shared.pin_ahead(&root)));
        }
        let name = pin.as_ref().and_then(Pin::reference);
        if !is_here {
            self.load(name.as_ref()).await?;
        }
        self.read_back(&name.map_or(root.to_string(), |name| name.to_string())).await?;
        let replaced = match self.tag() {
            Some(tag) => self.shared.name(&root, &tag).await?,
            None => {
                self.shared.pins.keep(&root);
                None
            }
        };
        drop(pin);
        Ok(replaced)
    }

    /// One archive of everything, which the layout has checked. Not under the image's own name: engines say that they have loaded what they cannot
    /// unpack, and have moved the name by then.
    async fn load(&self, name: Option<&Reference>) -> Result<(), StoreError> {
        let held = self.passage.layout.resolve(&whole(&self.image.root.digest)?, Selection::Present).await?;
        let mut load = Load::start(&self.shared.client, &self.action());
        load.write(thin::layout_head(&self.image.root, name).into()).await?;
        for blob in held.image.blobs() {
            load.write(thin::layer_head(&blob.digest, blob.size_bytes)).await?;
            let mut reader = self.passage.layout.read(blob, 0..blob.size_bytes).await?;
            while let Some(bytes) = reader.next().await? {
                load.write(bytes).await?;
            }
            load.write(thin::padding(blob.size_bytes)).await?;
        }
        load.finish().await
    }

    /// Looks at what the engine has now, whatever it answered: this root and these layers.
    async fn read_back(&self, name: &str) -> Result<(), StoreError> {
        let root = self.image.root.digest;
        let wrong = |reason: String| self.shared.client.refusal(self.action(), reason);
        let found = self.shared.inspect(name).await?.ok_or_else(|| wrong("the image is not there after it was loaded".to_owned()))?;
        if found.id.parse() != Ok(root) {
            return Err(wrong(format!("it has {} instead of {root}", found.id)));
        }
        let diff_ids = found.diff_ids().unwrap_or_default();
        let is_one_of_ours = self.image.manifests.iter().any(|manifest| {
            let ours = manifest.layers.iter().map(|layer| layer.diff_id);
            manifest.layers.len() == diff_ids.len() && ours.zip(&diff_ids).all(|(ours, theirs)| ours.is_none_or(|ours| ours == *theirs))
        });
        if is_one_of_ours { Ok(()) } else { Err(wrong("it shows other layers than were loaded".to_owned())) }
    }
}

impl Import for WholeImport {
    type Ingest = LayoutIngest;

    async fn missing(&mut self) -> Result<Vec<Descriptor>, StoreError> {
        let inventory = self.target.shared.inventory().await?;
        if let Some(row) = inventory.visible().find(|row| self.target.is_of(row)) {
            self.here = self.target.shared.pin(&row.id).await?;
            if self.here.is_some() {
                return Ok(vec![]);
            }
        }
        self.layout.missing().await
    }

    async fn ingest(&self, blob: &Descriptor) -> Result<Option<LayoutIngest>, StoreError> {
        if self.here.is_some() { Ok(None) } else { self.layout.ingest(blob).await }
    }

    async fn commit(self) -> Result<Imported, StoreError> {
        let Self { target, layout, here } = self;
        let root = target.image.root.digest;
        let _turn = target.shared.imports.take(root).await;
        let done = target.bring(layout, here).await;
        // Pins have ended: what has no name but one of ours and was not looked at goes with it, so that nobody meets what the engine could not unpack.
        target.shared.release_pins().await;
        Ok(Imported { image_id: root, replaced: done? })
    }
}
