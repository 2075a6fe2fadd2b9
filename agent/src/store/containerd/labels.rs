//! Labels that containerd's garbage collection and its clients go by.

use std::collections::HashMap;

use proto::document::{self, Document};
use proto::{Descriptor, Digest, Image};

use super::content::Infos;

pub(super) type Labels = HashMap<String, String>;

/// When a lease ends by itself, RFC 3339.
pub(super) const EXPIRE: &str = "containerd.io/gc.expire";
/// What everything refers to that is kept by reference.
const REFERENCE: &str = "containerd.io/gc.ref.content";
/// On a layer: the digest of its tar.
pub(super) const UNCOMPRESSED: &str = "containerd.io/uncompressed";
/// On an image record, so that Kubernetes knows it.
pub(super) const MANAGED: (&str, &str) = ("io.cri-containerd.image", "managed");
/// On a namespace: the snapshotter of those who name none.
pub(super) const SNAPSHOTTER: &str = "containerd.io/defaults/snapshotter";

/// The label of a config that keeps the unpacked layers.
pub(super) fn snapshot(snapshotter: &str, chain: &Digest) -> (String, String) {
    (format!("containerd.io/gc.ref.snapshot.{snapshotter}"), chain.to_string())
}

/// The labels of a document that keep what it names and is part of `image`. Those of an index go by position, so that
/// an import of other platforms later on takes nothing from them.
pub(super) fn references(image: &Image, descriptor: &Descriptor, bytes: &[u8]) -> Labels {
    let mut labels = Labels::new();
    match document::parse(descriptor, bytes) {
        Ok(Document::Manifest(manifest)) => {
            labels.insert(format!("{REFERENCE}.config"), manifest.config.digest.to_string());
            for (position, layer) in manifest.layers.iter().enumerate() {
                labels.insert(format!("{REFERENCE}.l.{position}"), layer.digest.to_string());
            }
        }
        Ok(Document::Index(index)) => {
            for (position, entry) in index.manifests.iter().enumerate() {
                let digest = entry.descriptor.digest;
                let manifests = image.manifests.iter().map(|manifest| &manifest.descriptor);
                if manifests.chain(&image.indexes).any(|part| part.digest == digest) {
                    labels.insert(format!("{REFERENCE}.m.{position}"), digest.to_string());
                }
            }
        }
        Err(_) => {}
    }
    labels
}

/// The blobs that garbage collection does not reach from `root` by the labels there are.
pub(super) fn unreached<'a>(root: &Digest, blobs: &[&'a Descriptor], infos: &Infos) -> Vec<&'a Descriptor> {
    let mut reached = std::collections::HashSet::new();
    let mut pending = vec![*root];
    while let Some(digest) = pending.pop() {
        if !reached.insert(digest) {
            continue;
        }
        if let Some(info) = infos.get(&digest) {
            let references = info.labels.iter().filter(|(key, _)| key.starts_with(REFERENCE));
            pending.extend(references.filter_map(|(_, value)| value.parse::<Digest>().ok()));
        }
    }
    blobs.iter().filter(|blob| !reached.contains(&blob.digest)).copied().collect()
}
