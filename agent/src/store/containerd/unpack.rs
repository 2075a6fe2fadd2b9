//! Unpacking an image while it comes in: a layer as soon as it and those below it are here.

use std::collections::HashMap;
use std::sync::Arc;

use proto::{Descriptor, Digest, Image, Manifest, Platform};
use tonic::Code;

use super::Shared;
use super::api::diff::ApplyRequest;
use super::api::snapshots::{CommitSnapshotRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest};
use super::connection::{ENGINE, created, found};
use super::import::Ready;
use super::labels::{Labels, UNCOMPRESSED};
use super::lease::EngineLease;
use super::records::write_descriptor;
use crate::store::StoreError;

/// What is to be unpacked.
#[derive(Debug)]
pub(super) struct Unpack {
    pub(super) shared: Arc<Shared>,
    pub(super) lease: Arc<EngineLease>,
    pub(super) manifest: Manifest,
    pub(super) ready: Ready,
    pub(super) forms: HashMap<Digest, Descriptor>,
}

/// The manifest that would run here, when there is one and its layers are file systems.
pub(super) fn unpackable(image: &Image) -> Option<&Manifest> {
    let host = Platform::host();
    let rank = |manifest: &&Manifest| manifest.platform.as_ref().and_then(|offered| host.rank(offered));
    let manifest = image.manifests.iter().filter(|manifest| rank(manifest).is_some()).min_by_key(rank)?;
    let is_tar = |media_type: &str| media_type.contains(".image.layer.") || media_type.contains(".image.rootfs.");
    let is_layer = |layer: &proto::image::Layer| layer.diff_id.is_some() && is_tar(&layer.descriptor.media_type);
    manifest.layers.iter().all(is_layer).then_some(manifest)
}

impl Unpack {
    /// Waits for one layer after the other; ends with the chain ID of all, `None` where there is no layer.
    pub(super) async fn run(self) -> Result<Option<Digest>, StoreError> {
        let snapshotter = self.shared.facts().await?.snapshotter.clone();
        let mut parent: Option<Digest> = None;
        let mut found = None;
        for layer in &self.manifest.layers {
            let Some(diff_id) = layer.diff_id else { return Ok(None) };
            let chain = chain_id(parent.as_ref(), &diff_id);
            let blob = &layer.descriptor;
            if self.shared.has_snapshot(&snapshotter, &chain).await? {
                found = Some(chain);
                parent = Some(chain);
                continue;
            }
            // Only the highest of those that are here has to be kept: it keeps those below.
            self.keep(&snapshotter, found.take(), blob).await?;
            match self.forms.get(&blob.digest) {
                Some(packed) => self.shared.make(&self.lease, blob, packed, &self.ready).await?,
                None => self.ready.wait_for(blob.digest).await,
            }
            let _turn = self.shared.unpack_turns.take(chain).await;
            if !self.shared.has_snapshot(&snapshotter, &chain).await? {
                self.unpack(&snapshotter, parent.as_ref(), blob, &diff_id, &chain).await?;
            } else {
                self.lease.add_snapshot(&snapshotter, &chain).await?;
            }
            parent = Some(chain);
        }
        if let (Some(chain), Some(layer)) = (found, self.manifest.layers.last()) {
            self.keep(&snapshotter, Some(chain), &layer.descriptor).await?;
        }
        Ok(parent)
    }

    /// Keeps unpacked layers that are here, of which `blob` is the next or the last.
    async fn keep(&self, snapshotter: &str, chain: Option<Digest>, blob: &Descriptor) -> Result<(), StoreError> {
        let Some(chain) = chain else { return Ok(()) };
        self.lease.add_snapshot(snapshotter, &chain).await?;
        // Only what is here after that is sure to stay.
        if self.shared.has_snapshot(snapshotter, &chain).await? { Ok(()) } else { Err(StoreError::Gone(blob.digest)) }
    }

    async fn unpack(
        &self,
        snapshotter: &str,
        parent: Option<&Digest>,
        blob: &Descriptor,
        diff_id: &Digest,
        chain: &Digest,
    ) -> Result<(), StoreError> {
        let key = format!("imgd-{}-{}", self.shared.agent, chain.hex());
        let result = self.fill(snapshotter, parent, blob, diff_id, chain, &key).await;
        if !matches!(result, Ok(true)) {
            // It failed, or somebody else was faster.
            let removed = self.shared.remove_snapshot(snapshotter, &key).await;
            result?;
            removed?;
        }
        let info = self.shared.info(&blob.digest).await?;
        let label = (UNCOMPRESSED.to_owned(), diff_id.to_string());
        self.shared.label(&blob.digest, info.as_ref(), Labels::from([label])).await
    }

    /// `Ok(false)` when it was committed by somebody else.
    async fn fill(
        &self,
        snapshotter: &str,
        parent: Option<&Digest>,
        blob: &Descriptor,
        diff_id: &Digest,
        chain: &Digest,
        key: &str,
    ) -> Result<bool, StoreError> {
        let (connection, lease) = (&self.shared.connection, self.lease.id());
        let failed = |status: &tonic::Status| match status.code() {
            // The layer, or what lies below it.
            Code::NotFound => StoreError::Gone(blob.digest),
            _ => connection.failed(format!("unpack {}", blob.digest), status),
        };
        let prepare = PrepareSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            key: key.to_owned(),
            parent: parent.map(ToString::to_string).unwrap_or_default(),
            labels: Labels::new(),
        };
        let prepared = connection.ask(connection.snapshots().prepare(connection.leased(prepare.clone(), lease))).await;
        let prepared = match prepared {
            // A former try of ours.
            Err(status) if status.code() == Code::AlreadyExists => {
                self.shared.remove_snapshot(snapshotter, key).await?;
                connection.ask(connection.snapshots().prepare(connection.leased(prepare, lease))).await
            }
            prepared => prepared,
        };
        let mounts = prepared.map_err(|status| failed(&status))?.mounts;
        let request = connection.leased(ApplyRequest { diff: Some(write_descriptor(blob)), mounts }, lease);
        let answer = connection.ask(connection.diff().apply(request)).await;
        let applied = answer.map_err(|status| failed(&status))?.applied.map(|applied| applied.digest);
        if applied.as_deref() != Some(diff_id.to_string().as_str()) {
            let reason = format!("there is {} in it, not {diff_id} as the config says", applied.unwrap_or_default());
            return Err(StoreError::Engine { engine: ENGINE, action: format!("unpack {}", blob.digest), reason });
        }
        let commit = CommitSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            name: chain.to_string(),
            key: key.to_owned(),
            labels: Labels::new(),
        };
        let answer = connection.ask(connection.snapshots().commit(connection.leased(commit, lease))).await;
        created(answer).map_err(|status| failed(&status))
    }
}

impl Shared {
    /// True when this stack of layers is unpacked.
    pub(super) async fn has_snapshot(&self, snapshotter: &str, chain: &Digest) -> Result<bool, StoreError> {
        let request = StatSnapshotRequest { snapshotter: snapshotter.to_owned(), key: chain.to_string() };
        let answer = self.connection.ask(self.connection.snapshots().stat(self.connection.request(request))).await;
        let answer = found(answer).map_err(|status| self.connection.failed(format!("look for the snapshot {chain}"), &status))?;
        Ok(answer.is_some())
    }

    async fn remove_snapshot(&self, snapshotter: &str, key: &str) -> Result<(), StoreError> {
        let request = RemoveSnapshotRequest { snapshotter: snapshotter.to_owned(), key: key.to_owned() };
        let answer = self.connection.ask(self.connection.snapshots().remove(self.connection.request(request))).await;
        found(answer).map(|_| ()).map_err(|status| self.connection.failed(format!("remove the snapshot {key}"), &status))
    }
}

/// The identity of a layer on top of others (OCI image specification, config.md, "Layer ChainID").
pub(super) fn chain_id(parent: Option<&Digest>, diff_id: &Digest) -> Digest {
    match parent {
        None => *diff_id,
        Some(parent) => Digest::of(format!("{parent} {diff_id}").as_bytes()),
    }
}
