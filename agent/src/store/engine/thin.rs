//! The thin hybrid archive: an image in two formats at once (OCI image layout, and `manifest.json` for engines that know only that), with those
//! layers that the engine does not have. It is a side effect of how engines load that the others may be absent, and no promise of theirs.

use bytes::Bytes;
use proto::descriptor::media_type;
use proto::document::make_manifest;
use proto::{Descriptor, Digest, Platform, Reference};
use serde_json::json;

use super::pin::PARTIAL_LABEL;

const BLOCK_BYTES: u64 = 512;

/// The bytes before the first layer of an image without a name.
pub(super) fn head(config: &[u8], layers: &[Descriptor]) -> Bytes {
    let config_descriptor = Descriptor::of(media_type::CONFIG, config);
    let manifest = make_manifest(&config_descriptor, layers);
    let root = Descriptor::of(media_type::MANIFEST, &manifest);
    let layers: Vec<String> = layers.iter().map(|layer| path(&layer.digest)).collect();
    let list = json!([{"Config": path(&config_descriptor.digest), "RepoTags": null, "Layers": layers}]);
    let mut bytes = layout_head(&root, None);
    member(&mut bytes, "manifest.json", list.to_string().as_bytes());
    member(&mut bytes, &path(&root.digest), &manifest);
    member(&mut bytes, &path(&config_descriptor.digest), config);
    bytes.into()
}

/// What an image layout starts with: all that is not a blob.
pub(super) fn layout_head(root: &Descriptor, reference: Option<&Reference>) -> Vec<u8> {
    let mut entry = json!({"mediaType": root.media_type, "digest": root.digest.to_string(), "size": root.size_bytes});
    if let Some(reference) = reference {
        let name = reference.to_string();
        entry["annotations"] = json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name});
    }
    let index = json!({"schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": [entry]});
    let mut bytes = vec![];
    member(&mut bytes, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    member(&mut bytes, "index.json", index.to_string().as_bytes());
    bytes
}

/// The bytes before a layer, or any other blob.
pub(super) fn layer_head(digest: &Digest, size_bytes: u64) -> Bytes {
    let mut bytes = vec![];
    header(&mut bytes, &path(digest), size_bytes);
    bytes.into()
}

/// The bytes behind a layer of this size.
pub(super) fn padding(size_bytes: u64) -> Bytes {
    let past = size_bytes % BLOCK_BYTES;
    Bytes::from_static(&[0; BLOCK_BYTES as usize]).slice(..((BLOCK_BYTES - past) % BLOCK_BYTES) as usize)
}

/// The end of an archive.
pub(super) fn end() -> Bytes {
    Bytes::from_static(&[0; 2 * BLOCK_BYTES as usize])
}

/// The config of an image of the lowest layers of another one, to be there before the others have come.
pub(super) fn partial_config(agent: &str, platform: &Platform, diff_ids: &[Digest]) -> Vec<u8> {
    let diff_ids: Vec<String> = diff_ids.iter().map(ToString::to_string).collect();
    let label = format!("{agent} {}", super::unix_s());
    let config = json!({
        "architecture": platform.architecture, "os": platform.os, "variant": platform.variant,
        "config": {"Labels": {PARTIAL_LABEL: label}},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    config.to_string().into_bytes()
}

/// An image without layers, to which a tag can move.
pub(super) struct Anchor {
    /// All of it.
    pub(super) archive: Bytes,
    /// What it can be called by: the digest of its config, and that of its manifest with containerd's store.
    pub(super) ids: [Digest; 2],
}

/// An anchor of this agent.
pub(super) fn anchor(agent: &str) -> Anchor {
    let config = partial_config(agent, &Platform::host(), &[]);
    let manifest = make_manifest(&Descriptor::of(media_type::CONFIG, &config), &[]);
    let mut bytes = head(&config, &[]).to_vec();
    bytes.extend_from_slice(&end());
    Anchor { archive: bytes.into(), ids: [Digest::of(&config), Digest::of(&manifest)] }
}

fn path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn member(bytes: &mut Vec<u8>, name: &str, content: &[u8]) {
    header(bytes, name, content.len() as u64);
    bytes.extend_from_slice(content);
    bytes.extend_from_slice(&padding(content.len() as u64));
}

fn header(bytes: &mut Vec<u8>, name: &str, size_bytes: u64) {
    let mut header = tar::Header::new_gnu();
    // The names above are shorter than the field.
    let field = &mut header.as_old_mut().name;
    let length = name.len().min(field.len());
    field[..length].copy_from_slice(&name.as_bytes()[..length]);
    header.set_size(size_bytes);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_cksum();
    bytes.extend_from_slice(header.as_bytes());
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_both_formats_and_only_the_layers_that_were_put_in() {
        let layers = [Descriptor::of(media_type::LAYER, b"below"), Descriptor::of(media_type::LAYER, b"above")];
        let mut bytes = head(b"{}", &layers).to_vec();
        bytes.extend_from_slice(&layer_head(&layers[1].digest, 5));
        bytes.extend_from_slice(b"above");
        bytes.extend_from_slice(&padding(5));
        bytes.extend_from_slice(&end());
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut members = std::collections::HashMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = vec![];
            std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
            members.insert(entry.path().unwrap().to_str().unwrap().to_owned(), content);
        }
        assert_eq!(members.len(), 6);
        assert_eq!(members[&path(&layers[1].digest)], b"above");
        let list: serde_json::Value = serde_json::from_slice(&members["manifest.json"]).unwrap();
        assert!(list[0]["RepoTags"].is_null());
        assert_eq!(list[0]["Layers"][0], path(&layers[0].digest));
        let index: serde_json::Value = serde_json::from_slice(&members["index.json"]).unwrap();
        assert!(index["manifests"][0]["annotations"].is_null());
        assert!(padding(1024).is_empty());
    }
}
