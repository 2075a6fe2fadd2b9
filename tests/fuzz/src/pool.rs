//! Blobs that name each other: layers, configs, manifests and indexes, with a few mistakes.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use proto::descriptor::media_type;
use proto::{Descriptor, Digest};
use serde_json::{Value, json};

use crate::Choices;

/// A blob and its descriptor.
pub struct Blob {
    /// The correct descriptor. Documents of the pool may name the blob differently.
    pub descriptor: Descriptor,
    /// Content.
    pub bytes: Vec<u8>,
    /// Digest of the unpacked layer; `None` for a document.
    diff_id: Option<Digest>,
}

/// Platforms of configs and of entries of indexes.
const PLATFORMS: [(&str, &str); 4] = [("linux", "amd64"), ("linux", "arm64"), ("windows", "amd64"), ("unknown", "unknown")];

const MEDIA_TYPES: [&str; 6] =
    [media_type::MANIFEST, media_type::INDEX, media_type::CONFIG, media_type::LAYER, "application/vnd.in-toto+json", ""];

/// Four layers, then up to twelve documents. A document names only blobs before it, because the digest of a later blob is not known yet. A document
/// may name one blob several times.
pub fn pool(choices: &mut Choices<'_>) -> Vec<Blob> {
    let mut pool: Vec<Blob> = (0..4u8).map(layer).collect();
    for _ in 0..choices.below(7) {
        match choices.below(5) {
            0 | 1 => image(choices, &mut pool),
            2 | 3 => index(choices, &mut pool),
            _ => put(&mut pool, media_type::MANIFEST, vec![b'{'; choices.below(5)]),
        }
    }
    pool
}

/// The descriptor of a blob as JSON; a few byte values of the input make a mistake in it.
pub fn describe(choices: &mut Choices<'_>, blob: &Blob) -> Value {
    let Descriptor { media_type, digest, size_bytes } = &blob.descriptor;
    let mut value = json!({"mediaType": media_type, "digest": digest.to_string(), "size": size_bytes});
    match choices.byte() {
        1 => value["size"] = choices.number().into(),
        2 => value["digest"] = digest.to_string().to_uppercase().into(),
        3 => value["digest"] = format!("sha512:{}{}", digest.hex(), digest.hex()).into(),
        4 => value["digest"] = choices.byte().into(),
        5 => value["mediaType"] = MEDIA_TYPES[choices.below(MEDIA_TYPES.len())].into(),
        6 => drop(value.as_object_mut().map(|object| object.remove("digest"))),
        7 => drop(value.as_object_mut().map(|object| object.remove("mediaType"))),
        8 => value = Value::Null,
        _ => {}
    }
    value
}

/// A blob of the pool. Later blobs, which name earlier ones, are chosen more often.
pub fn any<'a>(choices: &mut Choices<'_>, pool: &'a [Blob]) -> &'a Blob {
    let back = choices.below(pool.len()).min(choices.below(pool.len()));
    &pool[pool.len() - 1 - back]
}

/// The descriptor of any blob of the pool, as [`describe`] writes it.
pub fn describe_any(choices: &mut Choices<'_>, pool: &[Blob]) -> Value {
    let blob = any(choices, pool);
    describe(choices, blob)
}

fn layer(number: u8) -> Blob {
    let content = vec![number; 700 * usize::from(number) + 1];
    let diff_id = Some(Digest::of(&content));
    if number < 3 {
        return Blob { descriptor: Descriptor::of(media_type::LAYER, &content), bytes: content, diff_id };
    }
    let mut gzip = GzEncoder::new(vec![], Compression::fast());
    gzip.write_all(&content).expect("memory");
    let bytes = gzip.finish().expect("memory");
    Blob { descriptor: Descriptor::of(media_type::LAYER_GZIP, &bytes), bytes, diff_id }
}

/// Adds a config and a manifest that names the config.
fn image(choices: &mut Choices<'_>, pool: &mut Vec<Blob>) {
    let layers: Vec<usize> =
        (0..choices.below(4)).map(|_| if choices.one_in(16) { choices.below(pool.len()) } else { choices.below(4) }).collect();
    let mut diff_ids: Vec<String> =
        layers.iter().map(|&layer| pool[layer].diff_id.unwrap_or(pool[layer].descriptor.digest).to_string()).collect();
    if choices.one_in(16) {
        diff_ids.pop();
    }
    let (os, architecture) = PLATFORMS[choices.below(PLATFORMS.len())];
    let config =
        json!({"os": os, "architecture": architecture, "note": choices.byte(), "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    put(pool, media_type::CONFIG, config.to_string().into_bytes());
    let config = describe(choices, &pool[pool.len() - 1]);
    let layers: Vec<Value> = layers.iter().map(|&layer| describe(choices, &pool[layer])).collect();
    let mut manifest = json!({"schemaVersion": 2, "mediaType": media_type::MANIFEST, "config": config, "layers": layers});
    if choices.one_in(8) {
        manifest["subject"] = describe_any(choices, pool);
    }
    put(pool, media_type::MANIFEST, manifest.to_string().into_bytes());
}

fn index(choices: &mut Choices<'_>, pool: &mut Vec<Blob>) {
    let count = if choices.one_in(32) { choices.below(600) } else { choices.below(5) };
    let mut entries = vec![];
    for _ in 0..count {
        let mut entry = describe_any(choices, pool);
        if let (Some((os, architecture)), true) = (PLATFORMS.get(choices.below(5)), entry.is_object()) {
            entry["platform"] = json!({"os": os, "architecture": architecture});
        }
        entries.push(entry);
    }
    put(
        pool,
        media_type::INDEX,
        json!({"schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": entries}).to_string().into_bytes(),
    );
}

fn put(pool: &mut Vec<Blob>, media_type: &str, bytes: Vec<u8>) {
    pool.push(Blob { descriptor: Descriptor::of(media_type, &bytes), bytes, diff_id: None });
}
