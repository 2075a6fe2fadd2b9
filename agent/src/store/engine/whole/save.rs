//! Out of the engine: its archive of an image, blob by blob into the layout.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;

use proto::image::Selection;
use proto::limits::{BLOCK_BYTES, MANIFEST_BYTES};
use proto::{Descriptor, Digest, document};

use super::super::Shared;
use super::super::save::{broken, files};
use super::{Passage, name};
use crate::staging::{StagedFile, Staging};
use crate::store::walk::walk;
use crate::store::{Import, Ingest, Store, StoreError};

/// What an archive had.
#[derive(Default)]
struct Saved {
    index: Vec<u8>,
    files: HashMap<Digest, StagedFile>,
}

impl Passage {
    /// Has the engine save an image, and brings it into the layout.
    pub(super) async fn save(&self, shared: &Shared, id: &Digest) -> Result<(), StoreError> {
        let staging = self.staging.clone();
        let mut saved = shared.save(id, move |archive| unpack(archive, &staging)).await?;
        let refuse = |reason: String| shared.client.refusal("save an image", reason);
        let index = document::parse_layout_index(&saved.index).map_err(refuse)?;
        let mut roots = index.manifests.into_iter().map(|entry| entry.descriptor);
        let root = roots.find(|root| root.digest == *id).ok_or_else(|| refuse(format!("{id} is not in the archive")))?;
        let read = |document: &Descriptor| read(&saved.files, document);
        let mut image = walk(name(id), &root, Selection::Present, read)?;
        // Of an index, the platforms that the engine has.
        image.manifests.retain(|manifest| manifest.layers.iter().all(|layer| saved.files.contains_key(&layer.descriptor.digest)));
        let mut import = self.layout.import(image).await?;
        for blob in import.missing().await? {
            let Some(ingest) = import.ingest(&blob).await? else { continue };
            ingest.adopt(saved.files.remove(&blob.digest).ok_or(StoreError::BlobMissing(blob.digest))?).await?;
        }
        import.commit().await.map(drop)
    }
}

fn unpack(archive: impl Read, staging: &Arc<Staging>) -> Result<Saved, StoreError> {
    let mut saved = Saved::default();
    let mut block = vec![0; BLOCK_BYTES as usize];
    files(archive, |name, content| {
        if name == b"index.json" {
            content.take(4 * MANIFEST_BYTES).read_to_end(&mut saved.index).map_err(broken)?;
            return Ok(());
        }
        let mut writer = staging.writer()?;
        loop {
            match content.read(&mut block).map_err(broken)? {
                0 => break,
                read => writer.write(&block[..read])?,
            }
        }
        let file = writer.finish();
        saved.files.entry(file.digest()).or_insert(file);
        Ok(())
    })?;
    Ok(saved)
}

fn read(files: &HashMap<Digest, StagedFile>, document: &Descriptor) -> Result<Option<Vec<u8>>, StoreError> {
    let Some(file) = files.get(&document.digest).filter(|file| file.size_bytes() == document.size_bytes) else { return Ok(None) };
    std::fs::read(file.path()).map(Some).map_err(StoreError::io("read", file.path()))
}
