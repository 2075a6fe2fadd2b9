//! What every command needs: where the agent is, how to print, and whether a signal came.

use std::path::{Path, PathBuf};

use proto::control::{Event, Request};

use crate::connection::Connection;
use crate::error::Error;
use crate::output::Output;
use crate::signal::Interrupt;

/// Handed to every command.
pub(crate) struct Context {
    /// For what is printed.
    pub(crate) output: Output,
    /// For what has to be put in order after a signal.
    pub(crate) interrupt: Interrupt,
    socket: PathBuf,
}

impl Context {
    /// For the agent at `socket`.
    pub(crate) fn new(socket: PathBuf, output: Output, interrupt: Interrupt) -> Self {
        Self { output, interrupt, socket }
    }

    /// Asks, and leaves the answers to be read.
    pub(crate) fn ask(&self, request: &Request) -> Result<Connection, Error> {
        ask(&self.socket, &self.interrupt, request)
    }

    /// Asks, and hands over every event until the request is carried out.
    pub(crate) fn each(&self, request: &Request, event: impl FnMut(Event)) -> Result<(), Error> {
        each(self.ask(request)?, event)
    }
}

/// Asks the agent at `socket`.
pub(crate) fn ask(socket: &Path, interrupt: &Interrupt, request: &Request) -> Result<Connection, Error> {
    let mut connection = Connection::open(socket, interrupt)?;
    connection.request(request)?;
    Ok(connection)
}

/// Hands over every event until the request is carried out.
pub(crate) fn each(mut connection: Connection, mut event: impl FnMut(Event)) -> Result<(), Error> {
    while let Some(next) = connection.event()? {
        event(next);
    }
    Ok(())
}
