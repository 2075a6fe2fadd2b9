//! Where an engine's layers lie, and what it notes of them beside its API. Everything here blocks.

use std::io;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use proto::Digest;
use proto::limits::CONFIG_BYTES;
use serde::Deserialize;

use super::Engine;

/// The list of layers of Podman: a few hundred bytes for each.
const LIST_BYTES: u64 = 64 << 20;
/// A line of a small file.
const LINE_BYTES: u64 = 4096;

/// The engine's own directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ground {
    engine: Engine,
    root: PathBuf,
    driver: String,
}

/// One layer on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// What the engine calls it: another one when the same layer comes again.
    pub(super) key: String,
    /// Notes of how its archive was.
    pub(super) tar_split: PathBuf,
    /// Its files.
    pub(super) diff: PathBuf,
}

#[derive(Deserialize)]
struct PodmanLayer {
    id: String,
    #[serde(rename = "diff-digest", default)]
    diff_digest: String,
}

impl Ground {
    /// What an engine says of itself.
    pub(super) fn new(engine: Engine, root: PathBuf, driver: String) -> Self {
        Self { engine, root, driver }
    }

    /// Why layers cannot be read here; `None` when they can, as far as can be told without a layer.
    pub(super) fn obstacle(&self) -> Option<io::Error> {
        let supported = matches!((self.engine, self.driver.as_str()), (Engine::Docker, "overlay2") | (Engine::Podman, "overlay"));
        if !supported {
            return Some(io::Error::new(io::ErrorKind::Unsupported, format!("storage driver {}", self.driver)));
        }
        let directories = match self.engine {
            Engine::Docker => [self.root.join("image/overlay2/layerdb"), self.root.join("overlay2")],
            Engine::Podman => [self.root.join("overlay-layers"), self.root.join("overlay")],
        };
        directories.iter().find_map(|directory| std::fs::read_dir(directory).err())
    }

    /// The bytes of an image's config.
    pub(super) fn config(&self, id: &Digest) -> io::Result<Vec<u8>> {
        let path = match self.engine {
            Engine::Docker => self.root.join("image").join(&self.driver).join("imagedb/content/sha256").join(id.hex()),
            Engine::Podman => {
                let name = format!("={}", BASE64.encode(id.to_string().as_bytes()));
                self.root.join(format!("{}-images", self.driver)).join(id.hex()).join(name)
            }
        };
        read_small(&path, CONFIG_BYTES)
    }

    /// Where the layer of this chain lies.
    pub(super) fn place(&self, diff_id: &Digest, chain_id: &Digest) -> io::Result<Place> {
        if let Some(obstacle) = self.obstacle() {
            return Err(obstacle);
        }
        match self.engine {
            Engine::Docker => self.docker_place(diff_id, chain_id),
            Engine::Podman => self.podman_place(diff_id),
        }
    }

    fn docker_place(&self, diff_id: &Digest, chain_id: &Digest) -> io::Result<Place> {
        let notes = self.root.join("image/overlay2/layerdb/sha256").join(chain_id.hex());
        let diff = read_small(&notes.join("diff"), LINE_BYTES)?;
        if diff != diff_id.to_string().as_bytes() {
            return Err(invalid("the engine's notes name another layer"));
        }
        let key = name(read_small(&notes.join("cache-id"), LINE_BYTES)?)?;
        Ok(Place { tar_split: notes.join("tar-split.json.gz"), diff: self.root.join("overlay2").join(&key).join("diff"), key })
    }

    /// Podman knows a layer by its diff ID; any of those that have it will do.
    fn podman_place(&self, diff_id: &Digest) -> io::Result<Place> {
        let directory = self.root.join("overlay-layers");
        let mut layers: Vec<PodmanLayer> = serde_json::from_slice(&read_small(&directory.join("layers.json"), LIST_BYTES)?)?;
        // Layers of stores that do not outlive a restart of the host.
        if let Ok(bytes) = read_small(&directory.join("volatile-layers.json"), LIST_BYTES) {
            layers.extend(serde_json::from_slice::<Vec<PodmanLayer>>(&bytes)?);
        }
        let wanted = diff_id.to_string();
        for layer in layers.into_iter().filter(|layer| layer.diff_digest == wanted) {
            let key = name(layer.id.into_bytes())?;
            let place = Place {
                tar_split: directory.join(format!("{key}.tar-split.gz")),
                diff: self.root.join("overlay").join(&key).join("diff"),
                key,
            };
            if place.tar_split.exists() {
                return Ok(place);
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }
}

/// Names of directories come out of the engine's files: they have to be names and not paths.
fn name(bytes: Vec<u8>) -> io::Result<String> {
    let text = String::from_utf8(bytes).map_err(|_| invalid("a name is not text"))?;
    let text = text.trim_end().to_owned();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if !text.is_empty() && text.bytes().all(plain) { Ok(text) } else { Err(invalid("a name is not that of a layer")) }
}

fn read_small(path: &Path, limit_bytes: u64) -> io::Result<Vec<u8>> {
    use io::Read;
    let mut bytes = vec![];
    std::fs::File::open(path)?.take(limit_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit_bytes { Err(invalid("a file of the engine is too large")) } else { Ok(bytes) }
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_found_by_its_chain() {
        let root = tempfile::tempdir().unwrap();
        let ground = Ground::new(Engine::Docker, root.path().to_owned(), "overlay2".to_owned());
        assert_eq!(ground.obstacle().unwrap().kind(), io::ErrorKind::NotFound);
        let (diff, chain) = (Digest::of(b"diff"), Digest::of(b"chain"));
        let notes = root.path().join("image/overlay2/layerdb/sha256").join(chain.hex());
        std::fs::create_dir_all(&notes).unwrap();
        std::fs::create_dir_all(root.path().join("overlay2")).unwrap();
        assert!(ground.obstacle().is_none());
        std::fs::write(notes.join("diff"), diff.to_string()).unwrap();
        std::fs::write(notes.join("cache-id"), "abc-init").unwrap();
        assert_eq!(ground.place(&diff, &chain).unwrap().diff, root.path().join("overlay2/abc-init/diff"));
        assert!(ground.place(&chain, &chain).is_err());
        std::fs::write(notes.join("cache-id"), "../../etc").unwrap();
        assert!(ground.place(&diff, &chain).is_err());
    }

    #[test]
    fn other_drivers_are_an_obstacle() {
        let ground = Ground::new(Engine::Docker, PathBuf::from("/"), "vfs".to_owned());
        assert_eq!(ground.obstacle().unwrap().kind(), io::ErrorKind::Unsupported);
    }
}
