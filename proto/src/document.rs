//! Manifests, indexes and configs from outside, read strictly: one meaning each, or refused.
//!
//! These are views: the bytes themselves are what has a digest, and are kept and passed on as they came.
//! (OCI image specification 1.1: manifest.md, image-index.md, config.md; Docker's schema 2 has the same shape.)

use std::collections::HashMap;

use serde::Deserialize;

use crate::descriptor::media_type;
use crate::limits::{BLOB_BYTES, CONFIG_BYTES, IMAGE_BLOBS, LAYERS, MANIFEST_BYTES, MANIFESTS};
use crate::{Descriptor, Digest, Platform, shape};

/// A manifest or an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One platform.
    Manifest(ManifestDocument),
    /// Several.
    Index(IndexDocument),
}

/// What a manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestDocument {
    /// The config blob.
    pub config: Descriptor,
    /// Lowest first.
    pub layers: Vec<Descriptor>,
}

/// What an index says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexDocument {
    /// In the order of the document. Entries of other media types are passed over, as the specification asks for (image-index.md, "manifests").
    pub manifests: Vec<IndexEntry>,
}

/// One entry of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// A manifest or a nested index.
    pub descriptor: Descriptor,
    /// As the index claims; the config decides.
    pub platform: Option<Platform>,
    /// `org.opencontainers.image.ref.name`.
    pub ref_name: Option<String>,
    /// `io.containerd.image.name`: the full name, where the writer knew it.
    pub image_name: Option<String>,
    /// `vnd.docker.reference.digest`: it is an attestation about this other entry (BuildKit, attestation-storage.md).
    pub about: Option<Digest>,
}

/// What a config says that matters for moving and storing it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigDocument {
    /// `None` where it does not say.
    pub platform: Option<Platform>,
    /// One for each layer; none when it is not the config of an image.
    pub diff_ids: Vec<Digest>,
}

/// Why a document is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Larger than any honest one.
    #[error("{digest} is {size_bytes} bytes long, the limit of a {kind} is {limit_bytes}")]
    TooLarge {
        /// Which.
        digest: Digest,
        /// Manifest, index or config.
        kind: &'static str,
        /// Its size.
        size_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// The bytes are not those that the descriptor names.
    #[error("{digest} has another content than its digest says, or another size than it is described with")]
    DigestMismatch {
        /// Which.
        digest: Digest,
    },
    /// Not the JSON that the specification asks for.
    #[error("{digest} is not a valid {kind}: {}", crate::text::escape_short(.reason, 200))]
    Malformed {
        /// Which.
        digest: Digest,
        /// Manifest, index or config.
        kind: &'static str,
        /// What is wrong, and where.
        reason: String,
    },
}

/// Reads the bytes that `descriptor` names as a manifest or an index, whichever its media type says.
pub fn parse(descriptor: &Descriptor, bytes: &[u8]) -> Result<Document, DocumentError> {
    let kind = if media_type::is_index(&descriptor.media_type) { "image index" } else { "image manifest" };
    check_bytes(descriptor, kind, bytes, MANIFEST_BYTES)?;
    let malformed = |reason: String| DocumentError::Malformed { digest: descriptor.digest, kind, reason };
    let raw: RawDocument = shape::read(bytes, &shape::DOCUMENT).map_err(malformed)?;
    let document = raw.check(&descriptor.media_type, MANIFESTS).map_err(malformed)?;
    Ok(document)
}

/// Reads the config of `manifest`. For an image config there must be one diff ID for each layer. A config of another media type is not looked into, but
/// one without any, which may be an image's.
pub fn parse_config(manifest: &ManifestDocument, bytes: &[u8]) -> Result<ConfigDocument, DocumentError> {
    check_bytes(&manifest.config, "image config", bytes, CONFIG_BYTES)?;
    let config = image_config(manifest, bytes);
    // Of an image whose config was pushed without a type, by Docker 1.10 for one: what it is shows from its content.
    let is_untyped = manifest.config.media_type == media_type::UNTYPED;
    match config {
        Ok(config) if is_untyped && config.platform.is_none() => Ok(ConfigDocument::default()),
        Err(_) if is_untyped => Ok(ConfigDocument::default()),
        config if is_untyped || media_type::is_config(&manifest.config.media_type) => config,
        _ => Ok(ConfigDocument::default()),
    }
}

fn image_config(manifest: &ManifestDocument, bytes: &[u8]) -> Result<ConfigDocument, DocumentError> {
    let malformed = |reason: String| DocumentError::Malformed { digest: manifest.config.digest, kind: "image config", reason };
    let raw: RawConfig = shape::read(bytes, &shape::CONFIG).map_err(malformed)?;
    let diff_ids = raw.rootfs.map(|rootfs| rootfs.diff_ids).unwrap_or_default();
    let diff_ids: Vec<Digest> =
        diff_ids.iter().map(|text| text.parse::<Digest>().map_err(|error| malformed(error.to_string()))).collect::<Result<_, _>>()?;
    if diff_ids.len() != manifest.layers.len() {
        return Err(malformed(format!("{} diff IDs for {} layers", diff_ids.len(), manifest.layers.len())));
    }
    let platform = match (raw.os.as_str(), raw.architecture.as_str()) {
        ("", _) | (_, "") => None,
        (os, architecture) => Some(Platform::new(os, architecture, &raw.variant)),
    };
    if platform.as_ref().is_some_and(|platform| !platform.is_short()) {
        return Err(malformed("its platform has more than 255 characters".to_owned()));
    }
    Ok(ConfigDocument { platform, diff_ids })
}

/// The manifest for a config and its layers, lowest first, where there is none: byte for byte what `docker save` writes since Docker 25 (compact
/// JSON, keys in this order), so that an image gets the same manifest digest wherever it is made.
pub fn make_manifest(config: &Descriptor, layers: &[Descriptor]) -> Vec<u8> {
    let descriptor = |descriptor: &Descriptor| {
        // Media types come from a table or from a document that was parsed: they hold no character that JSON would escape.
        let (kind, digest, size) = (&descriptor.media_type, descriptor.digest, descriptor.size_bytes);
        format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":{size}}}"#)
    };
    let layers: Vec<String> = layers.iter().map(descriptor).collect();
    let (kind, config) = (media_type::MANIFEST, descriptor(config));
    format!(r#"{{"schemaVersion":2,"mediaType":"{kind}","config":{config},"layers":[{}]}}"#, layers.join(",")).into_bytes()
}

/// The same, each entry for itself: one that is wrong says so in its place. What is no image or index is passed over.
pub fn parse_layout_entries(bytes: &[u8]) -> Result<Vec<Result<IndexEntry, String>>, String> {
    if bytes.len() as u64 > MANIFEST_BYTES * 4 {
        return Err(format!("it is larger than {} bytes", MANIFEST_BYTES * 4));
    }
    let raw: RawLayoutIndex = shape::read(bytes, &shape::DOCUMENT)?;
    if raw.config.is_some() || raw.layers.is_some() {
        return Err("an index has no config and no layers".to_owned());
    }
    let entries = raw.manifests.unwrap_or_default();
    if entries.len() > IMAGE_BLOBS {
        return Err(format!("{} manifests, the limit is {IMAGE_BLOBS}", entries.len()));
    }
    let mut read = vec![];
    for entry in entries {
        let entry = serde_json::from_value::<RawDescriptor>(entry).map_err(|error| error.to_string());
        match entry.and_then(RawDescriptor::entry) {
            Ok(entry) if !media_type::is_index(&entry.descriptor.media_type) && !media_type::is_manifest(&entry.descriptor.media_type) => {}
            entry => read.push(entry),
        }
    }
    Ok(read)
}

/// Reads an `index.json` of an image layout: an index without a digest of its own, and with an entry for each image and name.
pub fn parse_layout_index(bytes: &[u8]) -> Result<IndexDocument, String> {
    if bytes.len() as u64 > MANIFEST_BYTES * 4 {
        return Err(format!("it is larger than {} bytes", MANIFEST_BYTES * 4));
    }
    let raw: RawDocument = shape::read(bytes, &shape::DOCUMENT)?;
    match raw.check(media_type::INDEX, IMAGE_BLOBS)? {
        Document::Index(index) => Ok(index),
        Document::Manifest(_) => Err("it is a manifest".to_owned()),
    }
}

fn check_bytes(descriptor: &Descriptor, kind: &'static str, bytes: &[u8], limit_bytes: u64) -> Result<(), DocumentError> {
    let digest = descriptor.digest;
    let size_bytes = descriptor.size_bytes.max(bytes.len() as u64);
    if size_bytes > limit_bytes {
        return Err(DocumentError::TooLarge { digest, kind, size_bytes, limit_bytes });
    }
    if descriptor.size_bytes != bytes.len() as u64 || Digest::of(bytes) != digest {
        return Err(DocumentError::DigestMismatch { digest });
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    #[serde(default = "two")]
    schema_version: u64,
    #[serde(default)]
    media_type: Option<String>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
}

#[derive(Deserialize)]
struct RawLayoutIndex {
    config: Option<serde_json::Value>,
    layers: Option<serde_json::Value>,
    manifests: Option<Vec<serde_json::Value>>,
}

/// Of a document that does not say: no engine asks.
fn two() -> u64 {
    2
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", expecting = "a descriptor")]
struct RawDescriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<RawPlatform>,
    #[serde(default)]
    annotations: Option<RawAnnotations>,
}

#[derive(Deserialize)]
#[serde(expecting = "a platform")]
struct RawPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
}

#[derive(Default, Deserialize)]
struct RawAnnotations {
    #[serde(rename = "org.opencontainers.image.ref.name")]
    ref_name: Option<String>,
    #[serde(rename = "io.containerd.image.name")]
    image_name: Option<String>,
    #[serde(rename = "vnd.docker.reference.digest")]
    about: Option<String>,
}

#[derive(Deserialize)]
struct RawConfig {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
    rootfs: Option<RawRootfs>,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

impl RawDocument {
    fn check(self, expected: &str, most_manifests: usize) -> Result<Document, String> {
        if self.schema_version != 2 {
            return Err(format!("schemaVersion is {}, not 2", self.schema_version));
        }
        if let Some(found) = &self.media_type
            && found != expected
        {
            return Err(format!("it says it is \"{found}\", but is named as \"{expected}\""));
        }
        match (self.config, self.layers, self.manifests) {
            (None, None, manifests) if media_type::is_index(expected) => {
                let mut manifests = manifests.unwrap_or_default();
                manifests.retain(|entry| media_type::is_index(&entry.media_type) || media_type::is_manifest(&entry.media_type));
                if manifests.len() > most_manifests {
                    return Err(format!("{} manifests, the limit is {most_manifests}", manifests.len()));
                }
                let manifests = manifests.into_iter().map(RawDescriptor::entry).collect::<Result<Vec<_>, _>>()?;
                one_size_each(manifests.iter().map(|entry| &entry.descriptor))?;
                Ok(Document::Index(IndexDocument { manifests }))
            }
            (Some(config), layers, None) if media_type::is_manifest(expected) => {
                let layers = layers.unwrap_or_default();
                if layers.len() > LAYERS {
                    return Err(format!("{} layers, the limit is {LAYERS}", layers.len()));
                }
                let config = config.entry()?.descriptor;
                let layers = layers.into_iter().map(|layer| layer.entry().map(|entry| entry.descriptor));
                let layers = layers.collect::<Result<Vec<_>, _>>()?;
                one_size_each(layers.iter().chain([&config]))?;
                Ok(Document::Manifest(ManifestDocument { config, layers }))
            }
            (_, Some(_), Some(_)) => Err("it has layers and manifests".to_owned()),
            _ if !media_type::is_index(expected) && !media_type::is_manifest(expected) => {
                Err(format!("\"{expected}\" is not the media type of an image"))
            }
            _ if media_type::is_index(expected) => Err("an index has no config and no layers".to_owned()),
            _ => Err("a manifest has a config, and no manifests".to_owned()),
        }
    }
}

/// Two sizes of one digest are two blobs to some readers.
fn one_size_each<'a>(descriptors: impl Iterator<Item = &'a Descriptor>) -> Result<(), String> {
    let mut sizes = HashMap::new();
    for Descriptor { digest, size_bytes, .. } in descriptors {
        if *sizes.entry(digest).or_insert(size_bytes) != size_bytes {
            return Err(format!("{digest} has two sizes"));
        }
    }
    Ok(())
}

impl RawDescriptor {
    fn entry(self) -> Result<IndexEntry, String> {
        if self.media_type.is_empty() || self.media_type.len() > 255 {
            return Err("a descriptor without a media type".to_owned());
        }
        if self.size > BLOB_BYTES {
            return Err(format!("{} is {} bytes long, the limit of a blob is {BLOB_BYTES}", self.digest, self.size));
        }
        let digest = self.digest.parse::<Digest>().map_err(|error| error.to_string())?;
        let platform = self.platform.filter(|p| !p.os.is_empty() && !p.architecture.is_empty());
        let annotations = self.annotations.unwrap_or_default();
        Ok(IndexEntry {
            descriptor: Descriptor { media_type: self.media_type, digest, size_bytes: self.size },
            platform: platform.map(|p| Platform::new(&p.os, &p.architecture, &p.variant)),
            ref_name: annotations.ref_name,
            image_name: annotations.image_name,
            about: annotations.about.and_then(|about| about.parse().ok()),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn descriptor_json(size: i64) -> String {
        format!(r#"{{"mediaType":"{}","digest":"{HEX}","size":{size}}}"#, media_type::LAYER)
    }

    fn refusal(media_type: &str, json: &str) -> String {
        parse(&Descriptor::of(media_type, json.as_bytes()), json.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_manifest_is_read() {
        let layer = descriptor_json(7);
        let json = format!(r#"{{"schemaVersion":2,"config":{layer},"layers":[{layer},{layer}]}}"#);
        let parsed = parse(&Descriptor::of(media_type::MANIFEST, json.as_bytes()), json.as_bytes()).unwrap();
        let Document::Manifest(manifest) = parsed else { panic!("{parsed:?}") };
        assert_eq!(manifest.layers.len(), 2);
        assert_eq!(manifest.config.size_bytes, 7);
    }

    #[test]
    fn documents_with_two_meanings_are_refused() {
        let layer = descriptor_json(7);
        let manifest = format!(r#""schemaVersion":2,"config":{layer},"layers":[{layer}]"#);
        for (json, word) in [
            (format!(r#"{{{manifest},"manifests":[]}}"#), "layers and manifests"),
            (format!(r#"{{{manifest},"layers":[]}}"#), "twice"),
            (format!(r#"{{{manifest},"Layers":[]}}"#), "twice"),
            (format!(r#"{{{manifest},"layer\u017f":[]}}"#), "twice"),
            (format!(r#"{{"schemaVersion":2,"config":{layer},"layers":[{}]}}"#, descriptor_json(8)), "two sizes"),
            (format!(r#"{{{manifest},"mediaType":"{}"}}"#, media_type::INDEX), "but is named as"),
            (format!(r#"{{"schemaVersion":1,"config":{layer},"layers":[]}}"#), "schemaVersion"),
            (format!(r#"{{"schemaVersion":2,"config":{layer},"layers":[{}]}}"#, descriptor_json(-1)), "invalid value"),
            (format!(r#"{{"schemaVersion":2,"config":{layer},"layers":[{}]}}"#, descriptor_json(i64::MAX)), "limit of a blob"),
            (r#"{"schemaVersion":2,"layers":[]}"#.to_owned(), "has a config"),
            (format!(r#"{{"schemaVersion":2,"config":{layer},"manifests":[]}}"#), "no manifests"),
            ("[".repeat(100_000), "recursion limit"),
            ("".to_owned(), "EOF"),
        ] {
            let refusal = refusal(media_type::MANIFEST, &json);
            assert!(refusal.contains(word), "{refusal} does not name: {word}");
        }
    }

    #[test]
    fn what_is_absent_or_foreign_is_passed_over() {
        let read = |media_type: &str, json: &str| parse(&Descriptor::of(media_type, json.as_bytes()), json.as_bytes());
        let config = descriptor_json(7);
        for json in [
            format!(r#"{{"schemaVersion":2,"config":{config},"layers":null}}"#),
            format!(r#"{{"schemaVersion":2,"config":{config},"manifests":null}}"#),
            format!(r#"{{"config":{config},"mediaType":null,"layers":[],"subject":{{"size":-1}}}}"#),
        ] {
            let Ok(Document::Manifest(manifest)) = read(media_type::MANIFEST, &json) else { panic!("{json}") };
            assert!(manifest.layers.is_empty());
        }
        for json in [r#"{"schemaVersion":2}"#, r#"{"schemaVersion":2,"manifests":null}"#] {
            assert_eq!(read(media_type::INDEX, json).unwrap(), Document::Index(IndexDocument { manifests: vec![] }));
        }
        let entry = |kind: &str| format!(r#"{{"mediaType":"{kind}","digest":"{HEX}","size":7}}"#);
        let foreign =
            r#"{"mediaType":"application/vnd.oci.artifact.manifest.v1+json","digest":"md5:x","size":7,"platform":{"variant":null}}"#;
        let json = format!(r#"{{"schemaVersion":2,"manifests":[{foreign},{}]}}"#, entry(media_type::DOCKER_MANIFEST));
        let Ok(Document::Index(index)) = read(media_type::INDEX, &json) else { panic!("{json}") };
        assert_eq!(index.manifests.len(), 1);
        // A lone surrogate, which Go reads as U+FFFD, and bytes that are no UTF-8.
        let json = format!(r#"{{"manifests":[{}],"annotations":{{"a\ud800":"\udc00"}}}}"#, entry(media_type::MANIFEST));
        assert!(read(media_type::INDEX, &json).is_ok());
        let named = format!(
            r#"{{"manifests":[{{"mediaType":"{}","digest":"{HEX}","size":7,"annotations":{{"x\udfff":"y"}}}}]}}"#,
            media_type::MANIFEST
        );
        assert!(read(media_type::INDEX, &named).is_ok());
    }

    #[test]
    fn a_config_without_a_type_is_read_for_what_it_is() {
        let config = format!(r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":["{HEX}"]}}}}"#);
        let layer = Descriptor { media_type: media_type::LAYER.to_owned(), digest: HEX.parse().unwrap(), size_bytes: 1 };
        let manifest = |config: &str, layers| ManifestDocument { config: Descriptor::of(media_type::UNTYPED, config.as_bytes()), layers };
        let parsed = parse_config(&manifest(&config, vec![layer.clone()]), config.as_bytes()).unwrap();
        assert_eq!((parsed.platform.unwrap().to_string(), parsed.diff_ids.len()), ("linux/amd64".to_owned(), 1));
        for other in ["{}", "", "[1]", r#"{"rootfs":{"diff_ids":["x"]}}"#] {
            assert_eq!(parse_config(&manifest(other, vec![layer.clone()]), other.as_bytes()).unwrap(), ConfigDocument::default());
        }
    }

    #[test]
    fn other_content_than_named_is_refused() {
        let named = Descriptor::of(media_type::MANIFEST, b"{}");
        assert_eq!(parse(&named, b"[]"), Err(DocumentError::DigestMismatch { digest: named.digest }));
        let large = Descriptor { size_bytes: MANIFEST_BYTES + 1, ..named };
        assert!(matches!(parse(&large, b"{}"), Err(DocumentError::TooLarge { .. })));
    }

    #[test]
    fn a_config_must_fit_its_manifest() {
        let config = format!(r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":["{HEX}"]}}}}"#);
        let config_descriptor = Descriptor::of(media_type::CONFIG, config.as_bytes());
        let layer = Descriptor { media_type: media_type::LAYER.to_owned(), digest: HEX.parse().unwrap(), size_bytes: 1 };
        let mut manifest = ManifestDocument { config: config_descriptor, layers: vec![layer.clone()] };
        let parsed = parse_config(&manifest, config.as_bytes()).unwrap();
        assert_eq!(parsed.platform.unwrap().to_string(), "linux/amd64");
        manifest.layers.push(layer);
        assert!(parse_config(&manifest, config.as_bytes()).unwrap_err().to_string().contains("1 diff IDs for 2 layers"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), index in any::<bool>()) {
            let media_type = if index { media_type::INDEX } else { media_type::MANIFEST };
            let _ = parse(&Descriptor::of(media_type, &bytes), &bytes);
            let _ = parse_layout_index(&bytes);
        }
    }
}
