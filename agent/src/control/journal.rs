//! Jobs on disk, so that they outlive the agent: `<state>/jobs/<number>.json`, each replaced durably. Everything here blocks.

use std::path::{Path, PathBuf};

use proto::control::{Event, Failure, Send};
use serde::{Deserialize, Serialize};

use crate::store::StoreError;
use crate::sys::{durable, file};

/// Bytes of all jobs together. When there are more, those that ended first are forgotten.
const BYTES: u64 = 16 * 1024 * 1024;

/// A job as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Saved {
    /// Its number.
    pub(super) id: u64,
    /// What was asked for, with the hosts by their names.
    pub(super) request: Send,
    /// Seconds for which a host is waited for that has not answered yet.
    #[serde(default)]
    pub(super) wait_s: u64,
    /// What has happened, without steps.
    pub(super) events: Vec<Event>,
    /// `None`: it was not over.
    pub(super) result: Option<Result<(), Failure>>,
}

/// The directory.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
}

impl Journal {
    /// Creates the directory where it is absent.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let directory = state_dir.join("jobs");
        durable::create_dir(&directory, 0o700)?;
        Ok(Self { directory })
    }

    /// The jobs that are kept, oldest first. One that cannot be read is reported and passed over: it is left where it is.
    pub(super) fn load(&self) -> Result<Vec<Saved>, StoreError> {
        let mut jobs = vec![];
        for (_, path) in self.files()? {
            let bytes = std::fs::read(&path).map_err(StoreError::io("read", &path))?;
            match serde_json::from_slice(&bytes) {
                Ok(saved) => jobs.push(saved),
                Err(error) => tracing::warn!(path = %path.display(), %error, "a job is not understood"),
            }
        }
        Ok(jobs)
    }

    /// The highest number of a job, whether it is understood or not.
    pub(super) fn last_id(&self) -> Result<u64, StoreError> {
        Ok(self.files()?.last().map_or(0, |(id, _)| *id))
    }

    /// Replaces what is kept of a job.
    pub(super) fn save(&self, job: &Saved) -> Result<(), StoreError> {
        let path = self.directory.join(format!("{}.json", job.id));
        let bytes = serde_json::to_vec(job).map_err(|error| StoreError::io("write", &path)(error.into()))?;
        file::ensure_directory(&self.directory, 0o700)?;
        durable::write(&path, &bytes, 0o600)?;
        self.forget_oldest(job.id)
    }

    fn forget_oldest(&self, except: u64) -> Result<(), StoreError> {
        let mut sizes = vec![];
        for (id, path) in self.files()? {
            sizes.push((id, std::fs::metadata(&path).map_err(StoreError::io("read", &path))?.len(), path));
        }
        let mut bytes: u64 = sizes.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, size_bytes, path) in sizes.iter().filter(|(id, ..)| *id != except) {
            if bytes <= BYTES {
                break;
            }
            if self.is_over(path) {
                durable::remove(path)?;
                bytes -= size_bytes;
            }
        }
        Ok(())
    }

    /// One that goes on is never forgotten, and one that cannot be read may be one.
    fn is_over(&self, path: &Path) -> bool {
        let saved = std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice::<Saved>(&bytes).ok());
        saved.is_some_and(|saved| saved.result.is_some())
    }

    /// By number.
    fn files(&self) -> Result<Vec<(u64, PathBuf)>, StoreError> {
        let entries = std::fs::read_dir(&self.directory).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
        let entries = entries.map_err(StoreError::io("list", &self.directory))?;
        let number = |path: &Path| path.file_name()?.to_str()?.strip_suffix(".json")?.parse().ok();
        let mut files: Vec<(u64, PathBuf)> = entries.iter().filter_map(|entry| Some((number(&entry.path())?, entry.path()))).collect();
        files.sort_unstable();
        Ok(files)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proto::control::FailureKind;

    use super::super::job::tests::request;
    use super::*;

    fn saved(id: u64, result: Option<Result<(), Failure>>, bytes: usize) -> Saved {
        let request = Send { images: vec!["x".repeat(bytes)], detach: true, ..request() };
        Saved { id, request, wait_s: 0, events: vec![Event::Accepted { id }], result }
    }

    #[test]
    fn jobs_are_kept_within_their_bytes_and_running_ones_in_any_case() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::open(directory.path()).unwrap();
        let failed = Err(Failure { kind: FailureKind::Other, causes: vec!["x".to_owned()] });
        journal.save(&saved(1, None, 4_000_000)).unwrap();
        for id in 2..8 {
            journal.save(&saved(id, Some(failed.clone()), 4_000_000)).unwrap();
        }
        let kept: Vec<u64> = journal.load().unwrap().iter().map(|job| job.id).collect();
        assert_eq!(kept, [1, 5, 6, 7]);
        std::fs::write(directory.path().join("jobs/9.json"), b"{").unwrap();
        assert_eq!(journal.load().unwrap().len(), 4, "what is not understood stops nothing");
        assert_eq!(journal.last_id().unwrap(), 9, "nor does another job take its place");
        assert_eq!(journal.load().unwrap()[0], saved(1, None, 4_000_000));
    }
}
