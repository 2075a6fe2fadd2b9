//! Writing images as an archive.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proto::control::{ArchiveFormat, Compression};
use proto::descriptor::media_type;
use proto::hash::BlobHasher;
use proto::{Descriptor, Digest, Image, Manifest, Platform, Reference};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::ArchiveError;
use super::sink::Sink;
use crate::store::{Held, Store};

const BLOCK_BYTES: usize = 512;

/// Writes images into one archive, each blob once; the same images give the same bytes. Every blob is hashed as it passes. After an error
/// the archive has no end, so that nobody takes it for a whole one.
pub async fn save<S: Store>(
    store: &S,
    images: &[Held],
    format: ArchiveFormat,
    compression: Compression,
    output: mpsc::Sender<Bytes>,
) -> Result<(), ArchiveError> {
    let images: Vec<&Image> = images.iter().map(|held| &held.image).collect();
    let mut sink = Sink::new(output, compression)?;
    // The small files first: whoever reads the archive as it comes then knows what follows.
    member(&mut sink, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()).await?;
    member(&mut sink, "index.json", index(&images)).await?;
    if format == ArchiveFormat::Docker {
        member(&mut sink, "manifest.json", manifest_list(&images)?).await?;
    }
    let blobs: BTreeMap<Digest, &Descriptor> = images.iter().flat_map(|image| image.blobs()).map(|blob| (blob.digest, blob)).collect();
    for blob in blobs.values() {
        copy(store, &mut sink, blob).await?;
    }
    sink.write(vec![0; 2 * BLOCK_BYTES].into()).await?;
    sink.finish().await
}

async fn copy<S: Store>(store: &S, sink: &mut Sink, blob: &Descriptor) -> Result<(), ArchiveError> {
    sink.write(header(&path(&blob.digest), blob.size_bytes)?).await?;
    let mut reader = store.read(blob, 0..blob.size_bytes).await?;
    let mut hasher = BlobHasher::default();
    while let Some(bytes) = reader.next().await? {
        hasher.update(&bytes);
        if hasher.length_bytes() > blob.size_bytes {
            return Err(ArchiveError::Corrupt(blob.digest));
        }
        sink.write(bytes).await?;
    }
    if hasher.length_bytes() != blob.size_bytes || hasher.finish() != blob.digest {
        return Err(ArchiveError::Corrupt(blob.digest));
    }
    sink.write(padding(blob.size_bytes)).await
}

async fn member(sink: &mut Sink, name: &str, content: Vec<u8>) -> Result<(), ArchiveError> {
    sink.write(header(name, content.len() as u64)?).await?;
    let padding = padding(content.len() as u64);
    sink.write(content.into()).await?;
    sink.write(padding).await
}

fn header(name: &str, size_bytes: u64) -> Result<Bytes, ArchiveError> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name).map_err(ArchiveError::Compress)?;
    header.set_size(size_bytes);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_cksum();
    Ok(Bytes::copy_from_slice(header.as_bytes()))
}

fn padding(size_bytes: u64) -> Bytes {
    let past = (size_bytes % BLOCK_BYTES as u64) as usize;
    Bytes::from_static(&[0; BLOCK_BYTES]).slice(..(BLOCK_BYTES - past) % BLOCK_BYTES)
}

/// An entry for each image and name.
fn index(images: &[&Image]) -> Vec<u8> {
    let mut seen = BTreeSet::new();
    let mut entries: Vec<Value> = vec![];
    for image in images {
        if !seen.insert((image.root.digest, image.reference.clone())) {
            continue;
        }
        let mut entry = json!({"mediaType": image.root.media_type, "digest": image.root.digest.to_string(), "size": image.root.size_bytes});
        if let Some(reference) = &image.reference {
            let name = reference.to_string();
            entry["annotations"] = json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name});
        }
        entries.push(entry);
    }
    json!({"schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": entries}).to_string().into_bytes()
}

/// `manifest.json`: for each image the manifest that runs here, as Docker has only one under a name.
fn manifest_list(images: &[&Image]) -> Result<Vec<u8>, ArchiveError> {
    let mut items: Vec<(&Manifest, BTreeSet<String>)> = vec![];
    for image in images {
        // Docker loads nothing from a list without it, and says nothing.
        let Some(manifest) = image.manifest_for(&Platform::host()).filter(|manifest| manifest.is_image()) else {
            let name = image.reference.as_ref().map_or_else(|| image.root.digest.short(), Reference::familiar);
            return Err(ArchiveError::NoContainer(name));
        };
        let tag = image.reference.as_ref().filter(|reference| reference.tag().is_some());
        let tag = tag.map(|reference| Reference::without_digest(reference).familiar());
        match items.iter_mut().find(|(known, _)| known.descriptor.digest == manifest.descriptor.digest) {
            Some((_, tags)) => tags.extend(tag),
            None => items.push((manifest, tag.into_iter().collect())),
        }
    }
    let item = |(manifest, tags): &(&Manifest, BTreeSet<String>)| {
        let layers: Vec<String> = manifest.layers.iter().map(|layer| path(&layer.descriptor.digest)).collect();
        let tags = if tags.is_empty() { Value::Null } else { json!(tags) };
        json!({"Config": path(&manifest.config.digest), "RepoTags": tags, "Layers": layers})
    };
    Ok(Value::from(items.iter().map(item).collect::<Vec<_>>()).to_string().into_bytes())
}

fn path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}
