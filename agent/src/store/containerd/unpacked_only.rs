//! Layers that the engine has only unpacked: it does not fetch the blob of a layer whose snapshot it has, so that an image which was pulled after its
//! layers had come in another form runs, and cannot be read.

use std::sync::Arc;

use bytes::Bytes;
use proto::descriptor::media_type;
use proto::document::make_manifest;
use proto::image::Layer;
use proto::{Descriptor, Digest, Image, Manifest};

use super::Shared;
use super::content::{Infos, has};
use super::import::Ready;
use super::ingest::ContainerdIngest;
use super::labels::UNCOMPRESSED;
use super::lease::EngineLease;
use super::unpack::chain_id;
use crate::packing::Packing;
use crate::store::{Ingest, StoreError};

impl Shared {
    /// The layers of a manifest that are here only unpacked; `None` when one of them is not here at all, or was put aside as damaged.
    pub(super) async fn unpacked_only(&self, manifest: &Manifest, infos: &Infos) -> Result<Option<Vec<Digest>>, StoreError> {
        let absent = manifest.layers.iter().map(|layer| &layer.descriptor).filter(|blob| !has(infos, blob));
        let absent: Vec<Digest> = absent.map(|blob| blob.digest).collect();
        if absent.is_empty() {
            return Ok(Some(absent));
        }
        let chain = manifest.layers.iter().try_fold(None, |below: Option<Digest>, layer| {
            let diff_id = layer.diff_id?;
            Some(Some(chain_id(below.as_ref(), &diff_id)))
        });
        let Some(chain) = chain.flatten().filter(|_| manifest.is_image()) else { return Ok(None) };
        if absent.iter().any(|digest| self.quarantine.holds(digest)) {
            return Ok(None);
        }
        let snapshotter = self.facts().await?.snapshotter.clone();
        Ok(self.has_snapshot(&snapshotter, &chain).await?.then_some(absent))
    }

    /// The image with other blobs in place of those layers, which have the same in them: with its config, and a manifest that is made here and kept by
    /// the lease. `None` where there are no such blobs.
    pub(super) async fn other_form(
        self: &Arc<Self>,
        image: &Image,
        unpacked_only: &[Digest],
        lease: &Arc<EngineLease>,
    ) -> Result<Option<Image>, StoreError> {
        let is_absent = |layer: &Layer| unpacked_only.contains(&layer.descriptor.digest);
        let Some(manifest) = image.manifests.iter().find(|manifest| manifest.layers.iter().any(is_absent)) else { return Ok(None) };
        let mut layers = Vec::with_capacity(manifest.layers.len());
        for layer in &manifest.layers {
            match self.found(layer, is_absent(layer), lease).await? {
                Some(descriptor) => layers.push(Layer { descriptor, diff_id: layer.diff_id }),
                None => return Ok(None),
            }
        }
        let blobs: Vec<Descriptor> = layers.iter().map(|layer| layer.descriptor.clone()).collect();
        let document = make_manifest(&manifest.config, &blobs);
        let descriptor = Descriptor::of(media_type::MANIFEST, &document);
        if let Some(mut ingest) = ContainerdIngest::begin(self, lease, &descriptor, &Ready::new()).await? {
            ingest.append(Bytes::from(document)).await?;
            ingest.commit().await?;
        }
        lease.add_blob(&descriptor.digest).await?;
        let made = Manifest { descriptor: descriptor.clone(), layers, ..manifest.clone() };
        Ok(Some(Image { reference: image.reference.clone(), root: descriptor, indexes: vec![], manifests: vec![made] }))
    }

    /// A blob of the layer that can be read, kept by the lease.
    async fn found(self: &Arc<Self>, layer: &Layer, is_absent: bool, lease: &EngineLease) -> Result<Option<Descriptor>, StoreError> {
        let Some(diff_id) = layer.diff_id.filter(|_| is_absent) else { return Ok(Some(layer.descriptor.clone())) };
        let filters = vec![format!("labels.{UNCOMPRESSED:?}=={:?}", diff_id.to_string()), format!("digest=={diff_id}")];
        for (digest, info) in self.all_infos(filters).await? {
            let is_labelled = info.labels.get(UNCOMPRESSED).is_some_and(|label| *label == diff_id.to_string());
            if digest != diff_id && !is_labelled {
                continue;
            }
            lease.add_blob(&digest).await?;
            let first = self.read(digest, info.size_bytes, 0..info.size_bytes.min(Packing::MAGIC_BYTES as u64)).await?.all().await?;
            let media_type = match Packing::of(&first) {
                Packing::Plain => media_type::LAYER,
                Packing::Gzip => media_type::LAYER_GZIP,
                Packing::Zstd => media_type::LAYER_ZSTD,
            };
            return Ok(Some(Descriptor { media_type: media_type.to_owned(), digest, size_bytes: info.size_bytes }));
        }
        Ok(None)
    }
}
