//! Media type, digest and size: how one document names a blob.

use serde::{Deserialize, Serialize};

use crate::Digest;

/// Names one blob. The media type says how to read it, the size bounds what is read before the digest is known.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Descriptor {
    /// As the parent document writes it.
    pub media_type: String,
    /// SHA-256 of the bytes.
    pub digest: Digest,
    /// Length of the bytes.
    pub size_bytes: u64,
}

impl Descriptor {
    /// Names bytes that are at hand.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self { media_type: media_type.to_owned(), digest: Digest::of(bytes), size_bytes: bytes.len() as u64 }
    }
}

/// The media types that images are made of, OCI's and Docker's.
pub mod media_type {
    /// OCI image manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI image config.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// OCI layer, plain.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// OCI layer, gzip.
    pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// OCI layer, zstd.
    pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// Docker manifest, version 2 schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker manifest list.
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker image config.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

    /// Of a blob of which nobody has said what it is.
    pub const UNTYPED: &str = "application/octet-stream";

    /// True for a manifest of either family.
    pub fn is_manifest(media_type: &str) -> bool {
        matches!(media_type, MANIFEST | DOCKER_MANIFEST)
    }

    /// True for an index of either family.
    pub fn is_index(media_type: &str) -> bool {
        matches!(media_type, INDEX | DOCKER_INDEX)
    }

    /// True for a config that has a root file system in it, and not, say, the one of a signature.
    pub fn is_config(media_type: &str) -> bool {
        matches!(media_type, CONFIG | DOCKER_CONFIG)
    }
}
