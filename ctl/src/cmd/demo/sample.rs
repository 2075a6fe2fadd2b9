//! A real image of three layers, made of what is at hand: `docker load` takes it, and `docker run` runs it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use proto::{Digest, Platform};
use serde_json::json;
use sha2::Digest as _;

use super::library::{self, Entry};
use crate::error::Error;
use crate::exit::Exit;

/// The archives of `imgd-demo:v1` and `imgd-demo:v2`, which differ in their last layer only.
pub(super) fn write(directory: &Path, imgd: &Path) -> Result<[PathBuf; 2], Error> {
    write_all(directory, imgd).map_err(|error| Error::new(Exit::Failed, "cannot make the sample image").because(error))
}

fn write_all(directory: &Path, imgd: &Path) -> std::io::Result<[PathBuf; 2]> {
    let imgctl = std::env::current_exe()?;
    let programs = [("/usr/bin/imgd", imgd.to_owned()), ("/usr/bin/imgctl", imgctl)];
    let programs = programs.map(|(path, file)| (PathBuf::from(path), Entry::File(file))).into_iter().collect();
    let libraries = layer(&directory.join("libraries.tar"), &library::entries()?)?;
    let programs = layer(&directory.join("programs.tar"), &programs)?;
    let mut archives = [PathBuf::new(), PathBuf::new()];
    for (archive, version) in archives.iter_mut().zip(["v1", "v2"]) {
        let text = directory.join(format!("version-{version}"));
        std::fs::write(&text, format!("imgd-demo {version}\n"))?;
        let entries = BTreeMap::from([(PathBuf::from("/etc/imgd-demo/version"), Entry::File(text))]);
        let version_layer = layer(&directory.join(format!("version-{version}.tar")), &entries)?;
        *archive = directory.join(format!("imgd-demo-{version}.tar"));
        write_archive(archive, version, &[&libraries, &programs, &version_layer])?;
    }
    Ok(archives)
}

/// A layer on disk, and its diff ID.
pub(super) struct Layer {
    pub(super) path: PathBuf,
    pub(super) diff_id: Digest,
}

/// Writes a layer. The same entries make the same bytes: nothing in it depends on the time or the user.
pub(super) fn layer(path: &Path, entries: &BTreeMap<PathBuf, Entry>) -> std::io::Result<Layer> {
    let mut tar = tar::Builder::new(Hashing { file: File::create(path)?, hash: sha2::Sha256::new() });
    for (name, entry) in entries {
        let name = name.strip_prefix("/").unwrap_or(name);
        let mut header = header(0o755);
        match entry {
            Entry::File(path) => {
                let file = File::open(path)?;
                let size_bytes = file.metadata()?.len();
                header.set_size(size_bytes);
                tar.append_data(&mut header, name, file.take(size_bytes))?;
            }
            Entry::Link(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                tar.append_link(&mut header, name, target)?;
            }
        }
    }
    let mut hashing = tar.into_inner()?;
    hashing.flush()?;
    let diff_id = Digest::from_bytes(hashing.hash.finalize().into());
    Ok(Layer { path: path.to_owned(), diff_id })
}

/// A docker-archive, as `docker save` has written it since long.
fn write_archive(path: &Path, version: &str, layers: &[&Layer]) -> std::io::Result<()> {
    let platform = Platform::host();
    let diff_ids: Vec<String> = layers.iter().map(|layer| layer.diff_id.to_string()).collect();
    let config = json!({
        "architecture": platform.architecture, "os": platform.os, "created": "2026-01-01T00:00:00Z",
        "config": {"Cmd": ["/usr/bin/imgctl", "--version"], "Env": ["PATH=/usr/bin"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [
            {"created": "2026-01-01T00:00:00Z", "created_by": "libraries"},
            {"created": "2026-01-01T00:00:00Z", "created_by": "programs"},
            {"created": "2026-01-01T00:00:00Z", "created_by": format!("version {version}")},
        ],
    });
    let config = config.to_string().into_bytes();
    let config_name = format!("{}.json", Digest::of(&config).hex());
    let layer_name = |layer: &Layer| format!("{}/layer.tar", layer.diff_id.hex());
    let names: Vec<String> = layers.iter().map(|layer| layer_name(layer)).collect();
    let manifest = json!([{"Config": config_name, "RepoTags": [format!("imgd-demo:{version}")], "Layers": names}]);
    let mut tar = tar::Builder::new(File::create(path)?);
    append(&mut tar, &config_name, &config)?;
    for layer in layers {
        let file = File::open(&layer.path)?;
        let mut header = header(0o644);
        header.set_size(file.metadata()?.len());
        tar.append_data(&mut header, layer_name(layer), file)?;
    }
    append(&mut tar, "manifest.json", manifest.to_string().as_bytes())?;
    tar.into_inner()?.flush()
}

/// Adds a small file.
pub(super) fn append(tar: &mut tar::Builder<File>, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let mut header = header(0o644);
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, name, bytes)
}

fn header(mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// A file that knows the hash of what went into it.
struct Hashing {
    file: File,
    hash: sha2::Sha256,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written_bytes = self.file.write(bytes)?;
        self.hash.update(&bytes[..written_bytes]);
        Ok(written_bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn layers_of(archive: &Path) -> Vec<String> {
        let mut tar = tar::Archive::new(File::open(archive).unwrap());
        let mut layers = vec![];
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            if let Some(hex) = name.strip_suffix("/layer.tar") {
                let mut bytes = vec![];
                entry.read_to_end(&mut bytes).unwrap();
                assert_eq!(Digest::of(&bytes).hex(), hex);
                layers.push(name);
            }
        }
        layers
    }

    #[test]
    fn versions_differ_in_the_last_layer_only() {
        let dir = tempfile::tempdir().unwrap();
        let imgd = dir.path().join("imgd");
        std::fs::write(&imgd, b"program").unwrap();
        let archives = write_all(dir.path(), &imgd).unwrap();
        let [first, second] = archives.map(|archive| layers_of(&archive));
        assert_eq!((first.len(), &first[..2]), (3, &second[..2]));
        assert_ne!(first[2], second[2]);
    }
}
