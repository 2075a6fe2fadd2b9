//! Reading an image's documents from wherever they lie.

use std::collections::HashSet;

use proto::document::DocumentError;
use proto::image::{ImageError, Selection, Walk};
use proto::{Descriptor, Digest, Image, Reference};

use super::StoreError;

/// Walks from `root` to its image. `read` gives a document's bytes, or `None` when it is not there.
pub(crate) fn walk(
    reference: Option<Reference>,
    root: &Descriptor,
    selection: Selection,
    mut read: impl FnMut(&Descriptor) -> Result<Option<Vec<u8>>, StoreError>,
) -> Result<Image, StoreError> {
    let mut walk = Walk::new(reference, root.clone(), selection);
    while let Some(document) = walk.next() {
        let bytes = read(document)?;
        walk.supply(bytes.as_deref())?;
    }
    Ok(walk.finish()?)
}

/// Reads the documents that `image` names again, and refuses it when they say anything else: what a stranger claims to be in an image
/// becomes visible only as its documents have it.
pub(crate) fn verify(image: &Image, mut read: impl FnMut(&Descriptor) -> Result<Option<Vec<u8>>, StoreError>) -> Result<(), StoreError> {
    let named: HashSet<Digest> = image.documents().into_iter().map(|document| document.digest).collect();
    let found = walk(image.reference.clone(), &image.root, Selection::Present, |document| {
        if named.contains(&document.digest) { read(document) } else { Ok(None) }
    })?;
    let same = image.indexes.iter().all(|index| found.indexes.contains(index))
        && found.indexes.iter().all(|index| image.indexes.contains(index))
        && image.manifests.iter().all(|manifest| found.manifests.contains(manifest))
        && found.manifests.iter().all(|manifest| image.manifests.contains(manifest));
    if same { Ok(()) } else { Err(ImageError::Differs(image.root.digest).into()) }
}

/// True when the error says that a document's bytes are not those of its descriptor.
pub(crate) fn is_mismatch(error: &StoreError) -> Option<Digest> {
    match error {
        StoreError::Image(ImageError::Document(DocumentError::DigestMismatch { digest })) => Some(*digest),
        _ => None,
    }
}
