//! The connection of one `imgctl`: events to it, archive bytes from and to it, and notice when it goes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::control::{Event, Failure, FailureKind, Hello, MAJOR, PeerRow, PeerState, Request, TWO_MACHINES};
use proto::frame::{self, Bounded, PREFIX_BYTES};
use proto::limits::{DATA_BYTES, FRAME, FRAME_BEFORE_WELCOME};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

/// From the first byte to the request.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// A client that has asked for something.
pub(super) struct Client {
    events: mpsc::Sender<Event>,
    data: mpsc::Sender<Bytes>,
    reader: Arc<Mutex<OwnedReadHalf>>,
    writer: JoinHandle<()>,
}

/// Reads Hello and request. `None`: the client speaks another version, and was told so.
pub(super) async fn greet(socket: UnixStream) -> std::io::Result<Option<(Client, Request)>> {
    let (mut reader, mut writer) = socket.into_split();
    let greeting = async {
        let hello: Hello = read(&mut reader, FRAME_BEFORE_WELCOME).await?;
        let ours = Hello { major: MAJOR, capabilities: 0, software: concat!("imgd ", env!("CARGO_PKG_VERSION")).to_owned() };
        write(&mut writer, &ours).await?;
        if hello.major != MAJOR {
            let causes = vec![format!("imgctl speaks version {} of the control protocol, imgd speaks {MAJOR}", hello.major)];
            write(&mut writer, &Event::Failed(Failure { kind: FailureKind::Version, causes })).await?;
            return Ok(None);
        }
        let request: Request = read(&mut reader, FRAME).await?;
        Ok(Some((Client::new(reader, writer, hello.capabilities), request)))
    };
    tokio::time::timeout(GREETING_TIMEOUT, greeting).await.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?
}

impl Client {
    fn new(reader: OwnedReadHalf, writer: OwnedWriteHalf, capabilities: u64) -> Self {
        let (events, receiver) = mpsc::channel(256);
        let (data, chunks) = mpsc::channel(2);
        Self { events, data, reader: Arc::new(Mutex::new(reader)), writer: tokio::spawn(tell(writer, capabilities, receiver, chunks)) }
    }

    /// Tells the client. Waits while it is slow to read; does nothing when it is gone.
    pub(super) async fn event(&self, event: Event) {
        let _ = self.events.send(event).await;
    }

    /// For those who tell the client something from elsewhere, in one order with [`Client::event`].
    pub(super) fn events(&self) -> mpsc::Sender<Event> {
        self.events.clone()
    }

    /// Sends archive bytes, after an event `Data`; an empty slice ends them. False: the client is gone.
    pub(super) async fn data(&self, bytes: Bytes) -> bool {
        self.data.send(bytes).await.is_ok()
    }

    /// The next archive bytes from the client; empty at their end.
    pub(super) async fn read_data(&self) -> std::io::Result<Bytes> {
        let mut reader = self.reader.lock().await;
        let mut prefix = [0; PREFIX_BYTES];
        reader.read_exact(&mut prefix).await?;
        let mut bytes = vec![0; frame::body_length(prefix, DATA_BYTES).map_err(std::io::Error::other)?];
        reader.read_exact(&mut bytes).await?;
        Ok(bytes.into())
    }

    /// Resolves when the client closes its connection, or says something out of turn.
    pub(super) fn gone(&self) -> impl Future<Output = ()> + use<> {
        let reader = self.reader.clone();
        async move {
            let _ = reader.lock().await.read_u8().await;
        }
    }

    /// Waits until the client has everything that was said, and ends the connection.
    pub(super) async fn close(self) {
        drop((self.events, self.data));
        let _ = tokio::time::timeout(GREETING_TIMEOUT, self.writer).await;
    }
}

/// Writes what the client is told, until nobody says anything any more or the client is gone.
async fn tell(mut writer: OwnedWriteHalf, capabilities: u64, mut events: mpsc::Receiver<Event>, mut data: mpsc::Receiver<Bytes>) {
    while let Some(event) = events.recv().await {
        if event.needs() & !capabilities != 0 {
            continue;
        }
        let event = match event {
            Event::Failed(failure) => Event::Failed(failure.for_capabilities(capabilities)),
            Event::HostFailed { host, image, failure } => {
                Event::HostFailed { host, image, failure: failure.for_capabilities(capabilities) }
            }
            Event::HostSilent { host, failure } => Event::HostSilent { host, failure: failure.for_capabilities(capabilities) },
            Event::Peer(row) if row.state == PeerState::TwoMachines && capabilities & TWO_MACHINES == 0 => {
                Event::Peer(PeerRow { state: PeerState::Trusted, ..row })
            }
            event => event,
        };
        if write(&mut writer, &event).await.is_err() {
            return;
        }
        if event != Event::Data {
            continue;
        }
        while let Some(bytes) = data.recv().await {
            if write_data(&mut writer, &bytes).await.is_err() {
                return;
            }
            if bytes.is_empty() {
                break;
            }
        }
    }
    let _ = writer.shutdown().await;
}

async fn write_data(writer: &mut OwnedWriteHalf, bytes: &[u8]) -> std::io::Result<()> {
    for chunk in bytes.chunks(DATA_BYTES) {
        writer.write_all(&(chunk.len() as u32).to_le_bytes()).await?;
        writer.write_all(chunk).await?;
    }
    if bytes.is_empty() { writer.write_all(&[0; PREFIX_BYTES]).await } else { Ok(()) }
}

async fn write<T: Serialize>(writer: &mut OwnedWriteHalf, message: &T) -> std::io::Result<()> {
    writer.write_all(&frame::encode(message, FRAME).map_err(std::io::Error::other)?).await
}

async fn read<T: DeserializeOwned + Bounded>(reader: &mut OwnedReadHalf, limit_bytes: usize) -> std::io::Result<T> {
    let mut prefix = [0; PREFIX_BYTES];
    reader.read_exact(&mut prefix).await?;
    let mut body = vec![0; frame::body_length(prefix, limit_bytes).map_err(std::io::Error::other)?];
    reader.read_exact(&mut body).await?;
    frame::decode(&body).map_err(std::io::Error::other)
}
