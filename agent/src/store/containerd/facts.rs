//! What the engine is made of, asked once: where its content lies and how it unpacks.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use super::api::introspection::PluginsRequest;
use super::api::namespaces::{CreateNamespaceRequest, ListNamespacesRequest, Namespace};
use super::connection::{ENGINE, created};
use super::{Flavour, Shared, labels};
use crate::store::StoreError;

const CONTENT: &str = "io.containerd.content.v1";
const SNAPSHOTTER: &str = "io.containerd.snapshotter.v1";
/// In this order, where nobody says which.
const SNAPSHOTTERS: [&str; 2] = ["overlayfs", "native"];

/// What does not change while the engine runs.
#[derive(Debug)]
pub(super) struct Facts {
    /// Who keeps unpacked layers.
    pub(super) snapshotter: String,
    /// Directory of the content; `blobs/sha256/<hex>` in it.
    pub(super) content_root: Option<PathBuf>,
    /// Directory of the unpacked layers.
    pub(super) snapshot_root: Option<PathBuf>,
}

impl Shared {
    /// Asks the engine, the first time.
    pub(super) async fn facts(&self) -> Result<Arc<Facts>, StoreError> {
        let known = self.facts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(facts) = known {
            return Ok(facts);
        }
        let facts = Arc::new(self.ask_facts().await?);
        *self.facts.lock().unwrap_or_else(PoisonError::into_inner) = Some(facts.clone());
        Ok(facts)
    }

    /// All namespaces, ours first when it is there.
    pub(super) async fn namespaces(&self) -> Result<Vec<Namespace>, StoreError> {
        let request = self.connection.request(ListNamespacesRequest::default());
        let answer = self.connection.ask(self.connection.namespaces().list(request)).await;
        let mut namespaces = answer.map_err(|status| self.connection.failed("list its namespaces", &status))?.namespaces;
        namespaces.sort_by_key(|namespace| namespace.name != self.namespace);
        Ok(namespaces)
    }

    /// Makes our namespace, where it is absent.
    pub(super) async fn make_namespace(&self) -> Result<(), StoreError> {
        let namespace = Namespace { name: self.namespace.clone(), labels: labels::Labels::new() };
        let request = self.connection.request(CreateNamespaceRequest { namespace: Some(namespace) });
        let answer = self.connection.ask(self.connection.namespaces().create(request)).await;
        let action = || format!("create the namespace {}", self.namespace);
        created(answer).map(|_| ()).map_err(|status| self.connection.failed(action(), &status))
    }

    async fn ask_facts(&self) -> Result<Facts, StoreError> {
        let filters = vec![format!("type=={CONTENT}"), format!("type=={SNAPSHOTTER}")];
        let request = self.connection.request(PluginsRequest { filters });
        let answer = self.connection.ask(self.connection.introspection().plugins(request)).await;
        let plugins = answer.map_err(|status| self.connection.failed("list its plugins", &status))?.plugins;
        let works = |kind: &str, id: Option<&str>| {
            plugins.iter().find(|plugin| plugin.r#type == kind && id.is_none_or(|id| plugin.id == id) && plugin.init_err.is_none())
        };
        let root = |kind: &str, id: Option<&str>| works(kind, id).and_then(|plugin| plugin.exports.get("root")).map(PathBuf::from);
        let namespaces = self.namespaces().await?;
        let label = namespaces.first().filter(|found| found.name == self.namespace).and_then(|found| found.labels.get(labels::SNAPSHOTTER));
        let named = self.snapshotter.as_ref().or(label).cloned();
        let snapshotter = match (named, self.flavour) {
            (Some(named), _) => named,
            // Docker says which in its own words, not here; it is this one unless it was told otherwise.
            (None, Flavour::Docker) => SNAPSHOTTERS[0].to_owned(),
            (None, _) => {
                let working = SNAPSHOTTERS.into_iter().find(|id| works(SNAPSHOTTER, Some(id)).is_some());
                let nothing = || StoreError::Engine {
                    engine: ENGINE,
                    action: "unpack layers".to_owned(),
                    reason: "neither the snapshotter overlayfs nor native works".to_owned(),
                };
                working.ok_or_else(nothing)?.to_owned()
            }
        };
        let (content_root, snapshot_root) = (root(CONTENT, None), root(SNAPSHOTTER, Some(&snapshotter)));
        if let Some(root) = &content_root {
            self.connection.learn_root(root);
        }
        Ok(Facts { content_root, snapshot_root, snapshotter })
    }
}
