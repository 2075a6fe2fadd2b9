//! The engine's HTTP API over its Unix socket: the only file that names hyper.
//!
//! One connection for each request: it costs nothing on a Unix socket, and a request that is given up takes its connection with it, which is
//! how an engine is told that the rest of an archive will not come.

use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{Deadlines, Engine};
use crate::store::StoreError;

/// The most that is read of an answer which is not an archive. 4096 images with many labels each are a few megabytes.
const ANSWER_BYTES: usize = 64 << 20;
/// What is read of the messages that a load prints.
const MESSAGES_BYTES: usize = 256 << 10;

/// One engine.
#[derive(Debug, Clone)]
pub(super) struct Client {
    engine: Engine,
    socket: PathBuf,
    deadlines: Deadlines,
}

/// A request that was answered.
#[derive(Debug)]
pub(super) struct Answer {
    status: StatusCode,
    body: Vec<u8>,
}

/// What goes into a load: bytes, and at last `None`. When the sender goes away before that, the connection is cut and the engine forgets the load.
pub(super) type Archive = mpsc::Receiver<Option<Bytes>>;

/// An image on its way out of the engine.
pub(super) struct Export {
    body: Incoming,
    client: Client,
    _connection: AbortOnDropHandle<()>,
}

impl Answer {
    /// 2xx.
    pub(super) fn is_success(&self) -> bool {
        self.status.is_success()
    }

    /// No such image.
    pub(super) fn is_absent(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
    }

    /// The engine's words.
    pub(super) fn reason(&self) -> String {
        message(&self.body).unwrap_or_else(|| format!("status {}: {}", self.status, String::from_utf8_lossy(&self.body)))
    }
}

impl Client {
    /// Does not connect yet.
    pub(super) fn new(engine: Engine, socket: PathBuf, deadlines: Deadlines) -> Self {
        Self { engine, socket, deadlines }
    }

    /// Which engine it is.
    pub(super) fn engine(&self) -> Engine {
        self.engine
    }

    /// For people.
    pub(super) fn address(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// The error for an answer that says no.
    pub(super) fn refusal(&self, action: impl Into<String>, reason: impl Into<String>) -> StoreError {
        StoreError::Engine { engine: self.engine.name(), action: action.into(), reason: reason.into() }
    }

    /// `None` when there is no such thing.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str, action: &str) -> Result<Option<T>, StoreError> {
        let answer = self.call(Method::GET, path, action).await?;
        if answer.is_absent() {
            return Ok(None);
        }
        if !answer.is_success() {
            return Err(self.refusal(action, answer.reason()));
        }
        let value = serde_json::from_slice(&answer.body).map_err(|error| self.refusal(action, format!("unknown answer: {error}")))?;
        Ok(Some(value))
    }

    /// Without a body.
    pub(super) async fn post(&self, path: &str, action: &str) -> Result<Answer, StoreError> {
        self.call(Method::POST, path, action).await
    }

    /// Deletes.
    pub(super) async fn delete(&self, path: &str, action: &str) -> Result<Answer, StoreError> {
        self.call(Method::DELETE, path, action).await
    }

    /// Loads an archive as it comes in. A load may take as long as the engine answers to pings beside it.
    pub(super) async fn load(&self, archive: Archive, action: &str) -> Result<(), StoreError> {
        let request = Request::post("/images/load?quiet=1").header("content-type", "application/x-tar");
        let work = async {
            let (response, _connection) = self.send(request, ArchiveBody(Some(archive))).await?;
            let status = response.status();
            let body = collect(response.into_body(), MESSAGES_BYTES).await.map_err(|error| self.broken(error, action))?;
            Ok((status, body))
        };
        let (status, body) = self.watched(work).await?;
        if !status.is_success() {
            return Err(self.refusal(action, Answer { status, body }.reason()));
        }
        // Engines tell of a failure with status 200, in a line of its own.
        match body.split(|&byte| byte == b'\n').find_map(error_line) {
            Some(reason) => Err(self.refusal(action, reason)),
            None => Ok(()),
        }
    }

    /// An image as an archive. `None` when there is no such image.
    pub(super) async fn export(&self, id: &str, action: &str) -> Result<Option<Export>, StoreError> {
        let request = Request::get(format!("/images/{id}/get"));
        let (response, connection) = self.watched(self.send(request, ArchiveBody::empty())).await?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => Ok(Some(Export { body: response.into_body(), client: self.clone(), _connection: connection })),
            status => {
                let body = collect(response.into_body(), MESSAGES_BYTES).await.map_err(|error| self.broken(error, action))?;
                Err(self.refusal(action, Answer { status, body }.reason()))
            }
        }
    }

    /// An answer within the deadline of quick calls.
    async fn call(&self, method: Method, path: &str, action: &str) -> Result<Answer, StoreError> {
        let work = async {
            let (response, _connection) = self.send(Request::builder().method(method).uri(path), ArchiveBody::empty()).await?;
            let status = response.status();
            let body = collect(response.into_body(), ANSWER_BYTES).await.map_err(|error| self.broken(error, action))?;
            Ok(Answer { status, body })
        };
        tokio::time::timeout(self.deadlines.call(), work).await.unwrap_or_else(|_| Err(self.silent()))
    }

    /// The output of `work`, unless the engine answers no ping for too long.
    async fn watched<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let watch = async {
            let mut heard = Instant::now();
            loop {
                tokio::time::sleep(self.deadlines.ping()).await;
                if tokio::time::timeout(self.deadlines.ping(), self.ping()).await.is_ok_and(|pong| pong.is_ok()) {
                    heard = Instant::now();
                } else if heard.elapsed() >= self.deadlines.silence() {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            result = work => result,
            () = watch => Err(self.silent()),
        }
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.send(Request::get("/_ping"), ArchiveBody::empty()).await.map(drop)
    }

    async fn send(
        &self,
        request: hyper::http::request::Builder,
        body: ArchiveBody,
    ) -> Result<(Response<Incoming>, AbortOnDropHandle<()>), StoreError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.unreachable(error))?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| self.broken(Broken::Http(error), "greet"))?;
        let connection = AbortOnDropHandle::new(tokio::spawn(async move {
            // What goes wrong on the connection is told to whoever waits for the answer.
            let _ = connection.await;
        }));
        let request = request.header("host", "engine").body(body).map_err(|error| self.refusal("take a request", error.to_string()))?;
        let response = sender.send_request(request).await.map_err(|error| self.broken(Broken::Http(error), "answer"))?;
        Ok((response, connection))
    }

    fn silent(&self) -> StoreError {
        StoreError::Silent { engine: self.engine.name(), address: self.address() }
    }

    fn unreachable(&self, source: std::io::Error) -> StoreError {
        StoreError::Unreachable { engine: self.engine.name(), address: self.address(), source }
    }

    /// A connection that ends in the middle is an engine that was stopped; anything else is one that speaks something else.
    fn broken(&self, error: Broken, action: &str) -> StoreError {
        match error {
            Broken::Http(error) if error.is_parse() => self.refusal(action, format!("not an answer in HTTP: {error}")),
            Broken::Http(error) => self.unreachable(std::io::Error::new(std::io::ErrorKind::ConnectionAborted, error)),
            Broken::TooLong => self.refusal(action, "its answer has no end"),
        }
    }
}

impl Export {
    /// The next bytes; `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        loop {
            let frame = tokio::time::timeout(self.client.deadlines.silence(), self.body.frame()).await;
            match frame.map_err(|_| self.client.silent())? {
                None => return Ok(None),
                Some(Err(error)) => return Err(self.client.broken(Broken::Http(error), "save")),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }
}

/// `/` and `:` are left as they are, as the engines' routers want them.
pub(super) fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/' | b':' | b'@');
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

enum Broken {
    Http(hyper::Error),
    TooLong,
}

async fn collect(mut body: Incoming, limit: usize) -> Result<Vec<u8>, Broken> {
    let mut bytes = vec![];
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(Broken::Http)?.into_data() {
            if bytes.len() + data.len() > limit {
                return Err(Broken::TooLong);
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes)
}

fn message(body: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    Some(value.get("message")?.as_str()?.to_owned())
}

fn error_line(line: &[u8]) -> Option<String> {
    // Docker 28 with containerd's store says so in passing, and calls the broken image loaded.
    let text = String::from_utf8_lossy(line);
    if let Some(at) = text.find("Error unpacking") {
        return Some(text[at..].trim_end_matches(['"', '}', ' ', '\r']).trim_end_matches("\\n").to_owned());
    }
    let value: serde_json::Value = serde_json::from_slice(line).ok()?;
    let told = value.get("errorDetail").and_then(|detail| detail.get("message")).or_else(|| value.get("error"))?;
    Some(told.as_str().unwrap_or("without a reason").to_owned())
}

/// The body of a request.
struct ArchiveBody(Option<Archive>);

/// The sender of an archive went away in the middle of it.
#[derive(Debug, thiserror::Error)]
#[error("the archive was given up")]
struct GivenUp;

impl ArchiveBody {
    fn empty() -> Self {
        Self(None)
    }
}

impl Body for ArchiveBody {
    type Data = Bytes;
    type Error = GivenUp;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, GivenUp>>> {
        let Some(archive) = &mut self.0 else { return Poll::Ready(None) };
        archive.poll_recv(context).map(|received| match received {
            Some(Some(bytes)) => Some(Ok(Frame::data(bytes))),
            Some(None) => None,
            None => Some(Err(GivenUp)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.0.is_none() { SizeHint::with_exact(0) } else { SizeHint::default() }
    }
}

impl Deadlines {
    fn call(&self) -> Duration {
        Duration::from_millis(self.call_ms)
    }

    fn ping(&self) -> Duration {
        Duration::from_millis(self.ping_ms)
    }

    fn silence(&self) -> Duration {
        Duration::from_millis(self.silence_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_the_stream_are_found() {
        assert_eq!(error_line(br#"{"stream":"Loaded image: demo:v1\n"}"#), None);
        assert_eq!(error_line(br#"{"errorDetail":{"message":"no"},"error":"no"}"#).as_deref(), Some("no"));
        assert_eq!(error_line(br#"{"error":"no"}"#).as_deref(), Some("no"));
        assert_eq!(error_line(b"no json"), None);
        assert_eq!(error_line(b"Error unpacking image demo:v1: no").as_deref(), Some("Error unpacking image demo:v1: no"));
        assert_eq!(error_line(br#"{"stream":"Error unpacking image x: no\n"}"#).as_deref(), Some("Error unpacking image x: no"));
    }

    #[test]
    fn brackets_are_encoded() {
        assert_eq!(encoded("[::1]:5000/demo:v1"), "%5B::1%5D:5000/demo:v1");
    }
}
