//! One blob on its way into the engine's content.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use proto::{Descriptor, Digest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::Shared;
use super::api::content::{AbortRequest, WriteAction, WriteContentRequest, WriteContentResponse};
use super::connection::{Connection, found};
use super::import::Ready;
use super::labels::Labels;
use super::lease::EngineLease;
use crate::staging::StagedFile;
use crate::store::turns::Turn;
use crate::store::{Ingest, StoreError};

/// The engine writes in such blocks faster than in smaller ones.
const MESSAGE_BYTES: usize = 1 << 20;
/// Messages that were not answered yet.
const IN_FLIGHT: usize = 4;
/// How long we wait before we ask again for a blob that another agent writes.
const LOCKED_INTERVAL: Duration = Duration::from_millis(100);

/// After that it is written twice.
const LOCKED_PATIENCE: Duration = Duration::from_secs(60);

/// An ingest into a [`super::ContainerdStore`].
#[derive(Debug)]
pub struct ContainerdIngest {
    shared: Arc<Shared>,
    blob: Descriptor,
    ready: Ready,
    start: u64,
    /// `None` once it was committed or given up.
    write: Option<Write>,
}

/// An open write stream.
#[derive(Debug)]
struct Write {
    reference: String,
    sender: mpsc::Sender<WriteContentRequest>,
    answers: Streaming<WriteContentResponse>,
    in_flight: usize,
    /// Where the next message goes.
    offset: u64,
    pending: BytesMut,
    /// What came in is kept by it when this ends.
    _lease: Arc<EngineLease>,
    _turn: Turn,
}

impl ContainerdIngest {
    /// `None` when the blob is here. Waits while another agent writes it.
    pub(super) async fn begin(
        shared: &Arc<Shared>,
        lease: &Arc<EngineLease>,
        blob: &Descriptor,
        ready: &Ready,
    ) -> Result<Option<Self>, StoreError> {
        let turn = shared.turns.take(blob.digest).await;
        if shared.quarantine.holds(&blob.digest) {
            // What has this digest must go before it can be written again; what another namespace has does not go.
            shared.delete_blob(&blob.digest).await?;
            shared.collect().await?;
            if shared.is_elsewhere(&blob.digest).await? {
                return Err(StoreError::Corrupt(blob.digest));
            }
        } else if shared.info(&blob.digest).await?.is_some() {
            ready.add(blob.digest);
            return Ok(None);
        }
        let mut reference = ingest_ref(&blob.digest);
        let began = Instant::now();
        loop {
            match open(&shared.connection, lease.id(), blob, &reference).await {
                Ok((_, _, offset)) if offset > blob.size_bytes => shared.abort(&reference).await?,
                Ok((sender, answers, offset)) => {
                    lease.keep();
                    let (lease, pending) = (lease.clone(), BytesMut::new());
                    let write = Write { reference, sender, answers, in_flight: 0, offset, pending, _lease: lease, _turn: turn };
                    let (shared, blob, ready) = (shared.clone(), blob.clone(), ready.clone());
                    return Ok(Some(Self { shared, blob, ready, start: offset, write: Some(write) }));
                }
                Err(status) if is_locked(&status) => {
                    tokio::time::sleep(LOCKED_INTERVAL).await;
                    if began.elapsed() > LOCKED_PATIENCE {
                        reference = format!("{}-{}", ingest_ref(&blob.digest), shared.agent);
                    }
                }
                Err(status) => return Err(shared.connection.failed(format!("write {}", blob.digest), &status)),
            }
        }
    }

    async fn give_up(&mut self) -> Result<(), StoreError> {
        let Some(write) = self.write.take() else { return Ok(()) };
        let reference = write.reference.clone();
        write.close(&self.shared.connection, false).await;
        self.shared.abort(&reference).await
    }

    fn failed(&self, status: &Status) -> StoreError {
        self.shared.connection.failed(format!("write {}", self.blob.digest), status)
    }
}

impl Ingest for ContainerdIngest {
    fn offset(&self) -> u64 {
        self.start
    }

    async fn append(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        let digest = self.blob.digest;
        let Some(write) = &mut self.write else { return Err(StoreError::Corrupt(digest)) };
        if write.received() + bytes.len() as u64 > self.blob.size_bytes {
            self.give_up().await?;
            return Err(StoreError::Corrupt(digest));
        }
        write.pending.extend_from_slice(&bytes);
        if write.pending.len() < MESSAGE_BYTES {
            return Ok(());
        }
        let flushed = write.flush(&self.shared.connection).await;
        flushed.map_err(|status| self.failed(&status))
    }

    async fn commit(mut self) -> Result<(), StoreError> {
        let Some(write) = &mut self.write else { return Err(StoreError::Corrupt(self.blob.digest)) };
        if write.received() != self.blob.size_bytes {
            self.give_up().await?;
            return Err(StoreError::Corrupt(self.blob.digest));
        }
        match write.commit(&self.shared.connection, &self.blob).await {
            Ok(()) => {}
            Err(status) if status.code() == Code::AlreadyExists => {}
            Err(status) if matches!(status.code(), Code::FailedPrecondition | Code::InvalidArgument | Code::OutOfRange) => {
                self.give_up().await?;
                return Err(StoreError::Corrupt(self.blob.digest));
            }
            Err(status) => return Err(self.failed(&status)),
        }
        if let Some(write) = self.write.take() {
            write.close(&self.shared.connection, false).await;
        }
        self.shared.quarantine.forget(&self.blob.digest);
        self.ready.add(self.blob.digest);
        Ok(())
    }

    async fn adopt(mut self, _: StagedFile) -> Result<(), StoreError> {
        self.give_up().await?;
        Err(StoreError::Unsupported { kind: "containerd", what: "a file that it did not write" })
    }
}

impl Drop for ContainerdIngest {
    /// What was appended is kept: the last bytes are sent on, and whoever continues waits for them.
    fn drop(&mut self) {
        let Some(write) = self.write.take() else { return };
        let shared = self.shared.clone();
        self.shared.spawn(async move { write.close(&shared.connection, true).await });
    }
}

impl Write {
    /// All bytes so far, those from before the resume included.
    fn received(&self) -> u64 {
        self.offset + self.pending.len() as u64
    }

    async fn flush(&mut self, connection: &Connection) -> Result<(), Status> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let data = self.pending.split().freeze();
        let offset = self.offset as i64;
        self.offset += data.len() as u64;
        self.send(connection, message(WriteAction::Write, &self.reference, offset, data)).await
    }

    async fn commit(&mut self, connection: &Connection, blob: &Descriptor) -> Result<(), Status> {
        self.flush(connection).await?;
        let last = message(WriteAction::Commit, &self.reference, self.offset as i64, Bytes::new());
        self.send(connection, expecting(last, blob)).await?;
        while self.in_flight > 0 {
            self.answer(connection).await?;
        }
        Ok(())
    }

    async fn send(&mut self, connection: &Connection, message: WriteContentRequest) -> Result<(), Status> {
        while self.in_flight >= IN_FLIGHT {
            self.answer(connection).await?;
        }
        if connection.watched(async { Ok(self.sender.send(message).await) }).await?.is_ok() {
            self.in_flight += 1;
            return Ok(());
        }
        // The engine has ended the stream: its last answer says why.
        loop {
            self.answer(connection).await?;
        }
    }

    async fn answer(&mut self, connection: &Connection) -> Result<(), Status> {
        let answer = connection.watched(self.answers.message()).await?;
        answer.ok_or_else(|| Status::aborted("it ended the write"))?;
        self.in_flight = self.in_flight.saturating_sub(1);
        Ok(())
    }

    /// Ends the stream, so that the engine gives the ref free before the turn is over.
    async fn close(mut self, connection: &Connection, flush: bool) {
        if flush && self.flush(connection).await.is_err() {
            return;
        }
        drop(self.sender);
        while let Ok(Some(_)) = connection.watched(self.answers.message()).await {}
    }
}

impl Shared {
    /// Throws away what was written under a ref.
    async fn abort(&self, reference: &str) -> Result<(), StoreError> {
        let request = self.connection.request(AbortRequest { r#ref: reference.to_owned() });
        let answer = self.connection.ask(self.connection.content().abort(request)).await;
        found(answer).map(|_| ()).map_err(|status| self.connection.failed(format!("abort {reference}"), &status))
    }
}

type Opened = (mpsc::Sender<WriteContentRequest>, Streaming<WriteContentResponse>, u64);

/// Opens a write; the engine says how much it has. It does not hear which digest comes: it would take the blob of another namespace for ours, which
/// whoever brings it may not have.
async fn open(connection: &Connection, lease: &str, blob: &Descriptor, reference: &str) -> Result<Opened, Status> {
    let (sender, receiver) = mpsc::channel(1);
    let stat = WriteContentRequest { total: blob.size_bytes as i64, ..message(WriteAction::Stat, reference, 0, Bytes::new()) };
    if sender.send(stat).await.is_err() {
        return Err(Status::internal("a channel that was just made is closed"));
    }
    let request = connection.leased(ReceiverStream::new(receiver), lease);
    // What was written before is hashed again first: that takes as long as it takes.
    connection
        .watched(async {
            let mut answers = connection.content().write(request).await?.into_inner();
            let answer = answers.message().await?.ok_or_else(|| Status::aborted("it ended the write"))?;
            Ok((sender, answers, u64::try_from(answer.offset).unwrap_or(0)))
        })
        .await
}

fn message(action: WriteAction, reference: &str, offset: i64, data: Bytes) -> WriteContentRequest {
    WriteContentRequest {
        action: action.into(),
        r#ref: reference.to_owned(),
        total: 0,
        expected: String::new(),
        offset,
        data,
        labels: Labels::new(),
    }
}

fn expecting(message: WriteContentRequest, blob: &Descriptor) -> WriteContentRequest {
    WriteContentRequest { total: blob.size_bytes as i64, expected: blob.digest.to_string(), ..message }
}

/// The name of a write: the same for every agent on this engine, so that two of them do not write one blob twice.
fn ingest_ref(digest: &Digest) -> String {
    format!("imgd-blob-{}", digest.hex())
}

fn is_locked(status: &Status) -> bool {
    status.code() == Code::Unavailable && status.message().contains("locked")
}
