//! Tags of our own, which keep the engine from removing an image while we read it or build on it.
//!
//! Engines remove an image together with its last tag. A pin that has become the last tag (a load took the name away, or another tool removed
//! it) therefore moves to an empty image, the anchor, and the engine removes that one: the image stays as `<none>:<none>`, as it does after
//! `docker load`. Only what `imgctl rm` removed meanwhile goes with its last pin.
//!
//! Podman 4.3 reads, changes and writes the names of an image in three steps, so that of two changes at once one is undone. Every change of
//! names of one agent is therefore made under one lock (`Shared::names`), and a tag is looked for again after it was removed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use proto::{Digest, Reference};
use tokio::sync::Notify;

use super::inventory::RawImage;
use super::{Shared, thin};
use crate::store::StoreError;

/// Repository of all pins: the engine's users see them for as long as an image is on its way.
pub(super) const PIN_REPOSITORY: &str = "imgctl.local/pin";
/// Label that names the agent which left an image that is only the lower part of another one.
pub(super) const PARTIAL_LABEL: &str = "imgctl.partial";
/// Age in seconds after which a pin or a partial image of another agent belongs to nobody.
pub(super) const STALE_S: u64 = 24 * 3600;

/// Pause before an engine that could not take a pin away is asked again.
const AGAIN: Duration = Duration::from_secs(2);
/// Changes of one name that are tried before the engine counts as one that does not make them. A pin that is the last tag of its image needs two;
/// a change that another client of Podman 4.3 undid needs one more.
pub(super) const CHANGES: u32 = 6;

/// A tag on an image. Dropping it takes it away, soon.
#[derive(Debug)]
pub(super) struct Pin {
    tag: String,
    pins: Arc<Pins>,
}

/// The pins of this agent that are in the engine, or may be there.
#[derive(Debug, Default)]
pub(super) struct Pins {
    entries: Mutex<HashMap<String, Pinned>>,
    wake: Notify,
}

/// What is known of a pin.
#[derive(Debug)]
struct Pinned {
    image: Digest,
    /// The pin was dropped and is to be removed.
    is_released: bool,
    /// The engine may remove the image with its last pin: `imgctl rm` removed it, or it was loaded and not checked yet.
    takes_image: bool,
}

impl Pins {
    /// Adds a pin, before the engine is asked for the tag: a request that is given up may still be carried out. A further pin of an image that was
    /// removed takes it along as the others do.
    fn add(self: &Arc<Self>, tag: String, image: Digest, takes_image: bool) -> Pin {
        let mut entries = self.lock();
        let takes_image = takes_image || entries.values().any(|pinned| pinned.image == image && pinned.takes_image);
        entries.insert(tag.clone(), Pinned { image, is_released: false, takes_image });
        drop(entries);
        Pin { tag, pins: self.clone() }
    }

    /// Marks an image as removed on purpose: the engine removes it with its last pin.
    pub(super) fn discard(&self, image: &Digest) {
        self.mark(image, true);
    }

    /// Marks an image as wanted: it arrived, or was named, after it had been removed.
    pub(super) fn keep(&self, image: &Digest) {
        self.mark(image, false);
    }

    /// Whether the engine may remove the image of this pin with it.
    pub(super) fn takes_image(&self, tag: &str) -> bool {
        let known = self.lock().get(tag).map(|pinned| pinned.takes_image);
        // A pin of another agent, or of an earlier life of this one, is known by its tag alone.
        known.unwrap_or_else(|| Tag::parse(tag).is_some_and(|tag| tag.is_ahead))
    }

    fn mark(&self, image: &Digest, takes_image: bool) {
        self.lock().values_mut().filter(|pinned| pinned.image == *image).for_each(|pinned| pinned.takes_image = takes_image);
    }

    /// Whether this agent set the pin in this life, and has not removed it yet.
    pub(super) fn is_known(&self, tag: &str) -> bool {
        self.lock().contains_key(tag)
    }

    fn released(&self) -> Vec<String> {
        self.lock().iter().filter(|(_, pinned)| pinned.is_released).map(|(tag, _)| tag.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Pinned>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pin {
    /// Its name in the engine.
    pub(super) fn reference(&self) -> Option<Reference> {
        format!("{PIN_REPOSITORY}:{}", self.tag).parse().ok()
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Some(pinned) = self.pins.lock().get_mut(&self.tag) {
            pinned.is_released = true;
        }
        self.pins.wake.notify_one();
    }
}

/// The parts of a pin's tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tag<'a> {
    /// The agent that set it.
    pub(super) agent: &'a str,
    /// When it was set.
    pub(super) unix_s: u64,
    /// The tag came with a load whose result was not checked yet: the image goes with it.
    pub(super) is_ahead: bool,
}

impl<'a> Tag<'a> {
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split('-');
        let (agent, unix_s, kind) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self { agent, unix_s: unix_s.parse().ok()?, is_ahead: kind == AHEAD })
    }
}

/// Kinds of pins, as their tags say it.
const AHEAD: &str = "ahead";
const HELD: &str = "held";

impl Shared {
    /// Pins an image. `None`: it is gone.
    pub(super) async fn pin(&self, id: &Digest) -> Result<Option<Pin>, StoreError> {
        let _names = self.names.lock().await;
        let pin = self.pins.add(self.pin_tag(HELD), *id, false);
        let answer = self.tag(id, PIN_REPOSITORY, &pin.tag).await?;
        if answer.is_absent() {
            return Ok(None);
        }
        if !answer.is_success() {
            return Err(self.client.refusal(format!("tag {}", id.short()), answer.reason()));
        }
        Ok(Some(pin))
    }

    /// A pin for an image that will be loaded under its name: unless the image gets another one, it goes with the pin.
    pub(super) fn pin_ahead(&self, id: &Digest) -> Pin {
        self.pins.add(self.pin_tag(AHEAD), *id, true)
    }

    fn pin_tag(&self, kind: &str) -> String {
        format!("{}-{}-{kind}-{}", self.agent, super::unix_s(), super::random_hex())
    }

    /// Takes away every pin that was released. Whoever counts on an image being gone calls this first.
    pub(super) async fn flush_pins(&self) -> Result<(), StoreError> {
        let _names = self.names.lock().await;
        let mut outcome = Ok(());
        for tag in self.pins.released() {
            match self.untag(&tag).await {
                Ok(()) => drop(self.pins.lock().remove(&tag)),
                // A pin that the engine refuses to remove does not keep the others from going.
                Err(error) => {
                    let is_down = is_down(&error);
                    outcome = Err(error);
                    if is_down {
                        break;
                    }
                }
            }
        }
        if outcome.is_err() {
            self.pins.wake.notify_one();
        }
        outcome
    }

    /// The same as far as it goes now; the rest goes later.
    pub(super) async fn release_pins(&self) {
        if let Err(error) = self.flush_pins().await {
            tracing::debug!(%error, "tags of our own stay in the engine for now");
        }
    }

    /// Takes a pin away and looks whether it is gone. The caller holds the lock of names.
    async fn untag(&self, tag: &str) -> Result<(), StoreError> {
        let name = format!("{PIN_REPOSITORY}:{tag}");
        for _ in 0..CHANGES {
            let Some(image) = self.inspect(&name).await? else { return Ok(()) };
            self.untag_step(tag, &name, &image).await?;
        }
        match self.inspect(&name).await? {
            None => Ok(()),
            Some(_) => Err(self.client.refusal(format!("remove {name}"), "the tag comes back")),
        }
    }

    /// One change: the tag goes, or moves to the anchor where it would take the image along.
    async fn untag_step(&self, tag: &str, name: &str, image: &RawImage) -> Result<(), StoreError> {
        // Other pins do not count as names: another agent may remove its own at the same moment.
        let has_name = image.names().next().is_some();
        if let (true, Some(id)) = (has_name, image.id()) {
            self.pins.keep(&id);
        }
        let takes_image = self.pins.takes_image(tag);
        if !has_name && !takes_image && !image.is_partial() {
            return self.move_to_anchor(tag).await;
        }
        let answer = self.client.delete(&format!("/images/{name}"), "remove a tag").await?;
        if answer.is_success() || answer.is_absent() {
            return Ok(());
        }
        if !has_name && takes_image {
            // A container uses the image, and the engine does not remove it: then it stays, without a name.
            return self.move_to_anchor(tag).await;
        }
        Err(self.client.refusal(format!("remove {name}"), answer.reason()))
    }

    /// Moves a pin to an empty image. Not by a load under its name: Docker 26.1 with containerd's store drops the image that had the name then.
    async fn move_to_anchor(&self, tag: &str) -> Result<(), StoreError> {
        let anchor = thin::anchor(&self.agent);
        self.load_whole(anchor.archive, "move a tag").await?;
        for id in &anchor.ids {
            let answer = self.tag(id, PIN_REPOSITORY, tag).await?;
            if answer.is_success() {
                return Ok(());
            }
            if !answer.is_absent() {
                return Err(self.client.refusal(format!("tag {}", id.short()), answer.reason()));
            }
        }
        // Another client pruned the anchor; the caller looks and tries again.
        Ok(())
    }

    /// Removes what earlier lives of this agent left behind, and what nobody has come back to for a day.
    pub(super) async fn sweep(&self) -> Result<(), StoreError> {
        let now = super::unix_s();
        let inventory = self.inventory().await?;
        for row in &inventory.rows {
            for pin in &row.pins {
                self.sweep_pin(pin, now).await?;
            }
            let Some((agent, made)) = row.partial_of.as_deref().map(|label| label.split_once(' ').unwrap_or((label, ""))) else { continue };
            // The layers of a send that broke off are worth a day, across restarts too: the next try starts above them. An anchor is worth nothing.
            let is_anchor = agent == self.agent && row.details.diff_ids.is_empty();
            let is_old = made.parse::<u64>().map_or(true, |at| at.saturating_add(STALE_S) < now);
            if (is_anchor || is_old) && row.names.is_empty() && !self.is_in_use(&row.id) {
                self.remove_partial(&row.id).await;
            }
        }
        Ok(())
    }

    /// Takes a pin away that belongs to nobody. A refusal does not keep the others from going.
    async fn sweep_pin(&self, pin: &str, now_unix_s: u64) -> Result<(), StoreError> {
        let of = Tag::parse(pin);
        let is_own = of.as_ref().is_some_and(|tag| tag.agent == self.agent);
        let is_old = of.as_ref().is_none_or(|tag| tag.unix_s.saturating_add(STALE_S) < now_unix_s);
        if self.pins.is_known(pin) || !(is_own || is_old) {
            return Ok(());
        }
        let _names = self.names.lock().await;
        match self.untag(pin).await {
            Err(error) if is_down(&error) => Err(error),
            Err(error) => {
                tracing::warn!(%error, "a tag of an earlier agent stays in the engine");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// An image that the engine cannot show: without force it would look at it first.
    pub(super) async fn remove_by_force(&self, id: &Digest) {
        match self.client.delete(&format!("/images/{id}?force=true"), "remove an image").await {
            Ok(answer) if answer.is_success() || answer.is_absent() => {}
            Ok(answer) => tracing::warn!(image = %id.short(), reason = answer.reason(), "an image that is of no use stays"),
            Err(error) => tracing::warn!(image = %id.short(), %error, "an image that is of no use stays"),
        }
    }

    /// Best effort: an image that something still needs stays until the next sweep.
    pub(super) async fn remove_partial(&self, id: &Digest) {
        match self.client.delete(&format!("/images/{id}"), "remove a part of an image").await {
            Ok(answer) if answer.is_success() || answer.is_absent() => {}
            Ok(answer) => tracing::debug!(image = %id.short(), reason = answer.reason(), "a part of an image stays"),
            Err(error) => tracing::debug!(image = %id.short(), %error, "a part of an image stays"),
        }
    }
}

/// Takes pins away as they are released, until the store goes. An engine that cannot do it now is asked again.
pub(super) async fn release(shared: Weak<Shared>, pins: Arc<Pins>) {
    loop {
        pins.wake.notified().await;
        loop {
            let Some(shared) = shared.upgrade() else { return };
            let Err(error) = shared.flush_pins().await else { break };
            tracing::debug!(%error, "tags of our own stay in the engine for now");
            drop(shared);
            tokio::time::sleep(AGAIN).await;
        }
    }
}

fn is_down(error: &StoreError) -> bool {
    matches!(error, StoreError::Unreachable { .. } | StoreError::Silent { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_say_whose_they_are() {
        let tag = Tag::parse("abc123-1700000000-ahead-ff00");
        assert_eq!(tag, Some(Tag { agent: "abc123", unix_s: 1_700_000_000, is_ahead: true }));
        let of_an_earlier_version = Tag::parse("abc123-1700000000-named-ff00");
        assert_eq!(of_an_earlier_version, Some(Tag { agent: "abc123", unix_s: 1_700_000_000, is_ahead: false }));
        assert_eq!(Tag::parse("x"), None);
    }
    #[test]
    fn an_image_goes_with_its_pins_when_it_was_removed() {
        let (pins, image, other) = (Arc::new(Pins::default()), Digest::of(b"image"), Digest::of(b"other"));
        let first = pins.add("first".to_owned(), image, false);
        let apart = pins.add("apart".to_owned(), other, false);
        pins.discard(&image);
        let second = pins.add("second".to_owned(), image, false);
        assert!(["first", "second"].iter().all(|tag| pins.takes_image(tag)) && !pins.takes_image("apart"));
        pins.keep(&image);
        assert!(!pins.takes_image("first") && !pins.takes_image("second"));
        drop((first, apart));
        let mut released = pins.released();
        released.sort();
        assert_eq!(released, ["apart", "first"]);
        drop(second);
        assert!(pins.takes_image("agent-1700000000-ahead-ff00"), "one of an earlier life");
    }
}
