//! The socket of the agent: greeting, one request, events, archive bytes.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use proto::control::{
    CLOCKS, Event, Failure, FailureKind, Hello, JOB_NEWS, LOAD_NEWS, MAJOR, MEMBER_NEWS, ROLES, Request, TWO_MACHINES, UNPACKED,
};
use proto::frame::{self, Bounded, PREFIX_BYTES};
use proto::limits::{DATA_BYTES, FRAME};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::exit::Exit;
use crate::signal::Interrupt;

/// An agent greets at once, or it hangs.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection on which both sides have said who they are.
pub(crate) struct Connection {
    socket: UnixStream,
    interrupt: Interrupt,
}

/// The way for archive bytes to the agent, beside the events that come from it.
pub(crate) struct DataSender(UnixStream);

impl Connection {
    /// Connects to the agent at `path` and greets it. A signal shuts the socket down, which ends every wait for it.
    pub(crate) fn open(path: &Path, interrupt: &Interrupt) -> Result<Self, Error> {
        let socket = UnixStream::connect(path).map_err(|error| no_agent(path, &error))?;
        let twin = socket.try_clone().map_err(|error| no_agent(path, &error))?;
        interrupt.on_signal(move || drop(twin.shutdown(Shutdown::Both)));
        let mut connection = Self { socket, interrupt: interrupt.clone() };
        connection.greet(path)?;
        Ok(connection)
    }

    /// Says what is wanted.
    pub(crate) fn request(&mut self, request: &Request) -> Result<(), Error> {
        let result = write(&mut self.socket, request);
        result.map_err(|error| self.lost(&error))
    }

    /// The next event; `None` after the last one of a request that was carried out.
    pub(crate) fn event(&mut self) -> Result<Option<Event>, Error> {
        match read(&mut self.socket) {
            Ok(Event::End) => Ok(None),
            Ok(Event::Failed(failure)) => Err(Error::from(&failure)),
            Ok(event) => Ok(Some(event)),
            Err(error) => Err(self.lost(&error)),
        }
    }

    /// The next bytes of an archive, after [`Event::Data`]; none at its end.
    pub(crate) fn data<'a>(&mut self, buffer: &'a mut Vec<u8>) -> Result<&'a [u8], Error> {
        let result = read_data(&mut self.socket, buffer);
        result.map_err(|error| self.lost(&error))?;
        Ok(buffer)
    }

    /// For archive bytes to the agent, after [`Request::Load`].
    pub(crate) fn data_sender(&self) -> Result<DataSender, Error> {
        let twin = self.socket.try_clone();
        twin.map(DataSender).map_err(|error| self.lost(&error))
    }

    fn greet(&mut self, path: &Path) -> Result<(), Error> {
        let ours = Hello {
            major: MAJOR,
            capabilities: JOB_NEWS | MEMBER_NEWS | ROLES | TWO_MACHINES | LOAD_NEWS | CLOCKS | UNPACKED,
            software: concat!("imgctl ", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        let timeout = |socket: &UnixStream, after| socket.set_read_timeout(after);
        let exchange = |socket: &mut UnixStream| {
            timeout(socket, Some(GREETING_TIMEOUT))?;
            write(socket, &ours)?;
            let theirs: Hello = read(socket)?;
            timeout(socket, None)?;
            Ok(theirs)
        };
        let theirs = exchange(&mut self.socket).map_err(|error: std::io::Error| {
            if self.interrupt.came() {
                return Error::interrupted();
            }
            let what = format!("whatever listens at {} does not answer like imgd", path.display());
            Error::new(Exit::Failed, what).because(error).hint("systemctl status imgd, or imgctl --socket PATH")
        })?;
        if theirs.major == MAJOR {
            return Ok(());
        }
        let cause =
            format!("{} speaks version {} of the control protocol, {} version {MAJOR}", theirs.software, theirs.major, ours.software);
        Err(Error::from(&Failure { kind: FailureKind::Version, causes: vec!["cannot talk to the agent".to_owned(), cause] }))
    }

    fn lost(&self, error: &std::io::Error) -> Error {
        if self.interrupt.came() {
            return Error::interrupted();
        }
        let cause = match error.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => {
                "it ended in the middle of the answer".to_owned()
            }
            _ => error.to_string(),
        };
        Error::new(Exit::Failed, "lost the agent of this host").because(cause).hint("systemctl status imgd; journalctl -u imgd")
    }
}

impl DataSender {
    /// Sends a part of an archive, of any length; an empty one ends the archive.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if bytes.is_empty() {
            return self.0.write_all(&[0; PREFIX_BYTES]);
        }
        for part in bytes.chunks(DATA_BYTES) {
            self.0.write_all(&(part.len() as u32).to_le_bytes())?;
            self.0.write_all(part)?;
        }
        Ok(())
    }

    /// Breaks the archive off: the agent sees that its end is missing, and drops it.
    pub(crate) fn abandon(self) {
        let _ = self.0.shutdown(Shutdown::Write);
    }
}

fn no_agent(path: &Path, error: &std::io::Error) -> Error {
    let path = path.display();
    match error.kind() {
        ErrorKind::PermissionDenied => Error::new(Exit::NotTrusted, format!("may not talk to the agent at {path}"))
            .because(error)
            .hint("sudo usermod -aG imgd $USER, then log in again (members of the group imgd rule over images as those of docker do)"),
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => Error::new(Exit::Failed, format!("no agent answers at {path}"))
            .because(error)
            .hint("systemctl start imgd, or imgctl --socket PATH"),
        _ => Error::new(Exit::Failed, format!("cannot connect to the agent at {path}"))
            .because(error)
            .hint("imgctl --socket PATH names another socket"),
    }
}

fn write<T: Serialize>(socket: &mut UnixStream, message: &T) -> std::io::Result<()> {
    socket.write_all(&frame::encode(message, FRAME).map_err(std::io::Error::other)?)
}

fn read<T: DeserializeOwned + Bounded>(socket: &mut UnixStream) -> std::io::Result<T> {
    let mut body = vec![];
    read_frame(socket, &mut body, FRAME)?;
    frame::decode(&body).map_err(std::io::Error::other)
}

fn read_data(socket: &mut UnixStream, buffer: &mut Vec<u8>) -> std::io::Result<()> {
    read_frame(socket, buffer, DATA_BYTES)
}

fn read_frame(socket: &mut UnixStream, body: &mut Vec<u8>, limit_bytes: usize) -> std::io::Result<()> {
    let mut prefix = [0; PREFIX_BYTES];
    socket.read_exact(&mut prefix)?;
    body.resize(frame::body_length(prefix, limit_bytes).map_err(std::io::Error::other)?, 0);
    socket.read_exact(body)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::net::UnixListener;

    use proto::control::Status;

    use super::*;

    /// An agent that says `major` and then the events, and returns the request.
    fn agent(listener: UnixListener, major: u16, events: Vec<Event>) -> std::thread::JoinHandle<Option<Request>> {
        std::thread::spawn(move || {
            let mut socket = listener.accept().unwrap().0;
            let _: Hello = read(&mut socket).unwrap();
            write(&mut socket, &Hello { major, capabilities: 0, software: "imgd 9.9".to_owned() }).unwrap();
            let request = read(&mut socket).ok()?;
            events.iter().for_each(|event| write(&mut socket, event).unwrap());
            Some(request)
        })
    }

    #[test]
    fn asks_and_hears() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("imgd.sock");
        let failure = Failure { kind: FailureKind::NoFleet, causes: vec!["no".to_owned()] };
        let agent = agent(UnixListener::bind(&path).unwrap(), MAJOR, vec![Event::Accepted { id: 7 }, Event::Failed(failure)]);
        let mut connection = Connection::open(&path, &Interrupt::default()).unwrap();
        connection.request(&Request::Status(Status::default())).unwrap();
        assert!(connection.event().unwrap() == Some(Event::Accepted { id: 7 }));
        assert_eq!(connection.event().err().unwrap().exit, Exit::NotTrusted);
        assert_eq!(connection.event().err().unwrap().to_string(), "lost the agent of this host: it ended in the middle of the answer");
        assert!(agent.join().unwrap() == Some(Request::Status(Status::default())));
    }

    #[test]
    fn says_what_is_wrong_with_the_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("imgd.sock");
        let error = Connection::open(&path, &Interrupt::default()).err().unwrap();
        assert!(error.to_string().starts_with("no agent answers at ") && error.hint.unwrap().contains("systemctl start imgd"));
        let other = agent(UnixListener::bind(&path).unwrap(), 2, vec![]);
        let error = Connection::open(&path, &Interrupt::default()).err().unwrap();
        assert!(error.to_string().contains("imgd 9.9 speaks version 2") && error.to_string().contains("version 1"), "{error}");
        drop(other.join());
        let denied = no_agent(&path, &std::io::Error::from(ErrorKind::PermissionDenied));
        assert!(denied.exit == Exit::NotTrusted && denied.hint.unwrap().contains("usermod -aG imgd"));
    }
}
