//! A member with good credentials and bad manners: what the agent does not do, it does by hand.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use agent::trust::Trust;
use proto::Platform;
use proto::frame::{self, Bounded, PREFIX_BYTES};
use proto::limits::FRAME;
use proto::peer::{Greeting, Hello, MAJOR};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, Endpoint, RecvStream, SendStream, TransportConfig, VarInt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::fleet::{Host, PATIENCE};

/// Bytes of a stream that are taken unread.
const WINDOW: u32 = 1 << 26;

/// The identity of a host whose agent does not run, and a socket.
pub struct Rogue {
    trust: Arc<Trust>,
    endpoint: Endpoint,
    platform: Platform,
    /// Bytes that it takes on a stream which it does not read.
    window: u32,
    /// Its files.
    _host: Option<Host>,
}

impl Rogue {
    /// Takes over a host of a fleet: its agent stops.
    pub async fn replace(mut host: Host) -> Self {
        host.stop().await;
        let trust = Trust::open(host.path(), &host.name).unwrap();
        Self { trust, endpoint: listen(([127, 0, 0, 1], 0).into()), platform: Platform::host(), window: WINDOW, _host: Some(host) }
    }

    /// With the state directory of a stopped agent, at an address of its own.
    pub fn with_state(state: &Path, name: &str, address: IpAddr) -> Self {
        Self {
            trust: Trust::open(state, name).unwrap(),
            endpoint: listen((address, 0).into()),
            platform: Platform::host(),
            window: WINDOW,
            _host: None,
        }
    }

    /// It says that it runs this.
    pub fn of_platform(mut self, platform: &str) -> Self {
        self.platform = platform.parse().unwrap();
        self
    }

    /// What it does not read stays at the other side.
    pub fn reading_nothing(mut self) -> Self {
        self.window = 1;
        self
    }

    /// Its identity.
    pub fn id(&self) -> proto::HostId {
        self.trust.id()
    }

    /// Another socket of the same host.
    pub fn further(&self, address: IpAddr) -> Self {
        Self {
            trust: self.trust.clone(),
            endpoint: listen((address, 0).into()),
            platform: self.platform.clone(),
            window: self.window,
            _host: None,
        }
    }

    /// Settings with which a member dials.
    pub fn tls(&self) -> Arc<quinn::rustls::ClientConfig> {
        self.trust.tls_client(None).unwrap()
    }

    /// Waits until every connection of this socket is over.
    pub async fn idle(&self) {
        self.endpoint.wait_idle().await;
    }

    /// TLS as a member's, but not more than that.
    pub async fn dial(&self, address: SocketAddr) -> Result<Connection, quinn::ConnectionError> {
        self.dial_with(address, Arc::unwrap_or_clone(self.tls())).await
    }

    /// As [`Rogue::dial`], with no certificate of its own, for a protocol.
    pub async fn dial_nameless(&self, address: SocketAddr, alpn: &[u8]) -> Result<Connection, quinn::ConnectionError> {
        let mut tls = Arc::unwrap_or_clone(self.trust.tls_join(&self.trust.fleet().unwrap()).unwrap());
        tls.alpn_protocols = vec![alpn.to_vec()];
        self.dial_with(address, tls).await
    }

    async fn dial_with(&self, address: SocketAddr, tls: quinn::rustls::ClientConfig) -> Result<Connection, quinn::ConnectionError> {
        let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        config.transport_config(Arc::new(transport(self.window)));
        self.endpoint.connect_with(config, address, "imgd.internal").unwrap().await
    }

    /// Dials, and says what an honest member says.
    pub async fn connect(&self, address: SocketAddr) -> Result<Connection, String> {
        let connection = self.dial(address).await.map_err(|error| error.to_string())?;
        let mut stream = Channel::open(&connection).await;
        self.greet(&mut stream).await?;
        Ok(connection)
    }

    async fn greet(&self, stream: &mut Channel) -> Result<(), String> {
        stream.say(&self.hello()).await?;
        let hello: Hello = stream.hear().await?;
        if hello.members_epoch > self.trust.epoch() {
            let Greeting::Members(list) = stream.hear().await? else { return Err("no list".to_owned()) };
            self.trust.accept_members(&list).unwrap();
        }
        stream.say(&Greeting::Welcome).await?;
        match stream.hear().await? {
            Greeting::Welcome => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }

    /// The Hello of this host.
    pub fn hello(&self) -> Hello {
        Hello {
            major: MAJOR,
            capabilities: 0,
            software: "rogue".to_owned(),
            name: self.trust.name(),
            platform: self.platform.clone(),
            store: "layout".to_owned(),
            members_epoch: self.trust.epoch(),
        }
    }
}

/// One stream, with whatever on it.
pub struct Channel {
    /// To the other side.
    pub send: SendStream,
    /// From it.
    pub receive: RecvStream,
}

impl Channel {
    /// Opens one, as far as the other side lets us.
    pub async fn open(connection: &Connection) -> Self {
        let (send, receive) = tokio::time::timeout(PATIENCE, connection.open_bi()).await.unwrap().unwrap();
        Self { send, receive }
    }

    /// The next one of the other side.
    pub async fn accept(connection: &Connection) -> Self {
        let (send, receive) = tokio::time::timeout(PATIENCE, connection.accept_bi()).await.unwrap().unwrap();
        Self { send, receive }
    }

    /// Opens one with a message.
    pub async fn ask<T: Serialize>(connection: &Connection, message: &T) -> Self {
        let mut channel = Self::open(connection).await;
        channel.say(message).await.unwrap();
        channel
    }

    /// Sends a message.
    pub async fn say<T: Serialize>(&mut self, message: &T) -> Result<(), String> {
        // Longer than allowed is allowed here.
        self.bytes(&frame::encode(message, usize::MAX).unwrap()).await
    }

    /// Sends bytes.
    pub async fn bytes(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.send.write_all(bytes).await.map_err(|error| error.to_string())
    }

    /// A message of the other side, or why there is none.
    pub async fn hear<T: DeserializeOwned + Bounded>(&mut self) -> Result<T, String> {
        let heard = async {
            let mut prefix = [0; PREFIX_BYTES];
            self.receive.read_exact(&mut prefix).await.map_err(|error| error.to_string())?;
            let mut body = vec![0; frame::body_length(prefix, FRAME).map_err(|error| error.to_string())?];
            self.receive.read_exact(&mut body).await.map_err(|error| error.to_string())?;
            frame::decode(&body).map_err(|error| error.to_string())
        };
        tokio::time::timeout(PATIENCE, heard).await.expect("an answer in time")
    }

    /// True when the other side ends the stream, or the connection, without another message.
    pub async fn ends(&mut self) -> bool {
        let mut byte = [0; 1];
        let read = tokio::time::timeout(PATIENCE, self.receive.read(&mut byte)).await.expect("an end in time");
        !matches!(read, Ok(Some(_)))
    }
}

fn listen(address: SocketAddr) -> Endpoint {
    Endpoint::client(address).unwrap()
}

/// Room for everything, and patience without an end.
fn transport(window: u32) -> TransportConfig {
    let mut config = TransportConfig::default();
    config.max_concurrent_bidi_streams(VarInt::from_u32(10_000));
    config.receive_window(VarInt::from_u32(1 << 30));
    config.stream_receive_window(VarInt::from_u32(window));
    config.send_window(1 << 30);
    config.keep_alive_interval(Some(std::time::Duration::from_secs(3)));
    config
}
