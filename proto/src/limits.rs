//! Every bound on what somebody else can make us do, each with its reason.
//!
//! Sizes are bytes, times are milliseconds. A peer that passes one of them is wrong or hostile; it is
//! refused with the name of the limit and never served half.

/// The unit of verification, of resume and of re-serving. Small, because in a chain of hosts each one passes
/// a range on only after checking it: the delay of a hop is the time of one range. A multiple of the
/// 64-byte SHA-256 block, so that the hash can be continued at every boundary.
pub const RANGE_BYTES: u64 = 64 * 1024;

/// Payload behind one block header on a blob stream: 8 ranges. A receiver that dies loses at most one block of each open stream.
pub const BLOCK_BYTES: u64 = 8 * RANGE_BYTES;

/// The most bytes that one `Get` asks for. Bounds what a dead source takes with it.
pub const EXTENT_BYTES: u64 = 32 * BLOCK_BYTES;

/// A frame from a peer that has not been welcomed: greetings and join messages are far smaller.
pub const FRAME_BEFORE_WELCOME: usize = 64 * 1024;

/// A frame from a welcomed peer, or from `imgctl`: an offer of 1024 layers is about 120 KiB.
pub const FRAME: usize = 4 * 1024 * 1024;

/// The signed member list, the one large thing a peer may send before it is welcomed: 2,000 hosts fit.
pub const FRAME_MEMBERS: usize = 1024 * 1024;

/// Payload of one data frame of an archive between `imgctl` and `imgd`.
pub const DATA_BYTES: usize = 1024 * 1024;

/// A manifest or an index. The limit of the registries that people use.
pub const MANIFEST_BYTES: u64 = 4 * 1024 * 1024;

/// An image config: larger than a manifest, because build histories are in it.
pub const CONFIG_BYTES: u64 = 8 * 1024 * 1024;

/// One layer. Larger ones are not images but disk dumps; also keeps every offset far from overflow.
pub const BLOB_BYTES: u64 = 1 << 40;

/// Layers of one manifest. Overlay file systems end at 128 or 500.
pub const LAYERS: usize = 1024;

/// Manifests of one index.
pub const MANIFESTS: usize = 512;

/// Indexes within indexes.
pub const INDEX_DEPTH: usize = 4;

/// Manifests of one image that travel together (all platforms of an index of indexes).
pub const IMAGE_MANIFESTS: usize = 1024;

/// Blobs of one offer, all platforms together.
pub const IMAGE_BLOBS: usize = 16 * 1024;

/// Names of one image in a list, hosts of one command, images of one command.
pub const NAMES: usize = 4096;

/// Members of one fleet, and of its list of removed ids.
pub const MEMBERS: usize = 4096;

/// Groups of one host, roles of one host.
pub const GROUPS: usize = 64;

/// A host or group name: a DNS label.
pub const HOST_NAME_BYTES: usize = 63;

/// Any other text that is shown to people: errors, versions, store names.
pub const TEXT_BYTES: usize = 4096;

/// One cause of a failure, which may name every host of a fleet.
pub const CAUSE_BYTES: usize = 64 * 1024;

/// Connections that one identity may hold here. Two that dial each other at once need two.
pub const CONNECTIONS_PER_HOST: usize = 4;

/// Handshakes under way at once; 8 of one address, half of them of strangers in one IPv6 /64, so that one host cannot take them all.
pub const HANDSHAKES: usize = 64;
/// See [`HANDSHAKES`].
pub const HANDSHAKES_PER_ADDRESS: usize = 8;

/// From the first packet to the Welcome.
pub const HANDSHAKE_TIMEOUT_MS: u64 = 5_000;

/// Streams that a welcomed peer may have open here at once.
pub const STREAMS: u32 = 64;

/// Connection receive window of a peer that has not been welcomed.
pub const WINDOW_BEFORE_WELCOME: u32 = 128 * 1024;

/// Connection receive window of a welcomed peer: what its streams may have under way together, 64 ms at 1 Gbit/s.
pub const WINDOW: u32 = 8 * 1024 * 1024;

/// Receive window of one stream. Four streams of a session times (window + block) stay below the 8 MiB that an interruption may cost.
/// And together they stay below the socket buffers of a server, so that a burst is not lost in the receiver's own kernel.
pub const STREAM_WINDOW: u32 = 512 * 1024;

/// Connection receive window of a second connection of the same peer, and of further ones. All that a peer holds here has to stay below 32 MiB.
pub const WINDOW_FURTHER: u32 = 1024 * 1024;

/// Bytes to one peer that it has not acknowledged, on its first connection; on a further one as many as [`WINDOW_FURTHER`].
pub const SEND_WINDOW: u64 = 6 * 1024 * 1024;

/// Sessions that one peer may have open here at once, over all its connections, each holding an import.
pub const SESSIONS_PER_HOST: usize = 16;

/// Ranges that one peer reads here at once at full speed, over all its connections: each holds up to four blocks. Further ones are served block by
/// block. One session at full speed, and a half.
pub const GETS_PER_HOST: usize = EXTENTS_AT_ONCE + EXTENTS_AT_ONCE / 2;

/// Blocks that are read for further ranges of one peer at once, and blocks of one peer that arrive and are not on the disk yet.
pub const BLOCKS_PER_HOST: usize = 2 * EXTENTS_AT_ONCE;

/// Ranges that we ask one peer for at once: less than the streams that it lets us open, so that questions are always answered.
pub const ASKED_PER_HOST: usize = 48;

/// Fan-outs of one host that are served on here after the image is complete: each keeps files open.
pub const JOBS_PER_HOST: usize = 64;

/// Documents that the sessions of one peer hold in memory until their images are committed: the largest config and the largest manifest of
/// one image.
pub const DOCUMENT_BYTES: u64 = CONFIG_BYTES + MANIFEST_BYTES;

/// A packed layer unpacks to at most so many times its size: a little more than what gzip comes to with zeros (1,032).
pub const UNPACKED_RATIO: u64 = 1_100;

/// What one blob of an offer takes in memory, in all places that know of it.
pub const OFFERED_BLOB_BYTES: u64 = 1024;

/// What the offers of one peer take in memory together; a single one may be larger.
pub const OFFERS_BYTES: u64 = 6 * 1024 * 1024;

/// Lists and descriptions that are made for one peer at once: each is in memory until the peer has read it.
pub const ANSWERS_PER_HOST: usize = 2;

/// Blobs of offers of one peer that are looked at in a second, in the mean: an offer of more is looked at, and the next one waits for as long as it was too
/// large.
pub const OFFERED_BLOBS_PER_S: u64 = 8_192;

/// A peer that has a stream open and sends nothing on it while we wait for it.
pub const STALL_TIMEOUT_MS: u64 = 30_000;

/// Pairs of an image and a host in one send.
pub const SEND_PAIRS: usize = 20_000;

/// Layers that another host may tell of while it sends for us.
pub const RELAYED_LAYERS: usize = 500_000;

/// Invitations that wait for a host. Each is tried against every join.
pub const INVITES: usize = 64;

/// Layers of one session that are fetched at the same time.
pub const BLOBS_AT_ONCE: usize = 4;

/// Extents of one session that are under way at the same time: enough to keep a link full while one of them ends and the next begins.
pub const EXTENTS_AT_ONCE: usize = 4;

/// Hashes of ranges in one message: 2 MiB of them, for 4 GiB of a blob.
pub const HASHES: usize = 64 * 1024;

/// Extents in a fan-out are smaller: whoever changes its source loses little, and the next host waits for little.
pub const SHARED_EXTENT_BYTES: u64 = 16 * RANGE_BYTES;

/// Blocks in a fan-out, at the host that starts it: the next host passes a block on when all of it is here, and so does the one behind that.
pub const SHARED_BLOCK_BYTES: u64 = RANGE_BYTES;

/// A source in a fan-out that says nothing for so long, not even that it waits itself, is given up for another one.
pub const SOURCE_SILENCE_MS: u64 = 3_000;
