//! The documents of an image: what came, what is here, and whether both say what was offered.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use proto::image::{Selection, Walk};
use proto::peer::Refusal;
use proto::{Descriptor, Digest, Image};

use super::refusal;
use crate::store::{Store, StoreError};

/// Walks the documents, those that came and those that are here, and compares with what was offered.
pub(super) async fn check<S: Store>(store: &S, offered: &Image, fetched: &Mutex<HashMap<Digest, Bytes>>) -> Result<(), Refusal> {
    let meant: HashSet<Digest> = offered.documents().iter().map(|document| document.digest).collect();
    let selection = if offered.indexes.is_empty() { Selection::All } else { Selection::Present };
    let mut walk = Walk::new(offered.reference.clone(), offered.root.clone(), selection);
    while let Some(next) = walk.next().cloned() {
        let known = fetched.lock().unwrap_or_else(PoisonError::into_inner).get(&next.digest).cloned();
        let bytes = match known {
            None if !meant.contains(&next.digest) => None,
            None => Some(read(store, &next).await.map_err(|error| refusal(&error))?),
            known => known,
        };
        walk.supply(bytes.as_deref()).map_err(|error| refusal(&StoreError::Image(error)))?;
    }
    let walked = walk.finish().map_err(|error| refusal(&StoreError::Image(error)))?;
    if walked == *offered { Ok(()) } else { Err(Refusal::InvalidImage("its documents do not say what was offered".to_owned())) }
}

async fn read<S: Store>(store: &S, document: &Descriptor) -> Result<Bytes, StoreError> {
    store.read(document, 0..document.size_bytes).await?.all().await
}
