//! The store of an agent: one of the backends, chosen by its configuration, and with Docker by what the engine uses.
//!
//! Nothing above knows which one it is. A Docker Engine may be down when the agent starts, and may come back with the other of its two stores:
//! it is asked when it is needed, and again every now and then.

use proto::control::Verdict;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::hash::RangeHash;
use proto::image::Selection;
use proto::peer::ImageRow;
use proto::{Descriptor, Digest, Image};
use tokio::sync::mpsc;

use super::containerd::{self, ContainerdImport, ContainerdIngest, ContainerdStore, Flavour};
use super::engine::{self, Deadlines, Engine, EngineImport, EngineIngest, EngineStore, EngineStoreKind, WholeImport, WholeStore};
use super::kind::StoreKind;
use super::layout::{LayoutImport, LayoutIngest, LayoutStore};
use super::{Finding, Held, Import, Imported, Ingest, Meter, Properties, Query, Reader, Removed, Room, Scrubbed, Store, StoreError};
use crate::staging::StagedFile;

/// For how long an engine is believed to use the store that it said.
const FRESH: Duration = Duration::from_secs(10);

/// The namespace in which Docker keeps its images.
const MOBY: &str = "moby";

/// A store of any kind. Clones share it.
#[derive(Debug, Clone)]
pub struct AnyStore {
    choice: Choice,
    /// Why it is this one, when nobody named it.
    reason: Option<Arc<str>>,
    kind: StoreKind,
}

/// An import into it.
#[derive(Debug)]
pub enum AnyImport {
    /// Into an image layout.
    Layout(LayoutImport),
    /// Into an engine that keeps layers unpacked.
    Engine(EngineImport),
    /// Into containerd.
    Containerd(ContainerdImport),
    /// Into an engine by whole archives.
    Whole(WholeImport),
}

/// An ingest into it.
#[derive(Debug)]
pub enum AnyIngest {
    /// Into an image layout.
    Layout(LayoutIngest),
    /// Into an engine that keeps layers unpacked.
    Engine(EngineIngest),
    /// Into containerd.
    Containerd(ContainerdIngest),
}

#[derive(Debug, Clone)]
enum Choice {
    Fixed(Backend),
    Docker(Arc<Docker>),
}

#[derive(Debug, Clone)]
enum Backend {
    Layout(LayoutStore),
    Engine(EngineStore),
    Containerd(ContainerdStore),
    Whole(WholeStore),
}

/// A Docker Engine with either store.
#[derive(Debug)]
struct Docker {
    socket: PathBuf,
    containerd: Option<PathBuf>,
    state_dir: PathBuf,
    classic: EngineStore,
    current: Mutex<Current>,
}

#[derive(Debug, Default)]
struct Current {
    asked: Option<Instant>,
    /// Of the classic store there is always one.
    way: Way,
    containerd: Option<(PathBuf, ContainerdStore)>,
    whole: Option<WholeStore>,
}

/// How Docker's images are reached.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Way {
    #[default]
    Classic,
    Containerd,
    Whole,
}

impl AnyStore {
    /// Opens what `kind` names. Within a runtime. An engine that is down is no error here.
    pub fn open(kind: &StoreKind, state_dir: &Path) -> Result<Self, StoreError> {
        let engine = |engine, socket: &PathBuf| {
            EngineStore::open(engine::Settings { engine, socket: socket.clone(), state_dir, deadlines: Deadlines::default() })
        };
        let choice = match kind {
            StoreKind::Auto => {
                let (kind, reason) = super::auto::choose(state_dir)?;
                tracing::info!(store = %kind, reason, "store");
                let store = Self::open(&kind, state_dir)?;
                return Ok(Self { reason: Some(format!("auto is {kind}: {reason}").into()), ..store });
            }
            StoreKind::Layout(directory) => Choice::Fixed(Backend::Layout(LayoutStore::open(directory)?)),
            StoreKind::Podman { socket } => Choice::Fixed(Backend::Engine(engine(Engine::Podman, socket)?)),
            StoreKind::Containerd { socket, namespace } => {
                let flavour = Flavour::of_namespace(namespace);
                Choice::Fixed(Backend::Containerd(open_containerd(socket.clone(), namespace, flavour, None, state_dir)?))
            }
            StoreKind::Docker { socket, containerd } => Choice::Docker(Arc::new(Docker {
                socket: socket.clone(),
                containerd: containerd.clone(),
                state_dir: state_dir.to_owned(),
                classic: engine(Engine::Docker, socket)?,
                current: Mutex::default(),
            })),
        };
        Ok(Self { choice, reason: None, kind: kind.clone() })
    }

    /// Of an image layout: where it is.
    pub fn layout_directory(&self) -> Option<&Path> {
        match &self.choice {
            Choice::Fixed(Backend::Layout(store)) => Some(store.directory()),
            _ => None,
        }
    }

    /// Takes away what an engine holds for us, before the agent ends.
    pub async fn close(&self) {
        match &self.choice {
            Choice::Fixed(Backend::Engine(store)) => store.close().await,
            Choice::Docker(docker) => {
                docker.classic.close().await;
                let whole = docker.current.lock().unwrap_or_else(PoisonError::into_inner).whole.clone();
                if let Some(whole) = whole {
                    whole.close().await;
                }
            }
            Choice::Fixed(_) => {}
        }
    }

    async fn backend(&self) -> Result<Backend, StoreError> {
        match &self.choice {
            Choice::Fixed(backend) => Ok(backend.clone()),
            Choice::Docker(docker) => docker.backend().await,
        }
    }
}

impl Docker {
    async fn backend(&self) -> Result<Backend, StoreError> {
        let fresh = self.current.lock().unwrap_or_else(PoisonError::into_inner).asked.is_some_and(|asked| asked.elapsed() < FRESH);
        if !fresh {
            let info = engine::ask(Engine::Docker, &self.socket).await?;
            match info.store {
                EngineStoreKind::Classic => self.choose(Way::Classic, |_| Ok(()))?,
                EngineStoreKind::Containerd => {
                    let socket = self.containerd.clone().or_else(|| first_present(&info.containerd_sockets)).unwrap_or_default();
                    match obstacle(&socket).await {
                        None => self.choose(Way::Containerd, |current| self.use_containerd(current, socket, &info.driver))?,
                        Some(obstacle) => self.choose(Way::Whole, |current| self.use_whole(current, obstacle))?,
                    }
                }
            }
        }
        Ok(self.last())
    }

    fn choose(&self, way: Way, open: impl FnOnce(&mut Current) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        open(&mut current)?;
        current.way = way;
        current.asked = Some(Instant::now());
        Ok(())
    }

    fn use_containerd(&self, current: &mut Current, socket: PathBuf, driver: &str) -> Result<(), StoreError> {
        if current.containerd.as_ref().is_none_or(|(known, _)| *known != socket) {
            let snapshotter = Some(driver.to_owned()).filter(|driver| !driver.is_empty());
            let store = open_containerd(socket.clone(), MOBY, Flavour::Docker, snapshotter, &self.state_dir)?;
            current.containerd = Some((socket, store));
        }
        Ok(())
    }

    fn use_whole(&self, current: &mut Current, obstacle: String) -> Result<(), StoreError> {
        if current.whole.is_none() {
            tracing::warn!(%obstacle, "images go through docker save and docker load");
            let deadlines = Deadlines::default();
            let settings = engine::Settings { engine: Engine::Docker, socket: self.socket.clone(), state_dir: &self.state_dir, deadlines };
            current.whole = Some(WholeStore::open(settings, obstacle)?);
        }
        Ok(())
    }

    /// The one that was used last.
    fn last(&self) -> Backend {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match (current.way, &current.containerd, &current.whole) {
            (Way::Containerd, Some((_, store)), _) => Backend::Containerd(store.clone()),
            (Way::Whole, _, Some(store)) => Backend::Whole(store.clone()),
            _ => Backend::Engine(self.classic.clone()),
        }
    }
}

/// On a node of a Kubernetes distribution whose kubelet sees nothing of what is kept here.
fn unseen_by_kubernetes(kind: &StoreKind, kubernetes: Option<PathBuf>) -> Option<Finding> {
    let kubernetes = kubernetes?;
    if matches!(kind, StoreKind::Containerd { socket, namespace } if *socket == kubernetes && namespace == super::auto::KUBERNETES_NAMESPACE)
    {
        return None;
    }
    let socket = kubernetes.display();
    Some(Finding {
        verdict: Verdict::Warning,
        text: format!("the kubelet of this host uses the containerd at {socket}, and sees no image that is kept in {kind}"),
        remedy: Some(format!("store = \"containerd:{socket}?namespace=k8s.io\" in /etc/imgd/config.toml, if images are to be for it")),
    })
}

/// Why containerd cannot be talked to although it may well run: it may not be ours to see, or to use. One that is down is no reason.
async fn obstacle(socket: &Path) -> Option<String> {
    let error = tokio::net::UnixStream::connect(socket).await.err()?;
    let is_out_of_reach = matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied);
    is_out_of_reach.then(|| format!("Docker's containerd cannot be used at {} ({error})", socket.display()))
}

fn first_present(sockets: &[PathBuf]) -> Option<PathBuf> {
    sockets.iter().find(|socket| socket.exists()).or(sockets.first()).cloned()
}

fn open_containerd(
    socket: PathBuf,
    namespace: &str,
    flavour: Flavour,
    snapshotter: Option<String>,
    state_dir: &Path,
) -> Result<ContainerdStore, StoreError> {
    ContainerdStore::open(containerd::Settings { socket, namespace: namespace.to_owned(), flavour, snapshotter, state_dir })
}

/// The same call on whichever backend it is.
macro_rules! on {
    (AnyIngest, $value:expr, $bound:ident => $call:expr) => {
        on!(@ AnyIngest, $value, $bound => $call, Layout Engine Containerd)
    };
    ($type:ident, $value:expr, $bound:ident => $call:expr) => {
        on!(@ $type, $value, $bound => $call, Layout Engine Containerd Whole)
    };
    (@ $type:ident, $value:expr, $bound:ident => $call:expr, $($variant:ident)*) => {
        match $value {
            $($type::$variant($bound) => $call,)*
        }
    };
}

impl Store for AnyStore {
    type Import = AnyImport;

    fn properties(&self) -> Properties {
        let backend = match &self.choice {
            Choice::Fixed(backend) => backend.clone(),
            Choice::Docker(docker) => docker.last(),
        };
        on!(Backend, backend, store => store.properties())
    }

    async fn examine(&self) -> Vec<Finding> {
        let chosen = |reason: &Arc<str>| Finding { verdict: Verdict::Ok, text: reason.to_string(), remedy: None };
        let mut findings: Vec<Finding> = self.reason.iter().map(chosen).collect();
        match (self.backend().await, &self.choice) {
            (Ok(Backend::Containerd(store)), Choice::Docker(docker)) => {
                findings.push(docker.classic.examine_engine().await);
                findings.extend(store.examine().await);
            }
            (Ok(backend), _) => findings.extend(on!(Backend, backend, store => store.examine().await)),
            // It says best itself that it is down.
            (Err(_), Choice::Docker(docker)) => findings.extend(docker.classic.examine().await),
            (Err(error), Choice::Fixed(_)) => findings.push(Finding { verdict: Verdict::Wrong, text: error.to_string(), remedy: None }),
        }
        findings.extend(unseen_by_kubernetes(&self.kind, super::auto::kubernetes_socket()));
        findings
    }

    async fn list(&self) -> Result<Vec<ImageRow>, StoreError> {
        on!(Backend, self.backend().await?, store => store.list().await)
    }

    async fn resolve(&self, query: &Query, selection: Selection) -> Result<Held, StoreError> {
        on!(Backend, self.backend().await?, store => store.resolve(query, selection).await)
    }

    async fn hashes(&self, blob: &Descriptor, meter: &Meter) -> Result<Arc<[RangeHash]>, StoreError> {
        on!(Backend, self.backend().await?, store => store.hashes(blob, meter).await)
    }

    async fn read(&self, blob: &Descriptor, range: Range<u64>) -> Result<Reader, StoreError> {
        on!(Backend, self.backend().await?, store => store.read(blob, range).await)
    }

    async fn import(&self, image: Image) -> Result<AnyImport, StoreError> {
        Ok(match self.backend().await? {
            Backend::Layout(store) => AnyImport::Layout(store.import(image).await?),
            Backend::Engine(store) => AnyImport::Engine(store.import(image).await?),
            Backend::Containerd(store) => AnyImport::Containerd(store.import(image).await?),
            Backend::Whole(store) => AnyImport::Whole(store.import(image).await?),
        })
    }

    async fn remove(&self, query: &Query) -> Result<Removed, StoreError> {
        on!(Backend, self.backend().await?, store => store.remove(query).await)
    }

    async fn room(&self) -> Result<Vec<Room>, StoreError> {
        on!(Backend, self.backend().await?, store => store.room().await)
    }

    async fn maintain(&self) -> Result<u64, StoreError> {
        on!(Backend, self.backend().await?, store => store.maintain().await)
    }

    async fn reclaim(&self) -> Result<u64, StoreError> {
        on!(Backend, self.backend().await?, store => store.reclaim().await)
    }

    async fn scrub(&self, blob: Option<Digest>, report: mpsc::Sender<Scrubbed>) -> Result<(), StoreError> {
        on!(Backend, self.backend().await?, store => store.scrub(blob, report).await)
    }
}

impl Import for AnyImport {
    type Ingest = AnyIngest;

    async fn missing(&mut self) -> Result<Vec<Descriptor>, StoreError> {
        on!(Self, self, import => import.missing().await)
    }

    async fn ingest(&self, blob: &Descriptor) -> Result<Option<AnyIngest>, StoreError> {
        Ok(match self {
            Self::Layout(import) => import.ingest(blob).await?.map(AnyIngest::Layout),
            Self::Engine(import) => import.ingest(blob).await?.map(AnyIngest::Engine),
            Self::Containerd(import) => import.ingest(blob).await?.map(AnyIngest::Containerd),
            Self::Whole(import) => import.ingest(blob).await?.map(AnyIngest::Layout),
        })
    }

    async fn commit(self) -> Result<Imported, StoreError> {
        on!(Self, self, import => import.commit().await)
    }
}

impl Ingest for AnyIngest {
    fn offset(&self) -> u64 {
        on!(AnyIngest, self, ingest => ingest.offset())
    }

    async fn append(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        on!(AnyIngest, self, ingest => ingest.append(bytes).await)
    }

    async fn commit(self) -> Result<(), StoreError> {
        on!(AnyIngest, self, ingest => ingest.commit().await)
    }

    async fn adopt(self, file: StagedFile) -> Result<(), StoreError> {
        on!(AnyIngest, self, ingest => ingest.adopt(file).await)
    }
}
