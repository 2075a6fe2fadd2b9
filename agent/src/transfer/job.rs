//! Fan-outs that this host takes part in: what it may serve to the other hosts, and where it is told to read.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use proto::hash::{RangeHash, range_count};
use proto::job::{JobId, Sources};
use proto::{Descriptor, Digest, HostId};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::staging::StagedReader;

/// All of them. What nobody holds any more is forgotten.
#[derive(Debug, Default)]
pub struct Jobs(Mutex<Vec<Weak<Job>>>);

/// One image of one fan-out, at a host that receives it.
#[derive(Debug)]
pub(super) struct Job {
    /// Its name.
    pub(super) id: JobId,
    /// The host that started it.
    pub(super) head: HostId,
    members: HashSet<HostId>,
    blobs: HashMap<Digest, JobBlob>,
    sources: watch::Sender<Vec<HostId>>,
    /// Of the last word on them.
    number: AtomicU64,
    /// When another host last read here.
    read_at: Mutex<Instant>,
    /// Cancelled when the head says that it is over.
    pub(super) ended: CancellationToken,
    /// Cancelled when the head offers it again: it was lost, and is back.
    pub(super) renewed: CancellationToken,
}

/// A blob of the image.
#[derive(Debug)]
pub(super) struct JobBlob {
    /// Which.
    pub(super) descriptor: Descriptor,
    /// Of all its ranges, once they are proven.
    pub(super) hashes: watch::Sender<Option<Arc<[RangeHash]>>>,
    place: watch::Sender<Place>,
    /// Held by whoever asks for the hashes.
    pub(super) asking: tokio::sync::Mutex<()>,
}

/// Where a blob is.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// In the store.
    Store,
    /// It will come.
    Awaited,
    /// It is coming, or has come and is read from where it arrived.
    Staged(StagedReader),
    /// It has not come, and will not.
    Nowhere,
}

impl Jobs {
    /// Takes part in a job as long as the result is held.
    pub(super) fn join(&self, head: HostId, id: JobId, members: &[HostId], blobs: impl Iterator<Item = (Descriptor, Place)>) -> Arc<Job> {
        let blobs = blobs.map(|(descriptor, place)| (descriptor.digest, JobBlob::new(descriptor, place))).collect();
        let members = members.iter().copied().collect();
        let (ended, renewed) = (CancellationToken::new(), CancellationToken::new());
        let job = Arc::new(Job {
            id,
            head,
            members,
            blobs,
            sources: watch::Sender::new(vec![]),
            number: AtomicU64::new(0),
            read_at: Mutex::new(Instant::now()),
            ended,
            renewed,
        });
        self.of(&head, id).iter().for_each(|old| old.renewed.cancel());
        let mut jobs = self.jobs();
        jobs.retain(|job| job.strong_count() > 0);
        jobs.push(Arc::downgrade(&job));
        job
    }

    /// A job in which this host may read this blob: of several, one where it is there already.
    pub(super) fn find(&self, host: &HostId, digest: &Digest) -> Option<Arc<Job>> {
        let jobs = self.jobs();
        let living = jobs.iter().filter_map(Weak::upgrade).filter(|job| job.members.contains(host));
        let rank = |job: &Arc<Job>| job.blob(digest).map(|blob| blob.place.borrow().rank());
        living.filter(|job| rank(job).is_some()).max_by_key(rank)
    }

    /// The head says where to read. What is not of the job is ignored.
    pub(super) fn set_sources(&self, head: &HostId, sources: &Sources) {
        for job in self.of(head, sources.job) {
            if job.number.fetch_max(sources.number, Ordering::Relaxed) >= sources.number {
                continue;
            }
            let known = |host: &&HostId| **host == job.head || job.members.contains(*host);
            job.sources.send_replace(sources.hosts.iter().filter(known).copied().collect());
        }
    }

    /// How many of a head there are.
    pub(super) fn count(&self, head: &HostId) -> usize {
        self.jobs().iter().filter_map(Weak::upgrade).filter(|job| job.head == *head).count()
    }

    /// The head says that it is over.
    pub(super) fn end(&self, head: &HostId, id: JobId) {
        self.of(head, id).iter().for_each(|job| job.ended.cancel());
    }

    fn of(&self, head: &HostId, id: JobId) -> Vec<Arc<Job>> {
        self.jobs().iter().filter_map(Weak::upgrade).filter(|job| job.head == *head && job.id == id).collect()
    }

    fn jobs(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Job>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Job {
    /// A layer of the image.
    pub(super) fn blob(&self, digest: &Digest) -> Option<&JobBlob> {
        self.blobs.get(digest)
    }

    /// Who takes part, without the head.
    pub(super) fn members(&self) -> impl Iterator<Item = &HostId> + Clone {
        self.members.iter()
    }

    /// Where to read, the best source first; empty until the head has said it.
    pub(super) fn sources(&self) -> watch::Receiver<Vec<HostId>> {
        self.sources.subscribe()
    }

    /// Another host reads here now.
    pub(super) fn read(&self) {
        *self.read_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Resolves when nobody has read here for so long.
    pub(super) async fn unread_for(&self, time: Duration) {
        loop {
            let idle = self.read_at.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
            if idle >= time {
                return;
            }
            tokio::time::sleep(time - idle).await;
        }
    }

    /// What was still awaited will not come.
    pub(super) fn give_up(&self) {
        for blob in self.blobs.values() {
            blob.place.send_if_modified(|place| {
                let is_awaited = matches!(place, Place::Awaited);
                if is_awaited {
                    *place = Place::Nowhere;
                }
                is_awaited
            });
        }
    }
}

impl Place {
    /// The higher, the sooner something can be read.
    fn rank(&self) -> u8 {
        match self {
            Self::Nowhere => 0,
            Self::Awaited => 1,
            Self::Staged(_) => 2,
            Self::Store => 3,
        }
    }
}

impl JobBlob {
    fn new(descriptor: Descriptor, place: Place) -> Self {
        Self { descriptor, hashes: watch::Sender::new(None), place: watch::Sender::new(place), asking: tokio::sync::Mutex::default() }
    }

    /// Where it is, now and later.
    pub(super) fn place(&self) -> watch::Receiver<Place> {
        self.place.subscribe()
    }

    /// It is somewhere else from now on.
    pub(super) fn put(&self, place: Place) {
        self.place.send_replace(place);
    }

    /// Keeps the hashes of its ranges, and gives them back, when they are what the head has proven.
    pub(super) fn prove(&self, hashes: Vec<RangeHash>, proof: &Digest) -> Option<Arc<[RangeHash]>> {
        let is_whole = hashes.len() as u64 == range_count(self.descriptor.size_bytes);
        let is_proven = is_whole && hashes.last() == Some(&self.descriptor.digest.into()) && proof_of(&hashes) == *proof;
        let hashes: Arc<[RangeHash]> = hashes.into();
        is_proven.then(|| {
            self.hashes.send_replace(Some(hashes.clone()));
            hashes
        })
    }
}

/// What stands for all hashes of a blob.
pub(super) fn proof_of(hashes: &[RangeHash]) -> Digest {
    let bytes: Vec<u8> = hashes.iter().flat_map(|hash| *hash.as_bytes()).collect();
    Digest::of(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_host_serves_as_long_as_somebody_reads() {
        let (jobs, head) = (Jobs::default(), HostId::of_public_key(b"head"));
        let job = jobs.join(head, JobId([0; 16]), &[], std::iter::empty());
        let reading = async {
            for _ in 0..30 {
                tokio::time::sleep(Duration::from_secs(50)).await;
                job.read();
            }
        };
        let idle = Duration::from_secs(60);
        let begun = tokio::time::Instant::now();
        tokio::join!(reading, job.unread_for(idle));
        assert!(begun.elapsed() >= Duration::from_secs(1500) + idle, "{:?}", begun.elapsed());
    }
}
