//! The sends of this agent: those that go on, and the last ones that ended; in memory, and on disk where a client of this host has asked for them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::control::{Event, Failure, FailureKind, Send};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::failure::failure;
use super::job::{Asker, Job};
use super::journal::Journal;
use crate::store::StoreError;
use crate::sys;

/// Bytes of ended jobs that are remembered; those that other hosts asked for are counted for themselves.
const RECENT_BYTES: usize = 16 * 1024 * 1024;

/// How long a cancelled job may take to end, for whoever has cancelled it.
const CANCEL_MS: u64 = 2_000;

/// How often a job that goes on is saved at most.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// Jobs that run, and the last ones that ran, oldest first.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    jobs: Mutex<VecDeque<Arc<Job>>>,
    /// Carries them out. They end with it, and are waited for when the agent stops.
    tasks: Mutex<JoinSet<()>>,
    /// Where those of clients are kept; `None` in tests.
    journal: Option<Arc<Journal>>,
    /// The highest number that was given before this agent started.
    last_id: u64,
}

impl Jobs {
    /// With the jobs of an earlier life of the agent. Those that went on then, and were to go on without a client, are given back, to be gone on
    /// with; the others end.
    pub(super) async fn open(journal: Journal, parent: &CancellationToken) -> Result<(Self, Vec<Arc<Job>>), StoreError> {
        let journal = Arc::new(journal);
        let loading = journal.clone();
        let (saved, last_id) = sys::blocking(move || Ok::<_, StoreError>((loading.load()?, loading.last_id()?))).await?;
        let jobs = Self { journal: Some(journal), last_id, ..Self::default() };
        let mut pending = vec![];
        for saved in saved {
            let job = Job::new(saved.id, saved.request, Duration::from_secs(saved.wait_s), Asker::Client, parent);
            saved.events.into_iter().for_each(|event| job.tell(event));
            match saved.result {
                Some(result) => job.end(result),
                None if job.request.detach => pending.push(job.clone()),
                None => {
                    job.end(Err(failure(FailureKind::ShuttingDown, "the agent was restarted in the middle of it")));
                    jobs.save_or_warn(&job).await;
                }
            }
            jobs.jobs().push_back(job);
        }
        Ok((jobs, pending))
    }

    /// The highest number that was given before this agent started.
    pub(super) fn last_id(&self) -> u64 {
        self.last_id
    }

    /// All that are known.
    pub(super) fn all(&self) -> Vec<Arc<Job>> {
        self.jobs().iter().cloned().collect()
    }

    /// Remembers a job that begins; it is over with `parent`.
    pub(super) fn begin(&self, id: u64, request: Send, wait: Duration, asker: Asker, parent: &CancellationToken) -> Arc<Job> {
        let job = Job::new(id, request, wait, asker, parent);
        job.tell(Event::Accepted { id });
        let mut jobs = self.jobs();
        // What others ask for takes the place of nothing that was asked for here.
        let is_old = |job: &&Arc<Job>| job.asker == asker && job.is_over();
        let mut bytes: usize = jobs.iter().filter(is_old).map(|job| job.bytes()).sum();
        jobs.retain(|job| {
            let is_forgotten = bytes > RECENT_BYTES && is_old(&job);
            if is_forgotten {
                bytes -= job.bytes();
            }
            !is_forgotten
        });
        jobs.push_back(job.clone());
        job
    }

    /// Keeps a job on disk as it is now, where a client of this host has asked for it.
    pub(super) async fn save(&self, job: &Job) -> Result<(), StoreError> {
        match self.journal_of(job) {
            Some(journal) => job.save(&journal, None).await.map(drop),
            None => Ok(()),
        }
    }

    /// Waits until the end of a cancelled job is on disk, as long as that takes no longer than a moment.
    pub(super) async fn cancelled(&self, id: u64) {
        let Ok(job) = self.find(Some(id)) else { return };
        job.cancelled_by_client();
        if sys::deadline(CANCEL_MS, job.over()).await.is_some() {
            self.save_or_warn(&job).await;
        }
    }

    /// The same where nobody can be told that it is not kept.
    pub(super) async fn save_or_warn(&self, job: &Job) {
        if let Err(error) = self.save(job).await {
            tracing::warn!(job = job.id, %error, "a send is not kept on disk");
        }
    }

    /// Where a job is kept: those that a client of this host has asked for.
    fn journal_of(&self, job: &Job) -> Option<Arc<Journal>> {
        self.journal.clone().filter(|_| job.asker == Asker::Client && !job.request.dry_run)
    }

    /// Keeps a job on disk as it goes on, until it is over. One that goes on without a client is not over when the agent stops.
    fn keep(&self, job: &Arc<Job>) -> impl Future<Output = ()> + std::marker::Send + use<> {
        let (journal, job) = (self.journal_of(job), job.clone());
        async move {
            let Some(journal) = journal else { return };
            let (mut version, mut kept) = (job.changes(), None);
            loop {
                version.borrow_and_update();
                match job.save(&journal, kept.as_ref()).await {
                    Ok(Some(saved)) if saved.result.is_some() => return,
                    Ok(Some(saved)) => kept = Some(saved),
                    Ok(None) => return,
                    Err(error) => {
                        tracing::warn!(job = job.id, %error, "a send is not kept on disk");
                        if job.is_over() {
                            return;
                        }
                    }
                }
                // The sender is in `job`.
                let _ = version.changed().await;
                let _ = sys::deadline(SAVE_EVERY.as_millis() as u64, job.over()).await;
            }
        }
    }

    /// Carries a job out. When that ends without an end of the job, because of a defect, whoever follows the job hears it.
    pub(super) fn spawn(&self, job: Arc<Job>, work: impl Future<Output = ()> + std::marker::Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        let work = AbortOnDropHandle::new(tokio::spawn(work.in_current_span()));
        tasks.spawn(self.keep(&job));
        tasks.spawn(async move {
            if let Err(error) = work.await {
                tracing::error!(job = job.id, %error, "a send has failed by a defect");
            }
            job.end(Err(failure(FailureKind::Other, format!("send {} ended by a defect of the agent", job.id))));
        });
    }

    /// Waits until all have ended; no other one begins after this.
    pub(super) async fn ended(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        while tasks.join_next().await.is_some() {}
    }

    /// The job of this number; without one, the last that was begun here.
    pub(super) fn find(&self, id: Option<u64>) -> Result<Arc<Job>, Failure> {
        let jobs = self.jobs();
        match id {
            Some(id) => {
                let found = jobs.iter().find(|job| job.id == id).cloned();
                found.ok_or_else(|| failure(FailureKind::TransferNotFound(id), format!("no send {id} is known here")))
            }
            None => jobs
                .iter()
                .rfind(|job| job.asker == Asker::Client)
                .cloned()
                .ok_or_else(|| failure(FailureKind::TransferNotFound(0), "nothing was sent from here yet")),
        }
    }

    fn jobs(&self) -> std::sync::MutexGuard<'_, VecDeque<Arc<Job>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::sync::mpsc;

    use super::super::job::tests::request;
    use super::*;

    #[tokio::test]
    async fn a_job_whose_task_panics_ends_with_an_error() {
        let jobs = Jobs::default();
        let job = jobs.begin(8, request(), Duration::ZERO, Asker::Client, &CancellationToken::new());
        jobs.spawn(job.clone(), async { panic!("a defect") });
        let (events, _receiver) = mpsc::channel(64);
        let failure = job.follow(&events).await.unwrap_err();
        assert!(failure.causes[0].contains("defect"), "{failure:?}");
    }
}
