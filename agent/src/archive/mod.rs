//! Images as tar archives: what `docker save`, `podman save`, skopeo, umoci and containerd write and load.
//!
//! [`load`] reads an archive once, from first byte to last, with constant memory: every member is staged as it passes, because the layers
//! come before the manifest that names them. What is in an archive is a stranger's word: every digest, diff ID, name and size is checked
//! before anything of it becomes visible. [`save`] writes an archive that every engine loads.

mod contents;
mod diff_id;
mod find;
mod foreign;
mod input;
mod name;
mod read;
mod sink;
mod tape;
mod write;

use proto::image::ImageError;
use proto::reference::InvalidReference;
use proto::text::escape_short;
use proto::{Digest, Reference};

use crate::store::StoreError;

pub use diff_id::of as diff_id;
pub use foreign::Foreign;
pub use read::{Loaded, NotLoaded, Report, load};
pub use write::save;

/// Why an archive is not loaded or not written.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Whoever sends the archive failed.
    #[error("cannot read the archive")]
    Input(#[source] std::io::Error),
    /// It ends in the middle.
    #[error("the archive is empty or truncated")]
    Truncated,
    /// Its gzip or zstd frame is damaged.
    #[error("the archive cannot be decompressed: {0}")]
    Decompress(String),
    /// Packed in a way that is not read here.
    #[error("the archive is packed with {}: {} FILE | imgctl load", .0.name, .0.command)]
    Packed(Foreign),
    /// The window of its zstd frames takes more memory than is given.
    #[error("the zstd frame of the archive needs more than 128 MiB of memory: zstd -dc --long=31 FILE | imgctl load")]
    Window,
    /// Something that is no tar archive at all.
    #[error("this is not a tar archive")]
    NotAnArchive,
    /// A header that no tar writes.
    #[error("the header behind {} is not valid: {reason}", shown(.after))]
    Header {
        /// The last member that was read.
        after: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Neither `index.json` nor `manifest.json`: no image archive.
    #[error("the archive has neither index.json nor manifest.json: it is not an image archive")]
    NoManifest,
    /// Its documents name nothing.
    #[error("the archive names no image")]
    NoImage,
    /// Nobody waits for it any more.
    #[error("whoever loaded the archive went away")]
    Stopped,
    /// A name with the digest of something else.
    #[error("{} is not the name of {}", .name.familiar(), .digest)]
    OtherDigest {
        /// The name.
        name: Box<Reference>,
        /// What the archive gives it to.
        digest: Digest,
    },
    /// The files of a container.
    #[error("this is the file system of a container, as docker export writes it, and no image: docker import FILE NAME makes one of it")]
    FileSystem,
    /// Something is not there, and the archive ends without the mark that ends one.
    #[error("{0}: the archive was cut off")]
    CutOff(Box<ArchiveError>),
    /// More members than any image has.
    #[error("the archive has more than {limit} members")]
    TooManyMembers {
        /// The limit.
        limit: usize,
    },
    /// A member that is larger than any honest one.
    #[error("{} is {size_bytes} bytes long, the limit is {limit_bytes}", shown(.member))]
    TooLarge {
        /// Which.
        member: String,
        /// As its header says.
        size_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// One name, two contents.
    #[error("{} is in the archive twice, with different content", shown(.0))]
    Duplicate(String),
    /// A name that leads out of the archive.
    #[error("the name {} leads out of the archive", shown(.0))]
    NameOutside(String),
    /// A link that leads out of the archive.
    #[error("the link {} leads out of the archive", shown(.0))]
    LinkOutside(String),
    /// Links that lead to each other.
    #[error("the link {} leads in a circle", shown(.0))]
    LinkCircle(String),
    /// A kind of member that an image archive does not have.
    #[error("{} is a {kind}, which an image archive does not have", shown(.member))]
    Unsupported {
        /// Which.
        member: String,
        /// `sparse file` …
        kind: &'static str,
    },
    /// A member that another one names is not there.
    #[error("{} is not in the archive", shown(.0))]
    MemberMissing(String),
    /// A blob that an image needs is neither in the archive nor in the store.
    #[error("blob {0} is neither in the archive nor here")]
    BlobMissing(Digest),
    /// The content of a blob is not what its name says.
    #[error("{} does not have the content that its name says, but {found}", shown(.member))]
    DigestMismatch {
        /// Which.
        member: String,
        /// The digest of what it has.
        found: Digest,
    },
    /// A layer does not unpack to what the config says.
    #[error("layer {layer} unpacks to {found}, the image config says {expected}")]
    DiffIdMismatch {
        /// Digest of the layer.
        layer: Digest,
        /// Of the config.
        expected: Digest,
        /// Of what is in it.
        found: Digest,
    },
    /// A layer that is packed in a way that no image has.
    #[error("layer {layer} is packed with {}, which is none of the ways of an image: docker load takes it, and docker save | imgctl load after that", .packing.name)]
    LayerPacked {
        /// Digest of the layer.
        layer: Digest,
        /// How.
        packing: Foreign,
    },
    /// A layer that cannot be unpacked.
    #[error("layer {layer} cannot be decompressed: {reason}")]
    Layer {
        /// Digest of the layer.
        layer: Digest,
        /// What is wrong with it.
        reason: String,
    },
    /// A document of the archive is not what it should be.
    #[error("{} is not valid: {}", shown(.member), escape_short(.reason, 300))]
    Malformed {
        /// Which.
        member: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An image is named as no image can be.
    #[error(transparent)]
    Name(#[from] InvalidReference),
    /// Something that the format cannot hold.
    #[error("{0} is not the image of a container, which is all that an archive for docker load can hold: --format oci")]
    NoContainer(String),
    /// A blob of the store is damaged: the archive that was begun is worth nothing.
    #[error("blob {0} is corrupt in the store")]
    Corrupt(Digest),
    /// Nobody takes the archive any more.
    #[error("the receiver of the archive is gone")]
    OutputClosed,
    /// The output cannot be compressed.
    #[error("cannot compress the archive")]
    Compress(#[source] std::io::Error),
    /// The store failed, or the disk is full.
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for ArchiveError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::BlobMissing(digest) | StoreError::Image(ImageError::Absent { digest }) => Self::BlobMissing(digest),
            error => Self::Store(error),
        }
    }
}

impl From<ImageError> for ArchiveError {
    fn from(error: ImageError) -> Self {
        StoreError::Image(error).into()
    }
}

/// A member's name as it may be shown.
fn shown(member: &str) -> String {
    format!("\"{}\"", escape_short(member, 200))
}
