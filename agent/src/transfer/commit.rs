//! The end of a session: documents into the store, the policy asked once more, the name moved.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use proto::peer::Refusal;
use proto::{Descriptor, Digest, HostId, Image};

use super::{Context, refusal, rights};
use crate::store::{Import, Imported, Ingest, Store, StoreError};

/// Makes an image visible, all of whose layers are in. `pushers`: whose rights count; `None` for what was asked for on this host.
pub(super) async fn commit<S: Store>(
    context: &Context<S>,
    image: &Image,
    import: Option<Arc<S::Import>>,
    documents: &Mutex<HashMap<Digest, Bytes>>,
    pushers: Option<&[HostId]>,
) -> Result<Imported, Refusal> {
    let import = import.and_then(Arc::into_inner).ok_or(StoreError::BlobMissing(image.root.digest));
    let import = import.map_err(|error| refusal(&error))?;
    store_documents(&import, image, documents).await.map_err(|error| refusal(&error))?;
    let Some(pushers) = pushers else { return import.commit().await.map_err(|error| refusal(&error)) };
    // Asked again: somebody else may have given the name to another image since the offer came. From the answer to the commit no other session
    // gives this name away.
    let name = image.reference.as_ref().map(ToString::to_string).unwrap_or_default();
    let _turn = context.names.take(Digest::of(name.as_bytes())).await;
    rights::check_push(context, pushers, image).await?;
    import.commit().await.map_err(|error| refusal(&error))
}

/// Children before parents: what a document names is there before the document is.
async fn store_documents<I: Import>(import: &I, image: &Image, documents: &Mutex<HashMap<Digest, Bytes>>) -> Result<(), StoreError> {
    let blobs: Vec<Descriptor> = image.documents().into_iter().cloned().collect();
    for blob in blobs.iter().rev() {
        let bytes = documents.lock().unwrap_or_else(PoisonError::into_inner).remove(&blob.digest);
        let Some(bytes) = bytes else { continue };
        if let Some(mut ingest) = import.ingest(blob).await? {
            ingest.append(bytes.slice(ingest.offset() as usize..)).await?;
            ingest.commit().await?;
        }
    }
    Ok(())
}
