//! What strangers and bad members can do to an agent: nothing that others notice.
#![allow(clippy::print_stdout)]

mod flood;
mod frames;
mod members;
mod memory;
mod multicast;
pub(crate) mod offers;
mod rights;
mod streams;

use std::path::Path;
use std::time::Instant;

use tests::fleet::PATIENCE;
use tests::process::{self, Process};
use tests::rogue::Rogue;

const MIB: u64 = 1024 * 1024;

/// A fleet of two processes: one stays, the other one ends and lends its identity to a rogue.
fn with_rogue() -> (Process, Process) {
    let mut hosts = [Process::new("stapp01"), Process::new("rogue")];
    hosts.iter_mut().for_each(Process::start);
    hosts[0].must(&["fleet", "init"]);
    process::join(&hosts[0], &hosts[1]);
    assert!(hosts[1].terminate().success(), "{}", hosts[1].log());
    // Its connections count among those of the rogue until they are known to be over.
    let deadline = Instant::now() + PATIENCE;
    while hosts[0].must(&["--json", "peers"]).contains("\"connected\"") {
        assert!(Instant::now() < deadline, "{}", hosts[0].log());
    }
    hosts.into()
}

/// Where an agent listens: it says so when it starts.
fn address(host: &Process) -> std::net::SocketAddr {
    let log = host.log();
    let started = log.lines().find(|line| line.contains("agent started")).unwrap_or_else(|| panic!("not started: {log}"));
    let (_, rest) = started.split_once(" address=").unwrap();
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

/// The rogue, at an address of its own.
fn rogue(of: &Process) -> Rogue {
    let state: &Path = &of.path().join("state");
    Rogue::with_state(state, "rogue", [127, 0, 0, 2].into())
}
