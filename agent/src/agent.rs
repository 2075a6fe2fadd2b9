//! The agent: owns every task, starts them in order and stops them in order.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info, info_span, warn};

use crate::config::Config;
use crate::control::{RoleError, Roles};
use crate::discovery::Peers;
use crate::net::{Net, NetConfig, NetError, Peer};
use crate::staging::Staging;
use crate::store::{Store, StoreError};
use crate::transfer::{self, Context, Hashings, Jobs, Offers, Possessions, Relay, Reservations, Senders, Sessions, Transfers};
use crate::trust::{Policy, Trust, TrustError};
use crate::{control, membership, sys};

/// How long running work may take to end when the agent stops.
const GRACE: Duration = Duration::from_secs(5);

/// How often old staged bytes, and what the store does not need any more, are removed.
const MAINTAIN_EVERY: Duration = Duration::from_secs(3600);

/// Requests of peers to send something that are not looked at yet.
const RELAYS: usize = 16;

/// An agent that runs. Aborts everything when it is dropped; [`Agent::stop`] is the orderly way.
#[derive(Debug)]
pub struct Agent {
    address: SocketAddr,
    socket: PathBuf,
    /// systemd opened the socket.
    inherited: bool,
    net: Arc<Net>,
    peers: Arc<Peers>,
    shutdown: CancellationToken,
    tasks: JoinSet<&'static str>,
    /// Of the state directory: two agents with one identity would be a disaster.
    _lock: File,
}

/// Why an agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state directory, the store or the socket.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Keys, members or policy.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The network.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The groups that have roles.
    #[error(transparent)]
    Role(#[from] RoleError),
}

impl Agent {
    /// Opens everything and starts serving. When this returns the agent can be asked and reached.
    pub async fn start<S: Store>(config: &Config, store: S, staging: Arc<Staging>) -> Result<Self, StartError> {
        let lock = lock(&config.state_dir)?;
        let trust = Trust::open(&config.state_dir, &config.name)?;
        let policy = Policy::load(&config.policy)?;
        let senders = Arc::new(Senders::open(&config.state_dir)?);
        let peers = Peers::open(&config.state_dir, config.peers.clone())?;
        let kind = store.properties().kind.to_owned();
        let (net, welcomed) = Net::bind(NetConfig { listen: config.listen, store: kind }, trust.clone(), peers.clone())?;
        let journal = control::Journal::open(&config.state_dir)?;
        let (listener, inherited) = listen(config)?;
        let roles = Roles::find(config.admin_group.as_deref(), config.read_group.as_deref(), &listener)?;
        let address = net.local_address().unwrap_or(config.listen);
        let shutdown = CancellationToken::new();
        let (relays, relayed) = mpsc::channel(RELAYS);
        let context = Arc::new(Context {
            store: Arc::new(store),
            staging,
            trust,
            net: net.clone(),
            peers: peers.clone(),
            mdns_interfaces: config.mdns.then(|| config.interfaces.clone()),
            policy,
            names: Arc::default(),
            possessions: Possessions::default(),
            senders,
            reservations: Reservations::default(),
            sessions: Sessions::default(),
            hashings: Hashings::default(),
            offers: Offers::default(),
            jobs: Jobs::default(),
            links: Arc::default(),
            transfers: Transfers::default(),
            relays,
            shutdown: shutdown.clone(),
        });
        let mut agent =
            Self { address, socket: config.socket.clone(), inherited, net, peers, shutdown, tasks: JoinSet::new(), _lock: lock };
        agent.spawn(&context, config, (journal, (listener, roles)), welcomed, relayed);
        info!(name = context.trust.name(), id = ?context.trust.id(), %address, socket = %config.socket.display(), "agent started");
        if let Some(configured) = context.trust.other_name() {
            let name = context.trust.name();
            warn!(
                "this host is called {configured}, and {name} in its fleet: imgctl fleet rename {name} {configured}, on the signer, makes it one name"
            );
        }
        Ok(agent)
    }

    /// Where other hosts reach it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where `imgctl` reaches it.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Resolves when a task ends that should not: the agent is of no use any more.
    pub async fn failed(&mut self) -> &'static str {
        match self.tasks.join_next().await {
            Some(Ok(name)) => name,
            Some(Err(error)) => {
                error!(%error, "a task of the agent failed");
                "a task"
            }
            None => std::future::pending().await,
        }
    }

    /// Stops in order. First no new work and an end to what runs, so that peers and clients hear why; then silence on the network, so that
    /// nobody is sent to us; then the connections; last what did not end in time.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        let ended = tokio::time::timeout(GRACE, async { while self.tasks.join_next().await.is_some() {} }).await;
        if ended.is_err() {
            warn!(grace_s = GRACE.as_secs(), "not everything ended in time");
        }
        self.peers.use_mdns(None);
        self.net.close().await;
        self.tasks.shutdown().await;
        // A socket that systemd opened stays: the next start inherits it.
        if !self.inherited {
            let _ = std::fs::remove_file(&self.socket);
        }
        info!("agent stopped");
    }

    fn spawn<S: Store>(
        &mut self,
        context: &Arc<Context<S>>,
        config: &Config,
        (journal, clients): (control::Journal, (UnixListener, Roles)),
        welcomed: mpsc::Receiver<Peer>,
        relayed: mpsc::Receiver<Relay>,
    ) {
        self.task("network", self.net.clone().run());
        self.task("peers", serve_peers(context.clone(), welcomed));
        self.task("renewal", membership::renew(context.clone()));
        self.task("maintenance", maintain(context.clone()));
        let moved = Arc::new(Notify::new());
        if config.mdns {
            self.task("announcer", membership::announce(context.clone(), config.interfaces.clone(), moved.clone()));
        }
        self.task("addresses of this host", membership::follow_addresses(context.clone(), moved));
        self.task("spreader", membership::spread_changes(context.clone()));
        // These end by themselves when the agent stops: after the last address is saved, and after the clients have heard of it.
        let keeping = self.peers.clone().keep(self.shutdown.clone());
        self.tasks.spawn(async move {
            keeping.await;
            "addresses"
        });
        let auditing = context.trust.audit().clone().keep(self.shutdown.clone());
        self.tasks.spawn(async move {
            auditing.await;
            "audit"
        });
        let serving = control::serve(context.clone(), journal, clients, relayed);
        self.tasks.spawn(async move {
            serving.await;
            "control"
        });
    }

    /// Runs until the agent stops.
    fn task(&mut self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        let run = async move {
            tokio::select! {
                () = work => {}
                () = shutdown.cancelled() => {}
            }
            name
        };
        self.tasks.spawn(run.instrument(info_span!("task", name)));
    }
}

/// Serves every peer that is welcomed. When the agent stops, sessions are told by the context and peers are left with the connection.
async fn serve_peers<S: Store>(context: Arc<Context<S>>, mut welcomed: mpsc::Receiver<Peer>) {
    let mut serving = JoinSet::new();
    loop {
        tokio::select! {
            Some(peer) = welcomed.recv() => {
                info!(host = peer.name(), address = %peer.address(), "connected");
                serving.spawn(transfer::serve(context.clone(), peer));
            }
            Some(ended) = serving.join_next() => {
                if let Err(error) = ended {
                    error!(%error, "serving a peer failed");
                }
            }
            else => return,
        }
    }
}

async fn maintain<S: Store>(context: Arc<Context<S>>) {
    let mut tick = tokio::time::interval(MAINTAIN_EVERY);
    loop {
        tick.tick().await;
        let staging = context.staging.clone();
        if let Err(error) = sys::blocking(move || staging.sweep_old()).await {
            warn!(%error, "old staged bytes are not removed");
        }
        match context.store.maintain().await {
            Ok(0) => {}
            Ok(freed_bytes) => info!(freed_bytes, "store maintained"),
            Err(error) => warn!(%error, "store not maintained"),
        }
    }
}

fn lock(state_dir: &Path) -> Result<File, StoreError> {
    sys::durable::create_dir(state_dir, 0o700)?;
    let path = state_dir.join("lock");
    let lock = sys::file::lock(&path).map_err(StoreError::io("lock", &path))?;
    lock.ok_or_else(|| StoreError::InUse(state_dir.to_owned()))
}

/// The socket that systemd opened, or one of our own; and which of the two it is.
fn listen(config: &Config) -> Result<(UnixListener, bool), StoreError> {
    let inherited = sys::service::inherited_listener().map_err(StoreError::io("take over", &config.socket))?;
    match inherited {
        Some(listener) => Ok((listener, true)),
        None => Ok((sys::socket::listen(&config.socket, config.read_group.is_some())?, false)),
    }
}
