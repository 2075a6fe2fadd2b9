//! The image of a job: looked up once, and held until the job ends. Its name may move meanwhile; every host gets the same image all the same.

use proto::image::{ImageError, Selection, Walk};
use proto::{Digest, Image, Manifest};
use tokio::sync::Mutex;

use crate::store::{Held, Query, Store, StoreError};

/// An image that was looked up by what somebody wrote.
#[derive(Debug)]
pub struct Pinned {
    query: Query,
    /// With every manifest that is here.
    held: Held,
    /// The same with the manifests of one platform, for each that was asked for.
    selected: Mutex<Vec<(Selection, Held)>>,
}

impl Pinned {
    /// Looks an image up, and holds it.
    pub async fn new<S: Store>(store: &S, query: Query) -> Result<Self, StoreError> {
        let held = store.resolve(&query, Selection::Present).await?;
        Ok(Self { query, held, selected: Mutex::default() })
    }

    /// The image that `query` led to before, wherever it leads now. [`StoreError::NotFound`] when it is here no longer.
    pub async fn again<S: Store>(store: &S, query: Query, root: &Digest) -> Result<Self, StoreError> {
        let not_found = StoreError::NotFound(query.clone());
        match Self::new(store, query.clone()).await {
            Ok(pinned) if pinned.held.image.root.digest == *root => return Ok(pinned),
            Ok(_) | Err(StoreError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        let by_root = Query::parse(&root.to_string()).map_err(|_| not_found)?;
        let mut held = store.resolve(&by_root, Selection::Present).await?;
        held.image.reference = query.reference().map(proto::Reference::without_digest);
        Ok(Self { query, held, selected: Mutex::default() })
    }

    /// What was asked for.
    pub fn query(&self) -> &Query {
        &self.query
    }

    /// The image with every manifest that is here.
    pub fn held(&self) -> &Held {
        &self.held
    }

    /// The image with the manifests that `selection` asks for.
    pub async fn select<S: Store>(&self, store: &S, selection: Selection) -> Result<Held, StoreError> {
        let mut selected = self.selected.lock().await;
        if let Some((_, held)) = selected.iter().find(|(known, _)| *known == selection) {
            return Ok(held.clone());
        }
        let image = match (self.walk(store, selection.clone()).await, selection.platform()) {
            // Of an index that is not here as a whole.
            (Err(StoreError::Image(ImageError::Absent { .. }) | StoreError::BlobMissing(_)), Some(wanted)) => {
                let available = self.held.image.platforms();
                return Err(ImageError::PlatformAbsent { wanted: wanted.clone(), available }.into());
            }
            (walked, _) => walked?,
        };
        let held = self.held.of(image);
        selected.push((selection, held.clone()));
        Ok(held)
    }

    /// Where the name leads now, when that is another image than this: `Some(None)` where it leads nowhere.
    pub async fn moved<S: Store>(&self, store: &S) -> Result<Option<Option<Digest>>, StoreError> {
        if self.held.image.reference.is_none() {
            return Ok(None);
        }
        match store.resolve(&self.query, Selection::Present).await {
            Ok(now) if now.image.root.digest == self.held.image.root.digest => Ok(None),
            Ok(now) => Ok(Some(Some(now.image_id))),
            Err(StoreError::NotFound(_)) => Ok(Some(None)),
            Err(error) => Err(error),
        }
    }

    async fn walk<S: Store>(&self, store: &S, selection: Selection) -> Result<Image, StoreError> {
        let here = &self.held.image;
        let mut walk = Walk::new(here.reference.clone(), here.root.clone(), selection);
        while let Some(document) = walk.next().cloned() {
            let bytes = match store.read(&document, 0..document.size_bytes).await {
                Ok(reader) => Some(reader.all().await?),
                Err(StoreError::BlobMissing(_)) => None,
                Err(error) => return Err(error),
            };
            walk.supply(bytes.as_deref())?;
        }
        let mut image = walk.finish()?;
        if image.manifests.iter().any(Manifest::is_image) {
            // An attestation of which only the documents are here.
            image.manifests.retain(|manifest| manifest.is_image() || here.manifests.contains(manifest));
        }
        // What is held is here with all its layers.
        match image.manifests.iter().find(|manifest| !here.manifests.contains(manifest)) {
            Some(absent) => Err(StoreError::BlobMissing(absent.descriptor.digest)),
            None => Ok(image),
        }
    }
}
