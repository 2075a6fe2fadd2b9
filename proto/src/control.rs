//! Messages between `imgctl` and the `imgd` of the same host, on its Unix socket.
//!
//! The client says [`Hello`], the agent answers with its own; then one [`Request`], then [`Event`]s until [`Event::End`] or
//! [`Event::Failed`]. Archives travel as data frames (u32 length, bytes; length 0 ends them): after a `Load` from the client, and after
//! [`Event::Data`] to it. Closing the connection cancels what it asked for, unless it was detached.

use serde::{Deserialize, Serialize};

use crate::frame::Bounded;
use crate::host::{HostId, check_name};
use crate::limits::{GROUPS, IMAGE_BLOBS, NAMES, TEXT_BYTES};
use crate::peer::ImageRow;
use crate::{Digest, Platform, Reference};

/// Version of everything in this file.
pub const MAJOR: u16 = 1;

/// The first message in both directions. Frozen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Version of the protocol.
    pub major: u16,
    /// Bits of what the sender can do beyond it.
    pub capabilities: u64,
    /// `imgctl 0.1.0`.
    pub software: String,
}

/// What a person asks for. The same words as the commands of `imgctl`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// `send`.
    Send(Send),
    /// `pull`.
    Pull(Pull),
    /// `ls`: events `Image`; for other hosts with the host's name.
    List(Hosts),
    /// `peers`: events `Peer`.
    Peers,
    /// `status`: events `Transfer`.
    Status,
    /// `cancel`.
    Cancel(u64),
    /// `load`: data frames follow; events `Loaded`.
    Load,
    /// `save`: event `Data`, then data frames, then `End` or `Failed`.
    Save(Save),
    /// `tag`.
    Tag {
        /// What is there: a name or an ID.
        image: String,
        /// Its further name.
        name: Reference,
    },
    /// `rm`: events `Removed`.
    Remove(Vec<String>),
    /// `inspect`: events `Inspected`.
    Inspect(Vec<String>),
    /// `diff`: events `Difference`.
    Diff {
        /// A name here.
        image: String,
        /// To compare with.
        hosts: Hosts,
    },
    /// `who-has`: events `Difference`.
    WhoHas(String),
    /// `scrub`: events `Scrubbed`; hashes every blob again.
    Scrub,
    /// `fleet …`.
    Fleet(Fleet),
    /// `doctor`: events `Check`.
    Doctor(Option<String>),
}

/// Which hosts are meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Hosts {
    /// Names, as they were written.
    pub names: Vec<String>,
    /// Every member.
    pub all: bool,
}

/// Makes images present on other hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Send {
    /// Names or IDs, as they were written.
    pub images: Vec<String>,
    /// Where to.
    pub hosts: Hosts,
    /// Name at the destination.
    pub rename: Option<Reference>,
    /// Which of an index.
    pub platforms: Platforms,
    /// Every tag of the repositories.
    pub all_tags: bool,
    /// Only say what would travel.
    pub dry_run: bool,
    /// Bytes a second for all of it together.
    pub limit_bytes_per_s: Option<u64>,
    /// Hosts at once.
    pub max_parallel: Option<u32>,
    /// Goes on when the client goes.
    pub detach: bool,
}

/// Makes an image present here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pull {
    /// A name there.
    pub image: Reference,
    /// From this host; else from one that has it.
    pub from: Option<String>,
    /// Which of an index.
    pub platforms: Platforms,
    /// Name here.
    pub rename: Option<Reference>,
    /// Only say what would travel.
    pub dry_run: bool,
    /// Bytes a second.
    pub limit_bytes_per_s: Option<u64>,
}

/// Which platforms of an index travel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum Platforms {
    /// The receiver's.
    #[default]
    Receiver,
    /// This one.
    One(Platform),
    /// All.
    All,
}

/// Writes an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Save {
    /// Names or IDs.
    pub images: Vec<String>,
    /// Layout of the archive.
    pub format: ArchiveFormat,
    /// Compression of the archive as a whole.
    pub compression: Compression,
    /// `Receiver` here means: all that is present.
    pub platforms: Platforms,
}

/// Layouts of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum ArchiveFormat {
    /// Both in one, as `docker save` writes since 25: every engine loads it.
    #[default]
    Docker,
    /// OCI image layout alone.
    Oci,
}

/// Compression of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum Compression {
    /// Plain tar.
    #[default]
    None,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

/// Trust and groups.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fleet {
    /// `fleet init`.
    Init,
    /// `fleet invite`: event `Invited`.
    Invite {
        /// How many hosts may use the token.
        uses: u32,
        /// For how long.
        valid_s: u64,
        /// Only for this name.
        for_name: Option<String>,
        /// Takes the place of the member of this name.
        replace: Option<String>,
    },
    /// `fleet join`: event `Joined`.
    Join {
        /// `imgj1-…`; never shown again.
        token: String,
        /// `ADDR:PORT` to ask instead of the one in the token.
        address: Option<String>,
    },
    /// `fleet ls`: events `Member`.
    List,
    /// `fleet remove`: names or ids.
    Remove(Vec<String>),
    /// `fleet group add`/`rm`.
    Group {
        /// Group name.
        group: String,
        /// Host names.
        hosts: Vec<String>,
        /// Else removed from it.
        add: bool,
    },
    /// `fleet backup`: event `Backup`.
    Backup,
    /// `fleet restore`.
    Restore(Vec<u8>),
}

/// What happens, as it happens.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A transfer has this number, for `status` and `cancel`.
    Accepted {
        /// The number.
        id: u64,
    },
    /// A host has answered what it lacks.
    Planned(Planned),
    /// A blob is further.
    Progress(Progress),
    /// The connection was lost; it goes on when the host is back.
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
    /// Blob bytes that left the source.
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
}

/// A transfer, running or recent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferRow {
    /// For `cancel`.
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

/// Why something was not done: what kind of thing went wrong, and the chain of causes, outermost first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Decides exit code and hint.
    pub kind: FailureKind,
    /// `cannot send demo:nautilus to stapp03`, `peer refused`, `no space left` …
    pub causes: Vec<String>,
}

/// Kinds of failure that a script or a person would treat differently.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// Anything else.
    Other,
    /// The request makes no sense.
    Usage,
    /// No such image, or more than one, here or there.
    ImageNotFound,
    /// No member or group of that name.
    HostNotFound(String),
    /// A member that does not answer.
    HostUnreachable(String),
    /// No transfer of this number is running.
    TransferNotFound(u64),
    /// The other side does not take us for a member, or we it.
    NotTrusted,
    /// This host is in no fleet.
    NoFleet,
    /// This host is in a fleet already.
    InFleet,
    /// This host does not hold the signing key; this one does.
    NotSigner(Option<String>),
    /// A token that is not, or no longer, good.
    Token,
    /// A policy says no.
    Denied,
    /// No room at the receiver.
    NoSpace,
    /// Not for the receiver's platform; these are available.
    PlatformAbsent(Vec<Platform>),
    /// Two hosts cannot have one name.
    NameTaken(String),
    /// Not an archive of images, or a damaged one.
    InvalidArchive,
    /// An image that breaks the rules of its format.
    InvalidImage,
    /// A blob in a store is damaged.
    Corrupt,
    /// The store failed.
    Store,
    /// Somebody cancelled it.
    Cancelled,
    /// The agent is about to stop.
    ShuttingDown,
    /// Client and agent do not speak the same version.
    Version,
}

impl Bounded for Hello {
    fn within_limits(&self) -> bool {
        self.software.len() <= 255
    }
}

impl Bounded for Request {
    fn within_limits(&self) -> bool {
        let hosts = |hosts: &Hosts| texts(&hosts.names);
        match self {
            Self::Send(send) => texts(&send.images) && hosts(&send.hosts),
            Self::Pull(pull) => pull.from.as_deref().is_none_or(text),
            Self::List(list) => hosts(list),
            Self::Save(save) => texts(&save.images),
            Self::Tag { image, .. } => text(image),
            Self::Remove(images) | Self::Inspect(images) => texts(images),
            Self::Diff { image, hosts: others } => text(image) && hosts(others),
            Self::WhoHas(image) => text(image),
            Self::Doctor(host) => host.as_deref().is_none_or(text),
            Self::Fleet(fleet) => fleet.within_limits(),
            Self::Peers | Self::Status | Self::Cancel(_) | Self::Load | Self::Scrub => true,
        }
    }
}

impl Bounded for Fleet {
    fn within_limits(&self) -> bool {
        match self {
            Self::Invite { for_name, replace, .. } => for_name.as_deref().is_none_or(text) && replace.as_deref().is_none_or(text),
            Self::Join { token, address } => text(token) && address.as_deref().is_none_or(text),
            Self::Remove(names) => texts(names),
            Self::Group { group, hosts, .. } => check_name(group).is_ok() && texts(hosts),
            Self::Init | Self::List | Self::Backup | Self::Restore(_) => true,
        }
    }
}

/// What the agent of this host sends is capped by the frame limit; `imgctl` trusts it as it trusts its own host.
impl Bounded for Event {
    fn within_limits(&self) -> bool {
        match self {
            Self::Planned(planned) => planned.layers.len() <= IMAGE_BLOBS,
            Self::Member(member) => member.groups.len() <= GROUPS,
            _ => true,
        }
    }
}

/// Secrets stay out of logs.
impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.verb())
    }
}

/// Secrets stay out of logs here, too.
impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Invited { .. } => f.write_str("Invited"),
            Self::Backup(_) => f.write_str("Backup"),
            other => f.write_str(&serde_json::to_string(other).map_err(|_| std::fmt::Error)?),
        }
    }
}

impl Request {
    /// The command that makes this request.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Send(_) => "send",
            Self::Pull(_) => "pull",
            Self::List(_) => "ls",
            Self::Peers => "peers",
            Self::Status => "status",
            Self::Cancel(_) => "cancel",
            Self::Load => "load",
            Self::Save(_) => "save",
            Self::Tag { .. } => "tag",
            Self::Remove(_) => "rm",
            Self::Inspect(_) => "inspect",
            Self::Diff { .. } => "diff",
            Self::WhoHas(_) => "who-has",
            Self::Scrub => "scrub",
            Self::Doctor(_) => "doctor",
            Self::Fleet(Fleet::Init) => "fleet init",
            Self::Fleet(Fleet::Invite { .. }) => "fleet invite",
            Self::Fleet(Fleet::Join { .. }) => "fleet join",
            Self::Fleet(Fleet::List) => "fleet ls",
            Self::Fleet(Fleet::Remove(_)) => "fleet remove",
            Self::Fleet(Fleet::Group { .. }) => "fleet group",
            Self::Fleet(Fleet::Backup) => "fleet backup",
            Self::Fleet(Fleet::Restore(_)) => "fleet restore",
        }
    }
}

fn text(text: &str) -> bool {
    text.len() <= TEXT_BYTES
}

fn texts(list: &[String]) -> bool {
    list.len() <= NAMES && list.iter().map(String::as_str).all(text)
}
