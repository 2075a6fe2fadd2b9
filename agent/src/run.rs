//! From a configuration to an agent that runs until it is told to stop.

use std::sync::Arc;

use tracing::{error, info, warn};

use crate::agent::{Agent, StartError};
use crate::config::Config;
use crate::log;
use crate::staging::Staging;
use crate::store::any::AnyStore;
use crate::store::{Store, StoreError};
use crate::sys;

/// Why an agent ended otherwise than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A part of it stopped working.
    #[error("{0} ended: this agent is of no use any more")]
    Task(&'static str),
    /// The log cannot be set up.
    #[error("{0:?} is not a log level")]
    Log(String),
    /// The async runtime cannot be started.
    #[error("cannot start the runtime")]
    Runtime(#[from] std::io::Error),
}

/// How long an engine may take to give back what it held for us.
const CLOSE_TIMEOUT_MS: u64 = 3_000;

/// Runs the agent of this process until SIGTERM or SIGINT.
pub fn run(config: &Config) -> Result<(), RunError> {
    sys::memory::share_arenas();
    log::init(&config.log_level).map_err(|_| RunError::Log(config.log_level.clone()))?;
    if let Some(host) = &config.made_of {
        warn!(host, name = config.name, "the name of this host is no DNS label: in its fleet it has a name that is made of it");
    }
    // Hashing and file I/O have threads of their own, in lanes; these two move packets and decide.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).max_blocking_threads(sys::THREADS).enable_all().build()?;
    let result = runtime.block_on(async {
        let (store, staging) = open(config).map_err(StartError::Store)?;
        let result = serve(config, store.clone(), staging).await;
        // An engine that hangs does not keep the agent from ending.
        let _ = sys::deadline(CLOSE_TIMEOUT_MS, store.close()).await;
        result
    });
    runtime.shutdown_background();
    result
}

/// The store, and the staging area beside it.
fn open(config: &Config) -> Result<(AnyStore, Arc<Staging>), StoreError> {
    let store = AnyStore::open(&config.store, &config.state_dir)?;
    let staging = match store.layout_directory() {
        // On the file system of the store, so that a complete blob moves into it by a rename.
        Some(directory) => directory.join(".imgd/staging"),
        None => config.state_dir.join("staging"),
    };
    Ok((store, Staging::open(&staging)?))
}

async fn serve<S: Store>(config: &Config, store: S, staging: Arc<Staging>) -> Result<(), RunError> {
    let mut stop =
        signals().map_err(|source| StartError::Store(StoreError::Io { action: "watch signals for", path: "imgd".into(), source }))?;
    let mut agent = Agent::start(config, store, staging).await?;
    sys::service::ready(&format!("listening on UDP {}", agent.address()));
    let watchdog = tokio::spawn(sys::service::feed_watchdog());
    let failed = tokio::select! {
        signal = stop.recv() => {
            info!(signal, "asked to stop");
            None
        }
        task = agent.failed() => Some(task),
    };
    sys::service::stopping();
    agent.stop().await;
    watchdog.abort();
    match failed {
        None => Ok(()),
        Some(task) => {
            error!(task, "ended");
            Err(RunError::Task(task))
        }
    }
}

/// The ways in which an agent is told to stop.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

fn signals() -> std::io::Result<Signals> {
    use tokio::signal::unix::{SignalKind, signal};
    Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
}

impl Signals {
    async fn recv(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
