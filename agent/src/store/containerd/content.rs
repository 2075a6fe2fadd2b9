//! What blobs are here, and the small ones among them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use proto::image::{Selection, Walk};
use proto::limits::CONFIG_BYTES;
use proto::{Descriptor, Digest, Image, Reference};
use tonic::Status;

use super::Shared;
use super::api::content::{DeleteContentRequest, Info, InfoRequest, ListContentRequest, ReadContentRequest, UpdateRequest};
use super::connection::found;
use super::labels::Labels;
use crate::store::StoreError;

/// More questions than this are one question for everything.
const INFO_LIMIT: usize = 48;
/// Documents that are kept in memory.
const CACHE_BYTES: usize = 4 << 20;

/// What the engine says of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BlobInfo {
    pub(super) size_bytes: u64,
    pub(super) labels: Labels,
}

/// What the engine says of some blobs; those that are not here, or damaged, are not in it.
pub(super) type Infos = HashMap<Digest, BlobInfo>;

/// True when the blob is in `infos` with its size.
pub(super) fn has(infos: &Infos, blob: &Descriptor) -> bool {
    infos.get(&blob.digest).is_some_and(|info| info.size_bytes == blob.size_bytes)
}

/// Documents by digest; the oldest go first.
#[derive(Debug, Default)]
pub(super) struct Documents(Mutex<Cache>);

#[derive(Debug, Default)]
struct Cache {
    documents: HashMap<Digest, Bytes>,
    order: VecDeque<Digest>,
    bytes: usize,
}

impl Documents {
    fn get(&self, digest: &Digest) -> Option<Bytes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).documents.get(digest).cloned()
    }

    fn put(&self, digest: Digest, bytes: Bytes) {
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes.len() > CACHE_BYTES / 4 || cache.documents.contains_key(&digest) {
            return;
        }
        cache.bytes += bytes.len();
        cache.documents.insert(digest, bytes);
        cache.order.push_back(digest);
        while cache.bytes > CACHE_BYTES {
            let Some(oldest) = cache.order.pop_front() else { return };
            cache.bytes -= cache.documents.remove(&oldest).map_or(0, |bytes| bytes.len());
        }
    }

    pub(super) fn forget(&self, digest: &Digest) {
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cache.order.retain(|kept| kept != digest);
        let gone = cache.documents.remove(digest).map_or(0, |bytes| bytes.len());
        cache.bytes -= gone;
    }
}

impl Shared {
    /// What the engine says of one blob; `None` too when it is known to be damaged.
    pub(super) async fn info(&self, digest: &Digest) -> Result<Option<BlobInfo>, StoreError> {
        if self.quarantine.holds(digest) {
            return Ok(None);
        }
        let request = self.connection.request(InfoRequest { digest: digest.to_string() });
        let answer = self.connection.ask(self.connection.content().info(request)).await;
        let info = found(answer).map_err(|status| self.connection.failed(format!("look for {digest}"), &status))?;
        Ok(info.and_then(|answer| answer.info).and_then(|info| read_info(info).map(|(_, info)| info)))
    }

    /// What the engine says of these blobs.
    pub(super) async fn infos<'a>(&self, blobs: impl IntoIterator<Item = &'a Descriptor>) -> Result<Infos, StoreError> {
        let wanted: HashSet<Digest> = blobs.into_iter().map(|blob| blob.digest).collect();
        let mut infos = Infos::new();
        if wanted.len() > INFO_LIMIT {
            infos = self.all_infos(vec![]).await?;
            infos.retain(|digest, _| wanted.contains(digest));
            return Ok(infos);
        }
        for digest in wanted {
            if let Some(info) = self.info(&digest).await? {
                infos.insert(digest, info);
            }
        }
        Ok(infos)
    }

    /// True when another namespace has a blob. That does not make it ours.
    pub(super) async fn is_elsewhere(&self, digest: &Digest) -> Result<bool, StoreError> {
        for namespace in self.namespaces().await?.iter().filter(|namespace| namespace.name != self.namespace) {
            let request = self.connection.request_in(&namespace.name, InfoRequest { digest: digest.to_string() });
            let answer = self.connection.ask(self.connection.content().info(request)).await;
            if found(answer).map_err(|status| self.connection.failed(format!("look for {digest}"), &status))?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What the engine says of all blobs that one of the filters fits; of all, when there is none.
    pub(super) async fn all_infos(&self, filters: Vec<String>) -> Result<Infos, StoreError> {
        let mut infos = self.every_info(filters).await?;
        infos.retain(|digest, _| !self.quarantine.holds(digest));
        Ok(infos)
    }

    /// The same, with what is known to be damaged.
    pub(super) async fn every_info(&self, filters: Vec<String>) -> Result<Infos, StoreError> {
        self.listed(filters).await.map_err(|status| self.connection.failed("list its content", &status))
    }

    async fn listed(&self, filters: Vec<String>) -> Result<Infos, Status> {
        let request = self.connection.request(ListContentRequest { filters });
        let mut pages = self.connection.ask(self.connection.content().list(request)).await?;
        let mut infos = Infos::new();
        while let Some(page) = self.connection.watched(pages.message()).await? {
            infos.extend(page.info.into_iter().filter_map(read_info));
        }
        Ok(infos)
    }

    /// Adds labels to a blob; nothing is asked where they are there already.
    pub(super) async fn label(&self, digest: &Digest, info: Option<&BlobInfo>, labels: Labels) -> Result<(), StoreError> {
        let there = |key: &String, value: &String| info.is_some_and(|info| info.labels.get(key) == Some(value));
        let labels: Labels = labels.into_iter().filter(|(key, value)| !there(key, value)).collect();
        if labels.is_empty() {
            return Ok(());
        }
        let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
        let info = Info { digest: digest.to_string(), size: 0, labels };
        let message = UpdateRequest { info: Some(info), update_mask: Some(prost_types::FieldMask { paths }) };
        let answer = self.connection.ask(self.connection.content().update(self.connection.request(message))).await;
        answer.map(|_| ()).map_err(|status| self.connection.failed_blob("label", digest, &status))
    }

    /// Takes a blob out of the namespace, whatever refers to it.
    pub(super) async fn delete_blob(&self, digest: &Digest) -> Result<(), StoreError> {
        self.documents.forget(digest);
        let request = self.connection.request(DeleteContentRequest { digest: digest.to_string() });
        let answer = self.connection.ask(self.connection.content().delete(request)).await;
        found(answer).map(|_| ()).map_err(|status| self.connection.failed(format!("delete {digest}"), &status))
    }

    /// The bytes of a manifest, an index or a config; `None` when `infos` does not have it.
    pub(super) async fn document(&self, document: &Descriptor, infos: &Infos) -> Result<Option<Bytes>, StoreError> {
        let digest = document.digest;
        if !infos.contains_key(&digest) {
            return Ok(None);
        }
        if let Some(bytes) = self.documents.get(&digest) {
            return Ok(Some(bytes));
        }
        // What is longer is refused by whoever asked for it.
        let size = document.size_bytes.min(CONFIG_BYTES + 1) as i64;
        let answer = self.connection.ask(self.small(digest, size)).await;
        let bytes = found(answer).map_err(|status| self.connection.failed(format!("read {digest}"), &status))?;
        if let Some(bytes) = bytes.as_ref().filter(|bytes| Digest::of(bytes) == digest) {
            self.documents.put(digest, bytes.clone());
        }
        Ok(bytes)
    }

    async fn small(&self, digest: Digest, size: i64) -> Result<tonic::Response<Bytes>, Status> {
        let message = ReadContentRequest { digest: digest.to_string(), offset: 0, size };
        let mut blocks = self.connection.content().read(self.connection.request(message)).await?.into_inner();
        let mut bytes = Vec::new();
        while let Some(block) = blocks.message().await? {
            bytes.extend_from_slice(&block.data);
        }
        Ok(tonic::Response::new(bytes.into()))
    }

    /// Walks from `root` to its image, by those documents that are in `infos`.
    pub(super) async fn walk(
        &self,
        reference: Option<Reference>,
        root: &Descriptor,
        selection: Selection,
        infos: &mut Presence,
    ) -> Result<Image, StoreError> {
        let mut walk = Walk::new(reference, root.clone(), selection);
        while let Some(document) = walk.next().cloned() {
            infos.look(self, &document).await?;
            let bytes = self.document(&document, &infos.infos).await?;
            walk.supply(bytes.as_deref())?;
        }
        Ok(walk.finish()?)
    }
}

/// What is known of blobs so far.
#[derive(Debug, Default)]
pub(super) struct Presence {
    pub(super) infos: Infos,
    asked: HashSet<Digest>,
    /// Everything was listed: what is not in `infos` is not here.
    complete: bool,
}

impl Presence {
    /// Of everything, at once.
    pub(super) async fn of_all(shared: &Shared) -> Result<Self, StoreError> {
        Ok(Self { infos: shared.all_infos(vec![]).await?, asked: HashSet::new(), complete: true })
    }

    /// Asks for one blob, if that was not done.
    pub(super) async fn look(&mut self, shared: &Shared, blob: &Descriptor) -> Result<(), StoreError> {
        if !self.complete
            && self.asked.insert(blob.digest)
            && let Some(info) = shared.info(&blob.digest).await?
        {
            self.infos.insert(blob.digest, info);
        }
        Ok(())
    }
}

fn read_info(info: Info) -> Option<(Digest, BlobInfo)> {
    let digest = info.digest.parse().ok()?;
    Some((digest, BlobInfo { size_bytes: u64::try_from(info.size).ok()?, labels: info.labels }))
}
