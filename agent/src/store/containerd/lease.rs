//! Leases of the engine: content that is held or comes in is not collected.
//!
//! They carry the name of this agent, so that those which a former process of it left behind are found. containerd has no call that renews a lease
//! (1.6 to 2.1: create, delete, list and resources): one lives longer than any transfer, and this agent deletes it as soon as it is of no use.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};

use proto::Digest;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use super::Shared;
use super::api::leases::{AddResourceRequest, CreateRequest, DeleteRequest, ListRequest, Resource};
use super::connection::{created, found};
use super::labels::{EXPIRE, Labels};
use crate::store::StoreError;

/// On our leases: which agent.
const AGENT: &str = "imgd.lease";
/// On the lease of an import: the digest of its root.
const IMPORT: &str = "imgd.import";
/// After this the engine ends a lease whose agent never came back.
const LIFE: Duration = Duration::days(30);
/// What an import that was given up has brought is kept this long.
const KEEP: Duration = Duration::days(1);

/// What is kept of imports that were given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Abandoned {
    /// What is less than a day old.
    Day,
    /// Nothing: the room is needed.
    Nothing,
}

/// What a lease is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Ends when it is dropped.
    Held,
    /// Stays for a day when it is dropped, unless nothing came in; ends when an import of the same root is committed.
    Import(Digest),
}

/// A lease of ours.
#[derive(Debug)]
pub(super) struct EngineLease {
    shared: Arc<Shared>,
    id: String,
    is_import: bool,
    keep: std::sync::atomic::AtomicBool,
}

/// Ids of leases.
#[derive(Debug, Default)]
pub(super) struct LeaseIds {
    /// Somebody has them.
    live: HashSet<String>,
    /// They were dropped, and are to be deleted.
    dropped: HashSet<String>,
}

impl EngineLease {
    /// Takes a lease with nothing in it.
    pub(super) async fn take(shared: &Arc<Shared>, purpose: Purpose) -> Result<Self, StoreError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let now = OffsetDateTime::now_utc();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let id = format!("imgd-{}-{:x}-{number}", shared.agent, now.unix_timestamp_nanos());
        let expire = (now + LIFE).format(&Rfc3339).unwrap_or_default();
        let mut labels = Labels::from([(EXPIRE.to_owned(), expire), (AGENT.to_owned(), shared.agent.clone())]);
        if let Purpose::Import(root) = purpose {
            labels.insert(IMPORT.to_owned(), root.to_string());
        }
        // Known as live before it can be found, dropped on every way out.
        shared.lease_ids().live.insert(id.clone());
        let lease = Self { shared: shared.clone(), id, is_import: purpose != Purpose::Held, keep: false.into() };
        let request = shared.connection.request(CreateRequest { id: lease.id.clone(), labels });
        let answer = shared.connection.ask(shared.connection.leases().create(request)).await;
        answer.map_err(|status| shared.connection.failed("create a lease", &status))?;
        Ok(lease)
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Keeps a blob, and what its labels refer to.
    pub(super) async fn add_blob(&self, digest: &Digest) -> Result<(), StoreError> {
        self.add(Resource { id: digest.to_string(), r#type: "content".to_owned() }).await
    }

    /// Keeps unpacked layers.
    pub(super) async fn add_snapshot(&self, snapshotter: &str, chain: &Digest) -> Result<(), StoreError> {
        self.add(Resource { id: chain.to_string(), r#type: format!("snapshots/{snapshotter}") }).await
    }

    /// Something came in that is worth keeping when this is dropped, if it is for an import.
    pub(super) fn keep(&self) {
        self.keep.store(self.is_import, Ordering::Relaxed);
    }

    /// Ends it now, with those of former imports of `root`, and waits until what only they kept is collected.
    pub(super) async fn end(mut self, root: &Digest) -> Result<(), StoreError> {
        let shared = self.shared.clone();
        let filters = vec![format!("labels.{AGENT:?}=={:?},labels.{IMPORT:?}=={:?}", shared.agent, root.to_string())];
        let former = shared.lease_list(filters).await?;
        {
            let mut ids = shared.lease_ids();
            let former: Vec<String> = former.into_iter().filter(|id| !ids.live.contains(id)).collect();
            ids.dropped.extend(former);
        }
        shared.release().await?;
        self.delete().await
    }

    /// Deletes it, and waits until what only it kept is collected.
    async fn delete(&mut self) -> Result<(), StoreError> {
        let shared = self.shared.clone();
        let id = std::mem::take(&mut self.id);
        let deleted = shared.delete_lease(&id, true).await;
        let mut ids = shared.lease_ids();
        ids.live.remove(&id);
        if deleted.is_err() {
            ids.dropped.insert(id);
        }
        deleted
    }

    async fn add(&self, resource: Resource) -> Result<(), StoreError> {
        let connection = &self.shared.connection;
        let request = connection.request(AddResourceRequest { id: self.id.clone(), resource: Some(resource.clone()) });
        let answer = connection.ask(connection.leases().add_resource(request)).await;
        created(answer).map(|_| ()).map_err(|status| connection.failed(format!("keep {}", resource.id), &status))
    }
}

/// When a lease of this name was taken.
fn taken_at(id: &str) -> Option<OffsetDateTime> {
    let nanos = id.rsplit('-').nth(1)?;
    OffsetDateTime::from_unix_timestamp_nanos(i128::from_str_radix(nanos, 16).ok()?).ok()
}

impl Drop for EngineLease {
    fn drop(&mut self) {
        let id = std::mem::take(&mut self.id);
        if id.is_empty() {
            return;
        }
        let mut ids = self.shared.lease_ids();
        ids.live.remove(&id);
        if self.keep.load(Ordering::Relaxed) {
            return;
        }
        ids.dropped.insert(id);
        drop(ids);
        let shared = self.shared.clone();
        self.shared.spawn(async move {
            if let Err(error) = shared.release().await {
                tracing::debug!(%error, "a lease is left to end by itself");
            }
        });
    }
}

impl Shared {
    /// Deletes the leases that were dropped.
    pub(super) async fn release(&self) -> Result<(), StoreError> {
        let dropped: Vec<String> = self.lease_ids().dropped.iter().cloned().collect();
        for id in dropped {
            self.delete_lease(&id, false).await?;
            self.lease_ids().dropped.remove(&id);
        }
        Ok(())
    }

    /// Waits until all that nothing refers to any more is gone: the end of a lease, even of an empty one, is when the engine collects.
    pub(super) async fn collect(self: &Arc<Self>) -> Result<(), StoreError> {
        self.release().await?;
        EngineLease::take(self, Purpose::Held).await?.delete().await
    }

    /// Deletes what is of no use any more: leases of images that a former process held. Those of imports wait for the next try.
    pub(super) async fn sweep(&self, abandoned: Abandoned) -> Result<(), StoreError> {
        let ours = self.lease_list(vec![format!("labels.{AGENT:?}=={:?}", self.agent)]).await?;
        let imports: HashSet<String> =
            self.lease_list(vec![format!("labels.{AGENT:?}=={:?},labels.{IMPORT:?}", self.agent)]).await?.into_iter().collect();
        {
            let mut ids = self.lease_ids();
            let oldest = match abandoned {
                Abandoned::Day => OffsetDateTime::now_utc() - KEEP,
                Abandoned::Nothing => OffsetDateTime::now_utc(),
            };
            let is_stale = |id: &String| !imports.contains(id) || taken_at(id).is_none_or(|taken| taken < oldest);
            let stale: Vec<String> = ours.into_iter().filter(|id| is_stale(id) && !ids.live.contains(id)).collect();
            ids.dropped.extend(stale);
        }
        self.release().await
    }

    async fn delete_lease(&self, id: &str, sync: bool) -> Result<(), StoreError> {
        let request = self.connection.request(DeleteRequest { id: id.to_owned(), sync });
        let answer = self.connection.ask(self.connection.leases().delete(request)).await;
        found(answer).map(|_| ()).map_err(|status| self.connection.failed("delete a lease", &status))
    }

    async fn lease_list(&self, filters: Vec<String>) -> Result<Vec<String>, StoreError> {
        let request = self.connection.request(ListRequest { filters });
        let answer = self.connection.ask(self.connection.leases().list(request)).await;
        let leases = answer.map_err(|status| self.connection.failed("list its leases", &status))?.leases;
        Ok(leases.into_iter().map(|lease| lease.id).collect())
    }

    fn lease_ids(&self) -> MutexGuard<'_, LeaseIds> {
        self.lease_ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_says_when_it_was_taken() {
        let taken = OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
        assert_eq!(taken_at(&format!("imgd-abc-{:x}-7", taken.unix_timestamp_nanos())), Some(taken));
        assert_eq!(taken_at("imgd"), None);
    }
}
