//! What is here counts as present only for those who may have it. Where not every member may pull everything, a host that names a blob in an image of
//! its own would otherwise get it: the image is complete, and is pulled from here. So whoever brings an image has to be allowed to pull a repository
//! here that holds the blob, or sends the bytes all the same, which proves that it has them. That is remembered.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use proto::image::Selection;
use proto::peer::{ImageRow, Missing};
use proto::{Descriptor, Digest, HostId, Image, Reference};

use super::Context;
use super::arriving::hand_over;
use super::rights::may_pull;
use crate::archive;
use crate::packing::unpacked_limit_bytes;
use crate::staging::{Source, StagedBlob};
use crate::store::{Form, Query, Store, StoreError};
use crate::sys::{Lane, blocking, blocking_in};

/// Contents of which is remembered that a host has them: the layers of some thousand images.
const PROVEN: usize = 64 * 1024;

/// Blobs of images here of which it is remembered that they belong to them: some megabytes.
const HELD: usize = 128 * 1024;

/// Which host has proved that it has which content, since the agent started; the oldest is forgotten.
#[derive(Debug, Default)]
pub struct Possessions {
    proven: Mutex<Proven>,
    /// What images here are made of, by their roots: to find that out again with every offer costs a look at each image.
    held: Mutex<HashMap<Digest, Arc<HashSet<Digest>>>>,
}

#[derive(Debug, Default)]
struct Proven {
    known: HashSet<(HostId, Digest)>,
    order: VecDeque<(HostId, Digest)>,
}

impl Possessions {
    fn has(&self, host: HostId, content: Digest) -> bool {
        self.proven.lock().unwrap_or_else(PoisonError::into_inner).known.contains(&(host, content))
    }

    fn add(&self, host: HostId, content: Digest) {
        let mut proven = self.proven.lock().unwrap_or_else(PoisonError::into_inner);
        if !proven.known.insert((host, content)) {
            return;
        }
        proven.order.push_back((host, content));
        if proven.order.len() > PROVEN
            && let Some(oldest) = proven.order.pop_front()
        {
            proven.known.remove(&oldest);
        }
    }
}

impl Possessions {
    fn held(&self, root: &Digest) -> Option<Arc<HashSet<Digest>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).get(root).cloned()
    }

    fn remember(&self, root: Digest, contents: Arc<HashSet<Digest>>) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.values().map(|contents| contents.len()).sum::<usize>() + contents.len() <= HELD {
            held.insert(root, contents);
        }
    }

    /// What is not here any more need not be known.
    fn forget_all_but(&self, rows: &[ImageRow]) {
        let roots: HashSet<Digest> = rows.iter().map(|row| row.root).collect();
        self.held.lock().unwrap_or_else(PoisonError::into_inner).retain(|root, _| roots.contains(root));
    }
}

/// A host has brought all of an image: it has every blob, or may have it.
pub(super) fn brought<S: Store>(context: &Context<S>, host: HostId, image: &Image) {
    if context.policy.restricts_pull() {
        let contents = contents(image, context.store.properties().form);
        contents.into_values().for_each(|content| context.possessions.add(host, content));
    }
}

/// Blobs of an image that are here, and that this host may not pull from here and has not proved to have. In a fleet without rules for pulls: none, at
/// no cost. Where it sends for another host, it has looked at the rights of that one.
pub(super) async fn unproven<S: Store>(
    context: &Context<S>,
    host: HostId,
    image: &Image,
    missing: &[Descriptor],
) -> Result<Vec<Descriptor>, StoreError> {
    if !context.policy.restricts_pull() {
        return Ok(vec![]);
    }
    let form = context.store.properties().form;
    let contents = contents(image, form);
    let missing: HashSet<Digest> = missing.iter().map(|blob| blob.digest).collect();
    let has = |blob: &Descriptor| contents.get(&blob.digest).is_some_and(|content| context.possessions.has(host, *content));
    let mut unproven: Vec<Descriptor> = image.blobs().into_iter().filter(|blob| !missing.contains(&blob.digest)).cloned().collect();
    unproven.retain(|blob| !has(blob));
    let may_have = |reference: &Reference| may_pull(context, &host, &reference.repository()).is_some();
    if unproven.is_empty() {
        return Ok(unproven);
    }
    let rows = context.store.list().await?;
    context.possessions.forget_all_but(&rows);
    for row in rows {
        if unproven.is_empty() {
            break;
        }
        let Some(name) = row.reference.filter(may_have) else { continue };
        if let Some(held) = held(context, row.root, name).await? {
            unproven.retain(|blob| !contents.get(&blob.digest).is_some_and(|content| held.contains(content)));
        }
    }
    Ok(unproven)
}

/// What an image here is made of; `None`: it has gone meanwhile, or is not whole, and nothing is known of that.
async fn held<S: Store>(context: &Context<S>, root: Digest, name: Reference) -> Result<Option<Arc<HashSet<Digest>>>, StoreError> {
    if let Some(known) = context.possessions.held(&root) {
        return Ok(Some(known));
    }
    let image = match context.store.resolve(&Query::from(name), Selection::Present).await {
        Err(StoreError::NotFound(_) | StoreError::BlobMissing(_) | StoreError::Corrupt(_) | StoreError::Image(_)) => return Ok(None),
        held => held?.image,
    };
    let held: Arc<HashSet<Digest>> = Arc::new(contents(&image, context.store.properties().form).into_values().collect());
    if image.root.digest == root {
        context.possessions.remember(root, held.clone());
    }
    Ok(Some(held))
}

/// Whose bytes count for a blob that this host brings.
pub(super) fn source<S>(context: &Context<S>, host: HostId, digest: &Digest) -> Source {
    if context.policy.restricts_pull() || context.staging.is_parted(digest) { Source::Only(host) } else { Source::Any }
}

/// What is missing, with what is staged of it.
pub(super) async fn staged<S: Store>(
    context: &Arc<Context<S>>,
    host: HostId,
    missing: Vec<Descriptor>,
) -> Result<Vec<Missing>, StoreError> {
    let context = context.clone();
    let staged = move |blob: Descriptor| {
        let source = source(&context, host, &blob.digest);
        let staged_bytes = context.staging.staged_bytes(&blob, source)?.min(blob.size_bytes);
        Ok(Missing { digest: blob.digest, size_bytes: blob.size_bytes, staged_bytes })
    };
    blocking(move || missing.into_iter().map(staged).collect()).await
}

/// A complete layer goes into the store. Where another host has brought it meanwhile, these bytes are a proof, or nothing.
pub(super) async fn store<S: Store>(
    context: &Context<S>,
    staged: Arc<StagedBlob>,
    import: Arc<S::Import>,
    diff_id: Option<Digest>,
) -> Result<(), StoreError> {
    let is_handed_over = hand_over(&staged, import).await?;
    if is_handed_over || !context.policy.restricts_pull() { Ok(()) } else { prove(staged, diff_id).await }
}

/// All bytes of a blob that is here have come again. A layer also has to be the one that the config names: a store of unpacked layers knows it by that.
pub(super) async fn prove(staged: Arc<StagedBlob>, diff_id: Option<Digest>) -> Result<(), StoreError> {
    let digest = staged.descriptor().digest;
    let proof = move || {
        let file = staged.finish()?;
        let unpacked = diff_id.map(|_| archive::diff_id(file.path(), digest, unpacked_limit_bytes(file.size_bytes())));
        file.stored();
        match unpacked {
            Some(Ok(unpacked)) if Some(unpacked) != diff_id => Err(StoreError::Corrupt(digest)),
            Some(Err(archive::ArchiveError::Store(error))) => Err(error),
            Some(Err(_)) => Err(StoreError::Corrupt(digest)),
            _ => Ok(()),
        }
    };
    blocking_in(Lane::Unpack, proof).await
}

/// By what the store knows each blob of an image: a layer that is kept unpacked by its diff ID.
fn contents(image: &Image, form: Form) -> HashMap<Digest, Digest> {
    let mut contents: HashMap<Digest, Digest> = image.blobs().into_iter().map(|blob| (blob.digest, blob.digest)).collect();
    if form == Form::Unpacked {
        let layers = image.manifests.iter().flat_map(|manifest| &manifest.layers);
        contents.extend(layers.filter_map(|layer| Some((layer.descriptor.digest, layer.diff_id?))));
    }
    contents
}
