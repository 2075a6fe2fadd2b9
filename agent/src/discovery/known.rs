//! Addresses at which members were reached, kept across restarts: a host is found again on a network without multicast.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use proto::HostId;
use tracing::warn;

use super::Sighting;
use crate::store::StoreError;
use crate::sys::durable;

/// `<state>/peers.json`: `{"<host id>": ["10.0.0.2:7117"]}`.
#[derive(Debug)]
pub(super) struct Known {
    path: PathBuf,
}

impl Known {
    pub(super) fn open(state_directory: &Path) -> Result<Self, StoreError> {
        durable::create_dir(state_directory, 0o700)?;
        Ok(Self { path: state_directory.join("peers.json") })
    }

    /// What was saved; nothing, when it cannot be read: these are hints.
    pub(super) fn load(&self) -> HashMap<HostId, Sighting> {
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(_) => return HashMap::new(),
        };
        let Ok(saved) = serde_json::from_slice::<BTreeMap<String, Vec<SocketAddr>>>(&bytes) else {
            warn!(path = %self.path.display(), "addresses of peers cannot be read: starting without them");
            return HashMap::new();
        };
        saved.into_iter().filter_map(|(id, addresses)| Some((id.parse().ok()?, Sighting::saved(addresses)))).collect()
    }

    /// Replaces what was saved. A failure costs a hint and is only logged.
    pub(super) fn save(&self, seen: &HashMap<HostId, Sighting>) {
        let proven = |sighting: &Sighting| sighting.proven().collect::<Vec<SocketAddr>>();
        let saved = seen.iter().map(|(id, sighting)| (id.to_string(), proven(sighting))).filter(|(_, addresses)| !addresses.is_empty());
        let saved: BTreeMap<String, Vec<SocketAddr>> = saved.collect();
        let written = serde_json::to_vec_pretty(&saved).map(|bytes| durable::write(&self.path, &bytes, 0o600));
        if let Ok(Err(error)) = written {
            warn!(%error, "addresses of peers are not saved");
        }
    }
}
