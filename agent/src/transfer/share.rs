//! Serving other hosts of a fan-out: what has arrived here, as it arrives.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::Digest;
use proto::hash::RangeHash;
use proto::limits::{BLOCK_BYTES, HASHES, SOURCE_SILENCE_MS};
use proto::peer::{Answer, Block, Get, HashingProgress, Refusal, SIGNS_OF_LIFE};
use serde::Serialize;

use super::job::{Job, JobBlob, Place, proof_of};
use super::provide::{fits, hashing_block, header, in_order, refuse, serve_store};
use super::{Context, refusal, serve};
use crate::net::{NetError, Peer, Stream};
use crate::staging::StagedReader;
use crate::store::Store;
use crate::sys;

/// Whoever waits for us hears this often that we wait ourselves.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// Serves one range of a layer of a job, waiting for it where it has not arrived yet.
pub(super) async fn share<S: Store>(
    context: &Context<S>,
    peer: &Peer,
    stream: &mut Stream,
    job: &Arc<Job>,
    get: Get,
) -> Result<(), NetError> {
    job.read();
    let Some(blob) = job.blob(&get.digest).filter(|blob| fits(&get, blob.descriptor.size_bytes)) else {
        return refuse(peer, stream, Refusal::OutOfTurn).await;
    };
    let Some(place) = waiting(stream, arrived(blob)).await? else {
        return refuse(peer, stream, Refusal::BlobNotOffered(get.digest)).await;
    };
    match place {
        Place::Staged(reader) => serve_staged(peer, stream, job, blob, &reader, get).await,
        _ => match stored_hashes(context, blob, stream, hashing_block(peer)).await? {
            Ok(hashes) => serve_store(&*context.store, peer, stream, &blob.descriptor, &hashes, get, None).await,
            Err(error) => refuse(peer, stream, error).await,
        },
    }
}

/// All hashes of a layer of a job.
pub(super) async fn hashes_to<S: Store>(
    context: &Context<S>,
    peer: &Peer,
    stream: &mut Stream,
    job: &Arc<Job>,
    digest: Digest,
) -> Result<(), NetError> {
    let Some(blob) = job.blob(&digest) else {
        return stream.send(&Answer::Refused(Refusal::BlobNotOffered(digest))).await;
    };
    match hashes(context, blob, peer, stream).await? {
        Ok(hashes) => send_hashes(stream, &hashes).await,
        Err(refusal) => serve::refuse(peer, stream, refusal).await,
    }
}

/// The hashes of an offered blob, in as many messages as it takes.
pub(super) async fn send_hashes(stream: &mut Stream, hashes: &[RangeHash]) -> Result<(), NetError> {
    for chunk in hashes.chunks(HASHES) {
        stream.send(&Answer::Hashes(chunk.to_vec())).await?;
    }
    Ok(())
}

/// What all of them hash to.
pub(super) async fn send_proof(stream: &mut Stream, hashes: &[RangeHash]) -> Result<(), NetError> {
    stream.send(&Answer::Proof(proof_of(hashes))).await
}

/// What `peer` hears, where it asks for hashes, while a blob is hashed; nothing, when it does not understand it.
pub(super) fn hashing_answer(peer: &Peer) -> impl Fn(HashingProgress) -> Answer + use<> {
    let understands = peer.hello().capabilities & SIGNS_OF_LIFE != 0;
    // An older host has given up by then.
    move |progress| if understands { Answer::Hashing(progress) } else { Answer::Refused(Refusal::Busy) }
}

/// The store knows the hashes of what is in it, or finds them; those of what arrives come before it.
async fn hashes<S: Store>(
    context: &Context<S>,
    blob: &JobBlob,
    peer: &Peer,
    stream: &mut Stream,
) -> Result<Result<Arc<[RangeHash]>, Refusal>, NetError> {
    let mut known = blob.hashes.subscribe();
    if let Some(hashes) = known.borrow().clone() {
        return Ok(Ok(hashes));
    }
    let place = blob.place().borrow().clone();
    if matches!(place, Place::Nowhere) {
        return Ok(Err(Refusal::BlobNotOffered(blob.descriptor.digest)));
    }
    if matches!(place, Place::Store) {
        return stored_hashes(context, blob, stream, hashing_answer(peer)).await;
    }
    // Whoever asks does not wait for longer.
    let hashes = sys::deadline(SOURCE_SILENCE_MS, known.wait_for(Option::is_some)).await;
    let hashes = hashes.and_then(Result::ok).and_then(|hashes| hashes.clone());
    // They are on their way here.
    Ok(hashes.ok_or(Refusal::Busy))
}

/// The hashes of a blob that is in the store.
async fn stored_hashes<S: Store, M: Serialize>(
    context: &Context<S>,
    blob: &JobBlob,
    stream: &mut Stream,
    sign: impl Fn(HashingProgress) -> M,
) -> Result<Result<Arc<[RangeHash]>, Refusal>, NetError> {
    if let Some(hashes) = blob.hashes.borrow().clone() {
        return Ok(Ok(hashes));
    }
    let hashing = context.hashings.begin(context.store.clone(), &blob.descriptor, None);
    let hashed = hashing.hashes_for(stream, sign).await?;
    if let Ok(hashes) = &hashed {
        blob.hashes.send_replace(Some(hashes.clone()));
    }
    Ok(hashed.map_err(|error| refusal(&error)))
}

/// Where the blob is, once it is somewhere; `None`: it will not come.
async fn arrived(blob: &JobBlob) -> Option<Place> {
    let mut place = blob.place();
    let place = place.wait_for(|place| !matches!(place, Place::Awaited)).await.ok()?.clone();
    (!matches!(place, Place::Nowhere)).then_some(place)
}

async fn serve_staged(
    peer: &Peer,
    stream: &mut Stream,
    job: &Job,
    blob: &JobBlob,
    reader: &StagedReader,
    get: Get,
) -> Result<(), NetError> {
    let (mut offset, end) = (get.offset, get.offset + get.length_bytes);
    in_order(stream, &get);
    loop {
        let available = waiting(stream, reader.available(offset, (end - offset).min(BLOCK_BYTES))).await?;
        let (Some(length_bytes), false) = (available, job.ended.is_cancelled()) else {
            return refuse(peer, stream, Refusal::BlobNotOffered(get.digest)).await;
        };
        // What an earlier session left here may have been verified with others, of a source that lied.
        let header = blob.hashes.borrow().as_deref().map(|hashes| header(hashes, offset, length_bytes));
        let verified = reader.hashes(offset..offset + length_bytes);
        let Some(header) = header.filter(|header| verified.is_some_and(|(before, after)| before == header.before && after == header.after))
        else {
            return refuse(peer, stream, Refusal::BlobNotOffered(get.digest)).await;
        };
        // One block at a time, in its turn: nothing is held while the next one is awaited.
        let _share = waiting(stream, peer.block_out()).await?;
        let (reading, range) = (reader.clone(), offset..offset + length_bytes);
        let bytes = match sys::blocking_in(sys::Lane::Read, move || reading.read(range)).await {
            Ok(bytes) => Bytes::from(bytes),
            Err(error) => return refuse(peer, stream, refusal(&error)).await,
        };
        stream.send(&Block::Bytes(header)).await?;
        stream.write(bytes).await?;
        job.read();
        offset += length_bytes;
        if offset >= end {
            stream.finish();
            return Ok(());
        }
    }
}

/// The output of `future`; until it comes, whoever reads the stream hears that it is not forgotten.
pub(super) async fn waiting<T>(stream: &mut Stream, future: impl Future<Output = T>) -> Result<T, NetError> {
    let mut future = std::pin::pin!(future);
    loop {
        match tokio::time::timeout(SIGN_OF_LIFE, &mut future).await {
            Ok(output) => return Ok(output),
            Err(_) => stream.send(&Block::Waiting).await?,
        }
    }
}
