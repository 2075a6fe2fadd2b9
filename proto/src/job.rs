//! A fan-out: one image for many hosts, which read it from one another.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::frame::Bounded;
use crate::limits::MEMBERS;
use crate::peer::Offer;
use crate::{Digest, HostId};

/// Names a job, for as long as it lasts; random.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct JobId(pub [u8; 16]);

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// An offer of the same image to several hosts, which may read it from each other: this is their grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// As it is made to one host.
    pub offer: Offer,
    /// The job.
    pub job: JobId,
    /// Who may read what is offered from whoever of them has it.
    pub members: Vec<HostId>,
    /// Who asked the offering host to send it: what that one may not bring to a receiver, this host may not either.
    pub on_behalf_of: Option<HostId>,
    /// Bytes a second that the receiver shall not exceed.
    pub limit_bytes_per_s: Option<u64>,
}

/// Where a host of a job is to read, the best one first. The host that started the job says so again whenever its plan changes. Who is not named any
/// more is read from no longer; who is named, but later than before, may finish what was asked of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sources {
    /// The job.
    pub job: JobId,
    /// Counts what was said in this job: a lower one that comes later is not news.
    pub number: u64,
    /// Members of the job, or the host that started it.
    pub hosts: Vec<HostId>,
}

/// A source did not do what it should.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// Which.
    pub source: HostId,
    /// What it did.
    pub fault: Fault,
}

/// What is wrong with a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// It cannot be reached, or was lost, or says nothing.
    Lost,
    /// It has not got a blob that it should have.
    Lacks(Digest),
    /// Its bytes are not those that the hashes of the host that started the job name.
    Lied(Digest),
}

impl Bounded for Share {
    fn within_limits(&self) -> bool {
        self.offer.image.within_limits() && self.members.len() <= MEMBERS
    }
}

impl Bounded for Sources {
    fn within_limits(&self) -> bool {
        self.hosts.len() <= MEMBERS
    }
}
