//! Which members brought the image that a tag shows: for policy rules with `move_tags = "same-sender"`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::peer::ImageRow;
use proto::{Digest, HostId, Reference};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::store::StoreError;
use crate::sys::{self, durable};

/// Number of tags that are remembered: ten times what a busy host has, and a file of a few megabytes.
const TAGS: usize = 10_000;

/// Senders of tags, in `<state_dir>/senders.json`. An entry counts only while the tag shows the image that was recorded, and until
/// somebody here gives the tag an image or takes it away, be it the same one. What an engine's own tools do with the same image is not seen.
#[derive(Debug)]
pub struct Senders {
    path: PathBuf,
    tags: Mutex<Tags>,
    /// Held while the file is written: the last write has the last state.
    writer: Mutex<()>,
}

/// Tag to what was recorded of it.
type Tags = BTreeMap<String, Brought>;

/// An image that members brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Brought {
    /// Digest of its manifest or index, as the store shows it.
    root: String,
    /// IDs of the member that offered the image, and of the member that had it do so.
    by: Vec<String>,
    /// Orders the entries: the highest is the newest.
    number: u64,
}

impl Senders {
    /// Reads what was recorded. A file that is not valid counts as empty, with a warning: then no member may move a tag until it is brought anew.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let path = state_dir.join("senders.json");
        let tags = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                warn!(path = %path.display(), %error, "not valid: which members brought the tags of this host is not known any more");
                Tags::new()
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Tags::new(),
            Err(error) => return Err(StoreError::io("read", &path)(error)),
        };
        Ok(Self { path, tags: Mutex::new(tags), writer: Mutex::default() })
    }

    /// Whether this member brought the image with this root, which the tag shows now.
    pub(super) fn brought(&self, member: &HostId, tag: &Reference, root: &Digest) -> bool {
        let (root, member) = (root.to_string(), member.to_string());
        self.tags().get(&tag.to_string()).is_some_and(|brought| brought.root == root && brought.by.contains(&member))
    }

    /// Records that these members brought the image that the tag shows in `rows`, which are all names of the store. Entries that the rows do not
    /// bear out any more are forgotten. When this returns the record is on disk; a failure is only logged, because the image is in.
    pub(super) async fn record(self: &Arc<Self>, tag: &Reference, by: &[HostId], rows: &[ImageRow]) {
        let named = |row: &ImageRow| row.reference.as_ref().map(|reference| (reference.to_string(), row.root.to_string()));
        let roots: BTreeMap<String, String> = rows.iter().filter_map(named).collect();
        let (senders, tag, by) = (self.clone(), tag.to_string(), by.iter().map(HostId::to_string).collect());
        let saved = sys::blocking_in(sys::Lane::Write, move || {
            let _writer = senders.writer.lock().unwrap_or_else(PoisonError::into_inner);
            let bytes = {
                let mut tags = senders.tags();
                note(&mut tags, tag, by, &roots);
                serde_json::to_vec(&*tags).unwrap_or_default()
            };
            durable::write(&senders.path, &bytes, 0o600)
        });
        if let Err(error) = saved.await {
            warn!(%error, "which member brought a tag is not saved");
        }
    }

    /// Somebody here has given these tags an image, or taken them away: no member has a right to them any more. When this returns that is on disk; a
    /// failure is only logged.
    pub async fn forget(self: &Arc<Self>, forgotten: &[Reference]) {
        let forgotten: Vec<String> = forgotten.iter().map(Reference::to_string).collect();
        if !forgotten.iter().any(|tag| self.tags().contains_key(tag)) {
            return;
        }
        let senders = self.clone();
        let saved = sys::blocking_in(sys::Lane::Write, move || {
            let _writer = senders.writer.lock().unwrap_or_else(PoisonError::into_inner);
            let bytes = {
                let mut tags = senders.tags();
                tags.retain(|tag, _| !forgotten.contains(tag));
                serde_json::to_vec(&*tags).unwrap_or_default()
            };
            durable::write(&senders.path, &bytes, 0o600)
        });
        if let Err(error) = saved.await {
            warn!(%error, "that members have no right to a tag any more is not saved");
        }
    }

    fn tags(&self) -> MutexGuard<'_, Tags> {
        self.tags.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds an entry, and drops those that do not hold any more. When there are too many, the oldest one goes of the member that has the most: whoever
/// brings thousands of tags crowds out its own.
fn note(tags: &mut Tags, tag: String, by: Vec<String>, roots: &BTreeMap<String, String>) {
    tags.retain(|name, brought| roots.get(name) == Some(&brought.root));
    let Some(root) = roots.get(&tag) else { return };
    let number = tags.values().map(|brought| brought.number + 1).max().unwrap_or_default();
    tags.insert(tag, Brought { root: root.clone(), by, number });
    while tags.len() > TAGS {
        let mut counts: BTreeMap<Option<&String>, usize> = BTreeMap::new();
        tags.values().for_each(|brought| *counts.entry(brought.by.first()).or_default() += 1);
        let most = counts.into_iter().max_by_key(|(_, count)| *count).and_then(|(by, _)| by);
        let of_most = tags.iter().filter(|(_, brought)| brought.by.first() == most);
        let Some(oldest) = of_most.min_by_key(|(_, brought)| brought.number).map(|(name, _)| name.clone()) else { return };
        tags.remove(&oldest);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn host(name: &str) -> HostId {
        HostId::of_public_key(name.as_bytes())
    }

    fn row(tag: &str, content: &str) -> ImageRow {
        let root = Digest::of(content.as_bytes());
        let reference = Some(tag.parse().unwrap());
        ImageRow { reference, image_id: root, root, platforms: vec![], size_bytes: 1, complete: true, tagged_unix_s: 0 }
    }

    #[tokio::test]
    async fn what_was_recorded_holds_after_a_restart_and_only_for_that_image() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Arc::new(Senders::open(directory.path()).unwrap());
        let (tag, other): (Reference, Reference) = ("demo:1".parse().unwrap(), "demo:2".parse().unwrap());
        let rows = [row("demo:1", "one"), row("demo:2", "local")];
        open().record(&tag, &[host("a"), host("b")], &rows).await;
        let senders = open();
        let asked = |member: &str, tag: &Reference, content: &str| senders.brought(&host(member), tag, &Digest::of(content.as_bytes()));
        assert!(asked("a", &tag, "one") && asked("b", &tag, "one"));
        assert!(!asked("c", &tag, "one") && !asked("a", &tag, "two") && !asked("a", &other, "local"));
        // The next push to any tag forgets what does not hold any more.
        senders.record(&other, &[host("c")], &[row("demo:1", "two"), row("demo:2", "new")]).await;
        assert!(!asked("a", &tag, "one") && asked("c", &other, "new"));
        assert_eq!(senders.tags().len(), 1);
    }

    #[tokio::test]
    async fn what_somebody_here_does_with_a_tag_ends_the_right_to_it() {
        let directory = tempfile::tempdir().unwrap();
        let senders = Arc::new(Senders::open(directory.path()).unwrap());
        let (tag, other): (Reference, Reference) = ("demo:1".parse().unwrap(), "demo:2".parse().unwrap());
        let rows = [row("demo:1", "one"), row("demo:2", "one")];
        senders.record(&tag, &[host("a")], &rows).await;
        senders.record(&other, &[host("a")], &rows).await;
        senders.forget(std::slice::from_ref(&tag)).await;
        for senders in [&senders, &Arc::new(Senders::open(directory.path()).unwrap())] {
            let asked = |tag: &Reference| senders.brought(&host("a"), tag, &Digest::of(b"one"));
            assert!(!asked(&tag) && asked(&other));
        }
    }

    #[tokio::test]
    async fn a_damaged_record_gives_nobody_a_right() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("senders.json"), "{\"docker.io/library/demo:1\":").unwrap();
        let senders = Arc::new(Senders::open(directory.path()).unwrap());
        let tag: Reference = "demo:1".parse().unwrap();
        assert!(!senders.brought(&host("a"), &tag, &Digest::of(b"one")));
        senders.record(&tag, &[host("a")], &[row("demo:1", "one")]).await;
        assert!(Senders::open(directory.path()).unwrap().brought(&host("a"), &tag, &Digest::of(b"one")));
    }

    #[test]
    fn a_member_that_brings_many_tags_crowds_out_its_own() {
        let roots: BTreeMap<String, String> = (0..TAGS + 2).map(|number| (format!("t:{number:05}"), "one".to_owned())).collect();
        let by = |name: &str| vec![name.to_owned()];
        let entry =
            |number: usize, name| (format!("t:{number:05}"), Brought { root: "one".to_owned(), by: by(name), number: number as u64 });
        let mut tags: Tags = (0..TAGS).map(|number| entry(number, if number < 3 { "few" } else { "many" })).collect();
        note(&mut tags, format!("t:{TAGS:05}"), by("many"), &roots);
        note(&mut tags, format!("t:{:05}", TAGS + 1), by("few"), &roots);
        assert_eq!(tags.len(), TAGS);
        assert!(["t:00000", "t:00002"].iter().all(|tag| tags.contains_key(*tag)), "the tags of the other member");
        assert!(["t:00003", "t:00004"].iter().all(|tag| !tags.contains_key(*tag)), "its oldest tags");
    }
}
