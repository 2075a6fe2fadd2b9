//! Fleets of agents in this process: real sockets on loopback, real files, no multicast.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent::staging::Staging;
use agent::store::Store;
use agent::store::kind::StoreKind;
use agent::store::layout::LayoutStore;
use agent::trust::PolicyFile;
use agent::{Agent, Config};
use proto::control::{
    Event, Failure, Fleet as FleetRequest, Hello, Hosts, JOB_NEWS, MAJOR, MEMBER_NEWS, PeerState, Request, Send, TWO_MACHINES,
};
use proto::frame::{self, PREFIX_BYTES};
use proto::limits::FRAME;
use rustix::fs::FlockOperation;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::conformance;
use crate::sample::Sample;

/// Nothing in a test takes longer than this, or it hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// One host: its files, which outlive its agent, and its agent while it runs.
pub struct Host {
    /// Its name.
    pub name: String,
    directory: TempDir,
    agent: Option<Agent>,
    /// Configured addresses of others.
    pub peers: Vec<String>,
    address: SocketAddr,
}

impl Host {
    /// A host whose agent does not run yet. It has an empty policy, so that `fleet init` writes none: members may move every tag.
    pub fn new(name: &str) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let host = Self { name: name.to_owned(), directory: tempfile::tempdir().unwrap(), agent: None, peers: vec![], address };
        std::fs::write(host.policy(), "").unwrap();
        host
    }

    /// A copy of a host, as of a machine that was cloned: it has the same key. The agent of the original must not run.
    pub fn clone_of(original: &Self) -> Self {
        let copy = Self::new(&original.name);
        let copied = copy.path().join("trust");
        std::fs::create_dir(&copied).unwrap();
        std::fs::set_permissions(&copied, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        for file in std::fs::read_dir(original.path().join("trust")).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), copied.join(file.file_name())).unwrap();
        }
        copy
    }

    /// Its policy file.
    pub fn policy(&self) -> PathBuf {
        self.path().join("policy.toml")
    }

    /// Where its files are.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Opens its embedded store, while no agent has it.
    pub fn store(&self) -> LayoutStore {
        LayoutStore::open(&self.layout()).unwrap()
    }

    /// Directory of its embedded store.
    pub fn layout(&self) -> PathBuf {
        self.path().join("layout")
    }

    /// Puts an image into its store. The agent must not run.
    pub async fn have(&self, sample: &Sample) {
        conformance::bring(&self.store(), sample).await.unwrap();
        self.released(&self.layout().join(".imgd/lock")).await;
    }

    /// Starts its agent with its embedded store.
    pub async fn start(&mut self) {
        let store = self.store();
        self.start_with(store).await;
    }

    /// Starts its agent with any store. It listens where it listened before.
    pub async fn start_with<S: Store>(&mut self, store: S) {
        let config = Config {
            state_dir: self.path().to_owned(),
            socket: self.socket(),
            listen: self.address,
            name: self.name.clone(),
            made_of: None,
            store: StoreKind::Layout(self.layout()),
            peers: self.peers.clone(),
            mdns: false,
            interfaces: vec![],
            policy: PolicyFile::Default(self.policy()),
            admin_group: None,
            read_group: None,
            log_level: "off".to_owned(),
        };
        let staging = Staging::open(&self.path().join("staging")).unwrap();
        let agent = Agent::start(&config, store, staging).await.unwrap();
        self.address = agent.address();
        self.agent = Some(agent);
    }

    /// Stops its agent in order.
    pub async fn stop(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.stop().await;
            // The driver of the endpoint lets go of the socket when it is polled next; a new agent wants the same address.
            while std::net::UdpSocket::bind(self.address).is_err() {
                tokio::task::yield_now().await;
            }
            self.released(&self.path().join("lock")).await;
            self.released(&self.layout().join(".imgd/lock")).await;
        }
    }

    /// Waits until nobody has this lock. The end of a process frees it at once; here work in the thread pool may hold the store a little
    /// longer than its agent, and a program that another test starts holds a copy of every open file until it runs.
    async fn released(&self, lock: &Path) {
        let Ok(file) = std::fs::File::open(lock) else { return };
        let taken = tokio::task::spawn_blocking(move || {
            rustix::fs::flock(&file, FlockOperation::LockExclusive).and_then(|()| rustix::fs::flock(&file, FlockOperation::Unlock))
        });
        tokio::time::timeout(PATIENCE, taken).await.expect("the lock is released in time").unwrap().unwrap();
    }

    /// Where its agent listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where `imgctl` finds it.
    pub fn socket(&self) -> PathBuf {
        self.path().join("imgd.sock")
    }

    /// Asks its agent, and waits for the end.
    pub async fn ask(&self, request: Request) -> Result<Vec<Event>, Failure> {
        tokio::time::timeout(PATIENCE, ask(&self.socket(), request)).await.expect("the agent answers in time")
    }

    /// [`Host::ask`] for what succeeds.
    pub async fn must(&self, request: Request) -> Vec<Event> {
        self.ask(request).await.unwrap_or_else(|failure| panic!("{}: {failure:?}", self.name))
    }

    /// Sends one image to one host, where it arrives.
    pub async fn send(&self, image: &str, host: &str) -> Vec<Event> {
        let events = self.must(send_request(image, &[host])).await;
        assert!(failed(&events).is_empty(), "{} to {host}: {:?}", self.name, failed(&events));
        events
    }

    /// Names and image IDs in its store, as its agent lists them.
    pub async fn images(&self) -> Vec<(String, proto::Digest)> {
        let events = self.must(Request::List(Hosts::default())).await;
        let row = |event| match event {
            Event::Image { row, .. } => row.reference.map(|reference| (reference.familiar(), row.image_id)),
            _ => None,
        };
        events.into_iter().filter_map(row).collect()
    }

    async fn is_connected_with_all(&self) -> bool {
        let rows = self.must(Request::Peers).await;
        rows.iter().all(|event| matches!(event, Event::Peer(row) if matches!(row.state, PeerState::Here | PeerState::Connected)))
    }

    /// Bytes that lie in its staging area.
    pub fn staged_files(&self) -> usize {
        std::fs::read_dir(self.path().join("staging")).unwrap().count()
    }
}

/// Hosts of one fleet, all running; the first is the signer.
pub async fn fleet(names: &[&str]) -> Vec<Host> {
    let mut hosts: Vec<Host> = names.iter().map(|name| Host::new(name)).collect();
    found(&mut hosts).await;
    hosts
}

/// Starts hosts, makes them a fleet, and has everybody meet everybody once.
pub async fn found(hosts: &mut [Host]) {
    let mut started: Vec<String> = vec![];
    for host in hosts.iter_mut() {
        host.peers = started.clone();
        host.start().await;
        started.push(host.address().to_string());
    }
    let (first, others) = hosts.split_first().unwrap();
    first.must(Request::Fleet(FleetRequest::Init)).await;
    for host in others {
        join(first, host).await.unwrap();
    }
    for host in others {
        host.must(Request::Peers).await;
    }
    // Those that were dialled learn who it was a little later than the dialler.
    for host in hosts.iter() {
        while !host.is_connected_with_all().await {
            tokio::task::yield_now().await;
        }
    }
}

/// Invites and joins.
pub async fn join(signer: &Host, host: &Host) -> Result<Vec<Event>, Failure> {
    let token = invite(signer, 1).await;
    host.ask(Request::Fleet(FleetRequest::Join { token, address: None })).await
}

/// A token of the signer.
pub async fn invite(signer: &Host, uses: u32) -> String {
    let invite = FleetRequest::Invite { uses, valid_s: 3600, for_name: None, replace: None };
    let events = signer.must(Request::Fleet(invite)).await;
    let token = events.into_iter().find_map(|event| match event {
        Event::Invited { token, .. } => Some(token),
        _ => None,
    });
    token.unwrap()
}

/// A plain `send`.
pub fn send_request(image: &str, hosts: &[&str]) -> Request {
    Request::Send(send(image, hosts))
}

/// A plain `send`, to be changed.
pub fn send(image: &str, hosts: &[&str]) -> Send {
    Send {
        images: vec![image.to_owned()],
        hosts: Hosts { names: hosts.iter().map(|&host| host.to_owned()).collect(), all: false, except: vec![] },
        rename: None,
        platforms: proto::control::Platforms::Receiver,
        all_tags: false,
        dry_run: false,
        limit_bytes_per_s: None,
        max_parallel: None,
        canary: None,
        stop_on_failure: false,
        host_limit_bytes_per_s: None,
        from: None,
        detach: false,
    }
}

/// The results of a send, host by host.
pub fn done(events: &[Event]) -> Vec<&proto::control::Done> {
    events.iter().filter_map(|event| if let Event::Done(done) = event { Some(done) } else { None }).collect()
}

/// What failed in a send, host by host.
pub fn failed(events: &[Event]) -> Vec<(&str, &Failure)> {
    let mut failed = vec![];
    for event in events {
        if let Event::HostFailed { host, failure, .. } = event {
            failed.push((host.as_str(), failure));
        }
    }
    failed
}

/// One request on a socket, until its end.
pub async fn ask(socket: &Path, request: Request) -> Result<Vec<Event>, Failure> {
    let mut client = Client::connect(socket).await;
    client.write(&request).await;
    let mut events = vec![];
    loop {
        match client.next().await {
            Event::End => return Ok(events),
            Event::Failed(failure) => return Err(failure),
            event => events.push(event),
        }
    }
}

/// A connection to an agent, after the hellos.
pub struct Client(UnixStream);

impl Client {
    /// Connects and greets.
    pub async fn connect(socket: &Path) -> Self {
        let mut client = Self(UnixStream::connect(socket).await.unwrap());
        client.write(&Hello { major: MAJOR, capabilities: JOB_NEWS | MEMBER_NEWS | TWO_MACHINES, software: "test".to_owned() }).await;
        let hello: Hello = client.read().await;
        assert_eq!(hello.major, MAJOR);
        client
    }

    /// Writes one message.
    pub async fn write<T: serde::Serialize>(&mut self, message: &T) {
        self.0.write_all(&frame::encode(message, FRAME).unwrap()).await.unwrap();
    }

    /// Writes archive bytes; none end them.
    pub async fn data(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(proto::limits::DATA_BYTES) {
            self.0.write_all(&(chunk.len() as u32).to_le_bytes()).await.unwrap();
            self.0.write_all(chunk).await.unwrap();
        }
        if bytes.is_empty() {
            self.0.write_all(&[0; PREFIX_BYTES]).await.unwrap();
        }
    }

    /// The next event.
    pub async fn next(&mut self) -> Event {
        self.read().await
    }

    async fn read<T: serde::de::DeserializeOwned + frame::Bounded>(&mut self) -> T {
        let mut prefix = [0; PREFIX_BYTES];
        self.0.read_exact(&mut prefix).await.unwrap();
        let mut body = vec![0; frame::body_length(prefix, FRAME).unwrap()];
        self.0.read_exact(&mut body).await.unwrap();
        frame::decode(&body).unwrap()
    }
}
