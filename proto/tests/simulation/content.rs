//! Symbolic blobs: the content of a range is a number, and its hash is computed from this number and the hash before it.
//!
//! Hashes form a chain from the start to the digest, like the real ones (`proto::hash`). A source can lie about bytes, about hashes, or about both
//! consistently, and is detected at the same step as in a real transfer. No megabyte is hashed.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::descriptor::media_type;
use proto::hash::{RangeHash, range_count};
use proto::limits::RANGE_BYTES;
use proto::{Descriptor, Digest, Image, Layer, Manifest};

use crate::random::{Random, mix};

/// A blob as it should be.
#[derive(Debug)]
pub(crate) struct Blob {
    pub(crate) descriptor: Descriptor,
    /// The content of each range.
    pub(crate) ranges: Vec<u64>,
    /// The hash after each range; the last one is the digest.
    pub(crate) hashes: Arc<[RangeHash]>,
}

/// All blobs of a simulation, as they should be.
pub(crate) type Blobs = BTreeMap<Digest, Arc<Blob>>;

impl Blob {
    /// A blob of so many bytes, with content of its own.
    pub(crate) fn new(media_type: &str, size_bytes: u64, random: &mut Random) -> Self {
        let ranges: Vec<u64> = (0..range_count(size_bytes)).map(|_| random.next()).collect();
        let mut hashes = vec![];
        let mut before = RangeHash::START;
        for content in &ranges {
            before = follow(&before, *content);
            hashes.push(before);
        }
        let digest = Digest::from_bytes(*before.as_bytes());
        Self { descriptor: Descriptor { media_type: media_type.to_owned(), digest, size_bytes }, ranges, hashes: hashes.into() }
    }

    /// The hash before a range.
    pub(crate) fn before(&self, index: usize) -> RangeHash {
        index.checked_sub(1).map_or(RangeHash::START, |last| self.hashes[last])
    }
}

/// A range with the hashes that it came with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    pub(crate) content: u64,
    pub(crate) before: RangeHash,
    pub(crate) after: RangeHash,
}

impl Part {
    /// A range as it should be.
    pub(crate) fn of(blob: &Blob, index: usize) -> Self {
        Self { content: blob.ranges[index], before: blob.before(index), after: blob.hashes[index] }
    }
}

/// The hash after a range of such content.
pub(crate) fn follow(before: &RangeHash, content: u64) -> RangeHash {
    let (halves, _) = before.as_bytes().as_chunks::<8>();
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&mix(u64::from_le_bytes(halves[0]) ^ content.rotate_left(17)).to_le_bytes());
    RangeHash::from_bytes(bytes)
}

/// The proof of all hashes of a blob: the hash of the hashes.
pub(crate) fn proof_of(hashes: &[RangeHash]) -> Digest {
    let bytes: Vec<u8> = hashes.iter().flat_map(|hash| *hash.as_bytes()).collect();
    Digest::of(&bytes)
}

/// The range that begins at a byte.
pub(crate) fn index(offset: u64) -> usize {
    (offset / RANGE_BYTES) as usize
}

/// Length of one range: [`RANGE_BYTES`], or less at the end of the blob.
pub(crate) fn range_bytes(size_bytes: u64, index: usize) -> u64 {
    RANGE_BYTES.min(size_bytes - index as u64 * RANGE_BYTES)
}

/// An image of these layers, with documents of its own, which are added to `blobs`.
pub(crate) fn image(name: &str, layers: &[Digest], blobs: &mut Blobs, random: &mut Random) -> Image {
    let mut document = |media_type, most_bytes| {
        let blob = Blob::new(media_type, random.between(100, most_bytes), random);
        let descriptor = blob.descriptor.clone();
        blobs.insert(descriptor.digest, Arc::new(blob));
        descriptor
    };
    let (root, config) = (document(media_type::MANIFEST, 2_000), document(media_type::CONFIG, 4_000));
    let layers = layers.iter().map(|digest| Layer { descriptor: blobs[digest].descriptor.clone(), diff_id: None }).collect();
    let manifest = Manifest { descriptor: root.clone(), platform: None, config, layers };
    Image { reference: name.parse().ok(), root, indexes: vec![], manifests: vec![manifest] }
}
