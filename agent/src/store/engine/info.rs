//! What an engine says of itself.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::api::Client;
use super::layers::Ground;
use super::{Deadlines, Engine, Shared};
use crate::store::{Room, StoreError};
use crate::sys::file::space;

/// For how long it is believed. An engine that was started again may have moved.
const FRESH: Duration = Duration::from_secs(60);

/// How the engine behind a Docker socket keeps its images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineStoreKind {
    /// Unpacked, in a graph driver: [`super::EngineStore`].
    Classic,
    /// In containerd.
    Containerd,
}

/// What an engine says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Where images are.
    pub store: EngineStoreKind,
    /// Where its containerd may be listening, the likeliest first. Empty for an engine that has none.
    pub containerd_sockets: Vec<PathBuf>,
    /// The version of the engine.
    pub version: String,
    /// The directory with its images.
    pub root: PathBuf,
    /// What lays layers over each other there.
    pub driver: String,
    /// It runs without the rights of root.
    pub is_rootless: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawInfo {
    #[serde(default)]
    server_version: String,
    #[serde(default)]
    driver: String,
    #[serde(default)]
    docker_root_dir: PathBuf,
    #[serde(default)]
    driver_status: Option<Vec<(String, String)>>,
    #[serde(default)]
    security_options: Option<Vec<String>>,
    #[serde(default)]
    containerd: Option<RawContainerd>,
    #[serde(default)]
    rootless: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawContainerd {
    #[serde(default)]
    address: Option<PathBuf>,
}

/// Asks the engine behind a socket which store it uses, and what else whoever chooses a backend needs to know.
pub async fn ask(engine: Engine, socket: &Path) -> Result<Info, StoreError> {
    fetch(&Client::new(engine, socket.to_owned(), Deadlines::default())).await
}

async fn fetch(client: &Client) -> Result<Info, StoreError> {
    let raw: Option<RawInfo> = client.get("/info", "tell about itself").await?;
    raw.map(RawInfo::read).ok_or_else(|| client.refusal("tell about itself", "no answer to /info"))
}

impl RawInfo {
    fn read(self) -> Info {
        let status = self.driver_status.unwrap_or_default();
        let is_containerd = status.iter().any(|(key, value)| key == "driver-type" && value == "io.containerd.snapshotter.v1");
        let store = if is_containerd { EngineStoreKind::Containerd } else { EngineStoreKind::Classic };
        let mut containerd_sockets: Vec<PathBuf> = vec![];
        if is_containerd {
            // Docker names it since 27; before, it is its own or the host's.
            containerd_sockets.extend(self.containerd.and_then(|containerd| containerd.address));
            if containerd_sockets.is_empty() {
                containerd_sockets.push("/var/run/docker/containerd/containerd.sock".into());
                containerd_sockets.push("/run/containerd/containerd.sock".into());
            }
        }
        let is_rootless = self.rootless || self.security_options.iter().flatten().any(|option| option.contains("rootless"));
        Info { store, containerd_sockets, version: self.server_version, root: self.docker_root_dir, driver: self.driver, is_rootless }
    }
}

impl Shared {
    /// What the engine says of itself, now or a minute ago.
    pub(super) async fn info(&self) -> Result<Arc<Info>, StoreError> {
        let known = self.info.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, info)) = known.filter(|(asked, _)| asked.elapsed() < FRESH) {
            return Ok(info);
        }
        self.info_now().await
    }

    /// What it says of itself now.
    pub(super) async fn info_now(&self) -> Result<Arc<Info>, StoreError> {
        let info = Arc::new(fetch(&self.client).await?);
        *self.info.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), info.clone()));
        Ok(info)
    }

    /// Where its layers lie.
    pub(super) async fn ground(&self) -> Result<Ground, StoreError> {
        let info = self.info().await?;
        Ok(Ground::new(self.client.engine(), info.root.clone(), info.driver.clone()))
    }

    /// See [`crate::store::Store::room`].
    pub(super) async fn room(&self) -> Result<Vec<Room>, StoreError> {
        let info = self.info().await?;
        let needs = match self.client.engine() {
            // It unpacks the archive beside its images first.
            Engine::Docker => vec![(info.root.clone(), 200)],
            // It writes the archive to a file, and unpacks that.
            Engine::Podman => vec![(info.root.clone(), 100), (PathBuf::from("/var/tmp"), 200)],
        };
        let mut rooms: Vec<Room> = vec![];
        for (path, needed_percent) in needs {
            let Ok(space) = space(&path) else { continue };
            Room { device: space.device, free_bytes: space.free_bytes, needed_percent }.add_to(&mut rooms);
        }
        Ok(rooms)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(json: &str) -> Info {
        serde_json::from_str::<RawInfo>(json).unwrap().read()
    }

    #[test]
    fn the_store_of_an_engine() {
        let classic = read(
            r#"{"ServerVersion":"20.10.24","Driver":"overlay2","DockerRootDir":"/var/lib/docker",
            "DriverStatus":[["Backing Filesystem","extfs"]],"SecurityOptions":["name=seccomp,profile=default"]}"#,
        );
        assert_eq!((classic.store, classic.is_rootless), (EngineStoreKind::Classic, false));
        assert!(classic.containerd_sockets.is_empty());
        let status = r#""DriverStatus":[["driver-type","io.containerd.snapshotter.v1"]],"SecurityOptions":["name=rootless"]"#;
        let named = read(&format!(r#"{{{status},"Containerd":{{"Address":"/run/x.sock","Namespaces":{{}}}}}}"#));
        assert_eq!((named.store, named.containerd_sockets), (EngineStoreKind::Containerd, vec!["/run/x.sock".into()]));
        assert!(named.is_rootless);
        assert_eq!(read(&format!("{{{status},\"Containerd\":null}}")).containerd_sockets.len(), 2);
    }
}
