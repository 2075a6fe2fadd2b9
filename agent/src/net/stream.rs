//! One conversation on a connection: frames in both directions, and bytes that are no frames.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::frame::{self, Bounded, FrameError, PREFIX_BYTES};
use proto::limits::{FRAME, STALL_TIMEOUT_MS};
use quinn::{ReadError, ReadExactError, RecvStream, SendStream, VarInt, WriteError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;

use super::NetError;
use super::allowance::Allowance;

/// A bidirectional stream of a connection. Dropping it resets what was not finished.
#[derive(Debug)]
pub struct Stream {
    send: SendStream,
    receive: RecvStream,
    /// What the messages of the host at the other end may take while they arrive; `None` before the Welcome, where there is one stream.
    frame_bytes: Option<Arc<Semaphore>>,
}

impl Stream {
    pub(super) fn new((send, receive): (SendStream, RecvStream)) -> Self {
        Self { send, receive, frame_bytes: None }
    }

    /// One of many streams of a host: its messages wait for one another when they are large.
    pub(super) fn welcomed((send, receive): (SendStream, RecvStream), allowance: &Allowance) -> Self {
        Self { send, receive, frame_bytes: Some(allowance.frame_bytes.clone()) }
    }

    /// Sends one message.
    pub async fn send<T: Serialize>(&mut self, message: &T) -> Result<(), NetError> {
        let frame = frame::encode(message, FRAME)?;
        self.write(frame.into()).await
    }

    /// Sends bytes as they are.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), NetError> {
        self.send.write_chunk(bytes).await.map_err(lost_write)
    }

    /// Bytes of this stream go before those of streams of the same connection with a lower number.
    pub fn prefer(&self, priority: i32) {
        let _ = self.send.set_priority(priority);
    }

    /// Nothing more will be sent.
    pub fn finish(&mut self) {
        let _ = self.send.finish();
    }

    /// Nothing more will be sent, and waits until the peer has all of it: before the connection may be closed.
    pub async fn flush(mut self) {
        self.finish();
        let _ = self.send.stopped().await;
    }

    /// The next message, of at most `limit_bytes`; waits for as long as the connection lives.
    pub async fn receive_within<T: DeserializeOwned + Bounded>(&mut self, limit_bytes: usize) -> Result<T, NetError> {
        self.receive_or_end(limit_bytes).await?.ok_or_else(|| NetError::Lost("the stream ended early".to_owned()))
    }

    /// The next message; waits for as long as the connection lives.
    pub async fn receive<T: DeserializeOwned + Bounded>(&mut self) -> Result<T, NetError> {
        self.receive_within(FRAME).await
    }

    /// The next message, or `None` when the peer has finished.
    pub async fn receive_or_end<T: DeserializeOwned + Bounded>(&mut self, limit_bytes: usize) -> Result<Option<T>, NetError> {
        let mut prefix = [0; PREFIX_BYTES];
        match self.receive.read_exact(&mut prefix).await {
            Ok(()) => {}
            Err(ReadExactError::FinishedEarly(0)) => return Ok(None),
            Err(error) => return Err(lost_read(error)),
        }
        let length_bytes = frame::body_length(prefix, limit_bytes)?;
        let _share = match &self.frame_bytes {
            Some(bytes) => bytes.acquire_many(length_bytes.min(FRAME) as u32).await.ok(),
            None => None,
        };
        let mut body = vec![0; length_bytes];
        self.receive.read_exact(&mut body).await.map_err(lost_read)?;
        Ok(Some(frame::decode(&body)?))
    }

    /// Exactly `length_bytes` bytes that are no frame. A source from which nothing comes for [`STALL_TIMEOUT_MS`] is given up, however long the whole
    /// of it takes.
    pub async fn read(&mut self, length_bytes: usize) -> Result<Vec<u8>, NetError> {
        let mut bytes = vec![0; length_bytes];
        let mut filled = 0;
        while filled < length_bytes {
            let read = self.receive.read(&mut bytes[filled..]);
            match tokio::time::timeout(Duration::from_millis(STALL_TIMEOUT_MS), read).await {
                Ok(Ok(Some(more))) => filled += more,
                Ok(Ok(None)) => return Err(NetError::Frame(FrameError::Malformed)),
                Ok(Err(ReadError::ConnectionLost(error))) => return Err(error.into()),
                Ok(Err(error)) => return Err(NetError::Lost(error.to_string())),
                Err(_) => return Err(NetError::Silent(STALL_TIMEOUT_MS / 1000)),
            }
        }
        Ok(bytes)
    }

    /// Resolves when the peer gives up: it resets its side, finishes it, or is gone. True: it has finished.
    pub async fn given_up(&mut self) -> bool {
        let mut byte = [0; 1];
        // What it still sends is out of turn, which is a way of giving up too.
        matches!(self.receive.read(&mut byte).await, Ok(None))
    }

    /// Gives up both directions.
    pub fn reset(mut self) {
        let _ = self.send.reset(VarInt::from_u32(0));
        let _ = self.receive.stop(VarInt::from_u32(0));
    }
}

fn lost_write(error: WriteError) -> NetError {
    match error {
        WriteError::ConnectionLost(error) => error.into(),
        other => NetError::Lost(other.to_string()),
    }
}

fn lost_read(error: ReadExactError) -> NetError {
    match error {
        ReadExactError::FinishedEarly(_) => NetError::Frame(FrameError::Malformed),
        ReadExactError::ReadError(ReadError::ConnectionLost(error)) => error.into(),
        ReadExactError::ReadError(error) => NetError::Lost(error.to_string()),
    }
}
