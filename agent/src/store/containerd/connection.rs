//! The engine's socket: connected when it is needed and again after the engine was restarted; deadlines; what errors mean.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use proto::Digest;
use tokio::net::UnixStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Response, Status};

use super::api::content::content_client::ContentClient;
use super::api::diff::diff_client::DiffClient;
use super::api::images::images_client::ImagesClient;
use super::api::introspection::introspection_client::IntrospectionClient;
use super::api::leases::leases_client::LeasesClient;
use super::api::namespaces::namespaces_client::NamespacesClient;
use super::api::snapshots::snapshots_client::SnapshotsClient;
use super::api::version::version_client::VersionClient;
use crate::store::StoreError;

pub(super) const ENGINE: &str = "containerd";
/// Our own words for an engine that does not answer.
const SILENT: &str = "no answer";
/// How long the engine may take before it is asked whether it is still there, and how long it may take to say so.
const WATCH_INTERVAL: Duration = Duration::from_secs(8);
/// What the engine sends at most.
const MESSAGE_BYTES: usize = 16 << 20;
/// A block being read, and the next one.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// One engine, one namespace.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    socket: PathBuf,
    namespace: MetadataValue<Ascii>,
    channel: Channel,
    /// Where its files are, once that is known.
    root: Arc<OnceLock<PathBuf>>,
}

macro_rules! clients {
    ($($name:ident: $client:ident;)*) => { $(
        pub(super) fn $name(&self) -> $client<Channel> {
            $client::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES)
        }
    )* };
}

impl Connection {
    /// Does not connect yet. Inside a runtime. `None` for a namespace that cannot be one.
    pub(super) fn new(socket: &Path, namespace: &str) -> Option<Self> {
        let path = socket.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The address is not used: a socket has no host.
        let endpoint = Endpoint::from_static("http://localhost")
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        let channel = endpoint.connect_with_connector_lazy(connector);
        Some(Self { socket: socket.to_owned(), namespace: namespace.parse().ok()?, channel, root: Arc::default() })
    }

    clients! {
        content: ContentClient;
        diff: DiffClient;
        images: ImagesClient;
        introspection: IntrospectionClient;
        leases: LeasesClient;
        namespaces: NamespacesClient;
        snapshots: SnapshotsClient;
        version: VersionClient;
    }

    /// Where the engine listens.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// A message for our namespace.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("containerd-namespace", self.namespace.clone());
        request
    }

    /// A message for another namespace.
    pub(super) fn request_in<T>(&self, namespace: &str, message: T) -> Request<T> {
        let mut request = self.request(message);
        if let Ok(namespace) = namespace.parse() {
            request.metadata_mut().insert("containerd-namespace", namespace);
        }
        request
    }

    /// A message for ours; what comes of it belongs to a lease.
    pub(super) fn leased<T>(&self, message: T, lease: &str) -> Request<T> {
        let mut request = self.request(message);
        if let Ok(lease) = lease.parse() {
            request.metadata_mut().insert("containerd-lease", lease);
        }
        request
    }

    /// Asks one question.
    pub(super) async fn ask<T>(&self, answer: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
        self.watched(answer).await.map(Response::into_inner)
    }

    /// Waits for what takes as long as it takes, while the engine answers another question: it may collect garbage, or write to a slow disk.
    pub(super) async fn watched<T>(&self, answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        let watch = async {
            loop {
                tokio::time::sleep(WATCH_INTERVAL).await;
                let mut version = self.version();
                match tokio::time::timeout(WATCH_INTERVAL, version.version(self.request(()))).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(status)) => return status,
                    Err(_) => return Status::deadline_exceeded(SILENT),
                }
            }
        };
        tokio::select! {
            answer = answer => answer,
            status = watch => Err(status),
        }
    }

    /// Remembers where the engine's files are, for errors that name it.
    pub(super) fn learn_root(&self, root: &Path) {
        let _ = self.root.set(root.to_owned());
    }

    /// What a status means that nobody expected; `action` reads on from "containerd cannot".
    pub(super) fn failed(&self, action: impl Into<String>, status: &Status) -> StoreError {
        let address = self.socket.display().to_string();
        if status.code() == Code::DeadlineExceeded && status.message() == SILENT {
            return StoreError::Silent { engine: ENGINE, address };
        }
        // What the engine itself answers has no source.
        if status.source().is_some() {
            let lost = || io::Error::new(io::ErrorKind::ConnectionReset, status.message().to_owned());
            return StoreError::Unreachable { engine: ENGINE, address, source: io_error(status).unwrap_or_else(lost) };
        }
        if status.message().contains("no space left on device") {
            return StoreError::NoSpace(self.root.get().unwrap_or(&self.socket).clone());
        }
        StoreError::Engine { engine: ENGINE, action: action.into(), reason: status.message().to_owned() }
    }

    /// The same, where the engine's not having a blob is an answer.
    pub(super) fn failed_blob(&self, action: &str, digest: &Digest, status: &Status) -> StoreError {
        match status.code() {
            Code::NotFound => StoreError::BlobMissing(*digest),
            _ => self.failed(format!("{action} {digest}"), status),
        }
    }
}

/// `Ok(None)` for what is not there.
pub(super) fn found<T>(answer: Result<T, Status>) -> Result<Option<T>, Status> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status),
    }
}

/// `Ok(false)` when it was there already.
pub(super) fn created<T>(answer: Result<T, Status>) -> Result<bool, Status> {
    match answer {
        Ok(_) => Ok(true),
        Err(status) if status.code() == Code::AlreadyExists => Ok(false),
        Err(status) => Err(status),
    }
}

/// What the operating system said, when that is what went wrong.
fn io_error(status: &Status) -> Option<io::Error> {
    let mut source = status.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(match error.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::new(error.kind(), error.to_string()),
            });
        }
        source = error.source();
    }
    None
}
