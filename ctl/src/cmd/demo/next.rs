//! The next version of any image: the same with one small layer more. Its archive has only what is new; the rest is in the store already.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use proto::Descriptor;
use proto::descriptor::media_type;
use serde_json::{Value, json};

use super::library::Entry;
use super::sample::{append, layer};

/// Writes the archive of `name`, the next version of what `imgctl inspect` has shown as `image`.
pub(super) fn write(directory: &Path, image: &Value, name: &str) -> std::io::Result<PathBuf> {
    let text = directory.join("next");
    std::fs::write(&text, format!("{name}\n"))?;
    let entries = BTreeMap::from([(PathBuf::from("/etc/imgd-demo/version"), Entry::File(text))]);
    let added = layer(&directory.join("next-layer.tar"), &entries)?;
    let bytes = std::fs::read(&added.path)?;

    let mut config = image["config"].clone();
    push(&mut config["rootfs"]["diff_ids"], added.diff_id.to_string().into())?;
    if config["history"].is_array() {
        push(&mut config["history"], json!({"created": "2026-01-01T00:00:00Z", "created_by": "imgctl demo"}))?;
    }
    let config = config.to_string().into_bytes();
    let mut layers = shown(image)["layers"].clone();
    for layer in layers.as_array_mut().into_iter().flatten() {
        layer.as_object_mut().map(|layer| layer.remove("diffId"));
    }
    push(&mut layers, described(&Descriptor::of(media_type::LAYER, &bytes)))?;
    let config_descriptor = described(&Descriptor::of(media_type::CONFIG, &config));
    let manifest = json!({"schemaVersion": 2, "mediaType": media_type::MANIFEST, "config": config_descriptor, "layers": layers});
    let manifest = manifest.to_string().into_bytes();
    let mut entry = described(&Descriptor::of(media_type::MANIFEST, &manifest));
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    let index = json!({"schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": [entry]});

    let archive = directory.join("next.tar");
    let mut tar = tar::Builder::new(File::create(&archive)?);
    append(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    append(&mut tar, "index.json", index.to_string().as_bytes())?;
    for blob in [&bytes, &config, &manifest] {
        append(&mut tar, &format!("blobs/sha256/{}", proto::Digest::of(blob).hex()), blob)?;
    }
    tar.into_inner()?.flush()?;
    Ok(archive)
}

/// The platform of the image whose config is shown.
fn shown(image: &Value) -> &Value {
    let platforms = image["platforms"].as_array().map(Vec::as_slice).unwrap_or_default();
    platforms.iter().find(|platform| platform["config"]["digest"] == image["id"]).or(platforms.first()).unwrap_or(&Value::Null)
}

fn described(blob: &Descriptor) -> Value {
    json!({"mediaType": blob.media_type, "digest": blob.digest.to_string(), "size": blob.size_bytes})
}

fn push(list: &mut Value, item: Value) -> std::io::Result<()> {
    let list = list.as_array_mut().ok_or_else(|| std::io::Error::other("the image has no layers that another one can follow"))?;
    list.push(item);
    Ok(())
}
