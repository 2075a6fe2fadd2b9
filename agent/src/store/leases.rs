//! Which blobs must not be collected now, by count.
//!
//! Counting in memory is enough: only this process collects (it holds the store's lock), and whatever a lease stands for, a session or an
//! archive being written, ends with this process too.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::Digest;

/// The counts of one store.
#[derive(Debug, Default)]
pub(super) struct Leases(Mutex<HashMap<Digest, usize>>);

/// Blobs that are kept while this lives.
#[derive(Debug)]
pub(super) struct Leased {
    leases: Arc<Leases>,
    digests: Vec<Digest>,
}

impl Leases {
    /// Keeps these blobs. Only what is looked for *after* this call is sure to stay.
    pub(super) fn take(self: &Arc<Self>, digests: impl IntoIterator<Item = Digest>) -> Leased {
        let digests: Vec<Digest> = digests.into_iter().collect();
        let mut counts = self.lock();
        for digest in &digests {
            *counts.entry(*digest).or_default() += 1;
        }
        drop(counts);
        Leased { leases: self.clone(), digests }
    }

    /// Runs `remove` unless the blob is leased; none can be taken meanwhile. `None`: it is leased.
    pub(super) fn unless_leased<T>(&self, digest: &Digest, remove: impl FnOnce() -> T) -> Option<T> {
        let counts = self.lock();
        (!counts.contains_key(digest)).then(remove)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        let mut counts = self.leases.lock();
        for digest in &self.digests {
            if let Some(count) = counts.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(digest);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_out_ends_it() {
        let leases = Arc::new(Leases::default());
        let digest = Digest::of(b"x");
        let first = leases.take([digest]);
        let second = leases.take([digest]);
        drop(first);
        assert_eq!(leases.unless_leased(&digest, || ()), None);
        drop(second);
        assert_eq!(leases.unless_leased(&digest, || ()), Some(()));
    }
}
