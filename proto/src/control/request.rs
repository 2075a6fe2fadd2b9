//! What `imgctl` asks for.

use serde::{Deserialize, Serialize};

use crate::frame::Bounded;
use crate::host::check_name;
use crate::limits::{NAMES, TEXT_BYTES};
use crate::{Platform, Reference};

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
    /// `send --retry-failed`: what failed of an earlier send; events as of `send`.
    Retry(Retry),
    /// `status`: events `Transfer`, or, when it watches, those of a `send`.
    Status(Status),
    /// `cancel`: every transfer of this number.
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
    /// `prune`: event `Pruned`.
    Prune,
    /// `send --wait`: events as of `send`.
    SendWaiting {
        /// What is sent.
        send: Send,
        /// Seconds for which a host that has not answered yet is waited for.
        wait_s: u64,
    },
}

/// Which hosts are meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Hosts {
    /// Names, as they were written.
    pub names: Vec<String>,
    /// Every member.
    pub all: bool,
    /// Not these: written as `names` are.
    pub except: Vec<String>,
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
    /// Bytes a second that leave the source, for all hosts together.
    pub limit_bytes_per_s: Option<u64>,
    /// Bytes a second that any one host receives.
    pub host_limit_bytes_per_s: Option<u64>,
    /// Hosts at once.
    pub max_parallel: Option<u32>,
    /// So many hosts first; the others only when all of these succeed.
    pub canary: Option<u32>,
    /// When one host fails, those that have not got the image yet are stopped.
    pub stop_on_failure: bool,
    /// Goes on when the client goes.
    pub detach: bool,
    /// From this host, instead of from here.
    pub from: Option<String>,
}

/// Sends again what failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// Number of the earlier send.
    pub id: u64,
    /// Goes on when the client goes.
    pub detach: bool,
}

/// Which transfers are shown, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Status {
    /// Only those of this number.
    pub id: Option<u64>,
    /// Until the send of this number ends; without a number: the last one that was begun.
    pub watch: bool,
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
    /// `fleet rename`.
    Rename {
        /// Name or id of a member.
        member: String,
        /// Its new name.
        name: String,
    },
}

impl Request {
    /// The command that makes this request.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Send(_) => "send",
            Self::Pull(_) => "pull",
            Self::List(_) => "ls",
            Self::Peers => "peers",
            Self::Retry(_) => "send --retry-failed",
            Self::Status(_) => "status",
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
            Self::Prune => "prune",
            Self::SendWaiting { .. } => "send --wait",
            Self::Fleet(Fleet::Init) => "fleet init",
            Self::Fleet(Fleet::Invite { .. }) => "fleet invite",
            Self::Fleet(Fleet::Join { .. }) => "fleet join",
            Self::Fleet(Fleet::List) => "fleet ls",
            Self::Fleet(Fleet::Remove(_)) => "fleet remove",
            Self::Fleet(Fleet::Group { .. }) => "fleet group",
            Self::Fleet(Fleet::Backup) => "fleet backup",
            Self::Fleet(Fleet::Restore(_)) => "fleet restore",
            Self::Fleet(Fleet::Rename { .. }) => "fleet rename",
        }
    }
}

impl Bounded for Request {
    fn within_limits(&self) -> bool {
        let hosts = |hosts: &Hosts| texts(&hosts.names) && texts(&hosts.except);
        match self {
            Self::Send(send) | Self::SendWaiting { send, .. } => send.within_limits(),
            Self::Pull(pull) => pull.from.as_deref().is_none_or(text),
            Self::List(list) => hosts(list),
            Self::Save(save) => texts(&save.images),
            Self::Tag { image, .. } => text(image),
            Self::Remove(images) | Self::Inspect(images) => texts(images),
            Self::Diff { image, hosts: others } => text(image) && hosts(others),
            Self::WhoHas(image) => text(image),
            Self::Doctor(host) => host.as_deref().is_none_or(text),
            Self::Fleet(fleet) => fleet.within_limits(),
            Self::Peers | Self::Retry(_) | Self::Status(_) | Self::Cancel(_) | Self::Load | Self::Scrub | Self::Prune => true,
        }
    }
}

impl Bounded for Send {
    fn within_limits(&self) -> bool {
        let hosts = texts(&self.hosts.names) && texts(&self.hosts.except);
        texts(&self.images) && hosts && self.from.as_deref().is_none_or(text)
    }
}

impl Bounded for Fleet {
    fn within_limits(&self) -> bool {
        match self {
            Self::Invite { for_name, replace, .. } => for_name.as_deref().is_none_or(text) && replace.as_deref().is_none_or(text),
            Self::Join { token, address } => text(token) && address.as_deref().is_none_or(text),
            Self::Remove(names) => texts(names),
            Self::Group { group, hosts, .. } => check_name(group).is_ok() && texts(hosts),
            Self::Rename { member, name } => text(member) && text(name),
            Self::Init | Self::List | Self::Backup | Self::Restore(_) => true,
        }
    }
}

/// Secrets stay out of logs.
impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.verb())
    }
}

fn text(text: &str) -> bool {
    text.len() <= TEXT_BYTES
}

fn texts(list: &[String]) -> bool {
    list.len() <= NAMES && list.iter().map(String::as_str).all(text)
}
