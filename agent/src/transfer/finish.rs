//! The end of a session: documents into the store, the policy asked once more, the name moved.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use proto::peer::Refusal;
use proto::{Descriptor, Digest, HostId, Image};

use super::commit::{Line, commit};
use super::{Context, refusal, rights};
use crate::store::{Import, Imported, Ingest, Store, StoreError};
use crate::trust::Arrival;

/// For whom an image comes in.
pub(super) enum By {
    /// Somebody on this host has asked for it: who, and the rule.
    Puller(String, String),
    /// A host has brought it: its name, and whose rights count.
    Pushers(String, Vec<HostId>),
}

/// Makes an image visible, all of whose layers are in.
pub(super) async fn finish<S: Store>(
    context: &Context<S>,
    image: &Image,
    import: Option<Arc<S::Import>>,
    documents: &Mutex<HashMap<Digest, Bytes>>,
    by: By,
) -> Result<Imported, Refusal> {
    let import = import.and_then(Arc::into_inner).ok_or(StoreError::BlobMissing(image.root.digest));
    let import = import.map_err(|error| refusal(&error))?;
    store_documents(&import, image, documents).await.map_err(|error| refusal(&error))?;
    let name = image.reference.clone();
    // From the answer to the question until the commit is over no other session gives this name away.
    let turn = context.names.take(Digest::of(name.as_ref().map(ToString::to_string).unwrap_or_default().as_bytes())).await;
    let refused = |error: StoreError| refusal(&error);
    match by {
        By::Puller(who, rule) => {
            let line: Line = (Arrival::Pulled, who, rule);
            let imported = commit(context.trust.audit(), import, name.clone(), line, Some(turn)).await.map_err(refused)?;
            context.senders.forget(name.as_slice()).await;
            Ok(imported)
        }
        By::Pushers(peer, pushers) => {
            // Asked again: somebody else may have given the name to another image since the offer came.
            let checked = rights::check_push(context, &pushers, image).await?;
            let line: Line = (Arrival::Pushed, peer, checked.rule.clone());
            let imported = commit(context.trust.audit(), import, name, line, Some(turn)).await.map_err(refused)?;
            checked.brought(context, &pushers, image, &imported).await;
            Ok(imported)
        }
    }
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
