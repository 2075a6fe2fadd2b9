//! The answer to a `Get`: blocks of a blob, each with the hashes that prove it.

use std::ops::Range;

use bytes::Bytes;
use proto::Descriptor;
use proto::hash::RangeHash;
use proto::limits::{BLOCK_BYTES, RANGE_BYTES, SHARED_BLOCK_BYTES, SHARED_EXTENT_BYTES};
use proto::peer::{Block, BlockHeader, Encoding, Get, HashingProgress, Refusal, SIGNS_OF_LIFE};
use tracing::debug;

use super::offers::Offer;
use super::{Context, refusal, share};
use crate::net::{NetError, Peer, Stream};
use crate::store::{Reader, Store, StoreError};

/// Serves one range to a host to which the blob was offered, or that is in a fan-out with us.
pub(super) async fn provide<S: Store>(context: &Context<S>, peer: &Peer, stream: &mut Stream, get: Get) -> Result<(), NetError> {
    let Some(offer) = context.offers.find(&peer.id(), &get.digest) else {
        return match context.jobs.find(&peer.id(), &get.digest) {
            Some(job) => share::share(context, peer, stream, &job, get).await,
            None => refuse(peer, stream, Refusal::BlobNotOffered(get.digest)).await,
        };
    };
    let Some(blob) = offer.blob(&get.digest).filter(|blob| fits(&get, blob.size_bytes)).cloned() else {
        return refuse(peer, stream, Refusal::OutOfTurn).await;
    };
    let hashing = match offer.hashing(&get.digest, context) {
        Ok(hashing) => hashing,
        Err(error) => return refuse_for(Some(&offer), peer, stream, &error).await,
    };
    match hashing.hashes_for(stream, hashing_block(peer)).await? {
        Ok(hashes) => serve_store(&*context.store, peer, stream, &blob, &hashes, get, Some(&offer)).await,
        Err(error) => {
            debug!(blob = %get.digest, %error, "cannot serve");
            offer.fail(&error);
            refuse(peer, stream, offer.unhashed(&get.digest, &error)).await
        }
    }
}

/// What `peer` hears on a blob stream while the blob is hashed.
pub(super) fn hashing_block(peer: &Peer) -> impl Fn(HashingProgress) -> Block + use<> {
    let understands = peer.hello().capabilities & SIGNS_OF_LIFE != 0;
    move |progress| if understands { Block::Hashing(progress) } else { Block::Waiting }
}

/// Serves a range of what is in the store, for an offer or for nobody's account. At full speed a reader reads ahead; what is limited, and what goes
/// beyond the ranges that the peer may read so, is read block by block, and holds nothing while it waits.
pub(super) async fn serve_store<S: Store>(
    store: &S,
    peer: &Peer,
    stream: &mut Stream,
    blob: &Descriptor,
    hashes: &[RangeHash],
    get: Get,
    offer: Option<&Offer>,
) -> Result<(), NetError> {
    let is_shared = offer.is_none_or(Offer::is_shared);
    if is_shared {
        in_order(stream, &get);
    }
    let turn = if offer.is_some_and(Offer::is_limited) { None } else { peer.provide() };
    let block_bytes = if is_shared || turn.is_none() { SHARED_BLOCK_BYTES } else { BLOCK_BYTES };
    let range = get.offset..get.offset + get.length_bytes;
    let source = match turn {
        Some(_) => store.read(blob, range.clone()).await.map(|reader| Some(Blocks::new(reader, range.end - range.start, block_bytes))),
        None => Ok(None),
    };
    let mut ahead = match source {
        Ok(ahead) => ahead,
        Err(error) => return refuse_for(offer, peer, stream, &error).await,
    };
    let mut offset = range.start;
    // An empty blob has one empty block.
    loop {
        let length_bytes = (range.end - offset).min(block_bytes);
        if let Some(offer) = offer {
            share::waiting(stream, offer.pass(length_bytes)).await?;
        }
        let block = match &mut ahead {
            Some(blocks) => (blocks.next().await, None),
            None => {
                let share = share::waiting(stream, peer.block_out()).await?;
                (one_block(store, blob, offset..offset + length_bytes).await, share)
            }
        };
        let (bytes, _share) = match block {
            (Ok(bytes), share) => (bytes, share),
            (Err(error), _) => return refuse_for(offer, peer, stream, &error).await,
        };
        if bytes.len() as u64 != length_bytes {
            return refuse(peer, stream, Refusal::Corrupt(get.digest)).await;
        }
        stream.send(&Block::Bytes(header(hashes, offset, length_bytes))).await?;
        stream.write(bytes).await?;
        offset += length_bytes;
        if offset >= range.end {
            stream.finish();
            return Ok(());
        }
    }
}

async fn one_block<S: Store>(store: &S, blob: &Descriptor, range: Range<u64>) -> Result<Bytes, StoreError> {
    store.read(blob, range).await?.all().await
}

/// In a fan-out what comes first goes first: side by side, all of it would come late to the next host.
pub(super) fn in_order(stream: &Stream, get: &Get) {
    stream.prefer(-i32::try_from(get.offset / SHARED_EXTENT_BYTES).unwrap_or(i32::MAX));
}

/// Whole ranges, and inside the blob.
pub(super) fn fits(get: &Get, size_bytes: u64) -> bool {
    let end = get.offset + get.length_bytes;
    end <= size_bytes && (end == size_bytes || end.is_multiple_of(RANGE_BYTES)) && (get.length_bytes > 0 || size_bytes == 0)
}

pub(super) fn header(hashes: &[RangeHash], offset: u64, length_bytes: u64) -> BlockHeader {
    let first = (offset / RANGE_BYTES) as usize;
    let count = length_bytes.div_ceil(RANGE_BYTES).max(1) as usize;
    let before = if first == 0 { RangeHash::START } else { hashes[first - 1] };
    BlockHeader { encoding: Encoding::Raw, encoded_bytes: length_bytes, before, after: hashes[first..first + count].to_vec() }
}

/// This host's store fails: whoever sends here hears it, too.
async fn refuse_for(offer: Option<&Offer>, peer: &Peer, stream: &mut Stream, error: &StoreError) -> Result<(), NetError> {
    if let Some(offer) = offer {
        offer.fail(error);
    }
    refuse(peer, stream, refusal(error)).await
}

pub(super) async fn refuse(peer: &Peer, stream: &mut Stream, refusal: Refusal) -> Result<(), NetError> {
    stream.send(&Block::Refused(refusal.for_capabilities(peer.hello().capabilities))).await?;
    stream.finish();
    Ok(())
}

/// Cuts what a store reads, in pieces of any size, into blocks.
struct Blocks {
    reader: Reader,
    pending: Bytes,
    left_bytes: u64,
    block_bytes: u64,
}

impl Blocks {
    fn new(reader: Reader, left_bytes: u64, block_bytes: u64) -> Self {
        Self { reader, pending: Bytes::new(), left_bytes, block_bytes }
    }

    async fn next(&mut self) -> Result<Bytes, StoreError> {
        let want = self.left_bytes.min(self.block_bytes) as usize;
        self.left_bytes -= want as u64;
        if self.pending.len() >= want && want > 0 {
            return Ok(self.pending.split_to(want));
        }
        let mut block = Vec::from(std::mem::take(&mut self.pending));
        while block.len() < want {
            let Some(more) = self.reader.next().await? else { break };
            if block.is_empty() && more.len() >= want {
                // The usual case: the store reads in blocks, and nothing is copied.
                self.pending = more;
                return Ok(self.pending.split_to(want));
            }
            block.extend_from_slice(&more);
        }
        let mut block = Bytes::from(block);
        self.pending = block.split_off(want.min(block.len()));
        Ok(block)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pieces_of_any_size_become_blocks() {
        let (sender, reader) = Reader::channel();
        let bytes: Vec<u8> = (0..BLOCK_BYTES * 2 + 777).map(|i| (i % 251) as u8).collect();
        let left_bytes = bytes.len() as u64;
        let pieces: Vec<Bytes> = bytes.chunks(200_001).map(Bytes::copy_from_slice).collect();
        tokio::spawn(async move {
            for piece in pieces {
                sender.send(Ok(piece)).await.unwrap();
            }
        });
        let mut blocks = Blocks::new(reader, left_bytes, BLOCK_BYTES);
        let mut all = vec![];
        for expected in [BLOCK_BYTES, BLOCK_BYTES, 777] {
            let block = blocks.next().await.unwrap();
            assert_eq!(block.len() as u64, expected);
            all.extend_from_slice(&block);
        }
        assert_eq!(all, bytes);
    }

    #[test]
    fn only_whole_ranges_inside_the_blob_are_served() {
        let get = |offset, length_bytes| Get { digest: proto::Digest::of(b""), offset, length_bytes };
        let size = 3 * RANGE_BYTES + 5;
        assert!(fits(&get(0, RANGE_BYTES), size) && fits(&get(RANGE_BYTES, size - RANGE_BYTES), size) && fits(&get(0, 0), 0));
        assert!(!fits(&get(0, 5), size) && !fits(&get(0, size + 1), size) && !fits(&get(RANGE_BYTES, 0), size));
    }
}
