//! Messages between two agents: ALPN `imgd/1`.
//!
//! The dialler opens the first stream for the greeting. After the Welcome every request has a stream of its own, opened by whoever asks.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::control;
use crate::frame::Bounded;
use crate::hash::RangeHash;
use crate::host::{HostId, ListDate, SignedMemberList, check_name};
use crate::job::{JobId, Share, Sources, Trouble};
use crate::limits::{
    BLOB_BYTES, BLOCK_BYTES, CONFIG_BYTES, EXTENT_BYTES, GROUPS, HASHES, IMAGE_BLOBS, IMAGE_MANIFESTS, LAYERS, MANIFEST_BYTES, MEMBERS,
    NAMES, RANGE_BYTES, TEXT_BYTES,
};
use crate::{Descriptor, Digest, Image, Platform, Reference};

/// ALPN of this protocol.
pub const ALPN: &[u8] = b"imgd/1";

/// Version of everything in this file. Another major version is refused, naming both.
pub const MAJOR: u16 = 1;

/// Capabilities that this program has; a bit is used only after both sides have named it.
pub const CAPABILITIES: u64 = SHARED_OFFERS | SIGNS_OF_LIFE | INSTANCES | ATTESTATIONS | FORMS;

/// It takes part in fan-outs: [`Request::Share`] and what belongs to it.
pub const SHARED_OFFERS: u64 = 1;

/// It gives signs of life while it works without moving bytes, and understands them: [`Block::Hashing`], [`Answer::Hashing`], [`Answer::Working`].
pub const SIGNS_OF_LIFE: u64 = 2;

/// It says which process it is, and how old its member list is: [`Request::Instance`], [`GreetingRefusal::TwoMachines`], [`Request::Date`].
pub const INSTANCES: u64 = 4;

/// It takes an offer for one platform with the attestations about it, and leaves out what its store does not keep.
pub const ATTESTATIONS: u64 = 8;

/// It knows that an engine may have layers only unpacked: [`Request::OfferUnpacked`], [`Request::PullUnpacked`], [`Refusal::UnpackedOnly`].
pub const FORMS: u64 = 16;

/// One start of one agent: drawn at random by the process. Two of them that live at the same time have one key on two machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance(pub [u8; 16]);

/// The first message in both directions. Frozen: it never changes, whatever the version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Version of the protocol.
    pub major: u16,
    /// Bits of what the sender can do beyond it.
    pub capabilities: u64,
    /// `imgd 0.1.0`.
    pub software: String,
    /// Name that the host was given; the member list decides.
    pub name: String,
    /// What its images run on.
    pub platform: Platform,
    /// Kind of its store: `layout`, `docker` …
    pub store: String,
    /// Epoch of the member list that it has.
    pub members_epoch: u64,
}

/// What follows the two Hellos, in both directions: at most one list, then the verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Greeting {
    /// A list that is newer than the other's.
    Members(SignedMemberList),
    /// You are on my list: ask.
    Welcome,
    /// You are not.
    Refused(GreetingRefusal),
}

/// Why a peer is not welcomed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum GreetingRefusal {
    /// Its certificate is good, but no member list that we know has it.
    #[error("host {0} is not on the member list")]
    NotMember(HostId),
    /// The versions do not fit.
    #[error("it speaks protocol version {ours}, we speak {theirs}")]
    Version {
        /// Version of the refusing side.
        ours: u16,
        /// Version of the refused side.
        theirs: u16,
    },
    /// It holds as many connections as one host may.
    #[error("too many connections of one host")]
    TooManyConnections,
    /// Two agents live with its key, at these addresses. Only to a host with [`INSTANCES`], to others [`GreetingRefusal::NotMember`].
    #[error("the key of one host is in use on two machines, at {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and "))]
    TwoMachines(Vec<SocketAddr>),
}

/// The first message on every stream after the Welcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// I have an image for you. Answers: `Want` … `Committed`.
    Offer(Offer),
    /// Offer me this image. Answers: `Offer`, after which the roles are as if it had been offered.
    Pull(Pull),
    /// Bytes of a blob. Answer: [`Block`]s until the range is complete.
    Get(Get),
    /// What images have you? Answers: `Images`, several.
    List,
    /// What is behind this name? Answer: `Described`.
    Describe(Reference),
    /// A newer member list. Answer: `Done`.
    Members(SignedMemberList),
    /// Where is this member? Answer: `Where`.
    Where(HostId),
    /// I have an image for you and for others. Answers as to an `Offer`, and `Trouble`.
    Share(Share),
    /// Read from these hosts, in a job that the asking host has started. Answer: `Done`.
    Sources(Sources),
    /// A job is over: nothing of it is served any more. Answer: `Done`.
    EndJob(JobId),
    /// The hash of every range of a blob of a job, of whoever has them. Answer: `Hashes`, until all are there.
    Hashes(Digest),
    /// What all hashes of the ranges of a blob hash to: from the host that started the job, so that they may come from anybody. Answer: `Proof`.
    Proof(Digest),
    /// Send what you have to these hosts, for me. Answers: `Event`, until `End` or `Failed`; who asked and goes away stops it.
    Send(control::Send),
    /// Which process are you? Answer: `Instance`.
    Instance,
    /// That the newest list was the newest at some time. Answer: `Done`. Only to a host with [`INSTANCES`].
    Date(ListDate),
    /// As `Offer`, of an image whose layers are packed otherwise than they were, under a manifest that was made for it: only for a store that keeps
    /// layers unpacked, to which it is the same image. Others answer `Refused` with [`Refusal::Unsupported`].
    OfferUnpacked(Offer),
    /// As `Pull`, by such a store: the layers may be packed otherwise.
    PullUnpacked(Pull),
}

/// One message on a stream after the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To a `Pull`.
    Offer(Offer),
    /// What is missing, from which byte.
    Want(Want),
    /// More of a blob has been verified.
    Progress(Progress),
    /// These bytes of yours are not what their digest says: look at your store.
    Corrupt(Digest),
    /// The image is in the store, under its name.
    Committed(Committed),
    /// Some of the images; an empty one is the last.
    Images(Vec<ImageRow>),
    /// What is behind a name; `None` when there is no such image.
    Described(Option<Image>),
    /// It is done.
    Done,
    /// It is not going to happen.
    Refused(Refusal),
    /// Addresses at which a member was reached or seen: hints, like all addresses.
    Where(Vec<SocketAddr>),
    /// The next hashes of a blob's ranges.
    Hashes(Vec<RangeHash>),
    /// SHA-256 of the hashes of a blob's ranges, one after the other.
    Proof(Digest),
    /// A source of a job is not what it should be. It is read from no longer.
    Trouble(Trouble),
    /// Verified bytes that came from each source of a job so far.
    Drawn(Vec<(HostId, u64)>),
    /// To a `Send`.
    Event(control::Event),
    /// To a `Proof` or `Hashes`, about once a second before the answer itself, to a host with [`SIGNS_OF_LIFE`]: the blob was never hashed here.
    Hashing(HashingProgress),
    /// To an offer, every few seconds, to a host with [`SIGNS_OF_LIFE`]: the receiver is still at it, whatever it waits for.
    Working,
    /// To an `Instance`.
    Instance(Instance),
}

/// An image and what the offering host wants done with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The image, under the name it shall have at the receiver.
    pub image: Image,
    /// Answer `Want` and stop.
    pub dry_run: bool,
}

/// Asks for an offer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pull {
    /// The name at the host that is asked.
    pub reference: Reference,
    /// `None`: all platforms.
    pub platform: Option<Platform>,
    /// Only to know what would travel.
    pub dry_run: bool,
}

/// Asks for a range of a blob. Allowed to who was offered it on this connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Get {
    /// Which blob.
    pub digest: Digest,
    /// First byte: a range boundary.
    pub offset: u64,
    /// Number of bytes, at most [`EXTENT_BYTES`]; ends at a range boundary or at the end of the blob.
    pub length_bytes: u64,
}

/// What follows on a blob stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Block {
    /// The bytes of the block, as they are, behind this frame.
    Bytes(BlockHeader),
    /// No more will come.
    Refused(Refusal),
    /// Still here, but the next bytes are not here yet. Only in jobs, about once a second.
    Waiting,
    /// The blob was never hashed at the source, which does so now. About once a second, before the first bytes, to a host with [`SIGNS_OF_LIFE`].
    Hashing(HashingProgress),
}

/// How far a source is that hashes a blob before it serves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashingProgress {
    /// Bytes that are hashed.
    pub done_bytes: u64,
    /// Length of the blob.
    pub total_bytes: u64,
}

/// Says what the bytes of a block are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockHeader {
    /// How the bytes that follow are encoded.
    pub encoding: Encoding,
    /// Bytes that follow.
    pub encoded_bytes: u64,
    /// Hash before the first range of the block.
    pub before: RangeHash,
    /// Hash after each range of the block.
    pub after: Vec<RangeHash>,
}

/// How the bytes of a block are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encoding {
    /// As they are in the blob.
    Raw,
}

/// The answer to an offer: the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// Blobs that are not here, in the order in which they will be asked for.
    pub missing: Vec<Missing>,
}

/// A blob that is not here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Which.
    pub digest: Digest,
    /// Its size.
    pub size_bytes: u64,
    /// Of these, verified bytes that an earlier session left here.
    pub staged_bytes: u64,
}

/// How far a blob is. Sent a few times a second.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Which.
    pub digest: Digest,
    /// Verified bytes, those of earlier sessions included.
    pub verified_bytes: u64,
}

/// The end of a session that succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// What the receiving store shows as image ID, read back from it.
    pub image_id: Digest,
    /// Digest of the config of that image: the portable identity.
    pub config_digest: Digest,
    /// Blob bytes that this session received.
    pub received_bytes: u64,
    /// Image ID that the name had before, when it was another one.
    pub replaced: Option<Digest>,
}

/// One row of a list of images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRow {
    /// `None`: no name.
    pub reference: Option<Reference>,
    /// What the store shows as image ID.
    pub image_id: Digest,
    /// Digest of the manifest or index.
    pub root: Digest,
    /// The platforms that are here.
    pub platforms: Vec<Platform>,
    /// Bytes of all its blobs.
    pub size_bytes: u64,
    /// False: a blob of it is missing, or was damaged and put aside. What an engine has only unpacked is not missing.
    pub complete: bool,
    /// Seconds since 1970; when the name last moved here.
    pub tagged_unix_s: u64,
}

/// Why a request is not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// No room.
    #[error("not enough space: {needed_bytes} bytes needed, {free_bytes} free")]
    NoSpace {
        /// Bytes to be stored, with what the store needs beside them.
        needed_bytes: u64,
        /// Bytes that are free.
        free_bytes: u64,
    },
    /// Not for this host.
    #[error("no image for {wanted}, only for {}", .available.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    PlatformAbsent {
        /// Platform of the host, or the one that was asked for.
        wanted: Platform,
        /// What there is.
        available: Vec<Platform>,
    },
    /// A rule of the receiving host's policy says no.
    #[error("denied by its policy: {0}")]
    Policy(String),
    /// There is no image of that name.
    #[error("no image {}", .0.familiar())]
    ImageNotFound(Reference),
    /// The blob was not offered on this connection, or is gone.
    #[error("blob {0} is not offered to this host")]
    BlobNotOffered(Digest),
    /// A document of the image is not valid.
    #[error("the image is not valid: {0}")]
    InvalidImage(String),
    /// The store failed.
    #[error("its store failed: {0}")]
    Store(String),
    /// As many sessions as one host may have are under way, or what they bring takes the room.
    #[error("other transfers end first")]
    Busy,
    /// Somebody cancelled it there.
    #[error("cancelled at the other host")]
    Cancelled,
    /// The bytes that were sent are not what their digest says.
    #[error("blob {0} arrived damaged: its copy at the source is corrupt")]
    Corrupt(Digest),
    /// The agent is about to stop.
    #[error("the agent there is shutting down")]
    ShuttingDown,
    /// Not a request that can be answered now.
    #[error("a request that does not fit")]
    OutOfTurn,
    /// What the store had when the session began is gone: a new session finds out what is missing now.
    #[error("it has lost a part of a layer meanwhile")]
    StoreChanged,
    /// A kind of store that does not keep such images.
    #[error("{0}")]
    Unsupported(String),
    /// The engine behind the store is gone, or does not answer: it may come back. Only to a host with [`SIGNS_OF_LIFE`], to others [`Refusal::Store`].
    #[error("its store failed: {0}")]
    StoreUnavailable(String),
    /// The engine of the source has this layer only unpacked. Only to a host with [`FORMS`], to others [`Refusal::Store`].
    #[error("the engine of the source has layer {0} only unpacked, and cannot give it back")]
    UnpackedOnly(Digest),
}

impl Bounded for Hello {
    fn within_limits(&self) -> bool {
        short(&self.software) && check_name(&self.name).is_ok() && short(&self.store) && platform(&self.platform)
    }
}

impl Bounded for Greeting {
    fn within_limits(&self) -> bool {
        match self {
            Self::Members(list) => list.within_limits(),
            Self::Refused(GreetingRefusal::TwoMachines(addresses)) => addresses.len() <= GROUPS,
            Self::Welcome | Self::Refused(_) => true,
        }
    }
}

impl Bounded for Request {
    fn within_limits(&self) -> bool {
        match self {
            Self::Offer(offer) | Self::OfferUnpacked(offer) => offer.image.within_limits(),
            Self::Pull(pull) | Self::PullUnpacked(pull) => pull.platform.as_ref().is_none_or(platform),
            Self::Get(get) => get.within_limits(),
            Self::List | Self::Describe(_) | Self::Where(_) | Self::Instance => true,
            Self::Members(list) => list.within_limits(),
            Self::Date(date) => date.within_limits(),
            Self::Share(share) => share.within_limits(),
            Self::Sources(sources) => sources.within_limits(),
            Self::EndJob(_) | Self::Hashes(_) | Self::Proof(_) => true,
            Self::Send(send) => send.within_limits(),
        }
    }
}

impl Bounded for Get {
    fn within_limits(&self) -> bool {
        self.offset.is_multiple_of(RANGE_BYTES) && self.offset <= BLOB_BYTES && self.length_bytes <= EXTENT_BYTES
    }
}

impl Bounded for Refusal {
    fn within_limits(&self) -> bool {
        match self {
            Self::Policy(text) | Self::InvalidImage(text) | Self::Store(text) | Self::Unsupported(text) | Self::StoreUnavailable(text) => {
                text.len() <= TEXT_BYTES
            }
            Self::PlatformAbsent { wanted, available } => {
                platform(wanted) && available.len() <= IMAGE_MANIFESTS && available.iter().all(platform)
            }
            _ => true,
        }
    }
}

impl Refusal {
    /// The refusal as a host with these capabilities understands it.
    pub fn for_capabilities(self, capabilities: u64) -> Self {
        match self {
            Self::StoreUnavailable(reason) if capabilities & SIGNS_OF_LIFE == 0 => Self::Store(reason),
            Self::UnpackedOnly(_) if capabilities & FORMS == 0 => Self::Store(self.to_string()),
            refusal => refusal,
        }
    }
}

impl Bounded for Block {
    fn within_limits(&self) -> bool {
        match self {
            Self::Bytes(header) => {
                header.encoded_bytes <= BLOCK_BYTES && (1..=BLOCK_BYTES / RANGE_BYTES).contains(&(header.after.len() as u64))
            }
            Self::Refused(refusal) => refusal.within_limits(),
            Self::Waiting | Self::Hashing(_) => true,
        }
    }
}

impl Bounded for Answer {
    fn within_limits(&self) -> bool {
        match self {
            Self::Offer(offer) => offer.image.within_limits(),
            Self::Where(addresses) => addresses.len() <= GROUPS,
            Self::Hashes(hashes) => hashes.len() <= HASHES,
            Self::Trouble(_) | Self::Proof(_) | Self::Hashing(_) | Self::Working | Self::Instance(_) => true,
            Self::Drawn(sources) => sources.len() <= MEMBERS,
            Self::Event(event) => event.within_limits(),
            Self::Want(want) => want.missing.len() <= IMAGE_BLOBS,
            Self::Images(rows) => rows.len() <= NAMES && rows.iter().all(Bounded::within_limits),
            Self::Described(image) => image.as_ref().is_none_or(Bounded::within_limits),
            Self::Refused(refusal) => refusal.within_limits(),
            Self::Progress(_) | Self::Corrupt(_) | Self::Committed(_) | Self::Done => true,
        }
    }
}

impl Bounded for ImageRow {
    fn within_limits(&self) -> bool {
        self.platforms.len() <= IMAGE_MANIFESTS && self.platforms.iter().all(platform)
    }
}

impl Bounded for Image {
    fn within_limits(&self) -> bool {
        let descriptor = |d: &Descriptor, most_bytes| d.media_type.len() <= 255 && d.size_bytes <= most_bytes;
        let layers =
            |m: &crate::Manifest| m.layers.len() <= LAYERS && m.layers.iter().all(|layer| descriptor(&layer.descriptor, BLOB_BYTES));
        let document = |d: &Descriptor| descriptor(d, MANIFEST_BYTES);
        document(&self.root)
            && (1..=IMAGE_MANIFESTS).contains(&self.manifests.len())
            && self.indexes.len() <= IMAGE_MANIFESTS
            && self.indexes.iter().all(document)
            && self.manifests.iter().all(|m| {
                m.platform.as_ref().is_none_or(platform) && layers(m) && document(&m.descriptor) && descriptor(&m.config, CONFIG_BYTES)
            })
            && self.manifests.iter().map(|m| m.layers.len() + 2).sum::<usize>() <= IMAGE_BLOBS
    }
}

fn short(text: &str) -> bool {
    text.len() <= 255
}

fn platform(platform: &Platform) -> bool {
    platform.is_short()
}
