//! What `imgd` tells, as it happens.

use serde::{Deserialize, Serialize};

use super::Failure;
use crate::frame::Bounded;
use crate::host::HostId;
use crate::limits::{CAUSE_BYTES, GROUPS, HOST_NAME_BYTES, IMAGE_BLOBS, MEMBERS, TEXT_BYTES};
use crate::peer::ImageRow;
use crate::{Digest, Reference};

/// What happens, as it happens.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// What was asked for has this number, for `status`, `cancel` and `send --retry-failed`. Once, before all else.
    Accepted {
        /// The number.
        id: u64,
    },
    /// A host has answered what it lacks.
    Planned(Planned),
    /// A blob is further.
    Progress(Progress),
    /// From whom a host has received so far.
    Drawn(Drawn),
    /// There is no connection, not yet or not any more; it goes on when the host is there.
    Waiting {
        /// Which host.
        host: String,
        /// Why.
        reason: String,
    },
    /// An image is on a host.
    Done(Done),
    /// An image could not be brought to a host.
    HostFailed {
        /// Which host.
        host: String,
        /// As it was written.
        image: String,
        /// Why.
        failure: Failure,
    },
    /// The end of a `send` or a `pull`.
    Summary(Summary),
    /// A row of `ls`.
    Image {
        /// `None`: here.
        host: Option<String>,
        /// The image.
        row: ImageRow,
    },
    /// A host that did not answer.
    HostSilent {
        /// Which host.
        host: String,
        /// Why.
        failure: Failure,
    },
    /// A row of `peers`.
    Peer(PeerRow),
    /// A row of `status`.
    Transfer(TransferRow),
    /// An image came in from an archive.
    Loaded {
        /// `None`: only an ID.
        reference: Option<Reference>,
        /// Its ID.
        image_id: Digest,
    },
    /// A name, or an image, is gone.
    Removed {
        /// What `rm` was asked to remove, in full.
        name: String,
        /// True when blobs went with it.
        deleted: bool,
    },
    /// JSON for `inspect`.
    Inspected(String),
    /// A row of `diff` and `who-has`.
    Difference(Difference),
    /// A blob that is damaged, and was put aside.
    Damaged(Digest),
    /// The end of a scrub.
    Scrubbed {
        /// Blobs looked at.
        blobs: u64,
        /// Bytes hashed.
        bytes: u64,
        /// How many were damaged.
        damaged: u64,
    },
    /// A row of `fleet ls`.
    Member(MemberRow),
    /// A token for `fleet join`.
    Invited {
        /// `imgj1-…`
        token: String,
        /// Seconds since 1970.
        expires_unix_s: u64,
        /// How many hosts may use it.
        uses: u32,
    },
    /// This host is in a fleet now.
    Joined {
        /// Identity of the fleet.
        fleet: HostId,
        /// Name of this host.
        name: String,
        /// Members, this one included.
        members: u64,
    },
    /// What `fleet restore` takes: a secret.
    Backup(Vec<u8>),
    /// A line of `doctor`.
    Check(Check),
    /// Data frames follow.
    Data,
    /// All that was asked for was done.
    End,
    /// It was not.
    Failed(Failure),
    /// An image is to go to a host, and nothing has begun. Once for every pair of them, right after `Accepted`.
    Queued {
        /// Which host.
        host: String,
        /// As it was written.
        image: String,
    },
    /// A source hashes what it has never hashed, before it serves it. Only to a client with [`super::JOB_NEWS`].
    Hashing(Hashing),
    /// What a name led to when the job began, which is what every host gets. Only to a client with [`super::JOB_NEWS`].
    Resolved(Resolved),
    /// A name that leads to another image now. Only to a client with [`super::JOB_NEWS`].
    Moved(Moved),
    /// What is kept of transfers that were not finished, after the rows of `status`. Only to a client with [`super::JOB_NEWS`].
    Unfinished {
        /// How many blobs.
        blobs: u64,
        /// Bytes that they take in the staging area.
        bytes: u64,
    },
    /// What `prune` has freed.
    Pruned {
        /// Bytes in the staging area.
        staged_bytes: u64,
        /// Bytes in the store, as far as they are known.
        stored_bytes: u64,
    },
    /// A member has taken over a change of the member list, or was not reached. Only to a client with [`super::MEMBER_NEWS`].
    Told {
        /// Which host.
        host: String,
        /// It has the list now.
        reached: bool,
    },
    /// One of several images of an archive, or one of its names, could not be loaded; `Failed` follows in the end. Only to a client with
    /// [`super::LOAD_NEWS`].
    NotLoaded {
        /// As the archive calls it.
        image: String,
        /// Why.
        failure: Failure,
    },
}

/// What a host lacks of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// Which host.
    pub host: String,
    /// Name of the image there.
    pub image: String,
    /// All its layers, lowest first.
    pub layers: Vec<PlannedLayer>,
    /// Bytes that will travel, documents included.
    pub send_bytes: u64,
    /// Bytes that are there already, staged ones included.
    pub present_bytes: u64,
}

/// One layer of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedLayer {
    /// Its blob.
    pub digest: Digest,
    /// Its size.
    pub size_bytes: u64,
    /// Bytes of it that are there already; all of them when it is present.
    pub present_bytes: u64,
}

/// How far a blob is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Which host.
    pub host: String,
    /// Which image.
    pub image: String,
    /// Which blob.
    pub digest: Digest,
    /// Verified bytes at the receiver.
    pub verified_bytes: u64,
}

/// From whom a host has received an image, of all sources of a fan-out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drawn {
    /// Which host.
    pub host: String,
    /// Which image.
    pub image: String,
    /// Who served it, the most first.
    pub sources: Vec<Source>,
}

/// A host that served another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Its name.
    pub host: String,
    /// Verified blob bytes that came from it.
    pub received_bytes: u64,
}

/// An image is on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Which host.
    pub host: String,
    /// Name of the image there.
    pub image: String,
    /// What the receiving store shows.
    pub image_id: Digest,
    /// What the sending store shows.
    pub source_image_id: Digest,
    /// The portable identity.
    pub config_digest: Digest,
    /// Blob bytes that were transferred.
    pub sent_bytes: u64,
    /// From whom, in a fan-out; the most first.
    pub sources: Vec<Source>,
    /// What crossed the network for them, in both directions.
    pub wire_bytes: u64,
    /// Bytes that were there already.
    pub present_bytes: u64,
    /// Layers that were transferred, in whole or in part.
    pub layers_sent: u64,
    /// Layers of the image.
    pub layers_total: u64,
    /// From the request on.
    pub elapsed_ms: u64,
    /// Image ID that the name had before there, when it was another one.
    pub replaced: Option<Digest>,
    /// Only planned.
    pub dry_run: bool,
}

/// The end of a `send` or a `pull`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Pairs of host and image.
    pub total: u64,
    /// Of these, done.
    pub done: u64,
    /// Of these, failed.
    pub failed: u64,
    /// Blob bytes that left the source; of a dry run, those that would.
    pub egress_bytes: u64,
    /// From the request on.
    pub elapsed_ms: u64,
}

/// A host as seen from here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRow {
    /// From the member list; `None` for a host that is not on it.
    pub name: Option<String>,
    /// Its identity, when it is known.
    pub id: Option<HostId>,
    /// Where it was last reached or seen.
    pub addresses: Vec<String>,
    /// Kind of its store, when it was ever connected.
    pub store: Option<String>,
    /// Its software, when it was ever connected.
    pub software: Option<String>,
    /// What is known of it.
    pub state: PeerState,
    /// Seconds since 1970.
    pub last_seen_unix_s: Option<u64>,
}

/// What is known of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerState {
    /// A member, and connected now.
    Connected,
    /// A member.
    Trusted,
    /// Seen on the network, but not a member.
    NotMember,
    /// Was removed from the fleet.
    Removed,
    /// This host.
    Here,
    /// A member whose key is in use on two machines: neither is spoken to. Only to a client with [`super::TWO_MACHINES`], to others [`PeerState::Trusted`].
    TwoMachines,
}

/// A transfer, running or recent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferRow {
    /// For `cancel`: all that one command asked for has one number.
    pub id: u64,
    /// True when it comes in.
    pub incoming: bool,
    /// Name of the image.
    pub image: String,
    /// The other host.
    pub host: String,
    /// Running, or how it ended.
    pub state: TransferState,
    /// Blob bytes that travelled so far.
    pub done_bytes: u64,
    /// Blob bytes that have to travel; 0 while that is not known.
    pub total_bytes: u64,
    /// Since it started, or how long it took.
    pub elapsed_ms: u64,
}

/// Where a transfer is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TransferState {
    /// Bytes move.
    Running,
    /// The other host does not answer; it is tried again.
    Waiting,
    /// The image is there.
    Done,
    /// It is not, because.
    Failed(String),
    /// Somebody cancelled it.
    Cancelled,
}

/// What a host has under a name, beside what is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Which host; `None`: this one, as the side that the others are compared with.
    pub host: Option<String>,
    /// `None`: nothing under that name.
    pub image_id: Option<Digest>,
    /// Layers that it has of those here.
    pub layers_shared: u64,
    /// Layers that the image has here.
    pub layers_total: u64,
    /// Bytes of the layers that it lacks.
    pub missing_bytes: u64,
    /// Only there.
    pub layers_extra: u64,
}

/// A member of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRow {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub id: HostId,
    /// Holds the signing key.
    pub signer: bool,
    /// This host.
    pub here: bool,
    /// Its groups.
    pub groups: Vec<String>,
}

/// A line of `doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Ok, a warning, or wrong.
    pub verdict: Verdict,
    /// What was looked at.
    pub subject: String,
    /// What was found.
    pub finding: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Fine.
    Ok,
    /// Works, but look at it.
    Warning,
    /// Does not work.
    Wrong,
}

/// An image of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// As it was asked for.
    pub image: String,
    /// Digest of its manifest or index.
    pub root: Digest,
    /// Its ID at the source.
    pub image_id: Digest,
}

/// A name of a job that has moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// As it was asked for.
    pub image: String,
    /// The ID, at the source, of the image that the job sends or has sent before.
    pub sent: Digest,
    /// The ID of the image that has the name now; `None`: there is none.
    pub image_id: Option<Digest>,
}

/// How far a source is that hashes the blobs of an image before it serves them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hashing {
    /// The host that waits.
    pub host: String,
    /// What it waits for.
    pub image: String,
    /// The host that hashes.
    pub source: String,
    /// Bytes that are hashed.
    pub done_bytes: u64,
    /// Bytes that have to be.
    pub total_bytes: u64,
}

impl Event {
    /// Capabilities without which a client does not understand it.
    pub fn needs(&self) -> u64 {
        match self {
            Self::Told { .. } => super::MEMBER_NEWS,
            Self::NotLoaded { .. } => super::LOAD_NEWS,
            _ if self.is_job_news() => super::JOB_NEWS,
            _ => 0,
        }
    }

    /// True for an event that only a client with [`super::JOB_NEWS`], or a peer with [`crate::peer::SIGNS_OF_LIFE`], understands.
    pub fn is_job_news(&self) -> bool {
        matches!(self, Self::Hashing(_) | Self::Resolved(_) | Self::Moved(_) | Self::Unfinished { .. })
    }
}

/// Of what comes from the agent of this host; what another host tells of a send that it carries out has to keep to the same.
impl Bounded for Event {
    fn within_limits(&self) -> bool {
        let name = |host: &String| host.len() <= HOST_NAME_BYTES;
        let image = |image: &String| image.len() <= TEXT_BYTES;
        let sources = |sources: &[Source]| sources.len() <= MEMBERS && sources.iter().all(|source| name(&source.host));
        match self {
            Self::Queued { host, image: of } => name(host) && image(of),
            Self::Planned(planned) => name(&planned.host) && image(&planned.image) && planned.layers.len() <= IMAGE_BLOBS,
            Self::Progress(progress) => name(&progress.host) && image(&progress.image),
            Self::Drawn(drawn) => name(&drawn.host) && image(&drawn.image) && sources(&drawn.sources),
            Self::Done(done) => name(&done.host) && image(&done.image) && sources(&done.sources),
            Self::Waiting { host, reason } => name(host) && reason.len() <= CAUSE_BYTES,
            Self::Hashing(hashing) => name(&hashing.host) && image(&hashing.image) && name(&hashing.source),
            Self::Resolved(resolved) => image(&resolved.image),
            Self::Moved(moved) => image(&moved.image),
            Self::HostFailed { host, image: of, failure } => name(host) && image(of) && failure.within_limits(),
            Self::HostSilent { host, failure } => name(host) && failure.within_limits(),
            Self::NotLoaded { failure, .. } | Self::Failed(failure) => failure.within_limits(),
            Self::Member(member) => member.groups.len() <= GROUPS,
            _ => true,
        }
    }
}

/// Secrets stay out of logs.
impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Invited { .. } => f.write_str("Invited"),
            Self::Backup(_) => f.write_str("Backup"),
            other => f.write_str(&serde_json::to_string(other).map_err(|_| std::fmt::Error)?),
        }
    }
}
